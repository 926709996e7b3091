//! The gate of a feed-forward layer where it is not fused into a linear layer, and its gradient.

use super::elementwise::Elementwise;
use super::linear::Activation;
use super::{Access, Variant};
use crate::Result;
use crate::gpu::Facts;
use crate::plan::Builder;
use crate::reference;
use crate::tensor::Tensor;

const ACCESS: [Access; 3] = [Access::Read, Access::Read, Access::Write];
const BACKWARD: [Access; 5] = [Access::Read, Access::Read, Access::Read, Access::Write, Access::Write];

fn variant(act: Activation, vec4: bool) -> Variant {
    let source = include_str!("../../shaders/gate.wgsl");
    Variant { kernel: "gate", source, defines: vec![("ACT", act.code()), ("VEC", i64::from(vec4))], access: &ACCESS, subgroup: None }
}

fn backward_variant(act: Activation, stacked: bool, vec4: bool) -> Variant {
    Variant {
        kernel: "gate_backward",
        source: include_str!("../../shaders/gate_backward.wgsl"),
        defines: vec![("ACT", act.code()), ("STACKED", i64::from(stacked)), ("VEC", i64::from(vec4))],
        access: &BACKWARD[..5 - usize::from(stacked)],
        subgroup: None,
    }
}

pub(crate) fn variants(_: &Facts) -> Vec<Variant> {
    let both = [false, true];
    let backward = |act| both.into_iter().flat_map(move |stacked| both.map(|vec4| backward_variant(act, stacked, vec4)));
    Activation::ALL.into_iter().flat_map(|act| both.map(|vec4| variant(act, vec4)).into_iter().chain(backward(act))).collect()
}

/// Appends `y = act(g) u`, elementwise; y lies in a slot of its own.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) where the operands do not fit each other; [`Error::Limit`](crate::Error::Limit).
pub fn gate(b: &mut Builder, label: &str, act: Activation, g: &Tensor, u: &Tensor, y: &Tensor) -> Result<()> {
    let call = Elementwise { op: "gate", label, operands: &[g, u, y], stacked: false, flops: 5 };
    call.push(b, |vec4| variant(act, vec4), |rows, unit| reference::gate::twin(act, rows, unit))
}

/// Appends the gradient of [`gate`], `dg = dy u act'(g)` and `du = dy act(g)`, which are overwritten. They lie in slots of their own,
/// or side by side, as columns of one matrix.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) where the operands do not fit each other; [`Error::Limit`](crate::Error::Limit).
#[expect(clippy::too_many_arguments, reason = "the five operands of the formula")]
pub fn gate_backward(
    b: &mut Builder,
    label: &str,
    act: Activation,
    g: &Tensor,
    u: &Tensor,
    dy: &Tensor,
    dg: &Tensor,
    du: &Tensor,
) -> Result<()> {
    let stacked = dg.slot == du.slot;
    let call = Elementwise { op: "gate", label, operands: &[dy, g, u, dg, du], stacked, flops: 12 };
    let twin = |rows, unit| reference::gate::backward_twin(act, stacked, rows, unit);
    call.push(b, |vec4| backward_variant(act, stacked, vec4), twin)
}
