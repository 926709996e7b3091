//! LayerNorm and RMSNorm over rows, and their gradients.

pub use super::norm_backward::{NormGradient, norm_backward};

use super::{Access, Variant, row_workgroup};
use crate::gpu::Facts;
use crate::plan::{Builder, OpSpec, SlotId};
use crate::reference;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Gains (and for LayerNorm biases) of a norm: slots with one f32 a column.
#[derive(Debug, Clone, Copy)]
pub struct Norm {
    /// The gains.
    pub gain: SlotId,
    /// The biases; `None` with `rms`.
    pub bias: Option<SlotId>,
    /// RMSNorm: the mean is not subtracted.
    pub rms: bool,
    /// Added to the variance.
    pub eps: f32,
}

/// Which rows of x are normalised.
#[derive(Debug, Clone, Copy)]
pub enum Rows {
    /// All of them.
    All,
    /// The last valid row of each sequence of `sequence_rows` rows, by the sequences' state.
    LastOf {
        /// The states.
        state: SlotId,
        /// Rows of x for each sequence.
        sequence_rows: usize,
    },
}

use Access::{Read as R, Write as W};

const ACCESS: [Access; 5] = [R, W, R, R, R];

fn variant(facts: &Facts, cols: usize, [rms, bias, last, vec4, save]: [bool; 5]) -> Variant {
    let (wg, sg, subgroup) = row_workgroup(facts, "norm", if cols >= 2048 { 256 } else { 64 });
    let [r, b, l, v, s] = [rms, bias, last, vec4, save].map(i64::from);
    Variant {
        kernel: "norm",
        source: include_str!("../../shaders/norm.wgsl"),
        defines: vec![("RMS", r), ("BIAS", b), ("LAST", l), ("VEC", v), ("SAVE", s), ("WG", wg), ("SG", sg)],
        access: match (save, bias) {
            (false, _) => &ACCESS[..3 + usize::from(bias) + usize::from(last)],
            (true, false) => &[R, W, R, W],
            (true, true) => &[R, W, R, R, W],
        },
        subgroup,
    }
}

pub(crate) fn variants(facts: &Facts) -> Vec<Variant> {
    let flags = |i: usize| variant(facts, if i & 32 == 0 { 64 } else { 4096 }, [1, 2, 4, 8, 16].map(|bit| i & bit != 0));
    // Nothing is saved of the last rows.
    (0..64).filter(|i| i & 20 != 20).map(flags).collect()
}

/// Appends `y = (x - mean) / sqrt(variance + eps) * gain + bias` for every row; RMSNorm leaves mean and bias out.
///
/// # Errors
/// [`Error::Shape`] where the operands do not fit each other; [`Error::Limit`].
pub fn norm(b: &mut Builder, label: &str, x: &Tensor, y: &Tensor, n: &Norm, rows: Rows) -> Result<()> {
    append(b, label, [x, y], n, rows, None)
}

/// The same for all rows, and for the gradient writes the mean and `1 / sqrt(variance + eps)` of each row, a row of `saved` (rows x
/// 2); the mean of an RMSNorm is 0. y and `saved` lie in slots of their own.
///
/// # Errors
/// [`Error::Shape`] where the operands do not fit each other; [`Error::Limit`].
pub fn norm_saving(b: &mut Builder, label: &str, x: &Tensor, y: &Tensor, n: &Norm, saved: &Tensor) -> Result<()> {
    if (saved.rows, saved.cols) != (x.rows, 2) {
        return Err(Error::shape("norm", format!("{label}: {} rows saved in ({}, {})", x.rows, saved.rows, saved.cols)));
    }
    append(b, label, [x, y], n, Rows::All, Some(saved))
}

fn append(b: &mut Builder, label: &str, [x, y]: [&Tensor; 2], n: &Norm, rows: Rows, saved: Option<&Tensor>) -> Result<()> {
    if x.cols != y.cols || x.cols == 0 || matches!(rows, Rows::All if x.rows != y.rows) {
        return Err(Error::shape("norm", format!("{label}: ({}, {}) into ({}, {})", x.rows, x.cols, y.rows, y.cols)));
    }
    let last = match rows {
        Rows::All => None,
        Rows::LastOf { state, sequence_rows } if x.rows == y.rows * sequence_rows => Some((state, sequence_rows)),
        Rows::LastOf { sequence_rows, .. } => {
            return Err(Error::shape("norm", format!("{label}: {} rows are not {} times {sequence_rows}", x.rows, y.rows)));
        }
    };
    let per = last.map_or(1, |(_, r)| r);
    let rows = b.row_chunks(y.rows, (x.stride * per).max(y.stride).max(saved.map_or(0, |s| s.stride)))?;
    for r in rows {
        let (xs, ys) = (x.slice_rows(r.start * per..r.end * per), y.slice_rows(r.clone()));
        let more = More { last: last.map(|(s, per)| (s, per, r.start)), saved: saved.map(|s| s.slice_rows(r)) };
        one(b, label, &xs, &ys, n, &more)?;
    }
    Ok(())
}

/// What only some norms have.
struct More {
    /// States, rows of a sequence, and the first sequence.
    last: Option<(SlotId, usize, usize)>,
    saved: Option<Tensor>,
}

fn one(b: &mut Builder, label: &str, x: &Tensor, y: &Tensor, n: &Norm, more: &More) -> Result<()> {
    let (xw, yw) = (b.view(x)?, b.view(y)?);
    let gain = b.window(n.gain, 0..x.cols)?;
    let mut bindings = vec![xw, yw, gain];
    let mut bias_offset = 0;
    if let Some(slot) = n.bias {
        let w = b.window(slot, 0..x.cols)?;
        bias_offset = w.offset;
        bindings.push(w);
    }
    if let Some((state, _, first)) = more.last {
        // States are 32 words, half of a window's alignment: bind from the first state on and cut at even sequences.
        let w = b.window(state, first * 32..(first + y.rows) * 32)?;
        if w.offset != 0 {
            return Err(Error::shape("norm", format!("{label}: sequences are cut at an odd number")));
        }
        bindings.push(w);
    }
    let sequence_rows = more.last.map_or(1, |l| l.1);
    let mut saved_at = [0, 0];
    if let Some(t) = &more.saved {
        let w = b.view(t)?;
        saved_at = [w.offset, t.stride as u32];
        bindings.push(w);
    }
    let places = [x.cols as u32, xw.offset, x.stride as u32, yw.offset, y.stride as u32, gain.offset, bias_offset];
    let vec4 = places.iter().all(|n| n.is_multiple_of(4));
    let unit = if vec4 { 4 } else { 1 };
    let mut params: Vec<u32> = places.iter().map(|n| n / unit).collect();
    params.extend([n.eps.to_bits(), sequence_rows as u32, saved_at[0], saved_at[1], 0]);
    let [bias, last, save] = [n.bias.is_some(), more.last.is_some(), more.saved.is_some()];
    b.push(OpSpec {
        label: label.into(),
        variant: variant(b.facts(), x.cols, [n.rms, bias, last, vec4, save]),
        params,
        bindings,
        grid: [y.rows as u32, 1, 1],
        bytes: 8 * (y.rows * x.cols) as u64,
        flops: 6 * (y.rows * x.cols) as u64,
        twin: reference::norm::twin([n.rms, bias, last, save], y.rows, unit as usize),
    })
}
