//! Twin of `shaders/select.wgsl`.

use crate::plan::{Expected, Snapshot, Twin};

/// `unit`: words that the parameters count in.
pub(crate) fn twin(columns: bool, rows: usize, cols: usize, unit: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let p: Vec<usize> = s.params()[4..].iter().map(|v| *v as usize).collect();
        let (last, indices) = (p[2], &s.words(1)[p[3]..]);
        let [x_offset, x_stride, y_offset, y_stride] = [p[4], p[5], p[6], p[7]].map(|v| v * unit);
        let (mut at, mut want) = (Vec::new(), Vec::new());
        for t in 0..rows {
            for j in 0..cols {
                let index = (indices[if columns { j } else { t }] as usize).min(last);
                let (row, col) = if columns { (t, index) } else { (index, j) };
                at.push(y_offset + t * y_stride + j);
                want.push(s.words(0)[x_offset + row * x_stride + col]);
            }
        }
        vec![Expected::Words { binding: 2, at, want }]
    })
}
