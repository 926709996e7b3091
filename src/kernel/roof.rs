//! What a device can do at most, to measure the other kernels against: copying memory, and multiply-adds in registers.

use super::{Access, Variant};
use crate::gpu::Facts;
use crate::plan::{Builder, OpSpec};
use crate::reference;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Invocations of a workgroup.
const WG: usize = 256;
/// Vectors that an invocation of a copy moves.
const PER: usize = 4;
/// Independent chains of multiply-adds, of four components each: enough to hide the latency of two units with 12 of the 16
/// registers that CPUs have at least.
pub(crate) const CHAINS: usize = 3;
/// Multiply-adds of each chain in a round.
pub(crate) const STEPS: usize = 16;

fn copy_variant() -> Variant {
    variant(vec![("OP", 0), ("WG", WG as i64), ("PER", PER as i64)], &[Access::Read, Access::Write])
}

fn fma_variant() -> Variant {
    variant(vec![("OP", 1), ("WG", WG as i64), ("CHAINS", CHAINS as i64), ("STEPS", STEPS as i64)], &[Access::Write])
}

fn variant(defines: Vec<(&'static str, i64)>, access: &'static [Access]) -> Variant {
    Variant { kernel: "roof", source: include_str!("../../shaders/roof.wgsl"), defines, access, subgroup: None }
}

pub(crate) fn variants(_: &Facts) -> Vec<Variant> {
    vec![copy_variant(), fma_variant()]
}

/// Appends `y = x` in whole vectors: widths, strides and offsets are multiples of 4, and rows lie one after another.
///
/// # Errors
/// [`Error::Shape`] where that is not so; [`Error::Limit`].
pub fn copy(b: &mut Builder, label: &str, x: &Tensor, y: &Tensor) -> Result<()> {
    let whole = |t: &Tensor| t.stride == t.cols && t.cols.is_multiple_of(4) && t.offset.is_multiple_of(4);
    if (x.rows, x.cols) != (y.rows, y.cols) || !whole(x) || !whole(y) {
        return Err(Error::shape("roof", format!("{label}: copy ({}, {}) to ({}, {}) in whole vectors", x.rows, x.cols, y.rows, y.cols)));
    }
    for r in b.row_chunks(x.rows, x.cols)? {
        let (xw, yw) = (b.view(&x.slice_rows(r.clone()))?, b.view(&y.slice_rows(r.clone()))?);
        let words = r.len() * x.cols;
        b.push(OpSpec {
            label: label.into(),
            variant: copy_variant(),
            params: vec![(words / 4) as u32, xw.offset / 4, yw.offset / 4, 0, 0, 0, 0, 0],
            bindings: vec![xw, yw],
            grid: [(words / 4).div_ceil(WG * PER) as u32, 1, 1],
            bytes: 8 * words as u64,
            flops: 0,
            twin: reference::roof::copy(words),
        })?;
    }
    Ok(())
}

/// Appends chains of `a = a factor + addend`, 16 steps a round, one invocation for each element of y, a single row.
///
/// # Errors
/// [`Error::Shape`] where y has more than one row; [`Error::Limit`].
pub fn fma(b: &mut Builder, label: &str, y: &Tensor, rounds: u32, factor: f32, addend: f32) -> Result<()> {
    if y.rows != 1 {
        return Err(Error::shape("roof", format!("{label}: ({}, {}) is not one row", y.rows, y.cols)));
    }
    let yw = b.view(y)?;
    b.push(OpSpec {
        label: label.into(),
        variant: fma_variant(),
        params: vec![y.cols as u32, 0, yw.offset, rounds, factor.to_bits(), addend.to_bits(), 0, 0],
        bindings: vec![yw],
        grid: [y.cols.div_ceil(WG) as u32, 1, 1],
        bytes: 4 * y.cols as u64,
        flops: 2 * (4 * CHAINS * STEPS * y.cols) as u64 * u64::from(rounds),
        twin: reference::roof::fma(y.cols),
    })
}
