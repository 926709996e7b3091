//! Twin of `shaders/columns.wgsl`.

use crate::plan::{Expected, Snapshot, Tolerance, Twin};

/// `parts`: rows of y; `unit`: words that the parameters count in.
pub(crate) fn twin(dot: bool, normed: bool, rms: bool, parts: usize, unit: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let p: Vec<usize> = s.params()[4..].iter().map(|v| *v as usize).collect();
        let [cols, a_offset, a_stride, b_offset, b_stride, y_offset] = [p[0], p[4], p[5], p[6], p[7], p[8]].map(|v| v * unit);
        let (rows, per, accumulate) = (p[1], p[2], p[3] != 0);
        let (mut at, mut want, mut magnitude) = (Vec::new(), Vec::new(), Vec::new());
        for part in 0..parts {
            let mut sums = vec![(0.0, 0.0); cols];
            for r in (part * per).min(rows)..((part + 1) * per).min(rows) {
                let saved = |i: usize| f64::from(s.f32(3)[p[9] + r * p[10] + i]);
                let (mean, inverse) = if normed { (if rms { 0.0 } else { saved(0) }, saved(1)) } else { (0.0, 1.0) };
                for (c, (sum, size)) in sums.iter_mut().enumerate() {
                    let a = f64::from(s.f32(0)[a_offset + r * a_stride + c]);
                    let b = if dot { f64::from(s.f32(2)[b_offset + r * b_stride + c]) } else { 1.0 };
                    *sum += a * (b - mean) * inverse;
                    *size += a.abs() * (b.abs() + mean.abs()) * inverse.abs();
                }
            }
            for (c, (sum, size)) in sums.into_iter().enumerate() {
                let word = y_offset + part * cols + c;
                let before = if accumulate { f64::from(s.f32(1)[word]) } else { 0.0 };
                at.push(word);
                want.push(before + sum);
                magnitude.push(before.abs() + size);
            }
        }
        vec![Expected::Floats { binding: 1, at, want, magnitude, tolerance: Tolerance::sum(per) }]
    })
}
