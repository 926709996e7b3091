//! Gradients of attention over activations: P is made again from the saved log-sum-exp of each row.

use super::rope::Qkv;
use super::{Access, Variant};
use crate::gpu::Facts;
use crate::plan::{Builder, OpSpec, SlotId, Window};
use crate::reference::attention_backward as reference;
use crate::tensor::Tensor;
use crate::{Error, Result};
use std::ops::Range;

/// The operands of [`attention_backward`], those of the forward pass first.
#[derive(Debug, Clone, Copy)]
pub struct AttentionGradient<'a> {
    /// The sequences' states.
    pub state: SlotId,
    /// Queries, keys and values, of `sequences` sequences of equal row counts.
    pub x: &'a Qkv,
    /// Row t sees rows up to its own; otherwise every valid row of its sequence.
    pub causal: bool,
    /// Queries are another sequence's rows: all of them count, and the states count keys alone. Not with `causal`.
    pub cross: bool,
    /// Number of sequences.
    pub sequences: usize,
    /// Key heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Factor of the scores.
    pub scale: f32,
    /// The output of [`super::attention::attention_saving`], `(rows, heads head_dim)`.
    pub o: &'a Tensor,
    /// The logarithms that it saved, `(rows, heads)`.
    pub lse: &'a Tensor,
    /// The gradient of the output, like `o`.
    pub d_o: &'a Tensor,
    /// Where the gradients of queries, keys and values go: three slots of their own, overwritten.
    pub dx: &'a Qkv,
}

use Access::{Read as R, Write as W};

const ACCESS: [Access; 8] = [R, R, R, R, R, R, W, W];

/// What a variant is chosen by, beside the facts.
#[derive(Debug, Clone, Copy)]
struct Shape {
    head_dim: usize,
    causal: bool,
    /// Query heads of a key head.
    group: usize,
    /// Rows of a sequence that are owned.
    rows: usize,
    /// Rows of a sequence that are streamed over.
    stream: usize,
    /// Everything can be read and written as vec4.
    aligned: bool,
}

/// Most rows that a workgroup of 8 lanes streams over: at one iteration each, that stays below llvmpipe's 65,535.
const LANES_STREAM: usize = 1 << 15;
/// Elements of owned rows, times streamed rows of an iteration, that a lane multiplies in one: more would leave the instruction cache.
const LANES_WORK: usize = 256;

/// `keys`: for dK and dV, else for dQ.
fn variant(facts: &Facts, shape: Shape, keys: bool) -> Variant {
    let Shape { head_dim, causal, group, rows, stream, aligned } = shape;
    let mut defines = vec![("D", head_dim as i64), ("CAUSAL", i64::from(causal)), ("KEYS", i64::from(keys)), ("VEC", i64::from(aligned))];
    let access = &ACCESS[..7 + usize::from(keys)];
    let lanes = facts.wide_lanes() && facts.trusts("attention_backward_lanes", 8);
    if lanes && aligned && head_dim <= 128 && stream.saturating_mul(group) <= LANES_STREAM {
        // Streamed rows that are whole loads of 8 vec4.
        let t = [1, 2, 4, 8].into_iter().find(|t| (t * head_dim).is_multiple_of(32)).unwrap_or(8);
        let blocks = (LANES_WORK / (t * head_dim)).clamp(1, 4).min(rows.div_ceil(8)).max(1);
        defines.extend([("T", t as i64), ("BLOCKS", blocks as i64)]);
        let source = include_str!("../../shaders/attention_backward_lanes.wgsl");
        return Variant { kernel: "attention_backward_lanes", source, defines, access, subgroup: Some(8) };
    }
    let source = include_str!("../../shaders/attention_backward.wgsl");
    Variant { kernel: "attention_backward", source, defines, access, subgroup: None }
}

/// Owned rows of a workgroup.
fn rows_each(v: &Variant) -> usize {
    if v.subgroup.is_some() { 8 * v.define("BLOCKS") as usize } else { 32 }
}

fn delta_variant(head_dim: usize, aligned: bool) -> Variant {
    Variant {
        kernel: "attention_delta",
        source: include_str!("../../shaders/attention_delta.wgsl"),
        defines: vec![("D", head_dim as i64), ("VEC", i64::from(aligned))],
        access: &[R, R, R, R, W],
        subgroup: None,
    }
}

