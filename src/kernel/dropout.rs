//! Dropout: elements are left out at random, the same ones forward and backward.

use super::{Access, Variant, progress};
use crate::gpu::Facts;
use crate::plan::{Builder, OpSpec, SlotId};
use crate::reference;
use crate::tensor::Tensor;
use crate::{Error, Result};

const ACCESS: [Access; 3] = [Access::Read, Access::Write, Access::Read];

fn variant(vec4: bool) -> Variant {
    let source = include_str!("../../shaders/dropout.wgsl");
    Variant { kernel: "dropout", source, defines: vec![("VEC", i64::from(vec4))], access: &ACCESS, subgroup: None }
}

pub(crate) fn variants(_: &Facts) -> Vec<Variant> {
    vec![variant(false), variant(true)]
}

/// Appends `y[e] = x[e] / (1 - p)` or, with probability p, 0; y lies in a slot of its own.
///
/// What is kept follows from the run's seed, step and batch of the step, from `stream`, which tells the dropouts of a plan apart,
/// and from the element's number in its matrix: the same call on the gradient of y, within the same batch, is its backward.
///
/// # Errors
/// [`Error::Shape`] where the operands do not fit each other, have 2^32 elements or more, or p is not in `0..1`;
/// [`Error::Limit`] where a row exceeds a binding.
pub fn dropout(b: &mut Builder, label: &str, x: &Tensor, y: &Tensor, p: f32, progress: SlotId, stream: u32) -> Result<()> {
    if (x.rows, x.cols) != (y.rows, y.cols) || u32::try_from(x.rows.saturating_mul(x.cols)).is_err() {
        return Err(Error::shape("dropout", format!("{label}: ({}, {}) into ({}, {})", x.rows, x.cols, y.rows, y.cols)));
    }
    if !(0.0..1.0).contains(&p) {
        return Err(Error::shape("dropout", format!("{label}: a probability of {p}, which is not in 0..1")));
    }
    for r in b.row_chunks(x.rows, x.stride.max(y.stride))? {
        let (xw, yw) = (b.view(&x.slice_rows(r.clone()))?, b.view(&y.slice_rows(r.clone()))?);
        let (first, count) = (r.start * x.cols, r.len() * x.cols);
        let mut sizes = [x.cols as u32, xw.offset, x.stride as u32, yw.offset, y.stride as u32, first as u32, count as u32];
        let vec4 = sizes.iter().all(|n| n.is_multiple_of(4));
        let draws = (first + count).div_ceil(4) - first / 4;
        if vec4 {
            sizes = sizes.map(|n| n / 4);
        }
        let (threshold, factor) = ((f64::from(p) * 2f64.powi(32)) as u32, 1.0 / (1.0 - p));
        let bindings = vec![xw, yw, b.window(progress, 0..progress::WORDS)?];
        b.push(OpSpec {
            label: label.into(),
            variant: variant(vec4),
            params: sizes.into_iter().chain([stream, threshold, factor.to_bits(), 0, 0]).collect(),
            bindings,
            grid: [if count == 0 { 0 } else { draws.div_ceil(64) as u32 }, 1, 1],
            bytes: 8 * count as u64,
            flops: 32 * count as u64,
            twin: reference::dropout::twin(p, r, x.cols, if vec4 { 4 } else { 1 }),
        })?;
    }
    Ok(())
}
