//! Rotary position embedding of whole sequences without a cache, and its gradient.

use super::rope::{Angles, Pairing};
use super::{Access, Variant};
use crate::gpu::Facts;
use crate::plan::{Builder, OpSpec};
use crate::reference;
use crate::tensor::Tensor;
use crate::{Error, Result};

const ACCESS: [Access; 3] = [Access::Read, Access::Write, Access::Read];

fn variant(pairing: Pairing, vec4: bool) -> Variant {
    let mode = if pairing == Pairing::Half { 1 } else { 2 };
    Variant {
        kernel: "turn",
        source: include_str!("../../shaders/turn.wgsl"),
        defines: vec![("ROPE", mode), ("VEC", i64::from(vec4))],
        access: &ACCESS,
        subgroup: None,
    }
}

pub(crate) fn variants(_: &Facts) -> Vec<Variant> {
    [Pairing::Half, Pairing::Interleaved].into_iter().flat_map(|p| [false, true].map(|vec4| variant(p, vec4))).collect()
}

/// Appends: y is x, `rows x heads head_dim`, with the pairs of each head rotated by the angles of the row's position,
/// `row % sequence_rows`; with `inverse` by their negatives, which is also the gradient. y lies in a slot of its own.
///
/// # Errors
/// [`Error::Shape`] where the operands do not fit each other, there are fewer angles than positions, or no pairing is given;
/// [`Error::Limit`].
#[expect(clippy::too_many_arguments, reason = "what a rotation is made of")]
pub fn turn(
    b: &mut Builder,
    label: &str,
    x: &Tensor,
    y: &Tensor,
    angles: &Angles,
    head_dim: usize,
    sequence_rows: usize,
    pairing: Pairing,
    inverse: bool,
) -> Result<()> {
    let d = head_dim;
    let fault = |why: &str| Err(Error::shape("turn", format!("{label}: ({}, {}), heads of {d}: {why}", x.rows, x.cols)));
    if (x.rows, x.cols) != (y.rows, y.cols) {
        return fault("the result has another shape");
    }
    if d == 0 || d % 2 == 1 || !x.cols.is_multiple_of(d) {
        return fault("rows must be whole heads, and those whole pairs");
    }
    if pairing == Pairing::None {
        return fault("no pairing");
    }
    if x.rows == 0 || x.cols == 0 {
        return Ok(());
    }
    let positions = sequence_rows.min(x.rows);
    if positions == 0 || angles.positions < positions {
        return fault("there must be angles for every row of a sequence");
    }
    let table = b.window(angles.slot, 0..positions * d)?;
    for r in b.row_chunks(x.rows, x.stride.max(y.stride).max(x.cols))? {
        let (xw, yw) = (b.view(&x.slice_rows(r.clone()))?, b.view(&y.slice_rows(r.clone()))?);
        let aligned = [xw.offset as usize, yw.offset as usize, x.stride, y.stride, table.offset as usize];
        let vec4 = d.is_multiple_of(8) && aligned.iter().all(|n| n.is_multiple_of(4));
        let pairs = x.cols / 2;
        let mut params = [pairs, d, r.start % sequence_rows, sequence_rows].map(|v| v as u32).to_vec();
        params.extend([xw.offset, x.stride as u32, yw.offset, y.stride as u32]);
        params.extend([table.offset / 2, if inverse { -1f32 } else { 1.0 }.to_bits(), 0, 0]);
        b.push(OpSpec {
            label: label.into(),
            variant: variant(pairing, vec4),
            params,
            bindings: vec![xw, yw, table],
            grid: [pairs.div_ceil(if vec4 { 256 } else { 64 }) as u32, r.len() as u32, 1],
            bytes: 8 * (r.len() * x.cols) as u64,
            flops: 3 * (r.len() * x.cols) as u64,
            twin: reference::turn::twin(pairing, r.len()),
        })?;
    }
    Ok(())
}
