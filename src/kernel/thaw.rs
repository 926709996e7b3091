//! Frozen rows back to f32.

use super::{Access, Variant};
use crate::gpu::Facts;
use crate::plan::{Builder, OpSpec, SlotId};
use crate::reference;
use crate::tensor::{PackedRows, Packing, Tensor};
use crate::{Error, Result};

const ACCESS: [Access; 4] = [Access::Read, Access::Write, Access::Read, Access::Read];

fn variant(packing: Packing, listed: bool, overlay: bool, vec4: bool) -> Variant {
    let flags = [("INT8", packing == Packing::Int8), ("LISTED", listed), ("OVERLAY", overlay), ("VEC", vec4)];
    Variant {
        kernel: "thaw",
        source: include_str!("../../shaders/thaw.wgsl"),
        defines: flags.map(|(name, on)| (name, i64::from(on))).into(),
        access: &ACCESS[..2 + usize::from(listed || overlay) + usize::from(overlay)],
        subgroup: None,
    }
}

pub(crate) fn variants(_: &Facts) -> Vec<Variant> {
    let of = |packing, vec4| [(false, false), (true, false), (false, true)].map(|(l, o)| variant(packing, l, o, vec4));
    [Packing::F16, Packing::Int8].into_iter().flat_map(|p| [of(p, false), of(p, true)]).flatten().collect()
}

/// Which rows are thawed.
#[derive(Debug, Clone, Copy)]
pub enum Rows {
    /// Row t of y is row t.
    All,
    /// Row t of y is the one whose number is the t-th word from the given one on; beyond the last it counts as the last.
    Listed(SlotId, usize),
    /// Row t of y is row t, but row j of `active` where t is the j-th of the ascending numbers from the given word on.
    Overlaid(Tensor, (SlotId, usize)),
}

/// Appends `y[t] = x[t]` in f32, exactly; `which` says which rows, and which of them are taken from elsewhere.
///
/// # Errors
/// [`Error::Shape`] where the operands do not fit each other; [`Error::Limit`] where a row of either, or of listed rows all that
/// there are, exceed a binding.
pub fn thaw(b: &mut Builder, label: &str, x: &PackedRows, which: &Rows, y: &Tensor) -> Result<()> {
    let fits = match which {
        Rows::All => x.rows == y.rows,
        Rows::Listed(..) => x.rows > 0 || y.rows == 0,
        Rows::Overlaid(a, _) => x.rows == y.rows && a.cols == x.cols && a.rows > 0,
    };
    if !fits || x.cols != y.cols {
        return Err(Error::shape("thaw", format!("{label}: ({}, {}) into ({}, {}), {which:?}", x.rows, x.cols, y.rows, y.cols)));
    }
    let step = y.stride.max(x.packing.row_words(x.cols));
    for r in b.row_chunks(y.rows, step)? {
        let part = if let Rows::Listed(..) = which { *x } else { x.slice_rows(r.clone()) };
        push(b, label, &part, which, (r.start, &y.slice_rows(r)))?;
    }
    Ok(())
}

fn push(b: &mut Builder, label: &str, x: &PackedRows, which: &Rows, (first, y): (usize, &Tensor)) -> Result<()> {
    if y.rows == 0 || y.cols == 0 {
        return Ok(());
    }
    let (xw, yw) = (b.window(x.slot, x.words())?, b.view(y)?);
    let (mut bindings, mut list, mut active) = (vec![xw, yw], [0, 0], [0, 0]);
    match which {
        Rows::All => {}
        Rows::Listed(slot, at) => {
            let w = b.window(*slot, at + first..at + first + y.rows)?;
            list = [w.offset, y.rows as u32];
            bindings.push(w);
        }
        Rows::Overlaid(a, (slot, at)) => {
            let (w, aw) = (b.window(*slot, *at..at + a.rows)?, b.view(a)?);
            (list, active) = ([w.offset, a.rows as u32], [aw.offset, a.stride as u32]);
            bindings.extend([w, aw]);
        }
    }
    let mut places = [yw.offset, y.stride as u32, active[0], active[1]];
    let vec4 = y.cols.is_multiple_of(4) && places.iter().all(|n| n.is_multiple_of(4));
    let unit = if vec4 { 4 } else { 1 };
    places = places.map(|n| n / unit);
    let (row, quads) = (x.packing.row_words(x.cols) as u32, y.cols.div_ceil(4) as u32);
    let words = if x.packing == Packing::F16 { 2 } else { 1 };
    let [y_offset, y_stride, a_offset, a_stride] = places;
    let params = [
        [y.cols as u32, quads, xw.offset / words, row / words],
        [y_offset, y_stride, first as u32, x.rows as u32 - 1],
        [list[0], list[1], a_offset, a_stride],
    ];
    let (listed, overlaid) = (matches!(which, Rows::Listed(..)), matches!(which, Rows::Overlaid(..)));
    b.push(OpSpec {
        label: label.into(),
        variant: variant(x.packing, listed, overlaid, vec4),
        params: params.concat(),
        bindings,
        grid: [quads.div_ceil(256), y.rows as u32, 1],
        bytes: 4 * (y.rows * (y.cols + row as usize)) as u64,
        flops: if x.packing == Packing::Int8 { (y.rows * y.cols) as u64 } else { 0 },
        twin: reference::thaw::twin(x.packing, (listed, overlaid), y.rows, unit as usize),
    })
}
