//! Drawing the singular vectors that are trained next: for every layer `r` of `k`, all layers at once.

use super::progress::WORDS;
use super::{Access, Variant};
use crate::gpu::Facts;
use crate::plan::{Builder, OpSpec, SlotId};
use crate::reference;
use crate::tensor::Tensor;
use crate::{Error, Result};
use std::ops::Range;

/// Words of the table for each layer.
const LAYER_WORDS: usize = 8;

/// Vectors of a layer are fewer: two counts of them share a word.
const MOST: usize = 1 << 16;

/// How vectors are chosen. Singular values `s` that are negative, subnormal or not finite count as 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Law {
    /// Without replacement by `p = (1/k + s / sum s) / 2`; `1/k` where all `s` are 0.
    Mixture,
    /// Without replacement by `1/k`.
    Uniform,
    /// Without replacement by `s / sum s`; those with `s = 0` only after all others; `1/k` where all `s` are 0.
    Sigma,
    /// The largest `s`; of equal ones the first.
    Top,
    /// `(DRAWS r + j) mod k`.
    Sequential,
}

impl Law {
    /// Every one.
    pub const ALL: [Self; 5] = [Self::Mixture, Self::Uniform, Self::Sigma, Self::Top, Self::Sequential];
}

/// The singular vectors of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layer {
    /// Word of its first singular value in the slot of values.
    pub sigma: usize,
    /// Their number.
    pub k: usize,
    /// How many are drawn.
    pub r: usize,
    /// Word of its first index in the slot of indices.
    pub indices: usize,
}

/// The table that [`draw`] reads, for a slot that the caller fills. 8 words a layer: sigma, k, r, indices; first key, first word
/// of the bitmap, 0, 0.
pub fn draw_table(layers: &[Layer]) -> Vec<u32> {
    let (mut keys, mut bits) = (0, 0);
    let mut out = Vec::new();
    for l in layers {
        out.extend([l.sigma, l.k, l.r, l.indices, keys, bits, 0, 0].map(|n| n as u32));
        keys += l.k;
        bits += l.k.div_ceil(32);
    }
    out
}

/// Words of the bitmap of a [`Draw::round`].
pub fn bitmap_words(layers: &[Layer]) -> usize {
    layers.iter().map(|l| l.k.div_ceil(32)).sum()
}

/// Operands of a draw.
#[derive(Debug, Clone, Copy)]
pub struct Draw {
    /// Singular values.
    pub values: SlotId,
    /// Gets the indices.
    pub indices: SlotId,
    /// [`draw_table`] of the same layers.
    pub table: SlotId,
    /// The run's progress; see [`super::progress`].
    pub progress: SlotId,
    /// How vectors are chosen.
    pub law: Law,
    /// A slot of [`bitmap_words`] and the draws of a round: within a round a vector is drawn again only when nothing else is left. A
    /// round begins where `DRAWS` is a multiple of its draws; what the slot holds then does not matter.
    pub round: Option<(SlotId, usize)>,
}

const KEYS: [Access; 5] = [Access::Read, Access::Read, Access::Read, Access::Write, Access::Write];
const SELECT: [Access; 5] = [Access::Read, Access::Read, Access::Write, Access::Write, Access::Write];

fn keys_variant(law: Law, round: bool) -> Variant {
    let law = Law::ALL.iter().position(|l| *l == law).unwrap_or(0) as i64;
    Variant {
        kernel: "draw_keys",
        source: include_str!("../../shaders/draw_keys.wgsl"),
        defines: vec![("LAW", law), ("ROUND", i64::from(round)), ("WG", 256), ("SG", 0)],
        access: &KEYS[..4 + usize::from(round)],
        subgroup: None,
    }
}

fn select_variant(round: bool) -> Variant {
    let source = include_str!("../../shaders/draw.wgsl");
    Variant {
        kernel: "draw",
        source,
        defines: vec![("ROUND", i64::from(round))],
        access: &SELECT[..4 + usize::from(round)],
        subgroup: None,
    }
}

pub(crate) fn variants(_: &Facts) -> Vec<Variant> {
    let keys = Law::ALL.into_iter().flat_map(|law| [false, true].map(|round| keys_variant(law, round)));
    keys.chain([false, true].map(select_variant)).collect()
}

/// Appends [`draw_layers`] without rounds.
///
/// # Errors
/// As [`draw_layers`].
#[expect(clippy::too_many_arguments, reason = "short for the common case")]
pub fn draw(
    b: &mut Builder,
    label: &str,
    values: SlotId,
    indices: SlotId,
    table: SlotId,
    layers: &[Layer],
    progress: SlotId,
    law: Law,
) -> Result<()> {
    draw_layers(b, label, layers, &Draw { values, indices, table, progress, law, round: None })
}

