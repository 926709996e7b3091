//! Twin of `shaders/linear_*.wgsl`.

use super::norm;
use crate::kernel::linear::{Activation, Fused};
use crate::plan::{Expected, Snapshot, Tolerance, Twin};
use crate::tensor::Format;

/// `act(x)`, and what its error is measured against: GELU and SiLU are products of x with a factor that may cancel to 0.
pub fn activate(a: Activation, x: f64) -> (f64, f64) {
    match a {
        Activation::None => (x, x.abs()),
        Activation::Relu => (x.max(0.0), x.abs()),
        Activation::GeluErf => (0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)), x.abs()),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            (0.5 * x * (1.0 + inner.tanh()), x.abs())
        }
        Activation::Silu => (x / (1.0 + (-x).exp()), x.abs()),
        Activation::Tanh => (x.tanh(), x.tanh().abs()),
    }
}

/// The error function to 1e-15: its Maclaurin series, and for |x| > 3 the continued fraction of erfc.
pub fn erf(x: f64) -> f64 {
    let a = x.abs();
    let value = if a < 3.0 {
        let (mut term, mut sum, mut n) = (a, a, 0.0);
        while term.abs() > 1e-17 * sum.abs() {
            n += 1.0;
            term *= -a * a / n;
            sum += term / (2.0 * n + 1.0);
        }
        2.0 / std::f64::consts::PI.sqrt() * sum
    } else {
        let mut f = 0.0;
        for i in (1..60).rev() {
            f = f64::from(i) / 2.0 / (a + f);
        }
        1.0 - (-a * a).exp() / std::f64::consts::PI.sqrt() / (a + f)
    };
    value.copysign(x)
}

/// `x Wᵀ` for one row of x: the sums, and the sums of absolute products.
pub fn product(x: &[f64], w: &[f64]) -> (f64, f64) {
    x.iter().zip(w).fold((0.0, 0.0), |(s, m), (a, b)| (s + a * b, m + (a * b).abs()))
}

pub(crate) fn twin(format: Format, weight_rows: usize, bias: bool, residual: i64, fused: &Fused) -> Twin {
    let (act, gate, norm_eps) = (fused.activation, fused.gate, fused.norm.map(|n| f64::from(n.1)));
    Twin::new(move |s: &Snapshot| {
        let p = &s.params()[4..];
        let [m, n, cols] = [p[0], p[1], p[2]].map(|v| v as usize);
        let [x_offset, x_stride, y_offset, y_stride] = [p[4], p[5], p[6], p[7]].map(|v| v as usize);
        let [b_offset, r_offset, r_stride] = [p[9], p[10], p[11]].map(|v| v as usize);
        let quant = usize::from(matches!(format, Format::Quant(_)));
        let scales = if quant == 1 { s.words(3) } else { &[] };
        let mut x: Vec<Vec<f64>> =
            (0..m).map(|r| s.f32(0)[x_offset + r * x_stride..][..cols].iter().map(|v| f64::from(*v)).collect()).collect();
        if let Some(eps) = norm_eps {
            let at = p[12] as usize;
            let binding = 3 + quant + usize::from(bias) + usize::from(residual == 1);
            let gain: Vec<f64> = s.f32(binding)[at..at + cols].iter().map(|v| f64::from(*v)).collect();
            for row in &mut x {
                *row = norm::row(row, &gain, None, true, eps).into_iter().map(|v| v.0).collect();
            }
        }
        // sums[row of x][weight row]
        let mut sums = vec![vec![(0.0, 0.0); weight_rows]; m];
        for row in 0..weight_rows {
            let w = super::weight_row(&format, s.words(1), scales, row, cols);
            for (x, sums) in x.iter().zip(&mut sums) {
                sums[row] = product(x, &w);
            }
        }
        let (mut at, mut want, mut magnitude) = (Vec::new(), Vec::new(), Vec::new());
        for (r, sums) in sums.iter().enumerate() {
            for c in 0..n {
                let (mut v, mut mag) = sums[c];
                if bias {
                    let b = f64::from(s.f32(3 + quant)[b_offset + c]);
                    (v, mag) = (v + b, mag + b.abs());
                }
                let (a, a_mag) = activate(act, v);
                // The derivative of every activation is at most about 1.1: an error of the sum passes through as it is.
                (v, mag) = (a, mag.max(a_mag));
                if gate {
                    let (g, g_mag) = activate(Activation::Silu, sums[c].0);
                    let (u, u_mag) = sums[n + c];
                    (v, mag) = (g * u, (g_mag.max(sums[c].1)) * u_mag.max(u.abs()));
                }
                let y = y_offset + r * y_stride + c;
                let add = match residual {
                    0 => 0.0,
                    1 => f64::from(s.f32(3 + quant + usize::from(bias))[r_offset + r * r_stride + c]),
                    _ => f64::from(s.f32(2)[y]),
                };
                at.push(y);
                want.push(v + add);
                magnitude.push(mag + add.abs());
            }
        }
        // The squares are one more sum of as many terms.
        let mut tolerance = Tolerance::sum(if norm_eps.is_some() { 2 * cols } else { cols });
        if act != Activation::None || gate {
            tolerance.ulps += Tolerance::transcendental().ulps;
        }
        vec![Expected::Floats { binding: 2, at, want, magnitude, tolerance }]
    })
}