/// Any head dimension is possible: here are the usual ones, and some below, above and beside a multiple of 32.
pub(crate) fn variants(facts: &Facts) -> Vec<Variant> {
    let mut out: Vec<Variant> = Vec::new();
    for head_dim in [8, 16, 20, 24, 32, 48, 64, 65, 80, 96, 128, 160, 256] {
        for aligned in [false, true].into_iter().filter(|aligned| !aligned || head_dim % 4 == 0) {
            out.push(delta_variant(head_dim, aligned));
            for (causal, keys, rows) in (0..20).map(|i| (i & 1 > 0, i & 2 > 0, 8 * (i / 4))) {
                out.push(variant(facts, Shape { head_dim, causal, group: 1, rows, stream: rows, aligned }, keys));
            }
        }
    }
    let mut names = std::collections::HashSet::new();
    out.retain(|v| names.insert(v.name()));
    out
}

/// Appends the gradients of `o[r, h] = softmax(scale q[r, h] . K) V` with regard to q, k and v, given `d_o`, that of o:
///
/// `P = exp(scale Q Kᵀ - lse)`, `dS = P (dO Vᵀ - rowsum(dO O))`, `dQ = scale dS K`, `dK = scale dSᵀ Q`, `dV = Pᵀ dO`.
///
/// Sums over the query heads of a key head are part of dK and dV. Rows of a sequence from its count on are not seen by any other,
/// whatever they hold, and get zeros; with `cross`, only keys and values are counted, and as many queries and keys as there are
/// rows of each belong to a sequence. Equal calls give equal bits. Sequences begin at their first row: the states' lengths are 0.
///
/// # Errors
/// [`Error::Shape`] where the operands do not fit each other; [`Error::Plan`] where an output shares its slot with any other
/// operand; [`Error::Limit`].
pub fn attention_backward(b: &mut Builder, label: &str, g: &AttentionGradient<'_>) -> Result<()> {
    let heads = check(label, g)?;
    if g.x.q.rows == 0 {
        return Ok(());
    }
    let stats = b.transient("attention statistics", g.x.q.rows, 2 * heads);
    let tensors = [&g.x.q, &g.x.k, &g.x.v, g.o, g.d_o, g.lse, &g.dx.q, &g.dx.k, &g.dx.v, &stats];
    let longest = tensors.iter().map(|t| t.rows / g.sequences * t.stride).max().unwrap_or(0);
    for sequences in b.row_chunks(g.sequences, longest)? {
        let piece = Piece { label, g, heads, sequences, stats };
        piece.delta(b)?;
        piece.push(b, false)?;
        piece.push(b, true)?;
    }
    Ok(())
}

/// The number of query heads.
fn check(label: &str, g: &AttentionGradient<'_>) -> Result<usize> {
    let (q, k) = (&g.x.q, &g.x.k);
    let heads = q.cols / g.head_dim.max(1);
    let fault = |why: &str| {
        let shapes = format!("q ({}, {}), k ({}, {}), head {}", q.rows, q.cols, k.rows, k.cols, g.head_dim);
        Err(Error::shape("attention_backward", format!("{label}: {shapes}: {why}")))
    };
    let like = |t: &Tensor, of: &Tensor| (t.rows, t.cols) == (of.rows, of.cols);
    if heads * g.head_dim != q.cols || g.kv_heads == 0 || heads == 0 || !heads.is_multiple_of(g.kv_heads) {
        return fault("heads must divide the columns, and key heads the heads");
    }
    if g.cross && g.causal {
        return fault("the queries of another sequence cannot be causal");
    }
    if k.cols != g.kv_heads * g.head_dim || !like(&g.x.v, k) {
        return fault("keys and values must have all key heads, and as many rows");
    }
    if if g.cross { (k.rows == 0) != (q.rows == 0) } else { k.rows != q.rows } {
        return fault("keys and values must have a row for each query, or with cross any rows where there are queries");
    }
    if g.sequences == 0 || !q.rows.is_multiple_of(g.sequences) || !k.rows.is_multiple_of(g.sequences) {
        return fault("sequences must divide the rows");
    }
    if !like(g.o, q) || !like(g.d_o, q) || (g.lse.rows, g.lse.cols) != (q.rows, heads) {
        return fault("the output, its gradient and the saved logarithms must fit the queries");
    }
    if !like(&g.dx.q, q) || !like(&g.dx.k, k) || !like(&g.dx.v, k) {
        return fault("each gradient must have the shape of what it is for");
    }
    if [&g.dx.q, &g.dx.k, &g.dx.v].iter().any(|t| t.rows > 1 && t.stride < t.cols) {
        return fault("the rows of a gradient overlap");
    }
    Ok(heads)
}

