//! Steps towards the polar factor: `X <- (1.5 I - 0.5 X Xᵀ) X` makes the rows of X orthonormal while moving them least.
//!
//! An error e of `X Xᵀ` against the identity becomes about `0.75 e²`; singular values of X between 0 and the root of 3 go to 1, the
//! small ones by half again in each step. All of it is products of matrices.

use super::matmul::{Product, matmul};
use super::roof::copy;
use super::svd::{Side, Work};
use super::{Access, Variant};
use crate::gpu::Facts;
use crate::plan::{Builder, OpSpec};
use crate::tensor::Tensor;
use crate::{Error, Result, reference};

fn variant(op: i64) -> Variant {
    let access: &'static [Access] = if op == 1 { &[Access::Write, Access::Read] } else { &[Access::Read, Access::Write] };
    let defines = vec![("OP", op), ("WG", 64), ("SG", 0)];
    Variant { kernel: "svd_polar", source: include_str!("../../shaders/svd_polar.wgsl"), defines, access, subgroup: None }
}

pub(crate) fn variants(_: &Facts) -> Vec<Variant> {
    vec![variant(0), variant(1)]
}

/// The rows of one side of a layer, with what pads them.
fn rows(work: &Work, side: Side, layer: usize) -> Result<Tensor> {
    let size = &work.size;
    if layer >= size.layers {
        return Err(Error::shape("svd", format!("layer {layer} of {}", size.layers)));
    }
    let (slot, stride) = (if side == Side::X { work.x } else { work.y }, size.stride(side));
    Ok(Tensor { slot, offset: layer * size.step(side), rows: size.k(), cols: stride, stride })
}

/// Where the rows of a layer's square side are kept while they are made orthogonal.
fn kept(work: &Work, side: Side, layer: usize) -> Result<Tensor> {
    Ok(Tensor { slot: work.kept, ..rows(work, side, layer)? })
}

/// Appends: the rows of a side of a layer are kept.
///
/// # Errors
/// [`Error::Shape`], [`Error::Limit`].
pub fn keep(b: &mut Builder, label: &str, work: &Work, side: Side, layer: usize) -> Result<()> {
    copy(b, &format!("{label} keep"), &rows(work, side, layer)?, &kept(work, side, layer)?)
}

/// Appends: the rows of a side of a layer become again what was kept.
///
/// # Errors
/// [`Error::Shape`], [`Error::Limit`].
pub fn restore(b: &mut Builder, label: &str, work: &Work, side: Side, layer: usize) -> Result<()> {
    copy(b, &format!("{label} restore"), &kept(work, side, layer)?, &rows(work, side, layer)?)
}

/// Appends one step: word `at` of the peaks becomes `max |X Xᵀ - I|` of before the step, if it is larger than what was there.
///
/// # Errors
/// [`Error::Shape`], [`Error::Limit`].
pub fn step(b: &mut Builder, label: &str, work: &Work, side: Side, layer: usize, at: usize) -> Result<()> {
    let x = rows(work, side, layer)?;
    let k = x.rows;
    let wide = b.transient(format!("{label} products"), k, k.next_multiple_of(32));
    let g = Tensor { cols: k, ..wide };
    matmul(b, &format!("{label} products"), &x.into(), &x.into(), &g.into(), &Product { b_t: true, ..Product::default() })?;
    for op in [0, 1] {
        let bindings = vec![b.view(&g)?, b.whole(work.peaks)?];
        b.push(OpSpec {
            label: format!("{label} {}", if op == 0 { "distance" } else { "polynomial" }),
            variant: variant(op),
            params: vec![k as u32, g.stride as u32, at as u32, 0],
            bindings,
            grid: if op == 0 { [k as u32, 1, 1] } else { [g.stride.div_ceil(64) as u32, k as u32, 1] },
            bytes: 4 * (k * k) as u64 * (1 + op as u64),
            flops: 2 * (k * k) as u64,
            twin: if op == 0 { reference::polar::distance() } else { reference::polar::polynomial() },
        })?;
    }
    let t = b.transient(format!("{label} rows"), k, x.stride);
    matmul(b, &format!("{label} rows"), &g.into(), &x.into(), &t.into(), &Product::default())?;
    copy(b, &format!("{label} copy"), &t, &x)
}

/// Appends: the other side takes what the rows lost when they became orthonormal: with K what was kept and X what became of it,
/// `Y <- K Xᵀ Y`, so that `Xᵀ Y` is what `Kᵀ Y` was.
///
/// # Errors
/// [`Error::Shape`], [`Error::Limit`].
pub fn transfer(b: &mut Builder, label: &str, work: &Work, side: Side, layer: usize) -> Result<()> {
    let (x, k, y) = (rows(work, side, layer)?, kept(work, side, layer)?, rows(work, side.other(), layer)?);
    let wide = b.transient(format!("{label} factor"), x.rows, x.rows.next_multiple_of(32));
    let h = Tensor { cols: x.rows, ..wide };
    matmul(b, &format!("{label} factor"), &k.into(), &x.into(), &h.into(), &Product { b_t: true, ..Product::default() })?;
    let t = b.transient(format!("{label} rows"), y.rows, y.stride);
    matmul(b, &format!("{label} transfer"), &h.into(), &y.into(), &t.into(), &Product::default())?;
    copy(b, &format!("{label} copy"), &t, &y)
}
