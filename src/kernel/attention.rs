//! Attention in one pass over the keys (online softmax), grouped heads, causal or over all valid keys; over a long cache in two
//! dispatches, the keys of a head being split over workgroups.

use super::rope::{Cache, Qkv};
use super::{Access, Variant, row_workgroup};
use crate::gpu::Facts;
use crate::plan::{Builder, OpSpec, SlotId, Window};
use crate::reference;
use crate::tensor::Tensor;
use crate::{Error, Result};
use std::ops::Range;

/// Where keys and values are.
#[derive(Debug, Clone, Copy)]
pub enum Keys {
    /// In a cache that the new tokens were appended to; causal.
    Cache(Cache),
    /// In the activations of the run itself. Valid are as many keys of a sequence as its state counts.
    Activations {
        /// Row t sees keys up to its own, of as many as there are queries; otherwise every valid key of its sequence, where the rows
        /// of keys and values may be other than the queries', in number too.
        causal: bool,
        /// Number of sequences.
        sequences: usize,
        /// Key heads.
        kv_heads: usize,
    },
}

/// State, queries, keys, values, the output, and what [`attention_saving`] saves.
const ACCESS: [Access; 6] = [Access::Read, Access::Read, Access::Read, Access::Read, Access::Write, Access::Write];

/// What a variant is chosen by, beside the facts.
#[derive(Debug, Clone, Copy)]
struct Shape {
    head_dim: usize,
    causal: bool,
    /// Query heads of a key head.
    group: usize,
    /// Queries of a sequence.
    rows: usize,
    /// Keys and values can be read as vec4.
    aligned: bool,
}

/// Query heads that share a loaded key, the largest divisor of `group` up to `most`, and how many of `blocks` share it too.
fn share(most: usize, group: usize, blocks: usize) -> (usize, usize) {
    let heads = (1..=most).rev().find(|h| group.is_multiple_of(*h)).unwrap_or(1);
    (heads, (most / heads).min(blocks).max(1))
}

/// Fewest rows of a sequence for which lanes lie over rows: below, most of them would idle.
const ROWS_OVER_LANES: usize = 4;

/// What becomes of the logarithms of the rows' totals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Totals {
    Dropped,
    /// They follow each part's result, for the merge.
    Split,
    /// They go to a tensor, for the gradients.
    Saved,
}

fn variant(facts: &Facts, shape: Shape, totals: Totals) -> Variant {
    let Shape { head_dim, causal, group, rows, aligned } = shape;
    let mut defines = vec![("D", head_dim as i64), ("CAUSAL", i64::from(causal))];
    defines.extend([("SPLIT", i64::from(totals == Totals::Split)), ("SAVE", i64::from(totals == Totals::Saved))]);
    let access = &ACCESS[..5 + usize::from(totals == Totals::Saved)];
    if facts.wide_lanes() && facts.trusts("attention_lanes", 8) && head_dim.is_multiple_of(8) && head_dim <= 128 {
        let side = i64::from(rows >= ROWS_OVER_LANES);
        // A query keeps 2 head_dim registers of a lane that lies over rows.
        let most = if side == 1 && head_dim > 64 { 2 } else { 4 };
        let (heads, blocks) = share(most, group, if side == 1 { rows.div_ceil(8) } else { 1 });
        defines.extend([("SIDE", side), ("HEADS", heads as i64), ("BLOCKS", blocks as i64)]);
        let source = include_str!("../../shaders/attention_lanes.wgsl");
        return Variant { kernel: "attention_lanes", source, defines, access, subgroup: Some(8) };
    }
    let (wg, sg, subgroup) = row_workgroup(facts, "attention", 128);
    // In vec4 of an invocation, as many sums as 64 registers hold, and keys (or values) in half of that; sums of 16 products
    // of keys and queries take half of the workgroup memory that there is everywhere.
    let per = head_dim.div_ceil(32);
    let most = if subgroup.is_some() { 4 } else { (16 / per).clamp(1, 8) };
    let (heads, blocks) = share(most, group, rows);
    let queries = heads * blocks;
    let keys = (8 / per).min(16 / queries).clamp(1, 4);
    defines.extend([("WG", wg), ("SG", sg), ("VEC", i64::from(aligned))]);
    defines.extend([("HEADS", heads as i64), ("QUERIES", queries as i64), ("KEYS", keys as i64)]);
    Variant { kernel: "attention", source: include_str!("../../shaders/attention.wgsl"), defines, access, subgroup }
}

