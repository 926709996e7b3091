//! Twin of `shaders/lorentz.wgsl`.

use crate::hyperbolic::{self, MAX_NORM};
use crate::kernel::lorentz::{CLAMP, Map, TIME_FLOOR};
use crate::plan::{Expected, Snapshot, Tolerance, Twin};

/// A value, and the magnitude that its error is measured against.
type Judged = (f64, f64);

fn logistic(v: f64) -> f64 {
    1.0 / (1.0 + (-v).exp())
}

/// `<a_s, b_s>`, and the sum of the sizes of its terms.
fn spaces(a: &[f64], b: &[f64]) -> Judged {
    a.iter().zip(b).skip(1).fold((0.0, 0.0), |(s, m), (a, b)| (s + a * b, m + (a * b).abs()))
}

/// `t` of a rescaling, and `(t^2 - 1) / n2`.
fn rescaled(s: f64, x: &[f64]) -> (f64, f64) {
    let t = logistic(x[0]) * s.exp() + f64::from(TIME_FLOOR);
    (t, (t * t - 1.0) / spaces(x, x).0.max(f64::from(CLAMP)))
}

/// By how much `sqrt(t^2 - 1)` is more wrong than t: 6 times at the least time.
fn rescaling(t: f64) -> f64 {
    1.0 + t * t / (t * t - 1.0)
}

/// `(cosh(n) - sinh(n) / n) / n^2`.
fn exp_slope(n: f64) -> f64 {
    let q = n * n;
    if n < 0.1 { 1.0 / 3.0 + q / 30.0 + q * q / 840.0 + q * q * q / 45360.0 } else { (n.cosh() - n.sinh() / n) / q }
}

/// `(1 / sqrt(1 + n^2) - asinh(n) / n) / n^2`.
fn log_slope(n: f64) -> f64 {
    let q = n * n;
    match n < 0.02 {
        true => -1.0 / 3.0 + 0.3 * q - 15.0 / 56.0 * q * q + 35.0 / 144.0 * q * q * q,
        false => (1.0 / (1.0 + q).sqrt() - n.asinh() / n) / q,
    }
}

/// The image of a point; `s` is the scale of a rescaling.
pub fn point(map: &Map, s: f64, x: &[f64]) -> Vec<Judged> {
    match map {
        Map::Rescale { .. } => {
            let (t, g2) = rescaled(s, x);
            let space = x.iter().skip(1).map(|v| (v * g2.sqrt(), (v * g2.sqrt()).abs() * rescaling(t)));
            std::iter::once((t, t)).chain(space).collect()
        }
        Map::Centroid => {
            let q = hyperbolic::inner(x, x);
            let root = q.abs().max(f64::from(CLAMP)).sqrt();
            // A difference of squares.
            let loss = 1.0 + if q.abs() > f64::from(CLAMP) { (x[0] * x[0] + spaces(x, x).0) / q.abs() } else { 0.0 };
            x.iter().map(|v| (v / root, (v / root).abs() * loss)).collect()
        }
        Map::Exp0 => {
            // An exponential passes on the error of its argument.
            let m = spaces(x, x).0.sqrt().min(MAX_NORM);
            hyperbolic::exp0(&x[1..]).into_iter().map(|v| (v, v.abs() * (1.0 + m))).collect()
        }
        Map::Log0 => std::iter::once(0.0).chain(hyperbolic::log0(x)).map(|v| (v, v.abs())).collect(),
    }
}

