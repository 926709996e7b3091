//! LayerNorm and RMSNorm over rows.

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

const ACCESS: [Access; 5] = [Access::Read, Access::Write, Access::Read, Access::Read, Access::Read];

fn variant(facts: &Facts, cols: usize, [rms, bias, last, vec4]: [bool; 4]) -> Variant {
    let (wg, sg, subgroup) = row_workgroup(facts, "norm", if cols >= 2048 { 256 } else { 64 });
    let [r, b, l, v] = [rms, bias, last, vec4].map(i64::from);
    Variant {
        kernel: "norm",
        source: include_str!("../../shaders/norm.wgsl"),
        defines: vec![("RMS", r), ("BIAS", b), ("LAST", l), ("VEC", v), ("WG", wg), ("SG", sg)],
        access: &ACCESS[..3 + usize::from(bias) + usize::from(last)],
        subgroup,
    }
}

pub(crate) fn variants(facts: &Facts) -> Vec<Variant> {
    let flags = |i: usize| variant(facts, if i & 16 == 0 { 64 } else { 4096 }, [1, 2, 4, 8].map(|bit| i & bit != 0));
    (0..32).map(flags).collect()
}

/// Appends `y = (x - mean) / sqrt(variance + eps) * gain + bias` for every row; RMSNorm leaves mean and bias out.
///
/// # Errors
/// [`Error::Shape`] where the operands do not fit each other; [`Error::Limit`].
pub fn norm(b: &mut Builder, label: &str, x: &Tensor, y: &Tensor, n: &Norm, rows: Rows) -> Result<()> {
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
    let rows = b.row_chunks(y.rows, (x.stride * per).max(y.stride))?;
    for r in rows {
        let (xs, ys) = (x.slice_rows(r.start * per..r.end * per), y.slice_rows(r.clone()));
        one(b, label, &xs, &ys, n, last.map(|(s, per)| (s, per, r.start)))?;
    }
    Ok(())
}

fn one(b: &mut Builder, label: &str, x: &Tensor, y: &Tensor, n: &Norm, last: Option<(SlotId, usize, usize)>) -> Result<()> {
    let (xw, yw) = (b.view(x)?, b.view(y)?);
    let gain = b.window(n.gain, 0..x.cols)?;
    let mut bindings = vec![xw, yw, gain];
    let mut bias_offset = 0;
    if let Some(slot) = n.bias {
        let w = b.window(slot, 0..x.cols)?;
        bias_offset = w.offset;
        bindings.push(w);
    }
    if let Some((state, _, first)) = last {
        // States are 32 words, half of a window's alignment: bind from the first state on and cut at even sequences.
        let w = b.window(state, first * 32..(first + y.rows) * 32)?;
        if w.offset != 0 {
            return Err(Error::shape("norm", format!("{label}: sequences are cut at an odd number")));
        }
        bindings.push(w);
    }
    let sequence_rows = last.map_or(1, |l| l.1);
    let places = [x.cols as u32, xw.offset, x.stride as u32, yw.offset, y.stride as u32, gain.offset, bias_offset];
    let vec4 = places.iter().all(|n| n.is_multiple_of(4));
    let unit = if vec4 { 4 } else { 1 };
    let mut params: Vec<u32> = places.iter().map(|n| n / unit).collect();
    params.extend([n.eps.to_bits(), sequence_rows as u32, 0, 0, 0]);
    b.push(OpSpec {
        label: label.into(),
        variant: variant(b.facts(), x.cols, [n.rms, n.bias.is_some(), last.is_some(), vec4]),
        params,
        bindings,
        grid: [y.rows as u32, 1, 1],
        bytes: 8 * (y.rows * x.cols) as u64,
        flops: 6 * (y.rows * x.cols) as u64,
        twin: reference::norm::twin(n.rms, n.bias.is_some(), last.is_some(), y.rows, unit as usize),
    })
}
