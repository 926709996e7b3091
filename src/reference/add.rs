//! Twin of `shaders/add.wgsl`.

use crate::plan::{Expected, Snapshot, Tolerance, Twin};

/// `unit`: words that the parameters count in.
pub(crate) fn twin(in_place: bool, rows: usize, unit: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let p: Vec<usize> = s.params()[4..].iter().map(|v| *v as usize * unit).collect();
        let (binding, to) = if in_place { (1, 3) } else { (2, 5) };
        let (mut at, mut want, mut magnitude) = (Vec::new(), Vec::new(), Vec::new());
        for (row, i) in (0..rows).flat_map(|row| (0..p[0]).map(move |i| (row, i))) {
            let [x, y] = [0, 1].map(|o| f64::from(s.f32(o)[p[1 + 2 * o] + row * p[2 + 2 * o] + i]));
            at.push(p[to] + row * p[to + 1] + i);
            want.push(x + y);
            magnitude.push(x.abs() + y.abs());
        }
        vec![Expected::Floats { binding, at, want, magnitude, tolerance: Tolerance::elementwise() }]
    })
}
