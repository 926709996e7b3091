//! Twin of `shaders/rows.wgsl`.

use crate::kernel::state::WORDS;
use crate::plan::{Expected, Snapshot, Twin};

pub(crate) fn twin(sequences: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let p: Vec<usize> = s.params()[4..].iter().map(|v| *v as usize).collect();
        let (mut at, mut want) = (Vec::new(), Vec::new());
        for q in 0..sequences {
            let row = q * p[5] + (s.words(2)[q * WORDS + 1] as usize).max(1) - 1;
            for i in 0..p[0] {
                at.push(p[3] + q * p[4] + i);
                want.push(s.words(0)[p[1] + row * p[2] + i]);
            }
        }
        vec![Expected::Words { binding: 1, at, want }]
    })
}
