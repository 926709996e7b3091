//! Twin of `shaders/nll.wgsl`.

use crate::plan::{Expected, Snapshot, Tolerance, Twin};

/// `log sum exp(x) - x[target]`.
pub fn row(x: &[f64], target: usize) -> f64 {
    let top = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    x.iter().map(|v| (v - top).exp()).sum::<f64>().ln() + top - x[target]
}

pub(crate) fn twin(rows: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let p: Vec<usize> = s.params()[4..].iter().map(|v| *v as usize).collect();
        let (mut want, mut magnitude) = (Vec::new(), Vec::new());
        for r in 0..rows {
            let x: Vec<f64> = s.f32(0)[p[1] + r * p[2]..][..p[0]].iter().map(|v| f64::from(*v)).collect();
            let target = (s.words(1)[r] as usize).min(p[0] - 1);
            want.push(row(&x, target));
            // The logarithm and the difference may cancel: measured against the largest logit.
            magnitude.push(x.iter().fold(1.0, |m: f64, v| m.max(v.abs())));
        }
        let at = (0..rows).map(|r| p[3] + r).collect();
        let mut tolerance = Tolerance::transcendental();
        tolerance.ulps += Tolerance::sum(p[0]).ulps;
        vec![Expected::Floats { binding: 2, at, want, magnitude, tolerance }]
    })
}
