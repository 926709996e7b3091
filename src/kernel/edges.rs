//! Scores of pairs of points of the Lorentz model, by which links are predicted.

use super::{Access, Variant};
use crate::gpu::Facts;
use crate::plan::{Builder, OpSpec, SlotId};
use crate::reference;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Most coordinates: an invocation loops over them, and a software driver would leave a longer loop early.
pub const MAX_COLS: usize = 1 << 15;

/// Pairs of nodes by their numbers, a word each; a number past the last row takes the last row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pairs {
    /// One end of each pair: the slot and the first word.
    pub from: (SlotId, usize),
    /// The other end.
    pub to: (SlotId, usize),
    /// Number of pairs.
    pub count: usize,
}

const ACCESS: [Access; 4] = [Access::Read, Access::Read, Access::Read, Access::Write];

fn variant(vec4: bool) -> Variant {
    let source = include_str!("../../shaders/edges.wgsl");
    Variant { kernel: "edges", source, defines: vec![("VEC", i64::from(vec4))], access: &ACCESS, subgroup: None }
}

pub(crate) fn variants(_: &Facts) -> Vec<Variant> {
    [false, true].map(variant).into()
}

/// Appends `y[p] = 2 + 2 <h[from[p]], h[to[p]]>_L` for every pair p, where `<a, b>_L = -a_0 b_0 + sum_{i > 0} a_i b_i`: minus the
/// squared Lorentzian distance of points with `<a, a>_L = -1`.
///
/// `h` is `(nodes, d)`, `y` `(count, 1)` with any stride, in another slot. The terms cancel where points are near each other: errors
/// are relative to `2 + 2 sum_i |a_i b_i|`. Rows are read by whole vectors where d, stride and offset of h are multiples of 4.
///
/// # Errors
/// [`Error::Shape`] where the operands do not fit each other, for no nodes, for no coordinates or more than [`MAX_COLS`];
/// [`Error::Limit`] where `h` exceeds a binding.
pub fn edge_scores(b: &mut Builder, label: &str, h: &Tensor, pairs: &Pairs, y: &Tensor) -> Result<()> {
    let nodes = u32::try_from(h.rows).unwrap_or(0);
    if nodes == 0 || h.cols == 0 || h.cols > MAX_COLS || (y.rows, y.cols) != (pairs.count, 1) {
        let message = format!("{label}: {} pairs of rows of ({}, {}) into ({}, {})", pairs.count, h.rows, h.cols, y.rows, y.cols);
        return Err(Error::shape("edges", message));
    }
    let hw = b.view(h)?;
    let mut places = [h.cols as u32, hw.offset, h.stride as u32];
    let vec4 = places.iter().all(|n| n.is_multiple_of(4));
    let unit = if vec4 { 4 } else { 1 };
    places = places.map(|n| n / unit);
    for r in b.row_chunks(pairs.count, y.stride)? {
        let ends = |(slot, at): (SlotId, usize)| b.window(slot, at + r.start..at + r.end);
        let (from, to, yw) = (ends(pairs.from)?, ends(pairs.to)?, b.view(&y.slice_rows(r.clone()))?);
        let mut params = places.to_vec();
        params.extend([nodes - 1, from.offset, to.offset, yw.offset, y.stride as u32, r.len() as u32, 0, 0, 0]);
        let elements = (r.len() * h.cols) as u64;
        b.push(OpSpec {
            label: label.into(),
            variant: variant(vec4),
            params,
            bindings: vec![hw, from, to, yw],
            grid: [r.len().div_ceil(64) as u32, 1, 1],
            bytes: 8 * elements + 12 * r.len() as u64,
            flops: 2 * elements,
            twin: reference::edges::twin(unit as usize),
        })?;
    }
    Ok(())
}
