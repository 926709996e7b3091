//! Hyperbolic space of curvature -1 by the Lorentz model, in f64 on the host.
//!
//! Points are `x = (x_0, x_s)` with `<x,x>_L = -1` and `x_0 > 0`, `x_0` being their time and `x_s` their space;
//! `<a,b>_L = -a_0 b_0 + sum_{i>0} a_i b_i`. A vector `v` is tangent at `x` where `<x,v>_L = 0`. Source: Chen et al. 2022, "Fully
//! Hyperbolic Neural Networks". Of vectors of different lengths the elements that both have count.

/// Longest tangent vector that an exponential map takes; a longer one counts as one of this norm in its direction. `cosh(10)` is 11013:
/// beyond, an f32 no longer tells whether a point is on the manifold, as the squares in `<x,x>_L` are rounded by more than 7.
pub const MAX_NORM: f64 = 10.0;

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(v: &[f64]) -> f64 {
    dot(v, v).sqrt()
}

/// The space of a point.
fn space(x: &[f64]) -> &[f64] {
    x.get(1..).unwrap_or_default()
}

/// A point of this space.
fn raise(space: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut x = vec![0.0];
    x.extend(space);
    if let [time, space @ ..] = x.as_mut_slice() {
        *time = (1.0 + dot(space, space)).sqrt();
    }
    x
}

/// `sinh(n) / n`, 1 at 0.
fn sinh_ratio(n: f64) -> f64 {
    if n < 1e-4 { 1.0 + n * n / 6.0 } else { n.sinh() / n }
}

/// `asinh(n) / n`, 1 at 0.
fn asinh_ratio(n: f64) -> f64 {
    if n < 1e-4 { 1.0 - n * n / 6.0 } else { n.asinh() / n }
}

/// `-<x,y>_L - 1` of two points, at least 0: where they are near as `<x-y,x-y>_L / 2`, which keeps its digits there.
fn excess(x: &[f64], y: &[f64]) -> f64 {
    let far = -inner(x, y) - 1.0;
    if far > 1.0 {
        return far;
    }
    let apart: Vec<f64> = x.iter().zip(y).map(|(x, y)| x - y).collect();
    (0.5 * inner(&apart, &apart)).max(0.0)
}

/// `acosh(1 + u)`.
fn acosh_beyond(u: f64) -> f64 {
    (u + (u * (u + 2.0)).sqrt()).ln_1p()
}

/// `<a,b>_L`.
pub fn inner(a: &[f64], b: &[f64]) -> f64 {
    let time = a.first().zip(b.first()).map_or(0.0, |(a, b)| a * b);
    dot(space(a), space(b)) - time
}

/// The point with the space of `x`: its time becomes `sqrt(1 + |x_s|^2)`.
pub fn project(x: &[f64]) -> Vec<f64> {
    raise(space(x).iter().copied())
}

/// The exponential map at the origin, `(cosh m, sinh(m) v/|v|)` with `m = min(|v|, MAX_NORM)`; `v` has no time.
pub fn exp0(v: &[f64]) -> Vec<f64> {
    let n = norm(v);
    let m = n.min(MAX_NORM);
    let scale = if n > m { m.sinh() / n } else { sinh_ratio(n) };
    std::iter::once(m.cosh()).chain(v.iter().map(|v| v * scale)).collect()
}

/// Its inverse, without time: `asinh(|x_s|) x_s/|x_s|`.
pub fn log0(x: &[f64]) -> Vec<f64> {
    let scale = asinh_ratio(norm(space(x)));
    space(x).iter().map(|v| v * scale).collect()
}

/// The exponential map at `x`, `cosh(m) x + sinh(m) v/n` with `n = sqrt(<v,v>_L)` and `m = min(n, MAX_NORM)`; `v` is tangent at `x`.
pub fn exp(x: &[f64], v: &[f64]) -> Vec<f64> {
    let n = inner(v, v).max(0.0).sqrt();
    let m = n.min(MAX_NORM);
    let scale = if n > m { m.sinh() / n } else { sinh_ratio(n) };
    x.iter().zip(v).map(|(x, v)| m.cosh() * x + scale * v).collect()
}

/// Its inverse, the tangent vector at `x` that leads to `y`: `acosh(a) / sqrt(a^2 - 1) (y - a x)` with `a = -<x,y>_L`.
pub fn log(x: &[f64], y: &[f64]) -> Vec<f64> {
    let u = excess(x, y);
    let scale = if u < 1e-8 { 1.0 - u / 3.0 } else { acosh_beyond(u) / (u * (u + 2.0)).sqrt() };
    x.iter().zip(y).map(|(x, y)| scale * ((y - x) - u * x)).collect()
}

/// Parallel transport of `v` along the geodesic from `x` to `y`: `v + <y,v>_L / (1 - <x,y>_L) (x + y)`.
pub fn transport(x: &[f64], y: &[f64], v: &[f64]) -> Vec<f64> {
    let scale = inner(y, v) / (1.0 - inner(x, y));
    v.iter().zip(x.iter().zip(y)).map(|(v, (x, y))| v + scale * (x + y)).collect()
}

/// The geodesic distance `acosh(-<x,y>_L)`.
pub fn distance(x: &[f64], y: &[f64]) -> f64 {
    acosh_beyond(excess(x, y))
}

