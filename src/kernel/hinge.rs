//! Margin losses of classes under rows of scores, and their gradient in place of the scores.

use super::{Access, Variant};
use crate::gpu::Facts;
use crate::plan::{Builder, OpSpec, SlotId};
use crate::reference;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Most columns: an invocation loops over a row, and a software driver would leave a longer loop early.
pub const MAX_COLS: usize = 1 << 15;

/// Operands of [`hinge`].
#[derive(Debug, Clone, Copy)]
pub struct Hinge<'a> {
    /// Scores, a row an example; with `gradient`, the gradient afterwards.
    pub scores: &'a Tensor,
    /// The wanted columns, a word each: the slot and the first word.
    pub targets: (SlotId, usize),
    /// The losses, `(1, rows)`.
    pub losses: &'a Tensor,
    /// The slot and the word of an f32 that gradients are multiplied by.
    pub scale: (SlotId, usize),
    /// By how much the target's score should exceed the others.
    pub margin: f32,
    /// Whether the gradient is wanted.
    pub gradient: bool,
}

const ACCESS: [Access; 3] = [Access::Read, Access::Read, Access::Write];
const GRADIENT: [Access; 4] = [Access::Write, Access::Read, Access::Write, Access::Read];

fn variant(gradient: bool) -> Variant {
    let access: &[Access] = if gradient { &GRADIENT } else { &ACCESS };
    let source = include_str!("../../shaders/hinge.wgsl");
    Variant { kernel: "hinge", source, defines: vec![("GRAD", i64::from(gradient))], access, subgroup: None }
}

pub(crate) fn variants(_: &Facts) -> Vec<Variant> {
    [false, true].map(variant).into()
}

/// Appends, for each row r of n scores s with `t = targets[r]`: `losses[r] = (1/n) sum_c max(0, margin - s[t] + s[c])`, c = t
/// included, whose term is the constant `max(0, margin)`; with `gradient`, `scores[r]` becomes `scale` times its derivative by the
/// scores, `scale/n [margin - s[t] + s[c] > 0]` for c other than t and minus their sum for t.
///
/// It is the loss of HyboNet for classes of nodes and for links (Chen et al. 2022, "Fully Hyperbolic Neural Networks").
/// A target that is [`super::cross_entropy::IGNORE`], or any other past the columns, is left out: loss 0 and gradient 0.
/// A row with a NaN has the loss NaN. Where a term is 0 but for rounding, it may count as positive or not.
///
/// # Errors
/// [`Error::Shape`] where the operands do not fit each other, for no columns or more than [`MAX_COLS`], for a margin that is not
/// finite; [`Error::Limit`] where a row exceeds a binding.
pub fn hinge(b: &mut Builder, label: &str, h: &Hinge<'_>) -> Result<()> {
    let (x, y) = (h.scores, h.losses);
    if y.cols != x.rows || y.rows != 1 || x.cols == 0 || x.cols > MAX_COLS {
        let sizes = format!("scores ({}, {}), losses ({}, {})", x.rows, x.cols, y.rows, y.cols);
        return Err(Error::shape("hinge", format!("{label}: {sizes}")));
    }
    if !h.margin.is_finite() {
        return Err(Error::shape("hinge", format!("{label}: a margin of {}, which is not finite", h.margin)));
    }
    for r in b.row_chunks(x.rows, x.stride)? {
        let (xw, yw) = (b.view(&x.slice_rows(r.clone()))?, b.view(&y.slice_cols(r.clone()))?);
        let targets = b.window(h.targets.0, h.targets.1 + r.start..h.targets.1 + r.end)?;
        let mut bindings = vec![xw, targets, yw];
        let mut scale_offset = 0;
        if h.gradient {
            let scale = b.window(h.scale.0, h.scale.1..h.scale.1 + 1)?;
            scale_offset = scale.offset;
            bindings.push(scale);
        }
        let mut params = vec![x.cols as u32, xw.offset, x.stride as u32, yw.offset];
        params.extend([targets.offset, scale_offset, h.margin.to_bits(), r.len() as u32]);
        let elements = (r.len() * x.cols) as u64;
        b.push(OpSpec {
            label: label.into(),
            variant: variant(h.gradient),
            params,
            bindings,
            grid: [r.len().div_ceil(64) as u32, 1, 1],
            bytes: if h.gradient { 8 } else { 4 } * elements,
            flops: 4 * elements,
            twin: reference::hinge::twin(h.gradient),
        })?;
    }
    Ok(())
}