/// The gradient of a point, and of a rescaling's s, where that of its image is dy.
pub fn gradient(map: &Map, s: f64, x: &[f64], dy: &[f64]) -> (Vec<Judged>, Judged) {
    let (n2, (product, loud)) = (spaces(x, x).0, spaces(dy, x));
    let n = n2.sqrt();
    // gain dy_s + along x_s, behind this time.
    let row = |time: Judged, gain: Judged, along: Judged| {
        let space = x.iter().zip(dy).skip(1);
        let space = space.map(|(x, d)| (gain.0 * d + along.0 * x, (gain.1 * d).abs() + (along.1 * x).abs()));
        std::iter::once(time).chain(space).collect::<Vec<_>>()
    };
    match map {
        Map::Rescale { .. } => {
            let (t, g2) = rescaled(s, x);
            let (g, n2) = (g2.sqrt(), n2.max(f64::from(CLAMP)));
            let amplified = rescaling(t);
            let along = if n2 > f64::from(CLAMP) { g / n2 } else { 0.0 };
            let (sig, rest, e) = (logistic(x[0]), logistic(-x[0]), s.exp());
            let dt = (dy[0] + product * t / (g * n2), dy[0].abs() + loud * t / (g * n2) * amplified);
            // Small values of the logistic function have the error of its argument.
            let tail = 1.0 + x[0].abs() / 4.0;
            let time = (dt.0 * e * sig * rest, dt.1 * e * (sig * rest * tail + 2f64.powi(-100)));
            let ds = (dt.0 * e * sig, dt.1 * e * (sig * tail + 2f64.powi(-100)));
            (row(time, (g, g * amplified), (-product * along, loud * along * amplified)), ds)
        }
        Map::Centroid => {
            let q = hyperbolic::inner(x, x);
            let (clamp, squares) = (f64::from(CLAMP), x[0] * x[0] + n2);
            let h = q.abs().max(clamp).powf(-0.5);
            let (loss, slope) = if q.abs() > clamp { (1.0 + squares / q.abs(), q.abs().powf(-1.5)) } else { (1.0, 0.0) };
            let along = (-(product + dy[0] * x[0]) * slope * q.signum(), (loud + (dy[0] * x[0]).abs()) * slope * (1.0 + 2.0 * loss));
            let time = (h * dy[0] - along.0 * x[0], (h * dy[0]).abs() * loss + along.1 * x[0].abs());
            (row(time, (h, h * loss), along), (0.0, 0.0))
        }
        Map::Exp0 if n > MAX_NORM => {
            let f = MAX_NORM.sinh() / n;
            (row((0.0, 0.0), (f, f), (-f * product / n2, f * loud / n2)), (0.0, 0.0))
        }
        Map::Exp0 => {
            let f = if n < 1e-4 { 1.0 } else { n.sinh() / n };
            // From 1 on a difference of its two terms.
            let rough = if n < 1.0 { exp_slope(n) } else { (n.cosh() + f) / n2 };
            let along = (dy[0] * f + product * exp_slope(n), (dy[0].abs() * f + loud * rough) * (1.0 + n));
            (row((0.0, 0.0), (f, f * (1.0 + n)), along), (0.0, 0.0))
        }
        Map::Log0 => {
            let f = if n < 1e-8 { 1.0 } else { n.asinh() / n };
            let rough = if n < 0.75 { log_slope(n).abs() } else { (1.0 / (1.0 + n2).sqrt() + f) / n2 };
            (row((0.0, 0.0), (f, f), (product * log_slope(n), loud * rough)), (0.0, 0.0))
        }
    }
}

/// Values of one binding.
#[derive(Default)]
pub(super) struct List {
    pub(super) at: Vec<usize>,
    pub(super) judged: Vec<Judged>,
}

impl List {
    pub(super) fn expected(self, binding: usize, ulps: f64) -> Expected {
        let (want, magnitude): (Vec<f64>, Vec<f64>) = self.judged.into_iter().unzip();
        let norm = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>().sqrt();
        // As a whole 3e-6 of what the elements are measured against.
        let relative_l2 = 3e-6 * (norm(&magnitude) / norm(&want)).max(1.0);
        Expected::Floats { binding, at: self.at, want, magnitude, tolerance: Tolerance { relative_l2, ulps } }
    }
}

