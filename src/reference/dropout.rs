//! Twin of `shaders/dropout.wgsl`.

use super::sample::threefry;
use crate::kernel::progress::Progress;
use crate::plan::{Expected, Snapshot, Tolerance, Twin};
use std::ops::Range;

/// What element `e` of a matrix is multiplied by: forward and, since dropout is linear, backward.
pub fn factor(p: f32, e: usize, at: &Progress, stream: u32) -> f64 {
    let bits = threefry([(e / 4) as u32, at.step, at.micro, stream], [at.seed as u32, (at.seed >> 32) as u32, 0, 0])[e % 4];
    if f64::from(bits) < (f64::from(p) * 2f64.powi(32)).floor() { 0.0 } else { 1.0 / (1.0 - f64::from(p)) }
}

/// Rows `r` of a matrix. `unit`: words that places are counted in.
pub(crate) fn twin(p: f32, r: Range<usize>, cols: usize, unit: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let q = &s.params()[4..];
        let [x_offset, x_stride, y_offset, y_stride] = [q[1], q[2], q[3], q[4]].map(|v| v as usize * unit);
        let progress = Progress::from_words(s.words(2));
        let (mut at, mut want) = (Vec::new(), Vec::new());
        for row in r.clone() {
            for i in 0..cols {
                let local = row - r.start;
                at.push(y_offset + local * y_stride + i);
                want.push(f64::from(s.f32(0)[x_offset + local * x_stride + i]) * factor(p, row * cols + i, &progress, q[7]));
            }
        }
        let magnitude = want.iter().map(|v| v.abs()).collect();
        vec![Expected::Floats { binding: 1, at, want, magnitude, tolerance: Tolerance::elementwise() }]
    })
}
