//! Twin of `shaders/fill.wgsl`.

use crate::plan::{Expected, Snapshot, Twin};

/// `unit`: words that the parameters count in.
pub(crate) fn twin(rows: usize, unit: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let p = &s.params()[4..];
        let [cols, offset, stride] = [p[0], p[1], p[2]].map(|v| v as usize * unit);
        let at: Vec<usize> = (0..rows).flat_map(|r| (0..cols).map(move |i| offset + r * stride + i)).collect();
        vec![Expected::Words { binding: 0, want: vec![p[3]; at.len()], at }]
    })
}
