//! The norm of all gradients, what they are clipped by, and whether they are finite.

use super::adam::{self, Chunk, Segment};
use super::progress::WORDS;
use super::{Access, Variant, row_workgroup};
use crate::gpu::Facts;
use crate::plan::{Builder, OpSpec, SlotId};
use crate::reference;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Most segments: their numbers are exact in f32.
const SEGMENTS: usize = 1 << 24;

const SUM: [Access; 3] = [Access::Read, Access::Read, Access::Write];
const TOTAL: [Access; 2] = [Access::Read, Access::Write];

fn sum_variant(facts: &Facts, vec4: bool) -> Variant {
    let (wg, sg, subgroup) = row_workgroup(facts, "grad_norm", 256);
    let source = include_str!("../../shaders/grad_norm.wgsl");
    let defines = vec![("VEC", i64::from(vec4)), ("WG", wg), ("SG", sg)];
    Variant { kernel: "grad_norm", source, defines, access: &SUM, subgroup }
}

fn total_variant() -> Variant {
    let source = include_str!("../../shaders/grad_norm_total.wgsl");
    Variant { kernel: "grad_norm_total", source, defines: vec![("WG", 256), ("SG", 0)], access: &TOTAL, subgroup: None }
}

pub(crate) fn variants(facts: &Facts) -> Vec<Variant> {
    vec![sum_variant(facts, false), sum_variant(facts, true), total_variant()]
}

/// Gradients that lie in one slot.
#[derive(Debug, Clone, Copy)]
pub struct Page<'a> {
    /// The slot.
    pub gradients: SlotId,
    /// Its segments.
    pub segments: &'a [Segment],
    /// [`super::adam::chunks`] of them.
    pub table: SlotId,
}

/// Appends the norm of the gradients of all segments of all pages to the run's progress: `NORM = sqrt(sum g^2)` and
/// `CLIP = min(1, clip / (NORM + 1e-6))`, as `torch.nn.utils.clip_grad_norm_`; 1 without `clip`.
///
/// A gradient that is not finite (or above 1e15) makes `NORM` infinite, `CLIP` 0 and, where it was 0, `FAULT` 1 + the number of
/// the first such segment, counted through all pages.
///
/// # Errors
/// [`Error::Shape`] where segments share words, rows do not fit, or there is no gradient at all; [`Error::Limit`].
pub fn grad_norm(b: &mut Builder, label: &str, pages: &[Page<'_>], progress: SlotId, clip: Option<f32>) -> Result<()> {
    let mut cuts = Vec::new();
    let (mut all, mut segments) = (0, 0);
    for p in pages {
        adam::check(p.segments)?;
        let chunks = adam::cut(p.segments);
        all += chunks.len();
        segments += p.segments.len();
        cuts.push(chunks);
    }
    if all == 0 || segments >= SEGMENTS {
        return Err(Error::shape("grad_norm", format!("{label}: {all} chunks of {segments} segments")));
    }
    // Enough workgroups for a large GPU, few sums for the last one.
    let per = (all / 1024).clamp(1, 16);
    let groups: Vec<_> = pages.iter().zip(&cuts).map(|(p, chunks)| adam::groups(b.facts(), p.segments, chunks, false)).collect();
    let count: usize = groups.iter().flatten().map(|g| g.chunks.len().div_ceil(per)).sum();
    let partials = b.transient(format!("{label} sums"), count, 2);
    let (mut first, mut earlier) = (0, 0);
    for ((p, chunks), groups) in pages.iter().zip(&cuts).zip(&groups) {
        for g in groups {
            let rows = partials.slice_rows(first..first + g.chunks.len().div_ceil(per));
            first += rows.rows;
            sum(b, label, p, earlier, &chunks[g.chunks.clone()], g, per, &rows)?;
        }
        earlier += p.segments.len();
    }
    let bindings = vec![b.view(&partials)?, b.window(progress, 0..WORDS)?];
    b.push(OpSpec {
        label: format!("{label} total"),
        variant: total_variant(),
        params: vec![count as u32, u32::from(clip.is_some()), clip.unwrap_or(1.0).to_bits(), 0],
        bindings,
        grid: [1, 1, 1],
        bytes: 8 * count as u64,
        flops: count as u64,
        twin: reference::grad_norm::total_twin(count, clip),
    })
}

#[expect(clippy::too_many_arguments, reason = "all of them are the operands of one dispatch")]
fn sum(
    b: &mut Builder,
    label: &str,
    page: &Page<'_>,
    earlier: usize,
    chunks: &[Chunk],
    g: &adam::Group,
    per: usize,
    partials: &Tensor,
) -> Result<()> {
    let (gw, tw, pw) =
        (b.window(page.gradients, g.gradients.clone())?, b.window(page.table, adam::table_range(&g.chunks))?, b.view(partials)?);
    let base = (gw.binding.offset / 4) as usize;
    let places = |c: &Chunk| {
        let from = page.segments[c.segment].gradient;
        (earlier + c.segment, from + c.words.start - base..from + c.words.end - base)
    };
    let works = chunks.chunks(per).map(|work| work.iter().map(places).collect()).collect();
    let elements: u64 = chunks.iter().map(|c| c.words.len() as u64).sum();
    b.push(OpSpec {
        label: label.into(),
        variant: sum_variant(b.facts(), g.aligned),
        params: vec![base as u32, tw.offset / 4, chunks.len() as u32, per as u32, pw.offset, earlier as u32, 0, 0],
        bindings: vec![gw, tw, pw],
        grid: [partials.rows as u32, 1, 1],
        bytes: 4 * elements,
        flops: 2 * elements,
        twin: reference::grad_norm::sum_twin(works, pw.offset as usize),
    })
}
