//! Batches of tokens from a corpus on the device, by the progress of the run.

use super::{Access, Variant, progress};
use crate::gpu::Facts;
use crate::plan::{Builder, OpSpec, SlotId};
use crate::reference;
use crate::{Error, Result};

/// A corpus and how batches are taken from it.
#[derive(Debug, Clone, Copy)]
pub struct Batch {
    /// The tokens, a word each.
    pub corpus: SlotId,
    /// Number of tokens.
    pub corpus_len: usize,
    /// Where sequences begin in the corpus, in the order of training.
    pub starts: SlotId,
    /// Number of starts.
    pub starts_len: usize,
    /// The run's progress.
    pub progress: SlotId,
    /// Sequences of a batch.
    pub sequences: usize,
    /// Tokens of a sequence.
    pub rows: usize,
    /// Batches of an optimiser step.
    pub micros: usize,
}

const ACCESS: [Access; 5] = [Access::Read, Access::Read, Access::Read, Access::Write, Access::Write];

fn variant() -> Variant {
    Variant { kernel: "batch", source: include_str!("../../shaders/batch.wgsl"), defines: Vec::new(), access: &ACCESS, subgroup: None }
}

pub(crate) fn variants(_: &Facts) -> Vec<Variant> {
    vec![variant()]
}

/// Appends, with `n = STEP * micros + MICRO`, for each sequence s and row t: `tokens[s * rows + t] = corpus[start + t]` and
/// `targets[s * rows + t] = corpus[start + t + 1]` where `start = starts[(n * sequences + s) % starts_len]`.
///
/// Starts that leave fewer than `rows + 1` tokens take the last ones of the corpus. `n * sequences + s` counts modulo 2^32.
///
/// # Errors
/// [`Error::Shape`] where the corpus has fewer than `rows + 1` tokens, or without starts, sequences, rows or batches;
/// [`Error::Limit`] where the corpus exceeds a binding.
pub fn batch(b: &mut Builder, label: &str, from: &Batch, tokens: SlotId, targets: SlotId) -> Result<()> {
    let Batch { corpus_len, starts_len, sequences, rows, micros, .. } = *from;
    if [starts_len, sequences, rows, micros].contains(&0) {
        let sizes = format!("{starts_len} starts, {sequences} sequences of {rows} tokens, {micros} batches a step");
        return Err(Error::shape("batch", format!("{label}: {sizes}: none may be 0")));
    }
    let count = sequences.checked_mul(rows).filter(|n| u32::try_from(*n).is_ok() && u32::try_from(micros).is_ok());
    let Some(count) = count.filter(|_| rows < corpus_len) else {
        return Err(Error::shape("batch", format!("{label}: {sequences} sequences of {rows} tokens from a corpus of {corpus_len}")));
    };
    let bindings = vec![
        b.window(from.corpus, 0..corpus_len)?,
        b.window(from.starts, 0..starts_len)?,
        b.window(from.progress, 0..progress::WORDS)?,
        b.window(tokens, 0..count)?,
        b.window(targets, 0..count)?,
    ];
    let sizes = [count, rows, sequences, micros, starts_len, corpus_len - rows - 1, 0, 0];
    b.push(OpSpec {
        label: label.into(),
        variant: variant(),
        params: sizes.iter().map(|n| *n as u32).collect(),
        bindings,
        grid: [count.div_ceil(64) as u32, 1, 1],
        bytes: 16 * count as u64,
        flops: 0,
        twin: reference::batch::twin(*from),
    })
}
