//! Block Jacobi rotations: the rows of A become orthogonal to each other while a product `Aᵀ B` stays what it is.
//!
//! An orthogonal J turns rows of both: `(J A)ᵀ (J B) = Aᵀ B`. Rows come in blocks; in each round of a sweep the blocks are paired
//! off, J being found from the products of a pair's rows only, and after a sweep each block has met each other once. Sweeps are
//! repeated until a layer's largest cosine between two rows is within the tolerance.

use super::svd::{Side, WIDTH as W, Work};
use super::{Access, Variant};
use crate::gpu::Facts;
use crate::plan::{Builder, OpSpec};
use crate::{Result, reference};
use std::ops::Range;

/// Cyclic sweeps over the products of one pair at most. They cost little beside turning rows, and fewer of them make more sweeps over
/// all rows: of cold matrices of 384 x 384, 8 with 12 of these, 9 with 2, 11 with 1.
const INNER: u32 = 8;
/// Rows below this part of the largest norm are zero but for rounding: nothing is turned towards them.
pub(crate) const FLOOR: f32 = 1e-7;

const GRAM: [Access; 4] = [Access::Read, Access::Read, Access::Write, Access::Write];
const APPLY: [Access; 4] = [Access::Write, Access::Write, Access::Read, Access::Read];
const CLOSE: [Access; 2] = [Access::Write, Access::Write];

fn lanes(facts: &Facts) -> bool {
    facts.wide_lanes() && facts.trusts("jacobi_lanes", 8)
}

fn gram_variant(facts: &Facts) -> Variant {
    if lanes(facts) {
        let source = include_str!("../../shaders/jacobi_lanes.wgsl");
        return Variant { kernel: "jacobi_lanes", source, defines: vec![("W", W as i64)], access: &GRAM, subgroup: Some(8) };
    }
    Variant {
        kernel: "jacobi_gram",
        source: include_str!("../../shaders/jacobi_gram.wgsl"),
        defines: vec![("W", W as i64), ("WG", (W * W) as i64)],
        access: &GRAM,
        subgroup: None,
    }
}

/// WG: columns of vec4 that a workgroup turns.
fn apply_variant(facts: &Facts) -> Variant {
    let lanes = facts.wide_lanes() && facts.trusts("jacobi_apply", 8);
    let (wg, sg, subgroup) = if lanes { (8, 8, Some(8)) } else { (32, 0, None) };
    Variant {
        kernel: "jacobi_apply",
        source: include_str!("../../shaders/jacobi_apply.wgsl"),
        defines: vec![("W", W as i64), ("WG", wg), ("SG", sg)],
        access: &APPLY,
        subgroup,
    }
}

fn close_variant() -> Variant {
    let source = include_str!("../../shaders/jacobi_close.wgsl");
    Variant { kernel: "jacobi_close", source, defines: Vec::new(), access: &CLOSE, subgroup: None }
}

pub(crate) fn variants(facts: &Facts) -> Vec<Variant> {
    vec![gram_variant(facts), apply_variant(facts), close_variant()]
}

/// Appends one sweep over the rows of `main`, which turns those of the other side alike: layers whose largest cosine was within
/// `tolerance` are marked as done, and sweeps leave those alone.
///
/// # Errors
/// [`crate::Error::Limit`] where a layer exceeds a binding.
pub fn sweep(b: &mut Builder, label: &str, work: &Work, main: Side, tolerance: f32) -> Result<()> {
    for round in 0..work.size.blocks() - 1 {
        for layers in work.chunks(b)? {
            gram(b, label, work, main, layers.clone(), (round, tolerance))?;
            apply(b, label, work, main, layers, round)?;
        }
    }
    let (peaks, state) = (b.whole(work.peaks)?, b.whole(work.state)?);
    let layers = work.size.layers;
    b.push(OpSpec {
        label: format!("{label} close"),
        variant: close_variant(),
        params: vec![layers as u32, tolerance.to_bits(), 0, 0],
        bindings: vec![peaks, state],
        grid: [layers.div_ceil(64) as u32, 1, 1],
        bytes: 64 * layers as u64,
        flops: 0,
        twin: reference::jacobi::close_twin(),
    })
}

fn gram(b: &mut Builder, label: &str, work: &Work, main: Side, layers: Range<usize>, (round, tolerance): (usize, f32)) -> Result<()> {
    let (stride, step, pairs) = (work.size.stride(main), work.size.step(main), work.size.blocks() / 2);
    let turns = work.turns(b, layers.clone())?;
    let bindings = vec![work.view(b, main, layers.clone())?, b.whole(work.state)?, turns, b.whole(work.peaks)?];
    let mut params = [stride / 4, step / 4, work.size.blocks(), round, layers.start].map(|v| v as u32).to_vec();
    params.extend([INNER, tolerance.to_bits(), FLOOR.to_bits()]);
    let rows = (2 * W * pairs * layers.len()) as u64;
    b.push(OpSpec {
        label: format!("{label} round {round} gram"),
        variant: gram_variant(b.facts()),
        params,
        bindings,
        grid: [pairs as u32, layers.len() as u32, 1],
        bytes: 4 * rows * (stride + 2 * W) as u64,
        // Half of the products, and a few sweeps.
        flops: rows * 2 * W as u64 * (stride + 24 * W) as u64,
        twin: reference::jacobi::gram_twin(layers.len()),
    })
}

fn apply(b: &mut Builder, label: &str, work: &Work, main: Side, layers: Range<usize>, round: usize) -> Result<()> {
    let sides = [main, main.other()];
    let pairs = work.size.blocks() / 2;
    let variant = apply_variant(b.facts());
    let cols = sides.map(|s| work.size.stride(s) / 4);
    let tiles = cols.map(|c| c.div_ceil(variant.define("WG") as usize));
    let [first, second] = sides.map(|s| work.view(b, s, layers.clone()));
    let bindings = vec![first?, second?, work.turns(b, layers.clone())?, b.whole(work.state)?];
    let steps = sides.map(|s| work.size.step(s) / 4);
    let params = [cols[0], steps[0], cols[1], steps[1], work.size.blocks(), round, layers.start, tiles[0]];
    let elements = (2 * W * pairs * layers.len() * 4 * (cols[0] + cols[1])) as u64;
    b.push(OpSpec {
        label: format!("{label} round {round} apply"),
        variant,
        params: params.map(|v| v as u32).to_vec(),
        bindings,
        grid: [(tiles[0] + tiles[1]) as u32, pairs as u32, layers.len() as u32],
        bytes: 8 * elements,
        flops: 4 * elements * W as u64,
        twin: reference::jacobi::apply_twin(layers.len()),
    })
}
