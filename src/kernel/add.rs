//! Sums of two matrices.

use super::elementwise::Elementwise;
use super::{Access, Variant};
use crate::Result;
use crate::gpu::Facts;
use crate::plan::Builder;
use crate::reference;
use crate::tensor::Tensor;

fn variant(in_place: bool, vec4: bool) -> Variant {
    Variant {
        kernel: "add",
        source: include_str!("../../shaders/add.wgsl"),
        defines: vec![("INPLACE", i64::from(in_place)), ("VEC", i64::from(vec4))],
        access: if in_place { &[Access::Read, Access::Write] } else { &[Access::Read, Access::Read, Access::Write] },
        subgroup: None,
    }
}

pub(crate) fn variants(_: &Facts) -> Vec<Variant> {
    [(false, false), (false, true), (true, false), (true, true)].map(|(in_place, vec4)| variant(in_place, vec4)).into()
}

/// Appends `z = x + y`, elementwise; z lies in a slot of its own.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) where the operands do not fit each other; [`Error::Limit`](crate::Error::Limit).
pub fn add(b: &mut Builder, label: &str, x: &Tensor, y: &Tensor, z: &Tensor) -> Result<()> {
    let call = Elementwise { op: "add", label, operands: &[x, y, z], stacked: false, flops: 1 };
    call.push(b, |vec4| variant(false, vec4), |rows, unit| reference::add::twin(false, rows, unit))
}

/// Appends `y += x`, elementwise; x and y lie in two slots.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) where the operands do not fit each other; [`Error::Limit`](crate::Error::Limit).
pub fn accumulate(b: &mut Builder, label: &str, x: &Tensor, y: &Tensor) -> Result<()> {
    let call = Elementwise { op: "add", label, operands: &[x, y], stacked: false, flops: 1 };
    call.push(b, |vec4| variant(true, vec4), |rows, unit| reference::add::twin(true, rows, unit))
}

/// Appends `y = x` for matrices of any size and stride; y lies in a slot of its own.
///
/// # Errors
/// As [`add`].
pub fn copy(b: &mut Builder, label: &str, x: &Tensor, y: &Tensor) -> Result<()> {
    super::fill::zero(b, label, y)?;
    accumulate(b, label, x, y)
}
