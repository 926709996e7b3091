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

const LINKS: [Access; 2] = [Access::Read, Access::Write];
const ADD: [Access; 3] = [Access::Read, Access::Read, Access::Write];

fn links_variant(by_position: bool) -> Variant {
    let defines = vec![("LINKS", 1), ("IDS", i64::from(by_position)), ("VEC", 0)];
    Variant { kernel: "scatter", source: include_str!("../../shaders/scatter.wgsl"), defines, access: &LINKS, subgroup: None }
}

fn add_variant(vec4: bool) -> Variant {
    let defines = vec![("LINKS", 0), ("IDS", 0), ("VEC", i64::from(vec4))];
    Variant { kernel: "scatter", source: include_str!("../../shaders/scatter.wgsl"), defines, access: &ADD, subgroup: None }
}

pub(crate) fn variants(_: &Facts) -> Vec<Variant> {
    vec![links_variant(false), links_variant(true), add_variant(false), add_variant(true)]
}

/// Appends `dw[id(r)] += dy[r]` for every row r of dy, always in the same order; other rows of dw stay. Ids past the end take the
/// last row, as they do in [`super::embedding::embedding`], whose backward this is.
///
/// # Errors
/// [`Error::Shape`] where the operands do not fit each other; [`Error::Limit`] where a row exceeds a binding.
pub fn scatter_add(b: &mut Builder, label: &str, ids: &Ids, dy: &Tensor, dw: &Tensor) -> Result<()> {
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
            let links = links(b, label, ids, rows, dy.rows, dw.rows as u32 - 1)?;
            for r in b.row_chunks(dw.rows, dw.stride)? {
                add(b, label, links, &part, &dw.slice_rows(r.clone()), r.start)?;
            }
        }
    }
    Ok(())
}

/// For each of `rows` its id, if it is the first with that id, and the next row with the same one.
fn links(b: &mut Builder, label: &str, ids: &Ids, rows: Range<usize>, all: usize, last_id: u32) -> Result<SlotId> {
    let links = b.transient("links", rows.len(), 2).slot;
    let (window, sequence_rows, id_add) = match ids {
        Ids::Buffer(slot, at) => (b.window(*slot, at + rows.start..at + rows.end)?, 1, 0),
        Ids::Position { state, sequence_rows, add } => {
            (b.window(*state, 0..all.div_ceil(*sequence_rows) * state::WORDS)?, *sequence_rows, *add)
        }
    };
    let by_position = matches!(ids, Ids::Position { .. });
    let n = rows.len();
    let bindings = vec![window, b.window(links, 0..2 * n)?];
    b.push(OpSpec {
        label: label.into(),
        variant: links_variant(by_position),
        params: vec![n as u32, rows.start as u32, window.offset, sequence_rows as u32, id_add as u32, last_id, 0, 0],
        bindings,
        grid: [n.div_ceil(64) as u32, 1, 1],
        bytes: 12 * n as u64,
        flops: (n * n) as u64,
        twin: reference::scatter::links(by_position),
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
        variant: add_variant(vec4),
        params: places.into_iter().chain([first as u32, dw.rows as u32, 0]).collect(),
        bindings,
        grid: [places[0].div_ceil(64), dy.rows as u32, 1],
        bytes: 12 * elements,
        flops: elements,
        twin: reference::scatter::add(dy.rows, if vec4 { 4 } else { 1 }),
    })
}
