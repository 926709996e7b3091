//! Products of the rows of two matrices with each other.

use super::{Access, Variant, row_workgroup};
use crate::gpu::Facts;
use crate::plan::{Builder, OpSpec};
use crate::reference;
use crate::tensor::Tensor;
use crate::{Error, Result};

const ACCESS: [Access; 3] = [Access::Read, Access::Read, Access::Write];

fn variant(facts: &Facts, vec4: bool) -> Variant {
    let (wg, sg, subgroup) = row_workgroup(facts, "dots", 64);
    let source = include_str!("../../shaders/dots.wgsl");
    Variant { kernel: "dots", source, defines: vec![("VEC", i64::from(vec4)), ("WG", wg), ("SG", sg)], access: &ACCESS, subgroup }
}

pub(crate) fn variants(facts: &Facts) -> Vec<Variant> {
    [false, true].map(|vec4| variant(facts, vec4)).into()
}

/// Appends `y[r] = a[r] . b[r]` for every row r, or with `accumulate` `y[r] += a[r] . b[r]`; y is one row with an element for each
/// row of a and b.
///
/// # Errors
/// [`Error::Shape`] where the operands do not fit each other; [`Error::Limit`].
pub fn row_dots(b: &mut Builder, label: &str, x: &Tensor, z: &Tensor, y: &Tensor, accumulate: bool) -> Result<()> {
    if (x.rows, x.cols) != (z.rows, z.cols) || (y.rows, y.cols) != (1, x.rows) {
        let message = format!("{label}: ({}, {}) and ({}, {}) into ({}, {})", x.rows, x.cols, z.rows, z.cols, y.rows, y.cols);
        return Err(Error::shape("dots", message));
    }
    for r in b.row_chunks(x.rows, x.stride.max(z.stride))? {
        let (xw, zw, yw) = (b.view(&x.slice_rows(r.clone()))?, b.view(&z.slice_rows(r.clone()))?, b.view(&y.slice_cols(r.clone()))?);
        let mut places = [x.cols as u32, xw.offset, x.stride as u32, zw.offset, z.stride as u32];
        let vec4 = places.iter().all(|n| n.is_multiple_of(4));
        let unit = if vec4 { 4 } else { 1 };
        places = places.map(|n| n / unit);
        b.push(OpSpec {
            label: label.into(),
            variant: variant(b.facts(), vec4),
            params: places.into_iter().chain([yw.offset, u32::from(accumulate), 0]).collect(),
            bindings: vec![xw, zw, yw],
            grid: [r.len() as u32, 1, 1],
            bytes: 8 * (r.len() * x.cols) as u64,
            flops: 2 * (r.len() * x.cols) as u64,
            twin: reference::dots::twin(r.len(), unit as usize),
        })?;
    }
    Ok(())
}