/// Appends the choice of `r` of `k` indices for each layer, ascending, and `DRAWS += 1`.
///
/// A random law takes the `r` smallest of `-log(u) / p`, which is drawing one after the other without replacement. `u` of index i
/// is component `i % 4` of Threefry-4x32-20 at counter `(i / 4, DRAWS, layer, 0x5354)` with the run's seed as key: the same
/// progress gives the same indices. Two dispatches, and one more for each further range of values that bindings can hold.
///
/// # Errors
/// [`Error::Shape`] for a layer with `r` = 0, `r > k` or `k` above 65,535, layers that share indices, no layer at all, or rounds of
/// no draws; [`Error::Limit`].
pub fn draw_layers(b: &mut Builder, label: &str, layers: &[Layer], d: &Draw) -> Result<()> {
    check(label, layers, d)?;
    let keys = b.transient(format!("{label} keys"), 1, layers.iter().map(|l| l.k).sum());
    for group in groups(b.facts(), layers) {
        push_keys(b, label, layers, d, &keys, group)?;
    }
    let mut bindings = vec![
        b.view(&keys)?,
        b.window(d.table, 0..layers.len() * LAYER_WORDS)?,
        b.window(d.progress, 0..WORDS)?,
        b.window(d.indices, 0..layers.iter().map(|l| l.indices + l.r).max().unwrap_or(0))?,
    ];
    if let Some((slot, _)) = d.round {
        bindings.push(b.window(slot, 0..bitmap_words(layers))?);
    }
    b.push(OpSpec {
        label: label.into(),
        variant: select_variant(d.round.is_some()),
        params: Vec::new(),
        bindings,
        grid: [layers.len() as u32, 1, 1],
        bytes: 4 * keys.cols as u64,
        flops: 0,
        twin: reference::draw::select_twin(layers.to_vec(), d.round.is_some()),
    })
}

fn check(label: &str, layers: &[Layer], d: &Draw) -> Result<()> {
    if let Some(l) = layers.iter().find(|l| l.r == 0 || l.r > l.k || l.k >= MOST) {
        return Err(Error::shape("draw", format!("{label}: {} of {} vectors, of at most {}", l.r, l.k, MOST - 1)));
    }
    if layers.is_empty() || d.round.is_some_and(|(_, draws)| draws == 0) {
        return Err(Error::shape("draw", format!("{label}: {} layers, rounds {:?}", layers.len(), d.round)));
    }
    let mut places: Vec<Range<usize>> = layers.iter().map(|l| l.indices..l.indices + l.r).collect();
    places.sort_by_key(|p| p.start);
    if let Some(w) = places.windows(2).find(|w| w[0].end > w[1].start) {
        return Err(Error::shape("draw", format!("{label}: two layers write index {}", w[1].start)));
    }
    Ok(())
}

/// Consecutive layers whose singular values one binding can hold.
fn groups(facts: &Facts, layers: &[Layer]) -> Vec<Range<usize>> {
    let mut out: Vec<(Range<usize>, Range<usize>)> = Vec::new();
    for (i, l) in layers.iter().enumerate() {
        let own = l.sigma..l.sigma + l.k;
        if let Some((group, values)) = out.last_mut() {
            let all = values.start.min(own.start)..values.end.max(own.end);
            if 4 * (all.end - (all.start & !63)) as u64 <= facts.max_binding {
                (group.end, *values) = (i + 1, all);
                continue;
            }
        }
        out.push((i..i + 1, own));
    }
    out.into_iter().map(|(group, _)| group).collect()
}

fn push_keys(b: &mut Builder, label: &str, layers: &[Layer], d: &Draw, keys: &Tensor, group: Range<usize>) -> Result<()> {
    let some = &layers[group.clone()];
    let start = some.iter().map(|l| l.sigma).min().unwrap_or(0);
    let end = some.iter().map(|l| l.sigma + l.k).max().unwrap_or(0);
    let values = b.window(d.values, start..end)?;
    let base = (values.binding.offset / 4) as usize;
    let table = b.window(d.table, 0..layers.len() * LAYER_WORDS)?;
    let mut bindings = vec![values, table, b.window(d.progress, 0..WORDS)?, b.view(keys)?];
    if let Some((slot, _)) = d.round {
        bindings.push(b.window(slot, 0..bitmap_words(layers))?);
    }
    let elements: u64 = some.iter().map(|l| l.k as u64).sum();
    let draws = d.round.map(|(_, draws)| draws);
    b.push(OpSpec {
        label: format!("{label} keys"),
        variant: keys_variant(d.law, d.round.is_some()),
        params: vec![base as u32, group.start as u32, draws.unwrap_or(1) as u32, 0],
        bindings,
        grid: [group.len() as u32, 1, 1],
        bytes: 8 * elements,
        flops: 40 * elements,
        twin: reference::draw::keys_twin(layers.to_vec(), group, d.law, draws, base),
    })
}