/// The squared Lorentzian distance `-2 - 2 <x,y>_L`.
pub fn squared_distance(x: &[f64], y: &[f64]) -> f64 {
    -2.0 - 2.0 * inner(x, y)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(n: usize, k: f64) -> Vec<f64> {
        (0..n).map(|i| (1.0 + k * i as f64).sin() + 0.1 * k).collect()
    }

    fn sized(n: usize, k: f64, size: f64) -> Vec<f64> {
        let v = wave(n, k);
        let norm = norm(&v);
        v.iter().map(|v| v * size / norm).collect()
    }

    /// A tangent vector at `x` of this norm.
    fn tangent(x: &[f64], k: f64, size: f64) -> Vec<f64> {
        let v = wave(x.len(), k);
        let along = inner(x, &v);
        let v: Vec<f64> = v.iter().zip(x).map(|(v, x)| v + along * x).collect();
        let norm = inner(&v, &v).sqrt();
        v.iter().map(|v| v * size / norm).collect()
    }

    fn close(a: &[f64], b: &[f64], allowed: f64) {
        assert_eq!(a.len(), b.len());
        for (a, b) in a.iter().zip(b) {
            assert!((a - b).abs() <= allowed, "{a} where {b} is expected, allowed {allowed:e}");
        }
    }

    #[test]
    fn logarithms_invert_exponentials() {
        for size in [0.0, 1e-300, 1e-12, 1e-5, 9.9e-5, 1.1e-4, 0.3, 1.0, 3.0, 9.9] {
            let v = if size == 0.0 { vec![0.0; 5] } else { sized(5, 1.3, size) };
            let x = exp0(&v);
            close(&[inner(&x, &x)], &[-1.0], 1e-15 * x[0] * x[0]);
            close(&log0(&x), &v, 1e-14 * size);
            // The square of the smallest is 0.
            let away = if size < 1e-100 { 0.0 } else { size };
            assert!((distance(&exp0(&[0.0; 5]), &x) - away).abs() <= 1e-14 * size);
        }
        for far in [0.0, 1e-6, 1.0, 3.0] {
            let x = exp0(&sized(4, 0.7, far));
            for size in [1e-12, 1e-6, 1e-3, 0.5, 4.0] {
                let v = tangent(&x, 2.1, size);
                let y = exp(&x, &v);
                // Of the sum of two terms, squared.
                let room = 1e-14 * (x[0] * size.cosh()).powi(2);
                close(&[inner(&y, &y)], &[-1.0], room);
                close(&log(&x, &y), &v, room);
                assert!((distance(&x, &y) - size).abs() <= room, "{} is not {size}", distance(&x, &y));
            }
            close(&log(&x, &x), &[0.0; 5], 0.0);
            close(&exp(&x, &[0.0; 5]), &x, 0.0);
            assert_eq!(distance(&x, &x), 0.0);
        }
    }

    #[test]
    fn transport_keeps_inner_products_and_tangency() {
        let x = exp0(&sized(6, 0.7, 2.0));
        for size in [0.0, 1e-9, 1.0, 3.0] {
            let y = exp(&x, &tangent(&x, 1.9, size));
            let [v, w] = [(1.1, 2.0), (2.7, 0.3)].map(|(k, size)| tangent(&x, k, size));
            let [tv, tw] = [&v, &w].map(|v| transport(&x, &y, v));
            let room = 1e-14 * x[0] * y[0] * y[0];
            assert!(inner(&y, &tv).abs() <= room && inner(&y, &tw).abs() <= room);
            close(&[inner(&tv, &tw), inner(&tv, &tv)], &[inner(&v, &w), inner(&v, &v)], 10.0 * room);
            close(&transport(&y, &x, &tv), &v, 10.0 * room);
        }
    }

    #[test]
    fn distances_are_those_of_the_hyperboloid() {
        let (x, y, z) = (exp0(&[1.0, 0.0]), exp0(&[-2.0, 0.0]), exp0(&[0.0, 2.0]));
        assert!((distance(&x, &y) - 3.0).abs() < 1e-14);
        // The hyperbolic law of cosines at a right angle.
        assert!((distance(&x, &z).cosh() - 1f64.cosh() * 2f64.cosh()).abs() < 1e-13);
        assert!((squared_distance(&x, &y) - (2.0 * 3f64.cosh() - 2.0)).abs() < 1e-13);
        let near = exp0(&[1.0 + 1e-9, 0.0]);
        assert!((distance(&x, &near) / 1e-9 - 1.0).abs() < 1e-6);
        assert_eq!(project(&[7.0, 3.0, 4.0]), [26f64.sqrt(), 3.0, 4.0]);
    }

    #[test]
    fn long_vectors_are_clamped_and_short_slices_do_no_harm() {
        let x = exp0(&[3e4, 4e4]);
        close(&log0(&x), &[6.0, 8.0], 1e-12);
        let far = exp(&[1.0, 0.0, 0.0], &[0.0, 3e4, 4e4]);
        close(&far, &x, 1e-9);
        assert_eq!((inner(&[], &[]), exp0(&[]), log0(&[]), project(&[])), (0.0, vec![1.0], vec![], vec![1.0]));
    }
}
