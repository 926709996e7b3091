//! Choosing the next token on the device, and advancing the sequence's state.

use super::{Access, Variant, state};
use crate::gpu::Facts;
use crate::plan::{Builder, OpSpec, SlotId};
use crate::reference;
use crate::tensor::Tensor;
use crate::{Error, Result};

const ACCESS: [Access; 4] = [Access::Read, Access::Write, Access::Write, Access::Write];

fn variant() -> Variant {
    let source = include_str!("../../shaders/sample.wgsl");
    Variant { kernel: "sample", source, defines: vec![("WG", 256), ("SG", 0)], access: &ACCESS, subgroup: None }
}

pub(crate) fn variants(_: &Facts) -> Vec<Variant> {
    vec![variant()]
}

/// Appends the choice of a token for each row of `logits` (one a sequence), by the settings in the sequence's state:
/// temperature 0 takes the largest logit; otherwise top-k, then top-p, then min-p filter the softmax of `logits / temperature`,
/// and one token is drawn with the counter-based generator (Threefry-4x32-20, counter (token, step), key seed).
///
/// The token goes to `next[sequence]` and to a ring `output[sequence, produced % ring]`; the state's length grows by its count,
/// its count becomes 1, its step and `produced` grow by 1, and a stop token clears `active`. Inactive sequences do not change.
///
/// # Errors
/// [`Error::Shape`] where the operands do not fit each other; [`Error::Limit`] where the logits exceed a binding.
pub fn sample(b: &mut Builder, label: &str, logits: &Tensor, states: SlotId, next: SlotId, output: SlotId, ring: usize) -> Result<()> {
    if logits.rows == 0 || logits.cols == 0 || ring == 0 {
        return Err(Error::shape("sample", format!("{label}: logits ({}, {}), ring {ring}", logits.rows, logits.cols)));
    }
    let lw = b.view(logits)?;
    let bindings = vec![
        lw,
        b.window(states, 0..logits.rows * state::WORDS)?,
        b.window(next, 0..logits.rows)?,
        b.window(output, 0..logits.rows * ring)?,
    ];
    let elements = (logits.rows * logits.cols) as u64;
    b.push(OpSpec {
        label: label.into(),
        variant: variant(),
        params: vec![logits.cols as u32, lw.offset, logits.stride as u32, ring as u32],
        bindings,
        grid: [logits.rows as u32, 1, 1],
        bytes: 4 * elements,
        flops: 2 * elements,
        twin: reference::sample::twin(logits.rows),
    })
}
