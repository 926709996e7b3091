//! The gate of a feed-forward layer where it is not fused into a linear layer.

use super::linear::Activation;
use super::{Access, Variant};
use crate::gpu::Facts;
use crate::plan::{Builder, OpSpec};
use crate::reference;
use crate::tensor::Tensor;
use crate::{Error, Result};

const ACCESS: [Access; 3] = [Access::Read, Access::Read, Access::Write];

fn variant(act: Activation, vec4: bool) -> Variant {
    let source = include_str!("../../shaders/gate.wgsl");
    Variant { kernel: "gate", source, defines: vec![("ACT", act.code()), ("VEC", i64::from(vec4))], access: &ACCESS, subgroup: None }
}

pub(crate) fn variants(_: &Facts) -> Vec<Variant> {
    Activation::ALL.into_iter().flat_map(|act| [variant(act, false), variant(act, true)]).collect()
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
        let mut sizes = [y.cols as u32, gw.offset, g.stride as u32, uw.offset, u.stride as u32, yw.offset, y.stride as u32];
        let vec4 = sizes.iter().all(|n| n.is_multiple_of(4));
        if vec4 {
            sizes = sizes.map(|n| n / 4);
        }
        let elements = (r.len() * y.cols) as u64;
        b.push(OpSpec {
            label: label.into(),
            variant: variant(act, vec4),
            params: sizes.into_iter().chain([0]).collect(),
            bindings: vec![gw, uw, yw],
            grid: [sizes[0].div_ceil(64), r.len() as u32, 1],
            bytes: 12 * elements,
            flops: 5 * elements,
            twin: reference::gate::twin(act, r.len(), if vec4 { 4 } else { 1 }),
        })?;
    }
    Ok(())
}
