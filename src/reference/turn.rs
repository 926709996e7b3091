//! Twin of `shaders/turn.wgsl`.

use super::rope::pair;
use crate::kernel::rope::Pairing;
use crate::plan::{Expected, Snapshot, Tolerance, Twin};

/// One head with its pairs rotated by `(cos, sin)` of each, and the magnitudes of the results.
pub fn head(pairing: Pairing, x: &[f64], angles: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut out = vec![(0.0, 0.0); x.len()];
    for (i, (c, s)) in angles.iter().enumerate() {
        let (first, second) = pair(pairing, i, x.len());
        let (a, b) = (x[first], x[second]);
        out[first] = (a * c - b * s, (a * c).abs() + (b * s).abs());
        out[second] = (a * s + b * c, (a * s).abs() + (b * c).abs());
    }
    out
}

pub(crate) fn twin(pairing: Pairing, rows: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let p: Vec<usize> = s.params()[4..].iter().map(|v| *v as usize).collect();
        let (cols, d, sign) = (2 * p[0], p[1], f64::from(f32::from_bits(s.params()[13])));
        let (mut at, mut want, mut magnitude) = (Vec::new(), Vec::new(), Vec::new());
        for row in 0..rows {
            let position = (p[2] + row) % p[3];
            let angle = |i: usize| {
                let at = 2 * (p[8] + position * d / 2 + i);
                (f64::from(s.f32(2)[at]), sign * f64::from(s.f32(2)[at + 1]))
            };
            let angles: Vec<_> = (0..d / 2).map(angle).collect();
            for first in (0..cols).step_by(d) {
                let x: Vec<f64> = s.f32(0)[p[4] + row * p[5] + first..][..d].iter().map(|v| f64::from(*v)).collect();
                for (i, (v, m)) in head(pairing, &x, &angles).into_iter().enumerate() {
                    at.push(p[6] + row * p[7] + first + i);
                    want.push(v);
                    magnitude.push(m);
                }
            }
        }
        // Two products and a sum.
        vec![Expected::Floats { binding: 1, at, want, magnitude, tolerance: Tolerance::elementwise() }]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The gradient with respect to x of `sum_i dy[i] y[i]` is dy turned back.
    #[test]
    fn turning_back_is_the_gradient() {
        let (x, dy) = ([0.3, -1.2, 0.7, 2.0, -0.4, 0.9], [1.1, 0.2, -0.6, 0.5, 1.7, -0.9]);
        let angles: Vec<(f64, f64)> = [0.3f64, 1.9, -2.2].iter().map(|a| (a.cos(), a.sin())).collect();
        let back: Vec<(f64, f64)> = angles.iter().map(|(c, s)| (*c, -s)).collect();
        for pairing in [Pairing::Half, Pairing::Interleaved] {
            let loss = |x: &[f64]| head(pairing, x, &angles).iter().zip(dy).map(|(y, d)| y.0 * d).sum::<f64>();
            for (i, (got, _)) in head(pairing, &dy, &back).into_iter().enumerate() {
                let [up, down] = [1e-5, -1e-5].map(|h| {
                    let mut moved = x;
                    moved[i] += h;
                    loss(&moved)
                });
                let want = (up - down) / 2e-5;
                assert!((got - want).abs() <= 1e-6 * want.abs(), "{pairing:?} {i}: {got} where {want} is expected");
            }
        }
    }
}