/// Sequences that are two ops each: all at once, unless that would exceed a binding.
struct Piece<'a> {
    label: &'a str,
    g: &'a AttentionGradient<'a>,
    heads: usize,
    sequences: Range<usize>,
    /// lse and delta of each row and head.
    stats: Tensor,
}

/// Whether rows and heads begin at whole vectors.
fn whole(head_dim: usize, all: &[&Tensor]) -> bool {
    head_dim.is_multiple_of(4) && all.iter().all(|t| t.offset.is_multiple_of(4) && t.stride.is_multiple_of(4))
}

impl Piece<'_> {
    /// The rows of the piece.
    fn cut(&self, t: &Tensor) -> Tensor {
        let rows = t.rows / self.g.sequences;
        t.slice_rows(self.sequences.start * rows..self.sequences.end * rows)
    }

    fn state(&self, b: &Builder) -> Result<Window> {
        b.window(self.g.state, self.sequences.start * 32..self.sequences.end * 32)
    }

    fn delta(&self, b: &mut Builder) -> Result<()> {
        let g = self.g;
        let [o, d_o, lse, stats] = [g.o, g.d_o, g.lse, &self.stats].map(|t| self.cut(t));
        let [ow, dw, lw, sw] = [b.view(&o)?, b.view(&d_o)?, b.view(&lse)?, b.view(&stats)?];
        let (state, rows) = (self.state(b)?, o.rows);
        let mut params = vec![rows as u32, self.heads as u32, (rows / self.sequences.len()) as u32, state.offset];
        params.extend([ow.offset, o.stride as u32, dw.offset, d_o.stride as u32, lw.offset, lse.stride as u32, sw.offset / 2]);
        params.push(u32::from(g.cross));
        b.push(OpSpec {
            label: format!("{} delta", self.label),
            variant: delta_variant(g.head_dim, whole(g.head_dim, &[&o, &d_o])),
            params,
            bindings: vec![state, ow, dw, lw, sw],
            grid: [(rows * self.heads).div_ceil(8) as u32, 1, 1],
            bytes: 4 * (rows * (2 * o.cols + 3 * self.heads)) as u64,
            flops: 2 * (rows * o.cols) as u64,
            twin: reference::delta_twin(g.head_dim),
        })
    }

    /// dK and dV, or dQ.
    fn push(&self, b: &mut Builder, keys: bool) -> Result<()> {
        let (g, d) = (self.g, self.g.head_dim);
        let (queries, others) = ([&g.x.q, g.d_o], [&g.x.k, &g.x.v]);
        let (own, stream) = if keys { (others, queries) } else { (queries, others) };
        let outputs = if keys { vec![&g.dx.k, &g.dx.v] } else { vec![&g.dx.q] };
        let all: Vec<Tensor> = own.into_iter().chain(stream).chain(outputs).map(|t| self.cut(t)).collect();
        let (rows, stream) = (own[0].rows / g.sequences, stream[0].rows / g.sequences);
        let shape = Shape {
            head_dim: d,
            causal: g.causal,
            group: self.heads / g.kv_heads,
            rows,
            stream,
            aligned: whole(d, &all.iter().collect::<Vec<_>>()),
        };
        let state = self.state(b)?;
        let stats = b.view(&self.cut(&self.stats))?;
        let mut windows = all.iter().map(|t| b.view(t)).collect::<Result<Vec<_>>>()?;
        let mut params = vec![rows as u32, self.heads as u32, shape.group as u32, state.offset];
        for (t, w) in all.iter().zip(&windows) {
            params.extend([w.offset, t.stride as u32]);
        }
        params.resize(16, 0);
        params.extend([stats.offset / 2, g.scale.to_bits(), stream as u32, u32::from(g.cross)]);
        windows.insert(4, stats);
        windows.insert(0, state);
        let variant = variant(b.facts(), shape, keys);
        let (sequences, own_heads) = (self.sequences.len(), if keys { g.kv_heads } else { self.heads });
        // Of each pair: two products, and one for each output.
        let pairs = sequences * self.heads * rows * stream / (1 + usize::from(g.causal));
        b.push(OpSpec {
            label: format!("{} {}", self.label, if keys { "dk dv" } else { "dq" }),
            params,
            bindings: windows,
            grid: [rows.div_ceil(rows_each(&variant)) as u32, own_heads as u32, sequences as u32],
            variant,
            bytes: 4 * all.iter().map(|t| t.rows * t.cols).sum::<usize>() as u64,
            flops: (2 * d * pairs * (3 + usize::from(keys))) as u64,
            twin: reference::twin(d, g.causal, keys, sequences),
        })
    }
}
