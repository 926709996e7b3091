//! Negative log-likelihoods of tokens under rows of logits.

use super::{Access, Variant, row_workgroup};
use crate::gpu::Facts;
use crate::plan::{Builder, OpSpec, SlotId};
use crate::reference;
use crate::tensor::Tensor;
use crate::{Error, Result};

const ACCESS: [Access; 3] = [Access::Read, Access::Read, Access::Write];

fn variant(facts: &Facts) -> Variant {
    let (wg, sg, subgroup) = row_workgroup(facts, "nll", 256);
    let source = include_str!("../../shaders/nll.wgsl");
    Variant { kernel: "nll", source, defines: vec![("WG", wg), ("SG", sg)], access: &ACCESS, subgroup }
}

pub(crate) fn variants(facts: &Facts) -> Vec<Variant> {
    vec![variant(facts)]
}

/// Appends `y[r] = log sum_i exp(x[r, i]) - x[r, target[r]]`; y is `(1, rows)`.
///
/// # Errors
/// [`Error::Shape`] where the operands do not fit each other; [`Error::Limit`].
pub fn nll(b: &mut Builder, label: &str, x: &Tensor, targets: SlotId, y: &Tensor) -> Result<()> {
    if y.cols != x.rows || y.rows != 1 || x.cols == 0 {
        return Err(Error::shape("nll", format!("{label}: ({}, {}) into ({}, {})", x.rows, x.cols, y.rows, y.cols)));
    }
    let (xw, yw) = (b.view(x)?, b.view(y)?);
    let elements = (x.rows * x.cols) as u64;
    let bindings = vec![xw, b.window(targets, 0..x.rows)?, yw];
    b.push(OpSpec {
        label: label.into(),
        variant: variant(b.facts()),
        params: vec![x.cols as u32, xw.offset, x.stride as u32, yw.offset],
        bindings,
        grid: [x.rows as u32, 1, 1],
        bytes: 4 * elements,
        flops: 3 * elements,
        twin: reference::nll::twin(x.rows),
    })
}