/// `unit`: words that the parameters count in.
pub(crate) fn twin(map: Map, back: bool, unit: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let p: Vec<usize> = s.params()[4..].iter().map(|v| *v as usize).collect();
        let (heads, elements) = (p[1], p[2] * unit);
        let [x, y, dy] = [4, 6, 8].map(|i| [p[i] * unit, p[i + 1] * unit]);
        let scaled = matches!(map, Map::Rescale { .. });
        let scale = if scaled { f64::from(s.f32(2 + usize::from(back))[p[3]]) } else { 0.0 };
        let (mut points, mut scales) = (List::default(), List::default());
        for (r, h) in (0..p[0] / heads).flat_map(|r| (0..heads).map(move |h| (r, h))) {
            let place = |at: [usize; 2]| at[0] + r * at[1] + h * elements;
            let take = |binding: usize, at| s.f32(binding)[place(at)..][..elements].iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
            points.at.extend(place(y)..place(y) + elements);
            if back {
                let (dx, ds) = gradient(&map, scale, &take(0, x), &take(2, dy));
                points.judged.extend(dx);
                scales.at.push(p[10] + r * p[11] + h);
                scales.judged.push(ds);
            } else {
                points.judged.extend(point(&map, scale, &take(0, x)));
            }
        }
        // Exponentials and logarithms, but for the centroid a root and a quotient; and sums over a point.
        let own = if matches!(map, Map::Centroid) { Tolerance::elementwise() } else { Tolerance::transcendental() };
        let ulps = own.ulps + Tolerance::sum(elements).ulps;
        let mut all = vec![points.expected(1, ulps)];
        if back && scaled {
            all.push(scales.expected(4, ulps));
        }
        all
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::SlotId;

    fn wave(n: usize, k: f64, size: f64) -> Vec<f64> {
        (0..n).map(|i| size * ((1.0 + k * i as f64).sin() + 0.1 * k)).collect()
    }

    #[test]
    fn gradients_are_those_of_the_maps() {
        let scale = (SlotId(0), 0);
        for map in [Map::Rescale { scale }, Map::Centroid, Map::Exp0, Map::Log0] {
            for (elements, size, s) in [(2, 0.01, 0.0), (3, 0.7, 1.3), (16, 1.0, -2.0), (7, 4.0, 2.0), (17, 30.0, 0.5), (5, 0.05, 1.0)] {
                let (x, dy) = (wave(elements, 1.7, size), wave(elements, 2.3, 1.0));
                let loss = |s: f64, x: &[f64]| point(&map, s, x).iter().zip(&dy).map(|(y, d)| y.0 * d).sum::<f64>();
                let (dx, ds) = gradient(&map, s, &x, &dy);
                let largest = dx.iter().fold(0.0, |m: f64, d| m.max(d.0.abs()));
                // To the fourth order.
                let slope = |odd: &dyn Fn(f64) -> f64, h: f64| (8.0 * odd(h) - odd(2.0 * h)) / (12.0 * h);
                for i in 0..elements {
                    let moved = |h: f64| {
                        let mut x = x.clone();
                        x[i] += h;
                        loss(s, &x)
                    };
                    let want = slope(&|h| moved(h) - moved(-h), 1e-4 * size);
                    assert!((dx[i].0 - want).abs() <= 1e-6 * largest, "{map:?} of {elements}, {i}: {} and {want}", dx[i].0);
                    assert!(dx[i].1 >= dx[i].0.abs());
                }
                let want = slope(&|h| loss(s + h, &x) - loss(s - h, &x), 1e-3);
                assert!((ds.0 - want).abs() <= 1e-6 * want.abs().max(1e-6), "{map:?}: ds {} and {want}", ds.0);
            }
        }
    }

    #[test]
    fn clamped_points_have_finite_gradients() {
        let (zero, dy) = ([0.0; 4], [1.0, 2.0, -3.0, 0.5]);
        for map in [Map::Rescale { scale: (SlotId(0), 0) }, Map::Centroid, Map::Exp0, Map::Log0] {
            let (dx, ds) = gradient(&map, 1.0, &zero, &dy);
            assert!(dx.iter().chain([&ds]).all(|d| d.0.is_finite() && d.1.is_finite()), "{map:?}: {dx:?}");
        }
        assert_eq!(gradient(&Map::Log0, 0.0, &zero, &dy).0[1..].iter().map(|d| d.0).collect::<Vec<_>>(), dy[1..]);
    }

    #[test]
    fn slopes_meet_where_their_forms_change() {
        for (f, at) in [(exp_slope as fn(f64) -> f64, 0.1), (log_slope, 0.02)] {
            assert!((f(at * (1.0 - 1e-9)) / f(at) - 1.0).abs() < 1e-8);
        }
    }
}
