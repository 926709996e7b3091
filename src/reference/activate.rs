//! Twins of `shaders/activate.wgsl`, and the derivatives of activations.

use super::linear::{activate, erf};
use crate::kernel::linear::Activation;
use crate::plan::{Expected, Snapshot, Tolerance, Twin};
use std::f64::consts::{PI, SQRT_2};

/// The standard normal distribution function. Below -3, where `1 + erf` cancels, by the continued fraction of Mills' ratio.
fn normal(x: f64) -> f64 {
    if x > -3.0 {
        return 0.5 * (1.0 + erf(x / SQRT_2));
    }
    let fraction = (1..200).rev().fold(-x, |f, k| -x + f64::from(k) / f);
    density(x) / fraction
}

fn density(x: f64) -> f64 {
    (-0.5 * x * x).exp() / (2.0 * PI).sqrt()
}

/// `act'(x)` (0 for ReLU at 0), and what its error is measured against: the sizes of its terms, since they cancel where it vanishes,
/// more by so much as an exponential passes on of the rounding of its argument.
pub fn slope(a: Activation, x: f64) -> (f64, f64) {
    let logistic = |v: f64| 1.0 / (1.0 + (-v).exp());
    // s + q, where an argument of that size went into an exponential, which is flushed to 0 before a factor of that size where it is
    // below the smallest normal number.
    let sum =
        |s: f64, q: f64, argument: f64| (s + q, (s.abs() + q.abs()) * (1.0 + argument.abs() / 4.0) + 2f64.powi(-100) * argument.abs());
    match a {
        Activation::None => (1.0, 1.0),
        Activation::Relu => (f64::from(u8::from(x > 0.0)), 1.0),
        Activation::GeluErf => sum(normal(x), x * density(x), 0.5 * x * x),
        Activation::GeluTanh => {
            // (1 + tanh(v / 2)) / 2 is the logistic function of v.
            let c = 2.0 * (2.0 / PI).sqrt();
            let (v, dv) = (c * (x + 0.044715 * x * x * x), c * (1.0 + 3.0 * 0.044715 * x * x));
            sum(logistic(v), x * dv * logistic(v) * logistic(-v), v)
        }
        Activation::Silu => sum(logistic(x), x * logistic(x) * logistic(-x), x),
        Activation::Tanh => sum(1.0 / x.cosh().powi(2), 0.0, 2.0 * x),
    }
}

/// `unit`: words that the parameters count in.
pub(crate) fn twin(act: Activation, rows: usize, unit: usize) -> Twin {
    Twin::new(move |s: &Snapshot| elements(s, rows, unit, act, |p, _, _| (activate(act, p).0, activate(act, p).1)))
}

/// `unit`: words that the parameters count in.
pub(crate) fn backward_twin(act: Activation, rows: usize, unit: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let p: Vec<usize> = s.params()[4..].iter().map(|v| *v as usize * unit).collect();
        elements(s, rows, unit, act, |x, row, i| {
            let dy = f64::from(s.f32(2)[p[5] + row * p[6] + i]);
            let (d, m) = slope(act, x);
            (dy * d, dy.abs() * m)
        })
    })
}

/// Every element of y by `f` of x, row and column.
fn elements(s: &Snapshot, rows: usize, unit: usize, act: Activation, f: impl Fn(f64, usize, usize) -> (f64, f64)) -> Vec<Expected> {
    let p: Vec<usize> = s.params()[4..].iter().map(|v| *v as usize * unit).collect();
    let (mut at, mut want, mut magnitude) = (Vec::new(), Vec::new(), Vec::new());
    for (row, i) in (0..rows).flat_map(|row| (0..p[0]).map(move |i| (row, i))) {
        let (v, m) = f(f64::from(s.f32(0)[p[1] + row * p[2] + i]), row, i);
        at.push(p[3] + row * p[4] + i);
        want.push(v);
        magnitude.push(m);
    }
    let tolerance = match act {
        Activation::None | Activation::Relu => Tolerance::elementwise(),
        _ => Tolerance::transcendental(),
    };
    vec![Expected::Floats { binding: 1, at, want, magnitude, tolerance }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_those_of_the_activations() {
        for act in Activation::ALL {
            // Not at 0, where ReLU has a kink.
            for x in (-48..=48).map(|i| f64::from(i) / 8.0 + 0.05) {
                // To the fourth order, so that the step can be large against the rounding of the functions.
                let odd = |h: f64| activate(act, x + h).0 - activate(act, x - h).0;
                let difference = (8.0 * odd(1e-3) - odd(2e-3)) / 12e-3;
                let (got, magnitude) = slope(act, x);
                // Where a slope is tiny, the rounding of the function that is differenced is larger.
                let allowed = 1e-6 * got.abs().max(1e-4);
                assert!((got - difference).abs() <= allowed, "{act:?} at {x}: {got} where {difference} is expected");
                assert!(magnitude >= got.abs());
            }
        }
    }

    #[test]
    fn the_normal_distribution_keeps_its_digits_far_out() {
        // R: pnorm(c(-3, -5, -10))
        for (x, want) in [(-3.0, 1.349898031630095e-3), (-5.0, 2.866515718791939e-7), (-10.0, 7.619853024160527e-24)] {
            assert!((normal(x) / want - 1.0).abs() < 1e-12, "{x}: {}", normal(x));
        }
    }
}
