//! Twin of `shaders/norm.wgsl`.

use crate::plan::{Expected, Snapshot, Tolerance, Twin};

/// Mean (0 for RMSNorm) and `1 / sqrt(variance + eps)` of a row, with the magnitudes that their errors are measured against: the
/// variance has the errors of the differences from the mean.
pub fn statistics(x: &[f64], rms: bool, eps: f64) -> [(f64, f64); 2] {
    let n = x.len() as f64;
    let mean = if rms { 0.0 } else { x.iter().sum::<f64>() / n };
    let size = if rms { 0.0 } else { x.iter().map(|v| v.abs()).sum::<f64>() / n };
    let variance = x.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n;
    let loss = x.iter().map(|v| (v - mean).abs() * (v.abs() + mean.abs())).sum::<f64>() / n;
    let inverse = 1.0 / (variance + eps).sqrt();
    [(mean, size), (inverse, inverse * (1.0 + loss * inverse * inverse))]
}

/// One normalised row, and the magnitude that its error is measured against: the difference `x - mean` loses what `x` had.
pub fn row(x: &[f64], gain: &[f64], bias: Option<&[f64]>, rms: bool, eps: f64) -> Vec<(f64, f64)> {
    let [(mean, _), (inverse, _)] = statistics(x, rms, eps);
    x.iter()
        .enumerate()
        .map(|(i, v)| {
            let b = bias.map_or(0.0, |b| b[i]);
            ((v - mean) * inverse * gain[i] + b, (v.abs() + mean.abs()) * inverse * gain[i].abs() + b.abs())
        })
        .collect()
}

/// `unit`: words that the parameters count in.
pub(crate) fn twin([rms, has_bias, last, save]: [bool; 4], rows: usize, unit: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let p = &s.params()[4..];
        let [cols, x_offset, x_stride, y_offset, y_stride, gain_offset, bias_offset] =
            [p[0], p[1], p[2], p[3], p[4], p[5], p[6]].map(|v| v as usize * unit);
        let eps = f64::from(f32::from_bits(p[7]));
        let take = |words: &[f32], at: usize| words[at..at + cols].iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
        let gain = take(s.f32(2), gain_offset);
        let bias = has_bias.then(|| take(s.f32(3), bias_offset));
        let (mut at, mut want, mut magnitude) = (Vec::new(), Vec::new(), Vec::new());
        let mut saved = [(Vec::new(), Vec::new(), Vec::new()), (Vec::new(), Vec::new(), Vec::new())];
        for r in 0..rows {
            let source = if last {
                let state = s.words(3 + usize::from(has_bias));
                r * p[8] as usize + (state[r * 32 + 1] as usize).max(1) - 1
            } else {
                r
            };
            let x = take(s.f32(0), x_offset + source * x_stride);
            for (i, (v, m)) in row(&x, &gain, bias.as_deref(), rms, eps).into_iter().enumerate() {
                at.push(y_offset + r * y_stride + i);
                want.push(v);
                magnitude.push(m);
            }
            for (i, (v, m)) in statistics(&x, rms, eps).into_iter().enumerate().filter(|_| save) {
                saved[i].0.push(p[9] as usize + r * p[10] as usize + i);
                saved[i].1.push(v);
                saved[i].2.push(m);
            }
        }
        // The mean and the variance are sums of `cols` terms each.
        let tolerance = Tolerance::sum(2 * cols);
        let mut all = vec![Expected::Floats { binding: 1, at, want, magnitude, tolerance }];
        let binding = 3 + usize::from(has_bias);
        let saved = saved.into_iter().filter(|_| save);
        all.extend(saved.map(|(at, want, magnitude)| Expected::Floats { binding, at, want, magnitude, tolerance }));
        all
    })
}
