//! Matrices of one value, as gradients are before anything is added to them.

use super::{Access, Variant};
use crate::gpu::Facts;
use crate::plan::{Builder, OpSpec};
use crate::reference;
use crate::tensor::Tensor;
use crate::{Error, Result};

const ACCESS: [Access; 1] = [Access::Write];

fn variant(vec4: bool) -> Variant {
    let source = include_str!("../../shaders/fill.wgsl");
    Variant { kernel: "fill", source, defines: vec![("VEC", i64::from(vec4))], access: &ACCESS, subgroup: None }
}

pub(crate) fn variants(_: &Facts) -> Vec<Variant> {
    vec![variant(false), variant(true)]
}

/// Appends `y = 0`.
///
/// # Errors
/// As [`fill`].
pub fn zero(b: &mut Builder, label: &str, y: &Tensor) -> Result<()> {
    fill(b, label, y, 0.0)
}

/// Appends `y = value`; what lies between the rows of y stays.
///
/// # Errors
/// [`Error::Shape`] where rows overlap; [`Error::Limit`] where a row exceeds a binding.
pub fn fill(b: &mut Builder, label: &str, y: &Tensor, value: f32) -> Result<()> {
    if y.stride < y.cols && y.rows > 1 {
        return Err(Error::shape("fill", format!("{label}: rows of {} elements, {} words apart", y.cols, y.stride)));
    }
    for r in b.row_chunks(y.rows, y.stride.max(y.cols))? {
        let mut part = y.slice_rows(r);
        if part.stride == part.cols {
            // One long row: all workgroups are full.
            let elements = part.rows * part.cols;
            part = Tensor { rows: 1, cols: elements, stride: elements, ..part };
        }
        let yw = b.view(&part)?;
        let mut places = [part.cols as u32, yw.offset, part.stride as u32];
        let vec4 = places.iter().all(|n| n.is_multiple_of(4));
        if vec4 {
            places = places.map(|n| n / 4);
        }
        b.push(OpSpec {
            label: label.into(),
            variant: variant(vec4),
            params: places.into_iter().chain([value.to_bits()]).collect(),
            bindings: vec![yw],
            grid: [places[0].div_ceil(256), part.rows as u32, 1],
            bytes: 4 * (part.rows * part.cols) as u64,
            flops: 0,
            twin: reference::fill::twin(part.rows, if vec4 { 4 } else { 1 }),
        })?;
    }
    Ok(())
}
