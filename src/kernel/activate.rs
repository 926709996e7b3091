//! Activations where they are not fused into a linear layer, and their gradients.

use super::elementwise::Elementwise;
use super::linear::Activation;
use super::{Access, Variant};
use crate::Result;
use crate::gpu::Facts;
use crate::plan::Builder;
use crate::reference;
use crate::tensor::Tensor;

const ACCESS: [Access; 3] = [Access::Read, Access::Write, Access::Read];

fn variant(act: Activation, back: bool, vec4: bool) -> Variant {
    Variant {
        kernel: "activate",
        source: include_str!("../../shaders/activate.wgsl"),
        defines: vec![("ACT", act.code()), ("BACK", i64::from(back)), ("VEC", i64::from(vec4))],
        access: &ACCESS[..2 + usize::from(back)],
        subgroup: None,
    }
}

pub(crate) fn variants(_: &Facts) -> Vec<Variant> {
    let flags = [(false, false), (false, true), (true, false), (true, true)];
    Activation::ALL.into_iter().flat_map(|act| flags.map(|(back, vec4)| variant(act, back, vec4))).collect()
}

/// Appends `y = act(x)`, elementwise; y lies in a slot of its own.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) where the operands do not fit each other; [`Error::Limit`](crate::Error::Limit).
pub fn activate(b: &mut Builder, label: &str, act: Activation, x: &Tensor, y: &Tensor) -> Result<()> {
    let call = Elementwise { op: "activate", label, operands: &[x, y], stacked: false, flops: 4 };
    call.push(b, |vec4| variant(act, false, vec4), |rows, unit| reference::activate::twin(act, rows, unit))
}

/// Appends `dx = dy act'(x)`, the gradient of [`activate`]; dx lies in a slot of its own and is overwritten. The derivative of ReLU
/// at 0 is 0, so that its output serves as well as x.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) where the operands do not fit each other; [`Error::Limit`](crate::Error::Limit).
pub fn activate_backward(b: &mut Builder, label: &str, act: Activation, x: &Tensor, dy: &Tensor, dx: &Tensor) -> Result<()> {
    let call = Elementwise { op: "activate", label, operands: &[x, dx, dy], stacked: false, flops: 6 };
    call.push(b, |vec4| variant(act, true, vec4), |rows, unit| reference::activate::backward_twin(act, rows, unit))
}