fn merge_variant(head_dim: usize) -> Variant {
    Variant {
        kernel: "attention_merge",
        source: include_str!("../../shaders/attention_merge.wgsl"),
        defines: vec![("D", head_dim as i64)],
        access: &[Access::Read, Access::Write],
        subgroup: None,
    }
}

/// Any head dimension is possible: here are the usual ones, and some below, above and beside a multiple of the workgroup's size.
pub(crate) fn variants(facts: &Facts) -> Vec<Variant> {
    let mut out: Vec<Variant> = Vec::new();
    for head_dim in [20, 32, 64, 65, 80, 96, 128, 160, 256] {
        out.push(merge_variant(head_dim));
        for (group, rows) in (1..=8).flat_map(|group| [1, 2, 3, 4, 5, 6, 7, 8, 16, 24, 100].map(|rows| (group, rows))) {
            for flags in 0..4 {
                let [causal, aligned] = [1, 2].map(|bit| flags & bit != 0);
                let shape = Shape { head_dim, causal, group, rows, aligned: aligned && head_dim.is_multiple_of(4) };
                out.extend([Totals::Dropped, Totals::Saved].map(|totals| variant(facts, shape, totals)));
                if causal && splittable(facts, &shape) {
                    out.push(variant(facts, shape, Totals::Split));
                }
            }
        }
    }
    let mut names = std::collections::HashSet::new();
    out.retain(|v| names.insert(v.name()));
    out
}

/// Only rows of which a workgroup takes few are worth it, and 8 lanes over rows are a block.
fn splittable(facts: &Facts, shape: &Shape) -> bool {
    variant(facts, *shape, Totals::Dropped).define("SIDE") == 0
}

/// Words of a part of the keys in the result of a split: a head, the logarithm of its total, and three more for alignment.
fn part_words(head_dim: usize) -> usize {
    head_dim + 4
}

/// Parts that the keys of a cache are split into, where one workgroup for each would be `workgroups`: enough to keep the device
/// busy (two for each of some 132 compute units of a large GPU, a few for each core of a CPU), but none with so few keys that
/// merging would cost more (measured on llvmpipe: 1024; on an H200 a round of 64 keys takes about 5 us, as long as a dispatch). `row` is the words of a sequence's result for each part.
fn splits(facts: &Facts, workgroups: usize, capacity: usize, row: usize) -> usize {
    let (enough, least): (usize, usize) = match facts.info.device_type {
        wgpu::DeviceType::Cpu => (16, 1024),
        wgpu::DeviceType::IntegratedGpu => (64, 256),
        _ => (264, 64),
    };
    if capacity < 2 * least {
        return 1; // one dispatch is faster than two
    }
    let room = (facts.max_binding / 4).saturating_sub(64) as usize / row.max(1);
    enough.div_ceil(workgroups.max(1)).min(capacity.div_ceil(least)).min(room).max(1)
}

/// One call: its operands and what follows from them.
struct Call<'a> {
    label: &'a str,
    state: SlotId,
    x: &'a Qkv,
    keys: &'a Keys,
    scale: f32,
    shape: Shape,
    sequences: usize,
    heads: usize,
    kv_heads: usize,
    /// Most keys of a sequence.
    capacity: usize,
    /// Of keys and of values.
    strides: [Strides; 2],
    splits: usize,
    /// Where the result goes: the output, or its parts.
    o: Tensor,
    /// Where the logarithms of the totals go.
    lse: Option<Tensor>,
}

