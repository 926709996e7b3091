//! Twin of `shaders/dots.wgsl`.

use crate::plan::{Expected, Snapshot, Tolerance, Twin};

/// `unit`: words that the parameters of a and b count in.
pub(crate) fn twin(rows: usize, unit: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let p: Vec<usize> = s.params()[4..].iter().map(|v| *v as usize).collect();
        let [cols, a_offset, a_stride, b_offset, b_stride] = [p[0], p[1], p[2], p[3], p[4]].map(|v| v * unit);
        let row = |words: &[f32], at: usize| words[at..at + cols].iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
        let (mut at, mut want, mut magnitude) = (Vec::new(), Vec::new(), Vec::new());
        for r in 0..rows {
            let (sum, size) = super::linear::product(&row(s.f32(0), a_offset + r * a_stride), &row(s.f32(1), b_offset + r * b_stride));
            let before = if p[6] == 0 { 0.0 } else { f64::from(s.f32(2)[p[5] + r]) };
            at.push(p[5] + r);
            want.push(sum + before);
            magnitude.push(size + before.abs());
        }
        vec![Expected::Floats { binding: 2, at, want, magnitude, tolerance: Tolerance::sum(cols) }]
    })
}
