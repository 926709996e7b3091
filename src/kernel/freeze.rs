//! Rows of f32 packed as halves or 8-bit codes, for weights that are not trained.

use super::progress::WORDS;
use super::{Access, Variant};
use crate::gpu::Facts;
use crate::plan::{Builder, OpSpec, SlotId};
use crate::reference;
use crate::tensor::{PackedRows, Packing, Tensor};
use crate::{Error, Result};

const ACCESS: [Access; 4] = [Access::Read, Access::Write, Access::Read, Access::Read];

fn variant(packing: Packing, listed: bool, dither: bool, vec4: bool) -> Variant {
    let flags = [("INT8", packing == Packing::Int8), ("LISTED", listed), ("DITHER", dither), ("VEC", vec4)];
    let sizes = [("WG", 64), ("SG", 0)];
    Variant {
        kernel: "freeze",
        source: include_str!("../../shaders/freeze.wgsl"),
        defines: flags.into_iter().map(|(name, on)| (name, i64::from(on))).chain(sizes).collect(),
        access: &ACCESS[..2 + usize::from(listed) + usize::from(dither)],
        subgroup: None,
    }
}

pub(crate) fn variants(_: &Facts) -> Vec<Variant> {
    let all = (0..16).map(|i| [1, 2, 4, 8].map(|bit| i & bit != 0));
    all.map(|[int8, listed, dither, vec4]| variant(if int8 { Packing::Int8 } else { Packing::F16 }, listed, dither, vec4)).collect()
}

/// Rounding up at random, with the probability of what lies below the value in units of its last place.
#[derive(Debug, Clone, Copy)]
pub struct Dither {
    /// The run's progress: its seed and step decide; see [`super::progress`].
    pub progress: SlotId,
    /// Tells matrices apart that are frozen in the same step.
    pub stream: u32,
}

/// Appends `y[t] = x[t]`, packed, for every row t of x; with `listed`, into the row whose number is the t-th word from the given one
/// on (beyond the last it counts as the last; numbers differ from one another), and the other rows keep their words.
///
/// Halves: what is larger than 65,504 becomes that, infinities and NaN too. Codes: `c = round(x / s)` with `s` the row's largest
/// magnitude over 127, rounded to 17 significant bits; a row without magnitudes of 1e-30 counts as zero, and all must be finite. Values
/// that came from [`super::thaw::thaw`] get the words again that they were thawed from.
///
/// Rounding is to nearest, or by `dither`: a value's mean is then the value, within 2.5e-4 of a code.
///
/// # Errors
/// [`Error::Shape`] where the operands do not fit each other or have 2^34 elements or more; [`Error::Limit`] where a row of either, or
/// of listed rows all that there are, exceed a binding.
pub fn freeze(
    b: &mut Builder,
    label: &str,
    x: &Tensor,
    y: &PackedRows,
    listed: Option<(SlotId, usize)>,
    dither: Option<Dither>,
) -> Result<()> {
    let rows = if listed.is_some() { x.rows <= y.rows } else { x.rows == y.rows };
    if !rows || x.cols != y.cols || u32::try_from(y.rows.saturating_mul(y.cols.div_ceil(4))).is_err() {
        return Err(Error::shape("freeze", format!("{label}: ({}, {}) into ({}, {})", x.rows, x.cols, y.rows, y.cols)));
    }
    let step = x.stride.max(y.packing.row_words(y.cols));
    for r in b.row_chunks(x.rows, step)? {
        let (part, first) = if listed.is_some() { (*y, 0) } else { (y.slice_rows(r.clone()), r.start) };
        let listed = listed.map(|(slot, at)| (slot, at + r.start));
        push(b, label, &x.slice_rows(r), (&part, first), listed, dither)?;
    }
    Ok(())
}

fn push(
    b: &mut Builder,
    label: &str,
    x: &Tensor,
    (y, first): (&PackedRows, usize),
    listed: Option<(SlotId, usize)>,
    dither: Option<Dither>,
) -> Result<()> {
    if x.rows == 0 || x.cols == 0 {
        return Ok(());
    }
    let (xw, yw) = (b.view(x)?, b.window(y.slot, y.words())?);
    let (mut bindings, mut list) = (vec![xw, yw], 0);
    if let Some((slot, at)) = listed {
        let w = b.window(slot, at..at + x.rows)?;
        list = w.offset;
        bindings.push(w);
    }
    if let Some(d) = dither {
        bindings.push(b.window(d.progress, 0..WORDS)?);
    }
    let vec4 = [x.cols as u32, xw.offset, x.stride as u32].iter().all(|n| n.is_multiple_of(4));
    let unit = if vec4 { 4 } else { 1 };
    let row = y.packing.row_words(y.cols) as u32;
    let words = if y.packing == Packing::F16 { 2 } else { 1 };
    let stream = dither.map_or(0, |d| d.stream);
    let params = [
        [x.cols as u32, x.cols.div_ceil(4) as u32, yw.offset / words, row / words],
        [xw.offset / unit, x.stride as u32 / unit, first as u32, y.rows as u32 - 1],
        [list, stream, 0, 0],
    ];
    b.push(OpSpec {
        label: label.into(),
        variant: variant(y.packing, listed.is_some(), dither.is_some(), vec4),
        params: params.concat(),
        bindings,
        grid: [x.rows as u32, 1, 1],
        bytes: 4 * (x.rows * (x.cols + row as usize)) as u64,
        flops: if y.packing == Packing::Int8 { 3 * (x.rows * x.cols) as u64 } else { 0 },
        twin: reference::freeze::twin(y.packing, (listed.is_some(), dither.is_some()), x.rows, unit as usize),
    })
}