impl Call<'_> {
    fn totals(&self) -> Totals {
        match (self.splits > 1, &self.lse) {
            (true, _) => Totals::Split,
            (false, None) => Totals::Dropped,
            (false, Some(_)) => Totals::Saved,
        }
    }
}

/// Strides of keys (or values), in words.
struct Strides {
    sequence: usize,
    head: usize,
    row: usize,
}

/// Appends `o[r, h] = softmax(scale q[r, h] . K) V` for every row r and head h; keys are masked by the sequences' state.
/// Head h reads key head `h / (heads / kv_heads)`. Rows that see no key get zeros.
///
/// # Errors
/// [`Error::Shape`] where the operands do not fit each other; [`Error::Limit`].
#[expect(clippy::too_many_arguments, reason = "a kernel's operands")]
pub fn attention(b: &mut Builder, label: &str, state: SlotId, x: &Qkv, keys: &Keys, head_dim: usize, scale: f32, o: &Tensor) -> Result<()> {
    let call = call(label, state, x, keys, head_dim, scale, o)?;
    append(b, call)
}

/// [`attention`] that also saves what its gradients need ([`super::attention_backward`]): `lse[r, h] = log sum_j exp(scale q[r, h] .
/// k_j)` over the keys that row r sees, which is -3e38 where it sees none. lse is `(rows, heads)`, in a slot of its own.
///
/// # Errors
/// As [`attention`].
#[expect(clippy::too_many_arguments, reason = "a kernel's operands")]
pub fn attention_saving(
    b: &mut Builder,
    label: &str,
    state: SlotId,
    x: &Qkv,
    keys: &Keys,
    head_dim: usize,
    scale: f32,
    o: &Tensor,
    lse: &Tensor,
) -> Result<()> {
    let mut call = call(label, state, x, keys, head_dim, scale, o)?;
    if (lse.rows, lse.cols) != (x.q.rows, call.heads) || (lse.rows > 1 && lse.stride < lse.cols) {
        let (rows, cols, heads) = (lse.rows, lse.cols, call.heads);
        return Err(Error::shape("attention", format!("{label}: logarithms ({rows}, {cols}) of {} rows and {heads} heads", x.q.rows)));
    }
    call.lse = Some(*lse);
    append(b, call)
}

/// Checks the operands against each other.
fn call<'a>(label: &'a str, state: SlotId, x: &'a Qkv, keys: &'a Keys, head_dim: usize, scale: f32, o: &Tensor) -> Result<Call<'a>> {
    let (sequences, kv_heads, capacity, causal) = match keys {
        Keys::Cache(c) => (c.sequences, c.kv_heads, c.capacity, true),
        Keys::Activations { causal, sequences, kv_heads } => (*sequences, *kv_heads, x.k.rows / (*sequences).max(1), *causal),
    };
    let keys_fit = match keys {
        Keys::Cache(_) => true,
        Keys::Activations { .. } => [&x.k, &x.v].iter().all(|t| {
            let rows = if causal { x.q.rows } else { sequences * capacity };
            (t.rows, t.cols) == (rows, kv_heads * head_dim)
        }),
    };
    let heads = x.q.cols / head_dim.max(1);
    let fits = heads * head_dim == x.q.cols && kv_heads > 0 && heads.is_multiple_of(kv_heads) && (o.rows, o.cols) == (x.q.rows, x.q.cols);
    if !fits || !keys_fit || sequences == 0 || !x.q.rows.is_multiple_of(sequences) {
        let [q, k, v] = [&x.q, &x.k, &x.v].map(|t| format!("({}, {})", t.rows, t.cols));
        return Err(Error::shape("attention", format!("{label}: q {q}, k {k}, v {v}, head {head_dim}, causal {causal}")));
    }
    let rows = x.q.rows / sequences;
    let strides = [&x.k, &x.v].map(|t| match keys {
        Keys::Cache(c) => Strides { sequence: c.kv_heads * c.head_words(), head: c.head_words(), row: c.head_dim },
        Keys::Activations { .. } => Strides { sequence: capacity * t.stride, head: head_dim, row: t.stride },
    });
    let whole = |t: &Tensor| t.offset.is_multiple_of(4) && t.stride.is_multiple_of(4);
    let aligned = head_dim.is_multiple_of(4) && (matches!(keys, Keys::Cache(_)) || whole(&x.k) && whole(&x.v));
    let shape = Shape { head_dim, causal, group: heads / kv_heads, rows, aligned };
    Ok(Call { label, state, x, keys, scale, shape, sequences, heads, kv_heads, capacity, strides, splits: 1, o: *o, lse: None })
}

