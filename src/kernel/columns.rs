//! Sums over the rows of a matrix, as the gradients of biases, gains and singular values are.

use super::{Access, Variant};
use crate::gpu::Facts;
use crate::plan::{Builder, OpSpec, Window};
use crate::reference;
use crate::tensor::Tensor;
use crate::{Error, Result};
use std::ops::Range;

/// What is summed over the rows.
#[derive(Debug, Clone, Copy)]
pub enum Columns<'a> {
    /// `a[r, c]`: the gradient of a bias.
    Sum(&'a Tensor),
    /// `a[r, c] b[r, c]`: the gradient of a factor of each column.
    Dot(&'a Tensor, &'a Tensor),
    /// `dy[r, c] (x[r, c] - mean[r]) inverse[r]`: the gradient of a norm's gain.
    Normed {
        /// The gradient of the norm's output.
        dy: &'a Tensor,
        /// The norm's input.
        x: &'a Tensor,
        /// `(rows, 2)`: mean and inverse of each row, as [`norm_saving`](super::norm::norm_saving) writes them.
        saved: &'a Tensor,
        /// RMSNorm: the mean is 0.
        rms: bool,
    },
}

/// Longest sum that one invocation makes: see `matmul`'s of the same name.
const RUN: usize = 4096;
/// Rows whose elements an invocation loads at once.
const STEP: usize = 8;

const ACCESS: [Access; 4] = [Access::Read, Access::Write, Access::Read, Access::Read];

fn variant(facts: &Facts, kind: usize, rms: bool, vec4: bool, units: usize) -> Variant {
    // A CPU reads runs of a row faster than single cache lines of many rows. A GPU's half of a larger workgroup would idle.
    let (wg, span) = match units % 64 {
        _ if facts.is_software() && units >= 64 => (8, 4),
        1..=32 => (32, 1),
        _ => (64, 1),
    };
    let kind_of = [("KIND", kind as i64), ("RMS", i64::from(rms)), ("VEC", i64::from(vec4))];
    let shape = [("WG", wg), ("SPAN", span), ("SUMS", 4 / span), ("ROWS", if span == 1 { STEP as i64 } else { 4 })];
    Variant {
        kernel: "columns",
        source: include_str!("../../shaders/columns.wgsl"),
        defines: kind_of.into_iter().chain(shape).collect(),
        access: &ACCESS[..2 + kind],
        subgroup: None,
    }
}

pub(crate) fn variants(facts: &Facts) -> Vec<Variant> {
    let kinds = [(0, false), (1, false), (2, false), (2, true)].into_iter();
    let shapes = [(false, 32), (false, 63), (false, 64), (true, 32), (true, 63), (true, 64)];
    kinds.flat_map(|(kind, rms)| shapes.map(|(vec4, units)| variant(facts, kind, rms, vec4, units))).collect()
}

/// Appends `y[c] = sum_r …` over the rows of [`Columns`], plus what y held where it accumulates; y is `1 x cols`, in a slot of its
/// own.
///
/// Rows are cut into parts that are summed side by side and added in their order, so that equal calls give equal bits.
///
/// # Errors
/// [`Error::Shape`] where the operands do not fit each other; [`Error::Limit`].
pub fn column_sums(b: &mut Builder, label: &str, what: &Columns<'_>, y: &Tensor, accumulate: bool) -> Result<()> {
    let whole = Operands::new(what);
    let (rows, cols) = (whole.a.rows, whole.a.cols);
    let differ = whole.b.is_some_and(|t| (t.rows, t.cols) != (rows, cols)) || whole.saved.is_some_and(|t| (t.rows, t.cols) != (rows, 2));
    if differ || (y.rows, y.cols) != (1, cols) {
        let second = whole.b.map_or(String::new(), |t| format!(" and ({}, {})", t.rows, t.cols));
        let saved = whole.saved.map_or(String::new(), |t| format!(" with ({}, {})", t.rows, t.cols));
        return Err(Error::shape("columns", format!("{label}: ({rows}, {cols}){second}{saved} into ({}, {})", y.rows, y.cols)));
    }
    if cols == 0 || (rows == 0 && accumulate) {
        return Ok(());
    }
    let widest = [Some(whole.a), whole.b, whole.saved].iter().flatten().map(|t| t.stride.max(t.cols)).max().unwrap_or(cols);
    let mut chunks = b.row_chunks(rows, widest)?;
    if rows == 0 {
        chunks.push(0..0); // an empty sum is 0
    }
    for r in chunks {
        let operands = whole.slice(&r);
        let (units, accumulate) = (cols.div_ceil(4), accumulate || r.start > 0);
        let per = rows_of_part(b.facts(), r.len(), units);
        if per >= r.len() {
            operands.push(b, label, y, per, accumulate)?;
            continue;
        }
        let partial = b.transient(format!("{label} parts"), r.len().div_ceil(per), cols);
        operands.push(b, label, &partial, per, false)?;
        Operands::new(&Columns::Sum(&partial)).push(b, &format!("{label} sum"), y, partial.rows, accumulate)?;
    }
    Ok(())
}

