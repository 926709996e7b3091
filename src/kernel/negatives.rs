//! Pairs of nodes that are no edges, drawn anew at each step, and the pairs of each node.

use super::progress::WORDS;
use super::{Access, Variant};
use crate::gpu::Facts;
use crate::plan::{Builder, OpSpec, SlotId};
use crate::reference;
use crate::{Error, Result};

/// Most nodes, and most pairs: places are counted in 32 bits.
pub const MOST: usize = 1 << 29;

/// Pairs that are drawn from the nodes of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Negatives {
    /// Number of nodes.
    pub nodes: usize,
    /// Number of pairs.
    pub count: usize,
    /// Where each node's neighbours begin, and the last ones end: `nodes + 1` words.
    pub offsets: SlotId,
    /// The neighbours of node after node, ascending for each.
    pub columns: SlotId,
    /// Their number.
    pub entries: usize,
    /// The run's progress; see [`super::progress`].
    pub progress: SlotId,
    /// Tells the draws of a plan apart.
    pub stream: u32,
}

impl Negatives {
    /// D, the smallest power of two that is at least the number of pairs and 4: what the bijections permute.
    pub fn domain(&self) -> usize {
        domain(self.count)
    }

    /// Places of a node in [`incidence`]: twice `ceil(D / nodes)`.
    pub fn width(&self) -> usize {
        Self::width_of(self.nodes, self.count)
    }

    /// The same for so many nodes and pairs.
    pub fn width_of(nodes: usize, count: usize) -> usize {
        2 * domain(count).div_ceil(nodes.max(1))
    }

    fn check(&self, label: &str) -> Result<()> {
        if self.nodes == 0 || self.nodes > MOST || self.count > MOST || self.entries > u32::MAX as usize {
            let sizes = format!("{} pairs of {} nodes with {} neighbours", self.count, self.nodes, self.entries);
            return Err(Error::shape("negatives", format!("{label}: {sizes}")));
        }
        Ok(())
    }

    /// Nodes, the mask and the shift of the bijections, the stream.
    fn params(&self) -> Vec<u32> {
        let domain = self.domain() as u32;
        vec![self.nodes as u32, domain - 1, domain.ilog2().div_ceil(2), self.stream]
    }
}

fn domain(count: usize) -> usize {
    count.clamp(4, MOST).next_power_of_two()
}

const DRAW: [Access; 6] = [Access::Read, Access::Read, Access::Read, Access::Write, Access::Write, Access::Write];
const INCIDENCE: [Access; 6] = [Access::Read, Access::Read, Access::Read, Access::Read, Access::Write, Access::Write];

fn variant(incidence: bool) -> Variant {
    let access: &[Access] = if incidence { &INCIDENCE } else { &DRAW };
    let source = include_str!("../../shaders/negatives.wgsl");
    Variant { kernel: "negatives", source, defines: vec![("OP", i64::from(incidence))], access, subgroup: None }
}

pub(crate) fn variants(_: &Facts) -> Vec<Variant> {
    [false, true].map(variant).into()
}

/// Appends, for every pair p, `from[p] = (s_0(p) mod nodes + t_0) mod nodes` and `to[p]` by `s_1` and `t_1`, with two random bijections
/// of `0..D` ([`Negatives::domain`]) and two random turns, and `targets[p]`: 0 or, where the ends are equal or `to[p]` is a neighbour of `from[p]`,
/// [`super::cross_entropy::IGNORE`].
///
/// What is drawn follows from the run's seed, step and batch of the step, and from `stream`. On each side a node occurs
/// `floor(D / nodes)` or `ceil(D / nodes)` times among the images of `0..D`, and over many steps all nodes alike.
///
/// # Errors
/// [`Error::Shape`] for no nodes, or more nodes or pairs than [`MOST`]; [`Error::Plan`] where a slot is smaller than it should be or
/// the slots are not apart; [`Error::Limit`] where the graph exceeds a binding.
pub fn draw_negatives(b: &mut Builder, label: &str, n: &Negatives, from: SlotId, to: SlotId, targets: SlotId) -> Result<()> {
    n.check(label)?;
    let graph = [b.window(n.progress, 0..WORDS)?, b.window(n.offsets, 0..n.nodes + 1)?, b.window(n.columns, 0..n.entries)?];
    for r in b.row_chunks(n.count, 1)? {
        let out = [b.window(from, r.clone())?, b.window(to, r.clone())?, b.window(targets, r.clone())?];
        let place = [n.entries as u32, r.start as u32, r.len() as u32, out[0].offset];
        b.push(OpSpec {
            label: label.into(),
            variant: variant(false),
            params: n.params().into_iter().chain(place).collect(),
            bindings: graph.into_iter().chain(out).collect(),
            grid: [r.len().div_ceil(64) as u32, 1, 1],
            bytes: 32 * r.len() as u64,
            flops: 600 * r.len() as u64,
            twin: reference::negatives::draw_twin(),
        })?;
    }
    Ok(())
}

/// Appends the pairs of every node, for [`draw_negatives`] of the same batch before it: with `K = ceil(D / nodes)`, the place
/// `n 2K + side K + k` is for the pair p with `s_side(p) = (n - t_side) mod nodes + k nodes`. If there is one and its target is 0, `indices` gets its
/// other end, `to[p]` for side 0 and `from[p]` for side 1, and `entries` `p stride + offset`; else they get n and 2^32 - 1.
///
/// So the row n of a sparse matrix whose rows have [`Negatives::width`] places lists every pair that n is an end of, and sums over
/// the pairs of a node are gathered in a fixed order. `from`, `to` and `targets` hold one word a pair.
///
/// # Errors
/// As [`draw_negatives`]; [`Error::Shape`] where an entry would not fit 32 bits; [`Error::Limit`] also where the pairs exceed a binding.
pub fn incidence(
    b: &mut Builder,
    label: &str,
    n: &Negatives,
    (from, to, targets): (SlotId, SlotId, SlotId),
    indices: SlotId,
    entries: SlotId,
    (stride, offset): (usize, usize),
) -> Result<()> {
    n.check(label)?;
    let largest = n.count.saturating_sub(1).saturating_mul(stride).saturating_add(offset);
    if largest >= u32::MAX as usize || stride > u32::MAX as usize {
        return Err(Error::shape("negatives", format!("{label}: entries up to {largest}, which do not fit 32 bits")));
    }
    let [from, to, targets] = [from, to, targets].map(|slot| b.window(slot, 0..n.count));
    let read = [b.window(n.progress, 0..WORDS)?, from?, to?, targets?];
    let width = n.width();
    for r in b.row_chunks(n.nodes, width)? {
        let words = r.start * width..r.end * width;
        let out = [b.window(indices, words.clone())?, b.window(entries, words.clone())?];
        let place = [n.count, width / 2, r.start, r.len(), stride, offset, out[0].offset as usize, 0].map(|v| v as u32);
        b.push(OpSpec {
            label: label.into(),
            variant: variant(true),
            params: n.params().into_iter().chain(place).collect(),
            bindings: read.into_iter().chain(out).collect(),
            grid: [words.len().div_ceil(64) as u32, 1, 1],
            bytes: 16 * words.len() as u64,
            flops: 400 * words.len() as u64,
            twin: reference::negatives::incidence_twin(),
        })?;
    }
    Ok(())
}
