//! The gradients of norms with respect to their inputs: [`super::norm`] names them.

use super::norm::Norm;
use super::{Access, Variant, row_workgroup};
use crate::gpu::Facts;
use crate::plan::{Builder, OpSpec};
use crate::reference;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// The operands of a norm's gradient.
#[derive(Debug, Clone, Copy)]
pub struct NormGradient<'a> {
    /// The norm's input, rows x cols.
    pub x: &'a Tensor,
    /// The gradient of its output, rows x cols.
    pub dy: &'a Tensor,
    /// What [`norm_saving`](super::norm::norm_saving) saved, rows x 2.
    pub saved: &'a Tensor,
    /// The norm.
    pub n: &'a Norm,
    /// The gradient of its input, rows x cols, in a slot of its own.
    pub dx: &'a Tensor,
    /// Adds to what dx holds instead of overwriting it.
    pub accumulate: bool,
}

const ACCESS: [Access; 5] = [Access::Read, Access::Read, Access::Read, Access::Read, Access::Write];

fn variant(facts: &Facts, cols: usize, rms: bool, vec4: bool) -> Variant {
    let (wg, sg, subgroup) = row_workgroup(facts, "norm_backward", if cols >= 2048 { 256 } else { 64 });
    Variant {
        kernel: "norm_backward",
        source: include_str!("../../shaders/norm_backward.wgsl"),
        defines: vec![("RMS", i64::from(rms)), ("VEC", i64::from(vec4)), ("WG", wg), ("SG", sg)],
        access: &ACCESS,
        subgroup,
    }
}

pub(crate) fn variants(facts: &Facts) -> Vec<Variant> {
    (0..8).map(|i| variant(facts, if i & 4 == 0 { 64 } else { 4096 }, i & 1 != 0, i & 2 != 0)).collect()
}

/// Appends, for every row, with `g = dy gain` and the normalised `n = (x - mean) inverse` (RMSNorm: `x inverse`),
/// `dx = inverse (g - mean(g) - n mean(g n))` (RMSNorm: without `mean(g)`), plus what dx held where it accumulates. The gradients of
/// gain and bias are [`column_sums`](super::columns::column_sums).
///
/// # Errors
/// [`Error::Shape`] where the operands do not fit each other; [`Error::Limit`].
pub fn norm_backward(b: &mut Builder, label: &str, p: &NormGradient<'_>) -> Result<()> {
    let (rows, cols) = (p.x.rows, p.x.cols);
    let same = |t: &Tensor| (t.rows, t.cols) == (rows, cols);
    if cols == 0 || !same(p.dy) || !same(p.dx) || (p.saved.rows, p.saved.cols) != (rows, 2) {
        let sizes = [p.x, p.dy, p.dx, p.saved].map(|t| format!("({}, {})", t.rows, t.cols));
        return Err(Error::shape("norm", format!("{label}: x, dy, dx and saved are {}", sizes.join(", "))));
    }
    let widest = [p.x, p.dy, p.dx, p.saved].iter().map(|t| t.stride.max(t.cols)).max().unwrap_or(cols);
    for r in b.row_chunks(rows, widest)? {
        let [x, dy, dx, saved] = [p.x, p.dy, p.dx, p.saved].map(|t| t.slice_rows(r.clone()));
        let (xw, dyw, dxw, savedw) = (b.view(&x)?, b.view(&dy)?, b.view(&dx)?, b.view(&saved)?);
        let gain = b.window(p.n.gain, 0..cols)?;
        let strides = [x.stride, dy.stride, dx.stride].map(|s| s as u32);
        let places = [cols as u32, xw.offset, strides[0], dyw.offset, strides[1], dxw.offset, strides[2], gain.offset];
        let vec4 = places.iter().all(|n| n.is_multiple_of(4));
        let unit = if vec4 { 4 } else { 1 };
        let mut params: Vec<u32> = places.iter().map(|n| n / unit).collect();
        params.extend([savedw.offset, saved.stride as u32, u32::from(p.accumulate), 0]);
        let elements = (r.len() * cols) as u64;
        b.push(OpSpec {
            label: label.into(),
            variant: variant(b.facts(), cols, p.n.rms, vec4),
            params,
            bindings: vec![xw, dyw, gain, savedw, dxw],
            grid: [r.len() as u32, 1, 1],
            bytes: (12 + 4 * u64::from(p.accumulate)) * elements,
            flops: 12 * elements,
            twin: reference::norm_backward::twin(p.n.rms, r.len(), unit as usize),
        })?;
    }
    Ok(())
}
