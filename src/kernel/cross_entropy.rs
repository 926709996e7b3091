//! Cross-entropy of tokens under rows of logits, and its gradient in place of the logits.

use super::{Access, Variant, row_workgroup};
use crate::gpu::Facts;
use crate::plan::{Builder, OpSpec, SlotId};
use crate::reference;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// A target that counts for nothing: loss 0, gradient 0.
pub const IGNORE: u32 = u32::MAX;

/// Most columns: beyond, a software driver would leave the loops of a row early.
pub const MAX_COLS: usize = 1 << 20;

/// Operands of [`cross_entropy`].
#[derive(Debug, Clone, Copy)]
pub struct CrossEntropy<'a> {
    /// Logits, a row a token; with `gradient`, the gradient afterwards.
    pub logits: &'a Tensor,
    /// The wanted tokens, a word each: the slot and the first word.
    pub targets: (SlotId, usize),
    /// The losses, `(1, rows)`.
    pub losses: &'a Tensor,
    /// The slot and the word of an f32 that gradients are multiplied by.
    pub scale: (SlotId, usize),
    /// How much of the target's probability is spread over all tokens, in `0..1`.
    pub smoothing: f32,
    /// Whether the gradient is wanted.
    pub gradient: bool,
}

const ACCESS: [Access; 3] = [Access::Read, Access::Read, Access::Write];
const GRADIENT: [Access; 4] = [Access::Write, Access::Read, Access::Write, Access::Read];

fn variant(facts: &Facts, gradient: bool, vec4: bool) -> Variant {
    let (wg, sg, subgroup) = row_workgroup(facts, "cross_entropy", 256);
    Variant {
        kernel: "cross_entropy",
        source: include_str!("../../shaders/cross_entropy.wgsl"),
        defines: vec![("GRAD", i64::from(gradient)), ("VEC", i64::from(vec4)), ("WG", wg), ("SG", sg)],
        access: if gradient { &GRADIENT } else { &ACCESS },
        subgroup,
    }
}

pub(crate) fn variants(facts: &Facts) -> Vec<Variant> {
    [(false, false), (false, true), (true, false), (true, true)].map(|(gradient, vec4)| variant(facts, gradient, vec4)).into()
}

/// Appends, for each row r with `p = softmax(logits[r])`, `t = targets[r]`:
/// `losses[r] = (1 - smoothing) (-log p[t]) + smoothing mean_v(-log p[v])`; with `gradient`, `logits[r]` becomes `scale` times its
/// derivative by the logits, `scale (p - (1 - smoothing) onehot(t) - smoothing / cols)`.
///
/// A target that is [`IGNORE`], or any other past the columns, is left out: loss 0 and gradient 0.
/// Rows are read by whole vectors where `cols`, `stride` and `offset` are multiples of 4.
///
/// # Errors
/// [`Error::Shape`] where the operands do not fit each other, for more than [`MAX_COLS`] columns, for a smoothing outside of
/// `0..1`; [`Error::Limit`] where a row exceeds a binding.
pub fn cross_entropy(b: &mut Builder, label: &str, c: &CrossEntropy<'_>) -> Result<()> {
    let (x, y) = (c.logits, c.losses);
    if y.cols != x.rows || y.rows != 1 || x.cols == 0 || x.cols > MAX_COLS {
        let sizes = format!("logits ({}, {}), losses ({}, {})", x.rows, x.cols, y.rows, y.cols);
        return Err(Error::shape("cross_entropy", format!("{label}: {sizes}")));
    }
    if !(0.0..1.0).contains(&c.smoothing) {
        return Err(Error::shape("cross_entropy", format!("{label}: a smoothing of {}, which is not in 0..1", c.smoothing)));
    }
    for r in b.row_chunks(x.rows, x.stride)? {
        let part = CrossEntropy {
            logits: &x.slice_rows(r.clone()),
            targets: (c.targets.0, c.targets.1 + r.start),
            losses: &y.slice_cols(r),
            ..*c
        };
        one(b, label, &part)?;
    }
    Ok(())
}

fn one(b: &mut Builder, label: &str, c: &CrossEntropy<'_>) -> Result<()> {
    let x = c.logits;
    let (xw, yw) = (b.view(x)?, b.view(c.losses)?);
    let targets = b.window(c.targets.0, c.targets.1..c.targets.1 + x.rows)?;
    let mut places = [x.cols as u32, xw.offset, x.stride as u32];
    let vec4 = places.iter().all(|n| n.is_multiple_of(4));
    if vec4 {
        places = places.map(|n| n / 4);
    }
    let mut bindings = vec![xw, targets, yw];
    let mut scale_offset = 0;
    if c.gradient {
        let scale = b.window(c.scale.0, c.scale.1..c.scale.1 + 1)?;
        scale_offset = scale.offset;
        bindings.push(scale);
    }
    let mut params = places.to_vec();
    params.extend([yw.offset, targets.offset, scale_offset, c.smoothing.to_bits(), 0]);
    let elements = (x.rows * x.cols) as u64;
    b.push(OpSpec {
        label: label.into(),
        variant: variant(b.facts(), c.gradient, vec4),
        params,
        bindings,
        grid: [x.rows as u32, 1, 1],
        bytes: if c.gradient { 12 } else { 4 } * elements,
        flops: if c.gradient { 8 } else { 4 } * elements,
        twin: reference::cross_entropy::twin(c.gradient, x.rows, if vec4 { 4 } else { 1 }),
    })
}