fn append(b: &mut Builder, mut call: Call<'_>) -> Result<()> {
    let (o, shape) = (call.o, call.shape);
    let words = call.heads * part_words(shape.head_dim);
    if matches!(call.keys, Keys::Cache(_)) && call.lse.is_none() && splittable(b.facts(), &shape) {
        let grid = grid(&variant(b.facts(), shape, Totals::Split), shape.rows, call.heads, call.sequences);
        let workgroups = grid.iter().map(|g| *g as usize).product();
        call.splits = splits(b.facts(), workgroups, call.capacity, shape.rows * words);
    }
    if call.splits > 1 {
        call.o = b.transient("attention parts", call.x.q.rows, words * call.splits);
    }
    for (s, kv) in pieces(b, &call)? {
        piece(b, &call, s, kv)?;
    }
    if call.splits > 1 { merge(b, &call, &o) } else { Ok(()) }
}

/// Workgroups over rows, heads and sequences, for one part of the keys.
fn grid(variant: &Variant, rows: usize, heads: usize, sequences: usize) -> [u32; 3] {
    let shared = variant.define("HEADS") as usize;
    let rows_each = match variant.kernel {
        "attention_lanes" if variant.define("SIDE") == 1 => 8 * variant.define("BLOCKS") as usize,
        "attention_lanes" => 1,
        _ => variant.define("QUERIES") as usize / shared,
    };
    [rows.div_ceil(rows_each) as u32, (heads / shared) as u32, sequences as u32]
}

/// Sequences and key heads that are an op each: all at once, unless that would exceed a binding.
fn pieces(b: &Builder, call: &Call<'_>) -> Result<Vec<(Range<usize>, Range<usize>)>> {
    let (x, sequences) = (call.x, call.sequences);
    let [k, v] = call.strides.each_ref().map(|s| s.sequence);
    let queries = call.shape.rows * x.q.stride.max(call.o.stride).max(call.lse.map_or(0, |t| t.stride));
    let whole = b.row_chunks(sequences, if matches!(call.keys, Keys::Cache(_)) { queries } else { queries.max(k).max(v) })?;
    match call.keys {
        Keys::Cache(c) if b.row_chunks(sequences, k).is_ok_and(|v| v.len() == 1) && whole.len() == 1 => {
            Ok(vec![(0..sequences, 0..c.kv_heads)])
        }
        Keys::Cache(c) => {
            let heads = b.row_chunks(c.kv_heads, c.head_words())?;
            Ok((0..sequences).flat_map(|s| heads.iter().map(move |h| (s..s + 1, h.clone()))).collect())
        }
        Keys::Activations { .. } => Ok(whole.into_iter().map(|s| (s, 0..call.kv_heads)).collect()),
    }
}

