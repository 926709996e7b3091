//! Twin of `shaders/batch.wgsl`.

use crate::kernel::batch::Batch;
use crate::kernel::progress::Progress;
use crate::plan::{Expected, Snapshot, Twin};

/// The tokens of sequence `s` of the batch that `p` stands at, and the one after them.
pub fn sequence<'a>(from: &Batch, corpus: &'a [u32], starts: &[u32], p: &Progress, s: usize) -> &'a [u32] {
    let n = p.step.wrapping_mul(from.micros as u32).wrapping_add(p.micro);
    let draw = n.wrapping_mul(from.sequences as u32).wrapping_add(s as u32);
    let start = starts[draw as usize % from.starts_len] as usize;
    let start = start.min(from.corpus_len - from.rows - 1);
    &corpus[start..=start + from.rows]
}

pub(crate) fn twin(from: Batch) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let p = Progress::from_words(s.words(2));
        let (mut tokens, mut targets) = (Vec::new(), Vec::new());
        for q in 0..from.sequences {
            let words = sequence(&from, s.words(0), s.words(1), &p, q);
            tokens.extend(&words[..from.rows]);
            targets.extend(&words[1..]);
        }
        let at: Vec<usize> = (0..tokens.len()).collect();
        vec![Expected::Words { binding: 3, at: at.clone(), want: tokens }, Expected::Words { binding: 4, at, want: targets }]
    })
}
