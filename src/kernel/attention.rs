//! Attention in one pass over the keys (online softmax), grouped heads, causal or over all valid keys.

use super::rope::{Cache, Qkv};
use super::{Access, Variant, row_workgroup};
use crate::gpu::Facts;
use crate::plan::{Builder, OpSpec, SlotId};
use crate::reference;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Where keys and values are.
#[derive(Debug, Clone, Copy)]
pub enum Keys {
    /// In a cache that the new tokens were appended to; causal.
    Cache(Cache),
    /// In the activations of the run itself.
    Activations {
        /// Row t sees rows up to its own; otherwise every valid row of its sequence.
        causal: bool,
        /// Number of sequences.
        sequences: usize,
        /// Key heads.
        kv_heads: usize,
    },
}

const ACCESS: [Access; 5] = [Access::Read, Access::Read, Access::Read, Access::Read, Access::Write];

/// Query heads that share a loaded key, and blocks of 8 rows, in a workgroup of the 8-lane variant: at most 4 queries a lane for
/// heads of up to 64 elements, 2 above, since each keeps `2 head_dim` registers.
fn lanes(head_dim: usize, group: usize, rows: usize) -> (usize, usize) {
    let most = if head_dim <= 64 { 4 } else { 2 };
    let heads = (1..=most).rev().find(|h| group.is_multiple_of(*h)).unwrap_or(1);
    (heads, (most / heads).min(rows.div_ceil(8)).max(1))
}

/// Fewest rows of a sequence for which lanes lie over rows: below, most of them would idle.
const ROWS_OVER_LANES: usize = 4;

fn variant(facts: &Facts, head_dim: usize, causal: bool, group: usize, rows: usize) -> Variant {
    if facts.wide_lanes() && facts.trusts("attention_lanes", 8) && head_dim.is_multiple_of(8) && head_dim <= 128 {
        let side = i64::from(rows >= ROWS_OVER_LANES);
        let (heads, blocks) = lanes(head_dim, group, rows);
        let blocks = if side == 1 { blocks as i64 } else { 1 };
        let defines =
            vec![("D", head_dim as i64), ("CAUSAL", i64::from(causal)), ("SIDE", side), ("HEADS", heads as i64), ("BLOCKS", blocks)];
        let source = include_str!("../../shaders/attention_lanes.wgsl");
        return Variant { kernel: "attention_lanes", source, defines, access: &ACCESS, subgroup: Some(8) };
    }
    let (wg, sg, subgroup) = row_workgroup(facts, "attention", 64);
    Variant {
        kernel: "attention",
        source: include_str!("../../shaders/attention.wgsl"),
        defines: vec![("D", head_dim as i64), ("CAUSAL", i64::from(causal)), ("WG", wg), ("SG", sg)],
        access: &ACCESS,
        subgroup,
    }
}

/// Any head dimension is possible: here are the usual ones, and some below, above and beside a multiple of the workgroup's size.
pub(crate) fn variants(facts: &Facts) -> Vec<Variant> {
    let dims = [20, 32, 64, 65, 80, 96, 128, 256];
    let shapes = [(1, 1), (3, 1), (8, 1), (1, 100), (2, 100), (3, 100), (1, 8)];
    let all = dims.into_iter().flat_map(|d| shapes.map(|(group, rows)| (d, group, rows)));
    let mut out: Vec<Variant> = all.flat_map(|(d, g, r)| [false, true].map(|causal| variant(facts, d, causal, g, r))).collect();
    out.dedup();
    out
}

