//! Sums of rows by their ids: the gradient of an embedding table.

use super::embedding::Ids;
use super::state;
use super::{Access, Variant};
use crate::gpu::Facts;
use crate::plan::{Builder, OpSpec, SlotId};
use crate::reference;
use crate::tensor::Tensor;
use crate::{Error, Result};
use std::ops::Range;

/// Most rows that are linked at once: a row is compared with every other, and their sum is one running sum.
const BLOCK: usize = 4096;

const TWO: [Access; 2] = [Access::Read, Access::Write];
const THREE: [Access; 3] = [Access::Read, Access::Read, Access::Write];

/// Rows that an invocation links: a software driver has no use for more invocations, and its loads are dear (2048 rows of 4 columns took
/// 0.26 of the time on llvmpipe).
fn rows_each(facts: &Facts) -> usize {
    if facts.is_software() { 8 } else { 1 }
}

fn variant(op: i64, by_position: bool, vec4: bool, rows: usize) -> Variant {
    let defines = vec![("OP", op), ("IDS", i64::from(by_position)), ("VEC", i64::from(vec4)), ("ROWS", rows as i64)];
    let access: &[Access] = if op == 2 { &THREE } else { &TWO };
    Variant { kernel: "scatter", source: include_str!("../../shaders/scatter.wgsl"), defines, access, subgroup: None }
}

pub(crate) fn variants(facts: &Facts) -> Vec<Variant> {
    let rows = rows_each(facts);
    let all = [(0, false, false, 1), (0, true, false, 1), (1, false, false, rows), (2, false, false, 1), (2, false, true, 1)];
    all.map(|(op, by_position, vec4, rows)| variant(op, by_position, vec4, rows)).into()
}

/// Appends `dw[id(r)] += dy[r]` for every row r of dy whose id is not `skipped`, always in the same order; other rows of dw stay. Ids past the end take the
/// last row, as they do in [`super::embedding::embedding`], whose backward this is.
///
/// # Errors
/// [`Error::Shape`] where the operands do not fit each other; [`Error::Limit`] where a row exceeds a binding.
pub fn scatter_add(b: &mut Builder, label: &str, ids: &Ids, dy: &Tensor, dw: &Tensor, skipped: Option<u32>) -> Result<()> {
    if dy.cols != dw.cols || dw.rows == 0 || u32::try_from(dw.rows.max(dy.rows)).is_err() {
        return Err(Error::shape("scatter", format!("{label}: ({}, {}) into ({}, {})", dy.rows, dy.cols, dw.rows, dw.cols)));
    }
    if matches!(ids, Ids::Position { sequence_rows: 0, .. }) {
        return Err(Error::shape("scatter", format!("{label}: sequences of 0 rows")));
    }
    for cut in b.row_chunks(dy.rows, dy.stride)? {
        for start in cut.clone().step_by(BLOCK) {
            let rows = start..(start + BLOCK).min(cut.end);
            let part = dy.slice_rows(rows.clone());
            let links = links(b, label, ids, rows, dy.rows, (dw.rows as u32 - 1, skipped.unwrap_or(u32::MAX)))?;
            for r in b.row_chunks(dw.rows, dw.stride)? {
                add(b, label, links, &part, &dw.slice_rows(r.clone()), r.start)?;
            }
        }
    }
    Ok(())
}

/// For each of `rows` its id, if it is the first with that id, and the next row with the same one. `(last, skipped)`: ids.
fn links(b: &mut Builder, label: &str, from: &Ids, rows: Range<usize>, all: usize, (last, skipped): (u32, u32)) -> Result<SlotId> {
    let n = rows.len();
    let (ids, links) = (b.transient("ids", 1, n.next_multiple_of(4)).slot, b.transient("links", n, 2).slot);
    let (source, sequence_rows, id_add) = match from {
        Ids::Buffer(slot, at) => (b.window(*slot, at + rows.start..at + rows.end)?, 1, 0),
        Ids::Position { state, sequence_rows, add } => {
            (b.window(*state, 0..all.div_ceil(*sequence_rows) * state::WORDS)?, *sequence_rows, *add)
        }
    };
    let by_position = matches!(from, Ids::Position { .. });
    let bindings = vec![source, b.window(ids, 0..n.next_multiple_of(4))?];
    b.push(OpSpec {
        label: label.into(),
        variant: variant(0, by_position, false, 1),
        params: vec![n as u32, rows.start as u32, source.offset, sequence_rows as u32, id_add as u32, last, skipped, 0],
        bindings,
        grid: [n.div_ceil(64) as u32, 1, 1],
        bytes: 8 * n as u64,
        flops: 0,
        twin: reference::scatter::ids(by_position),
    })?;
    let bindings = vec![b.window(ids, 0..n.next_multiple_of(4))?, b.window(links, 0..2 * n)?];
    b.push(OpSpec {
        label: label.into(),
        variant: variant(1, false, false, rows_each(b.facts())),
        params: vec![n as u32, 0, 0, 0],
        bindings,
        grid: [n.div_ceil(64 * rows_each(b.facts())) as u32, 1, 1],
        bytes: 12 * n as u64,
        flops: (n * n) as u64,
        twin: reference::scatter::links(n),
    })?;
    Ok(links)
}

/// Adds the chains of `links` whose ids are in the rows `first..` of the table that `dw` is.
fn add(b: &mut Builder, label: &str, links: SlotId, dy: &Tensor, dw: &Tensor, first: usize) -> Result<()> {
    let (yw, ww) = (b.view(dy)?, b.view(dw)?);
    let mut places = [dy.cols as u32, yw.offset, dy.stride as u32, ww.offset, dw.stride as u32];
    let vec4 = places.iter().all(|n| n.is_multiple_of(4));
    if vec4 {
        places = places.map(|n| n / 4);
    }
    let bindings = vec![b.window(links, 0..2 * dy.rows)?, yw, ww];
    let elements = (dy.rows * dy.cols) as u64;
    b.push(OpSpec {
        label: label.into(),
        variant: variant(2, false, vec4, 1),
        params: places.into_iter().chain([first as u32, dw.rows as u32, 0]).collect(),
        bindings,
        grid: [places[0].div_ceil(64), dy.rows as u32, 1],
        bytes: 12 * elements,
        flops: elements,
        twin: reference::scatter::add(dy.rows, if vec4 { 4 } else { 1 }),
    })
}
