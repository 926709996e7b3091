//! Products of a sparse matrix with a dense one: aggregation over the neighbours in a graph, and linear layers of sparse features.

use super::{Access, Variant};
use crate::gpu::Facts;
use crate::plan::{Builder, OpSpec, SlotId};
use crate::reference;
use crate::tensor::{Sparse, Tensor};
use crate::{Error, Result};

/// Entries of a row that one dispatch adds in a running sum, as `matmul` does. A software driver would leave the loop after 65,535.
const MOST: usize = 4096;

/// What else a product does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spmm {
    /// The dense operand is stored transposed, `cols x k`.
    pub b_t: bool,
    /// So is the output.
    pub y_t: bool,
    /// Factor of the product.
    pub alpha: f32,
    /// Column 0 of the product is negated: the Lorentz metric's sign.
    pub flip: bool,
    /// Adds to what y holds.
    pub accumulate: bool,
    /// Slot and first word of a bias, an element for each column of the product.
    pub bias: Option<(SlotId, usize)>,
}

impl Default for Spmm {
    fn default() -> Self {
        Self { b_t: false, y_t: false, alpha: 1.0, flip: false, accumulate: false, bias: None }
    }
}

const R: Access = Access::Read;
const ACCESS: [Access; 7] = [R, R, R, R, Access::Write, R, R];

fn variant(vec4: bool, units: u32, entries: bool, bias: bool) -> Variant {
    Variant {
        kernel: "spmm",
        source: include_str!("../../shaders/spmm.wgsl"),
        defines: vec![("VEC", i64::from(vec4)), ("UNITS", i64::from(units)), ("ENTRIES", i64::from(entries)), ("BIAS", i64::from(bias))],
        access: &ACCESS[..5 + usize::from(entries) + usize::from(bias)],
        subgroup: None,
    }
}

/// Units of a row of y that an invocation makes: a software driver's loads of columns and values are as dear as those of a whole vec4, and
/// it has no use for more invocations; a GPU's neighbours load neighbouring words.
fn units_each(facts: &Facts, units: usize) -> u32 {
    let most = if facts.is_software() { 4 } else { 1 };
    [4, 2, 1].into_iter().find(|n| *n <= most && units.is_multiple_of(*n as usize)).unwrap_or(1)
}

pub(crate) fn variants(facts: &Facts) -> Vec<Variant> {
    let units = if facts.is_software() { vec![1, 2, 4] } else { vec![1] };
    let flags = [(false, false), (false, true), (true, false), (true, true)];
    let of = |vec4, n| flags.map(|(entries, bias)| variant(vec4, n, entries, bias));
    units.into_iter().flat_map(|n| [of(false, n), of(true, n)].concat()).collect()
}

/// Appends `Y (+)= alpha A B + bias` with a sparse A: `rows x k`, B `k x cols`, Y `rows x cols` in a slot of its own. The entries of a row
/// are added in their order, so that equal calls give equal bits.
///
/// # Errors
/// [`Error::Shape`] where the operands do not fit each other; [`Error::Limit`] where one exceeds a binding.
pub fn spmm(b: &mut Builder, label: &str, a: &Sparse, x: &Tensor, y: &Tensor, p: &Spmm) -> Result<()> {
    let turned = |t: &Tensor, turn: bool| if turn { (t.cols, t.rows) } else { (t.rows, t.cols) };
    let ((k, cols), (rows, out)) = (turned(x, p.b_t), turned(y, p.y_t));
    let enough = a.entries.is_some() || a.values.2 >= a.len;
    if k != a.cols || rows != a.rows || cols != out || !enough || (a.len > 0 && a.cols == 0) {
        let sizes = format!("({}, {}) of {} entries and {} values", a.rows, a.cols, a.len, a.values.2);
        return Err(Error::shape("spmm", format!("{label}: {sizes} times ({k}, {cols}) into ({rows}, {out})")));
    }
    if rows == 0 || cols == 0 {
        return Ok(());
    }
    for first in (0..a.longest.max(1)).step_by(MOST) {
        let more = Spmm { accumulate: true, bias: None, ..*p };
        one(b, label, a, (x, y), if first == 0 { p } else { &more }, (first, cols))?;
    }
    Ok(())
}

fn one(b: &mut Builder, label: &str, a: &Sparse, (x, y): (&Tensor, &Tensor), p: &Spmm, (first, cols): (usize, usize)) -> Result<()> {
    let strides = |t: &Tensor, turn: bool| if turn { [1, t.stride as u32] } else { [t.stride as u32, 1] };
    let (offsets, columns) = (b.window(a.offsets, 0..a.rows + 1)?, b.window(a.columns, 0..a.len)?);
    let values = b.window(a.values.0, a.values.1..a.values.1 + a.values.2)?;
    let (xw, yw) = (b.view(x)?, b.view(y)?);
    let mut bindings = vec![offsets, columns, values, xw, yw];
    let mut entries_offset = 0;
    if let Some(slot) = a.entries {
        let w = b.window(slot, 0..a.len)?;
        entries_offset = w.offset;
        bindings.push(w);
    }
    let mut bias_offset = 0;
    if let Some((slot, at)) = p.bias {
        let w = b.window(slot, at..at + cols)?;
        bias_offset = w.offset;
        bindings.push(w);
    }
    let [x_row, x_col] = strides(x, p.b_t);
    let [y_row, y_col] = strides(y, p.y_t);
    // A binding of vec4 has one at least.
    let vec4 = a.cols > 0
        && x_col == 1
        && y_col == 1
        && [xw.offset, x_row, yw.offset, y_row, cols as u32, bias_offset].iter().all(|n| n.is_multiple_of(4));
    let unit = if vec4 { 4 } else { 1 };
    let units = cols / unit as usize;
    let each = units_each(b.facts(), units);
    let lanes = units as u32 / each;
    let params = vec![
        a.rows as u32,
        lanes,
        (a.cols as u32).saturating_sub(1),
        values.offset,
        xw.offset / unit,
        x_row / if x_col == 1 { unit } else { 1 },
        x_col,
        yw.offset / unit,
        y_row / if y_col == 1 { unit } else { 1 },
        y_col,
        first as u32,
        MOST as u32,
        p.alpha.to_bits(),
        u32::from(p.accumulate),
        bias_offset / unit,
        offsets.offset,
        columns.offset,
        entries_offset,
        u32::from(p.flip),
        0,
    ];
    let threads = (a.rows as u64 * u64::from(lanes)).div_ceil(64);
    let elements = (a.len * cols) as u64;
    b.push(OpSpec {
        label: label.into(),
        variant: variant(vec4, each, a.entries.is_some(), p.bias.is_some()),
        params,
        bindings,
        grid: [u32::try_from(threads).unwrap_or(u32::MAX), 1, 1],
        bytes: 4 * elements + 8 * a.len as u64 + 4 * (a.rows * cols) as u64,
        flops: 2 * elements,
        twin: reference::spmm::twin(a.entries.is_some(), p.bias.is_some(), cols, unit as usize),
    })
}