/// Rows of a part: no more parts than keep a device busy, nor than make the sum of the parts longer than one of them.
fn rows_of_part(facts: &Facts, rows: usize, units: usize) -> usize {
    let busy: usize = if facts.is_software() { 1 << 9 } else { 1 << 16 };
    let parts = busy.div_ceil(units).min(rows.isqrt()).max(rows.div_ceil(RUN)).max(1);
    rows.div_ceil(parts).next_multiple_of(STEP)
}

/// The operands in the shader's terms.
#[derive(Debug, Clone, Copy)]
struct Operands {
    a: Tensor,
    b: Option<Tensor>,
    saved: Option<Tensor>,
    rms: bool,
}

impl Operands {
    fn new(what: &Columns<'_>) -> Self {
        match *what {
            Columns::Sum(a) => Self { a: *a, b: None, saved: None, rms: false },
            Columns::Dot(a, b) => Self { a: *a, b: Some(*b), saved: None, rms: false },
            Columns::Normed { dy, x, saved, rms } => Self { a: *dy, b: Some(*x), saved: Some(*saved), rms },
        }
    }

    fn slice(&self, r: &Range<usize>) -> Self {
        let cut = |t: Tensor| t.slice_rows(r.clone());
        Self { a: cut(self.a), b: self.b.map(cut), saved: self.saved.map(cut), rms: self.rms }
    }

    /// Sums each `per` rows into a row of y.
    fn push(&self, b: &mut Builder, label: &str, y: &Tensor, per: usize, accumulate: bool) -> Result<()> {
        let (rows, cols) = (self.a.rows, self.a.cols);
        // An empty operand may lie at the very end of its slot; a binding has a vector.
        let bind = |t: &Tensor| if t.rows == 0 { b.window(t.slot, 0..4) } else { b.view(t) };
        let (aw, yw) = (bind(&self.a)?, b.view(y)?);
        let mut bindings = vec![aw, yw];
        let none = Window { offset: 0, ..aw };
        let (mut second, mut third) = ((none, 0), (none, 0));
        for (t, place) in [(self.b, &mut second), (self.saved, &mut third)] {
            if let Some(t) = t {
                *place = (bind(&t)?, t.stride);
                bindings.push(place.0);
            }
        }
        let places = [aw.offset, self.a.stride as u32, second.0.offset, second.1 as u32, yw.offset];
        let vec4 = cols.is_multiple_of(4) && places.iter().all(|n| n.is_multiple_of(4));
        let unit = if vec4 { 4 } else { 1 };
        let units = cols / unit;
        let mut params = vec![units as u32, rows as u32, per as u32, u32::from(accumulate)];
        params.extend(places.map(|n| n / unit as u32));
        params.extend([third.0.offset, third.1 as u32, 0]);
        let v = variant(b.facts(), bindings.len() - 2, self.rms, vec4, units);
        let read = rows * cols * (1 + usize::from(self.b.is_some()));
        b.push(OpSpec {
            label: label.into(),
            grid: [units.div_ceil((v.define("WG") * v.define("SPAN")) as usize) as u32, y.rows as u32, 1],
            variant: v,
            params,
            bindings,
            bytes: 4 * (read + y.rows * cols * (1 + usize::from(accumulate))) as u64,
            flops: (rows * cols * (1 + 2 * usize::from(self.b.is_some()))) as u64,
            twin: reference::columns::twin(self.b.is_some(), self.saved.is_some(), self.rms, y.rows, unit),
        })
    }
}