/// Strides and windows of keys (or values), in words.
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
    let (sequences, kv_heads, capacity, causal) = match keys {
        Keys::Cache(c) => (c.sequences, c.kv_heads, c.capacity, true),
        Keys::Activations { causal, sequences, kv_heads } => (*sequences, *kv_heads, x.q.rows / (*sequences).max(1), *causal),
    };
    let heads = x.q.cols / head_dim.max(1);
    let fits = heads * head_dim == x.q.cols && kv_heads > 0 && heads.is_multiple_of(kv_heads) && (o.rows, o.cols) == (x.q.rows, x.q.cols);
    if !fits || sequences == 0 || !x.q.rows.is_multiple_of(sequences) {
        let (q, k) = (&x.q, &x.k);
        return Err(Error::shape("attention", format!("{label}: q ({}, {}), k ({}, {}), head {head_dim}", q.rows, q.cols, k.rows, k.cols)));
    }
    let rows = x.q.rows / sequences;
    let strides = match keys {
        Keys::Cache(c) => Strides { sequence: c.kv_heads * c.head_words(), head: c.head_words(), row: c.head_dim },
        Keys::Activations { .. } => Strides { sequence: rows * x.k.stride, head: head_dim, row: x.k.stride },
    };
    // A sequence, and in a cache a run of key heads, is an op of its own where everything at once would exceed a binding.
    let whole = b.row_chunks(sequences, rows * x.q.stride.max(o.stride).max(x.k.stride))?;
    let mut pieces = Vec::new();
    match keys {
        Keys::Cache(c) if b.row_chunks(sequences, strides.sequence).is_ok_and(|v| v.len() == 1) && whole.len() == 1 => {
            pieces.push((0..sequences, 0..c.kv_heads));
        }
        Keys::Cache(c) => {
            for s in 0..sequences {
                pieces.extend(b.row_chunks(c.kv_heads, c.head_words())?.into_iter().map(|h| (s..s + 1, h)));
            }
        }
        Keys::Activations { .. } => pieces.extend(whole.into_iter().map(|s| (s, 0..kv_heads))),
    }
    for (s, kv) in pieces {
        let q = b.view(&x.q.slice_rows(s.start * rows..s.end * rows))?;
        let ow = b.view(&o.slice_rows(s.start * rows..s.end * rows))?;
        let (k, v) = match keys {
            Keys::Cache(c) => {
                let flat = s.start * kv_heads + kv.start..(s.end - 1) * kv_heads + kv.end;
                let words = flat.start * c.head_words()..flat.end * c.head_words();
                (b.window(c.k, words.clone())?, b.window(c.v, words)?)
            }
            Keys::Activations { .. } => {
                let r = s.start * rows..s.end * rows;
                (b.view(&x.k.slice_rows(r.clone()))?, b.view(&x.v.slice_rows(r))?)
            }
        };
        let group = heads / kv_heads;
        let (q_heads, first_head) = (kv.len() * group, kv.start * group);
        // The first row of the windows is row 0 of sequence s.start; the shader adds that again.
        let back = |offset: u32, stride: usize| offset.wrapping_sub((s.start * rows * stride) as u32);
        let mut params = vec![rows as u32, heads as u32, group as u32, head_dim as u32];
        params.extend([back(q.offset, x.q.stride), x.q.stride as u32, back(ow.offset, o.stride), o.stride as u32]);
        for (w, stride) in [(k, &strides), (v, &strides)] {
            params.extend([w.offset, stride.sequence as u32, stride.head as u32, stride.row as u32]);
        }
        params.extend([capacity as u32, first_head as u32, s.start as u32, scale.to_bits()]);
        let state = b.window(state, 0..sequences * 32)?;
        let seen = rows * s.len() * q_heads * capacity;
        let variant = variant(b.facts(), head_dim, causal, group, rows);
        let grid = match variant.kernel {
            "attention_lanes" => {
                let per = if variant.define("SIDE") == 1 { 8 * variant.define("BLOCKS") as usize } else { 1 };
                [rows.div_ceil(per) as u32, (q_heads / variant.define("HEADS") as usize) as u32, s.len() as u32]
            }
            _ => [(rows * s.len()) as u32, q_heads as u32, 1],
        };
        b.push(OpSpec {
            label: label.into(),
            variant,
            params,
            bindings: vec![state, q, k, v, ow],
            grid,
            bytes: 8 * (s.len() * kv.len() * capacity * head_dim) as u64,
            flops: 4 * (seen * head_dim) as u64,
            twin: reference::attention::twin(causal, s.len(), q_heads),
        })?;
    }
    Ok(())
}
