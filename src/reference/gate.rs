//! Twin of `shaders/gate.wgsl`.

use super::linear::activate;
use crate::kernel::linear::Activation;
use crate::plan::{Expected, Snapshot, Tolerance, Twin};

/// `unit`: words that the parameters count in.
pub(crate) fn twin(act: Activation, rows: usize, unit: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let p: Vec<usize> = s.params()[4..].iter().map(|v| *v as usize * unit).collect();
        let (mut at, mut want, mut magnitude) = (Vec::new(), Vec::new(), Vec::new());
        for row in 0..rows {
            for i in 0..p[0] {
                let g = f64::from(s.f32(0)[p[1] + row * p[2] + i]);
                let u = f64::from(s.f32(1)[p[3] + row * p[4] + i]);
                let (a, m) = activate(act, g);
                at.push(p[5] + row * p[6] + i);
                want.push(a * u);
                magnitude.push(m * u.abs());
            }
        }
        vec![Expected::Floats { binding: 2, at, want, magnitude, tolerance: Tolerance::transcendental() }]
    })
}
