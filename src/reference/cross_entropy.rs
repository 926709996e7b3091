//! Twin of `shaders/cross_entropy.wgsl`.

use crate::plan::{Expected, Snapshot, Tolerance, Twin};

fn log_total(x: &[f64]) -> f64 {
    let top = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    x.iter().map(|v| (v - top).exp()).sum::<f64>().ln() + top
}

/// `(1 - smoothing) (-log p[target]) + smoothing mean(-log p)` with `p = softmax(x)`.
pub fn loss(x: &[f64], target: usize, smoothing: f64) -> f64 {
    let log_total = log_total(x);
    let mean = x.iter().map(|v| log_total - v).sum::<f64>() / x.len() as f64;
    (1.0 - smoothing) * (log_total - x[target]) + smoothing * mean
}

/// The derivatives of [`loss`] by the logits.
pub fn gradient(x: &[f64], target: usize, smoothing: f64) -> Vec<f64> {
    let log_total = log_total(x);
    let wanted = |i: usize| smoothing / x.len() as f64 + if i == target { 1.0 - smoothing } else { 0.0 };
    x.iter().enumerate().map(|(i, v)| (v - log_total).exp() - wanted(i)).collect()
}

/// Rows whose target is past the columns have a loss and a gradient of 0. `unit`: words that places of x count in.
pub(crate) fn twin(with_gradient: bool, rows: usize, unit: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let p = &s.params()[4..];
        let [cols, x_offset, x_stride] = [p[0], p[1], p[2]].map(|v| v as usize * unit);
        let [y_offset, t_offset, scale_offset] = [p[3], p[4], p[5]].map(|v| v as usize);
        let smoothing = f64::from(f32::from_bits(p[6]));
        let mut tolerance = Tolerance::transcendental();
        tolerance.ulps += Tolerance::sum(cols).ulps;
        let (mut losses, mut sizes) = (Vec::new(), Vec::new());
        let (mut at, mut want, mut magnitude) = (Vec::new(), Vec::new(), Vec::new());
        for r in 0..rows {
            let begin = x_offset + r * x_stride;
            let x: Vec<f64> = s.f32(0)[begin..begin + cols].iter().map(|v| f64::from(*v)).collect();
            let target = s.words(1)[t_offset + r] as usize;
            let ignored = target >= cols;
            losses.push(if ignored { 0.0 } else { loss(&x, target, smoothing) });
            // The logarithm and the differences may cancel: measured against the largest logit.
            sizes.push(x.iter().fold(1.0, |m: f64, v| m.max(v.abs())));
            if !with_gradient {
                continue;
            }
            let scale = f64::from(s.f32(3)[scale_offset]);
            let gradient = if ignored { vec![0.0; cols] } else { gradient(&x, target, smoothing) };
            let log_total = log_total(&x);
            for (i, g) in gradient.iter().enumerate() {
                at.push(begin + i);
                want.push(scale * g);
                // exp(-d) loses d half-ulps to the rounding of d, and up to 2 d ulps by WGSL's own bound; p and what is wanted cancel.
                let d = (x[i] - log_total).abs();
                let p = (x[i] - log_total).exp() * (1.0 + d / 32.0);
                let wanted = smoothing / cols as f64 + if i == target { 1.0 - smoothing } else { 0.0 };
                magnitude.push(if ignored { 0.0 } else { scale.abs() * (p + wanted) });
            }
        }
        let places = (0..rows).map(|r| y_offset + r).collect();
        let mut all = vec![Expected::Floats { binding: 2, at: places, want: losses, magnitude: sizes, tolerance }];
        if with_gradient {
            all.push(Expected::Floats { binding: 0, at, want, magnitude, tolerance });
        }
        all
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gradient_is_that_of_the_loss() {
        let x: Vec<f64> = (0..37).map(|i| 3.0 * f64::from(i * i % 17) / 17.0 - 1.0).collect();
        for (target, smoothing) in [(0, 0.0), (36, 0.1), (5, 0.9)] {
            for (i, g) in gradient(&x, target, smoothing).into_iter().enumerate() {
                let at = |h: f64| {
                    let mut x = x.clone();
                    x[i] += h;
                    loss(&x, target, smoothing)
                };
                let h = 1e-4;
                // Of the fourth order.
                let difference = (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h);
                assert!((g - difference).abs() <= 1e-6 * g.abs().max(1e-4), "{i}: {g} and {difference}");
            }
        }
    }
}
