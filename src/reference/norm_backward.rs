//! Twin of `shaders/norm_backward.wgsl`.

use crate::plan::{Expected, Snapshot, Tolerance, Twin};

/// The gradient of one row of a norm's input where that of its output is dy, and the magnitudes that errors are measured against.
pub fn row(x: &[f64], dy: &[f64], gain: &[f64], (mean, inverse): (f64, f64), rms: bool) -> Vec<(f64, f64)> {
    let n = x.len() as f64;
    let mean = if rms { 0.0 } else { mean };
    let (mut shift, mut along) = ((0.0, 0.0), (0.0, 0.0));
    for i in 0..x.len() {
        let g = dy[i] * gain[i];
        let (unit, size) = ((x[i] - mean) * inverse, (x[i].abs() + mean.abs()) * inverse.abs());
        along = (along.0 + g * unit / n, along.1 + g.abs() * size / n);
        if !rms {
            shift = (shift.0 + g / n, shift.1 + g.abs() / n);
        }
    }
    let element = |i: usize| {
        let g = dy[i] * gain[i];
        let (unit, size) = ((x[i] - mean) * inverse, (x[i].abs() + mean.abs()) * inverse.abs());
        (inverse * (g - shift.0 - unit * along.0), inverse.abs() * (g.abs() + shift.1 + size * along.1))
    };
    (0..x.len()).map(element).collect()
}

/// `unit`: words that the parameters count in.
pub(crate) fn twin(rms: bool, rows: usize, unit: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let p = &s.params()[4..];
        let [cols, x_offset, x_stride, dy_offset, dy_stride, dx_offset, dx_stride, gain_offset] =
            [p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7]].map(|v| v as usize * unit);
        let (saved_offset, saved_stride, accumulate) = (p[8] as usize, p[9] as usize, p[10] != 0);
        let take = |o: usize, at: usize| s.f32(o)[at..at + cols].iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
        let gain = take(2, gain_offset);
        let (mut at, mut want, mut magnitude) = (Vec::new(), Vec::new(), Vec::new());
        for r in 0..rows {
            let saved = [0, 1].map(|i| f64::from(s.f32(3)[saved_offset + r * saved_stride + i]));
            let (x, dy) = (take(0, x_offset + r * x_stride), take(1, dy_offset + r * dy_stride));
            for (i, (v, m)) in row(&x, &dy, &gain, (saved[0], saved[1]), rms).into_iter().enumerate() {
                let word = dx_offset + r * dx_stride + i;
                let before = if accumulate { f64::from(s.f32(4)[word]) } else { 0.0 };
                at.push(word);
                want.push(before + v);
                magnitude.push(before.abs() + m);
            }
        }
        // Two sums of `cols` terms each.
        vec![Expected::Floats { binding: 4, at, want, magnitude, tolerance: Tolerance::sum(2 * cols) }]
    })
}

#[cfg(test)]
mod tests {
    use super::super::norm;
    use super::*;

    /// Of the input by `row`, of gain and bias by the sums over rows that `columns` makes.
    #[test]
    fn gradients_are_those_of_the_norm() {
        let cols = 7;
        let wave = |i: usize, k: f64| (1.0 + k * i as f64).sin() + 0.3 * k;
        let (x, dy): (Vec<f64>, Vec<f64>) = (0..cols).map(|i| (2.0 * wave(i, 1.3), wave(i, 2.1))).unzip();
        let (gain, bias): (Vec<f64>, Vec<f64>) = (0..cols).map(|i| (wave(i, 0.7), wave(i, 0.4))).unzip();
        let eps = 1e-3;
        for rms in [false, true] {
            let loss = |x: &[f64], gain: &[f64], bias: &[f64]| {
                let y = norm::row(x, gain, (!rms).then_some(bias), rms, eps);
                y.iter().zip(&dy).map(|(y, d)| y.0 * d).sum::<f64>()
            };
            let [(mean, _), (inverse, _)] = norm::statistics(&x, rms, eps);
            let dx = row(&x, &dy, &gain, (mean, inverse), rms);
            let close = |got: f64, moved: [f64; 2], what: &str| {
                let want = (moved[0] - moved[1]) / 2e-5;
                assert!((got - want).abs() <= 1e-6 * want.abs(), "{what}: {got} where {want} is expected");
            };
            for i in 0..cols {
                let moved = |v: &[f64], h: f64| {
                    let mut v = v.to_vec();
                    v[i] += h;
                    v
                };
                close(dx[i].0, [1e-5, -1e-5].map(|h| loss(&moved(&x, h), &gain, &bias)), "x");
                close(dy[i] * (x[i] - mean) * inverse, [1e-5, -1e-5].map(|h| loss(&x, &moved(&gain, h), &bias)), "gain");
                if !rms {
                    close(dy[i], [1e-5, -1e-5].map(|h| loss(&x, &gain, &moved(&bias, h))), "bias");
                }
            }
        }
    }
}