/// Windows of the keys and values of some sequences and key heads.
fn keys_and_values(b: &Builder, call: &Call<'_>, s: &Range<usize>, kv: &Range<usize>) -> Result<(Window, Window)> {
    match call.keys {
        Keys::Cache(c) => {
            let flat = s.start * c.kv_heads + kv.start..(s.end - 1) * c.kv_heads + kv.end;
            let words = flat.start * c.head_words()..flat.end * c.head_words();
            Ok((b.window(c.k, words.clone())?, b.window(c.v, words)?))
        }
        Keys::Activations { .. } => {
            let r = s.start * call.capacity..s.end * call.capacity;
            Ok((b.view(&call.x.k.slice_rows(r.clone()))?, b.view(&call.x.v.slice_rows(r))?))
        }
    }
}

fn piece(b: &mut Builder, call: &Call<'_>, s: Range<usize>, kv: Range<usize>) -> Result<()> {
    let Call { x, strides, o, splits, shape, .. } = call;
    let (rows, group) = (shape.rows, shape.group);
    let q = b.view(&x.q.slice_rows(s.start * rows..s.end * rows))?;
    let ow = b.view(&o.slice_rows(s.start * rows..s.end * rows))?;
    let lse = call.lse.map(|t| b.view(&t.slice_rows(s.start * rows..s.end * rows)).map(|w| (w, t.stride))).transpose()?;
    let (k, v) = keys_and_values(b, call, &s, &kv)?;
    let (q_heads, first_head) = (kv.len() * group, kv.start * group);
    // The first row of the windows is row 0 of sequence s.start; the shader adds that again.
    let back = |offset: u32, stride: usize| offset.wrapping_sub((s.start * rows * stride) as u32);
    let mut params = vec![rows as u32, call.heads as u32, group as u32, *splits as u32];
    params.extend([back(q.offset, x.q.stride), x.q.stride as u32, back(ow.offset, o.stride), o.stride as u32]);
    for (w, strides) in [k, v].iter().zip(strides) {
        params.extend([w.offset, strides.sequence as u32, strides.head as u32, strides.row as u32]);
    }
    params.extend([call.capacity as u32, first_head as u32, s.start as u32, call.scale.to_bits()]);
    params.extend(lse.map_or([0; 4], |(w, stride)| [back(w.offset, stride), stride as u32, 0, 0]));
    let bindings = [b.window(call.state, 0..call.sequences * 32)?, q, k, v, ow].into_iter().chain(lse.map(|l| l.0)).collect();
    let seen = rows * s.len() * q_heads * call.capacity;
    let variant = variant(b.facts(), *shape, call.totals());
    let mut grid = grid(&variant, rows, q_heads, s.len());
    grid[0] *= *splits as u32;
    b.push(OpSpec {
        label: call.label.into(),
        variant,
        params,
        bindings,
        grid,
        bytes: 8 * (s.len() * kv.len() * call.capacity * shape.head_dim) as u64,
        flops: 4 * (seen * shape.head_dim) as u64,
        twin: reference::attention::twin(shape.head_dim, shape.causal, s.len(), q_heads, lse.is_some()),
    })
}

/// Appends the sums over the parts of the keys.
fn merge(b: &mut Builder, call: &Call<'_>, o: &Tensor) -> Result<()> {
    let (parts, d) = (&call.o, call.shape.head_dim);
    for r in b.row_chunks(o.rows, parts.stride.max(o.stride))? {
        let (p, y) = (b.view(&parts.slice_rows(r.clone()))?, b.view(&o.slice_rows(r.clone()))?);
        let params = vec![call.splits as u32, 0, p.offset, parts.stride as u32, y.offset, o.stride as u32, 0, 0];
        b.push(OpSpec {
            label: format!("{} merge", call.label),
            variant: merge_variant(d),
            params,
            bindings: vec![p, y],
            grid: [r.len() as u32, call.heads as u32, 1],
            bytes: 4 * (r.len() * (parts.cols + o.cols)) as u64,
            flops: 3 * (r.len() * parts.cols) as u64,
            twin: reference::attention::merge_twin(d, r.len(), call.heads),
        })?;
    }
    Ok(())
}
