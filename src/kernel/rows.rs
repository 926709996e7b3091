//! Picking the last valid row of each sequence.

use super::{Access, Variant, state};
use crate::gpu::Facts;
use crate::plan::{Builder, OpSpec, SlotId};
use crate::reference;
use crate::tensor::Tensor;
use crate::{Error, Result};

const ACCESS: [Access; 3] = [Access::Read, Access::Write, Access::Read];

fn variant() -> Variant {
    let source = include_str!("../../shaders/rows.wgsl");
    Variant { kernel: "rows", source, defines: Vec::new(), access: &ACCESS, subgroup: None }
}

pub(crate) fn variants(_: &Facts) -> Vec<Variant> {
    vec![variant()]
}

/// Appends `y[q] = x[q rows + count(q) - 1]` for every sequence q, by the sequences' states; x has `sequence_rows` rows for each.
///
/// # Errors
/// [`Error::Shape`] where the operands do not fit each other; [`Error::Limit`].
pub fn last_rows(b: &mut Builder, label: &str, x: &Tensor, y: &Tensor, states: SlotId, sequence_rows: usize) -> Result<()> {
    if x.cols != y.cols || x.rows != y.rows * sequence_rows {
        return Err(Error::shape("rows", format!("{label}: ({}, {}) into ({}, {})", x.rows, x.cols, y.rows, y.cols)));
    }
    let (xw, yw) = (b.view(x)?, b.view(y)?);
    let bindings = vec![xw, yw, b.window(states, 0..y.rows * state::WORDS)?];
    let strides = [x.stride, y.stride, sequence_rows].map(|s| s as u32);
    b.push(OpSpec {
        label: label.into(),
        variant: variant(),
        params: vec![x.cols as u32, xw.offset, strides[0], yw.offset, strides[1], strides[2], 0, 0],
        bindings,
        grid: [x.cols.div_ceil(64) as u32, y.rows as u32, 1],
        bytes: 8 * (y.rows * y.cols) as u64,
        flops: 0,
        twin: reference::rows::twin(y.rows),
    })
}
