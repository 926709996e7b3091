//! Picking columns or rows of a matrix by indices that lie on the device.

use super::{Access, Variant};
use crate::gpu::Facts;
use crate::plan::{Builder, OpSpec, SlotId};
use crate::reference;
use crate::tensor::Tensor;
use crate::{Error, Result};

const ACCESS: [Access; 3] = [Access::Read, Access::Read, Access::Write];

fn variant(columns: bool, vec4: bool) -> Variant {
    let source = include_str!("../../shaders/select.wgsl");
    let defines = vec![("COLUMNS", i64::from(columns)), ("VEC", i64::from(vec4))];
    Variant { kernel: "select", source, defines, access: &ACCESS, subgroup: None }
}

pub(crate) fn variants(_: &Facts) -> Vec<Variant> {
    vec![variant(true, false), variant(false, false), variant(false, true)]
}

/// Appends `y[t, j] = x[t, indices[j]]` for every row t: x is `rows x k`, y is `rows x r`, and the indices are `r` words from the given
/// one on. An index beyond the last column counts as the last.
///
/// # Errors
/// [`Error::Shape`] where the operands do not fit each other; [`Error::Limit`] where a row exceeds a binding.
pub fn select_columns(b: &mut Builder, label: &str, x: &Tensor, indices: (SlotId, usize), y: &Tensor) -> Result<()> {
    if x.rows != y.rows || (x.cols == 0 && y.cols > 0) {
        return Err(Error::shape("select", format!("{label}: columns of ({}, {}) into ({}, {})", x.rows, x.cols, y.rows, y.cols)));
    }
    for rows in b.row_chunks(y.rows, x.stride.max(y.stride))? {
        push(b, label, &x.slice_rows(rows.clone()), indices, &y.slice_rows(rows), true)?;
    }
    Ok(())
}

/// Appends `y[j] = x[indices[j]]` for every row j of y: x is `k x n`, y is `r x n`, and the indices are `r` words from the given one
/// on. An index beyond the last row counts as the last.
///
/// # Errors
/// [`Error::Shape`] where the operands do not fit each other; [`Error::Limit`] where x exceeds a binding.
pub fn select_rows(b: &mut Builder, label: &str, x: &Tensor, indices: (SlotId, usize), y: &Tensor) -> Result<()> {
    if x.cols != y.cols || (x.rows == 0 && y.rows > 0) {
        return Err(Error::shape("select", format!("{label}: rows of ({}, {}) into ({}, {})", x.rows, x.cols, y.rows, y.cols)));
    }
    for rows in b.row_chunks(y.rows, y.stride)? {
        push(b, label, x, (indices.0, indices.1 + rows.start), &y.slice_rows(rows), false)?;
    }
    Ok(())
}

fn push(b: &mut Builder, label: &str, x: &Tensor, indices: (SlotId, usize), y: &Tensor, columns: bool) -> Result<()> {
    if y.rows == 0 || y.cols == 0 {
        return Ok(());
    }
    let count = if columns { y.cols } else { y.rows };
    let (xw, iw, yw) = (b.view(x)?, b.window(indices.0, indices.1..indices.1 + count)?, b.view(y)?);
    let mut places = [xw.offset, x.stride as u32, yw.offset, y.stride as u32];
    let vec4 = !columns && y.cols.is_multiple_of(4) && places.iter().all(|n| n.is_multiple_of(4));
    let unit = if vec4 { 4 } else { 1 };
    places = places.map(|n| n / unit);
    let cols = y.cols as u32 / unit;
    let last = if columns { x.cols } else { x.rows } - 1;
    let mut params = vec![y.rows as u32, cols, last as u32, iw.offset];
    params.extend(places);
    let rows = if columns { y.rows.div_ceil(8) } else { y.rows };
    b.push(OpSpec {
        label: label.into(),
        variant: variant(columns, vec4),
        params,
        bindings: vec![xw, iw, yw],
        grid: [cols.div_ceil(64), rows as u32, 1],
        bytes: 8 * (y.rows * y.cols) as u64,
        flops: 0,
        twin: reference::select::twin(columns, y.rows, y.cols, unit as usize),
    })
}
