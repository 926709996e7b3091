//! The gate of a feed-forward layer where it is not fused into a linear layer.

use super::linear::Activation;
use super::{Access, Variant};
use crate::gpu::Facts;
use crate::plan::{Builder, OpSpec};
use crate::reference;
use crate::tensor::Tensor;
use crate::{Error, Result};

const ACCESS: [Access; 3] = [Access::Read, Access::Read, Access::Write];

fn variant(act: Activation) -> Variant {
    let source = include_str!("../../shaders/gate.wgsl");
    Variant { kernel: "gate", source, defines: vec![("ACT", act.code())], access: &ACCESS, subgroup: None }
}

pub(crate) fn variants(_: &Facts) -> Vec<Variant> {
    Activation::ALL.map(variant).into()
}

/// Appends `y = act(g) u`, elementwise; y lies in a slot of its own.
///
/// # Errors
/// [`Error::Shape`] where the operands do not fit each other; [`Error::Limit`].
pub fn gate(b: &mut Builder, label: &str, act: Activation, g: &Tensor, u: &Tensor, y: &Tensor) -> Result<()> {
    if (g.rows, g.cols) != (u.rows, u.cols) || (g.rows, g.cols) != (y.rows, y.cols) {
        return Err(Error::shape("gate", format!("{label}: ({}, {}) and ({}, {})", g.rows, g.cols, u.rows, u.cols)));
    }
    for r in b.row_chunks(y.rows, g.stride.max(u.stride).max(y.stride))? {
        let [gw, uw, yw] = [b.view(&g.slice_rows(r.clone()))?, b.view(&u.slice_rows(r.clone()))?, b.view(&y.slice_rows(r.clone()))?];
        let strides = [g.stride, u.stride, y.stride].map(|s| s as u32);
        let elements = (r.len() * y.cols) as u64;
        b.push(OpSpec {
            label: label.into(),
            variant: variant(act),
            params: vec![y.cols as u32, gw.offset, strides[0], uw.offset, strides[1], yw.offset, strides[2], 0],
            bindings: vec![gw, uw, yw],
            grid: [y.cols.div_ceil(64) as u32, r.len() as u32, 1],
            bytes: 12 * elements,
            flops: 5 * elements,
            twin: reference::gate::twin(act, r.len()),
        })?;
    }
    Ok(())
}
