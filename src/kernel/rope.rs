//! Rotary position embedding, and appending keys and values to the cache, in one dispatch.

use super::{Access, Variant};
use crate::gpu::Facts;
use crate::plan::{Builder, OpSpec, SlotId};
use crate::reference;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Which elements of a head are rotated together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pairing {
    /// No rotation: only append.
    None,
    /// `(i, i + d/2)`, as in Hugging Face's Llama.
    Half,
    /// `(2 i, 2 i + 1)`, as GGUF stores Llama.
    Interleaved,
}

/// The key and value caches of one layer: `(sequences * kv_heads, capacity, head_dim)` f32 each.
#[derive(Debug, Clone, Copy)]
pub struct Cache {
    /// Keys.
    pub k: SlotId,
    /// Values.
    pub v: SlotId,
    /// Tokens that fit.
    pub capacity: usize,
    /// Sequences.
    pub sequences: usize,
    /// Key heads of each.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
}

impl Cache {
    /// Words of the keys (or values) of one head of one sequence.
    pub fn head_words(&self) -> usize {
        self.capacity * self.head_dim
    }

    /// Words of all keys (or values).
    pub fn words(&self) -> usize {
        self.sequences * self.kv_heads * self.head_words()
    }
}

/// Queries, keys and values of new tokens: column ranges of one tensor, or three tensors.
#[derive(Debug, Clone, Copy)]
pub struct Qkv {
    /// `(rows, heads head_dim)`
    pub q: Tensor,
    /// `(rows, kv_heads head_dim)`
    pub k: Tensor,
    /// `(rows, kv_heads head_dim)`
    pub v: Tensor,
}

impl Qkv {
    /// The columns of one `(rows, (heads + 2 kv_heads) head_dim)` tensor.
    pub fn stacked(t: &Tensor, q_cols: usize, kv_cols: usize) -> Self {
        Self {
            q: t.slice_cols(0..q_cols),
            k: t.slice_cols(q_cols..q_cols + kv_cols),
            v: t.slice_cols(q_cols + kv_cols..q_cols + 2 * kv_cols),
        }
    }

    fn is_stacked(&self) -> bool {
        self.q.slot == self.k.slot && self.k.slot == self.v.slot
    }
}

/// Angles: a slot of `(positions, head_dim / 2)` pairs (cos, sin) as f32.
#[derive(Debug, Clone, Copy)]
pub struct Angles {
    /// The slot.
    pub slot: SlotId,
    /// Its rows.
    pub positions: usize,
}

use Access::{Read as R, Write as W};

fn variant(pairing: Pairing, stacked: bool, vec4: bool) -> Variant {
    let rotates = pairing != Pairing::None;
    let access: &'static [Access] = match (rotates, stacked) {
        (true, true) => &[R, W, W, W, R],
        (true, false) => &[R, W, W, R, R, R, W],
        (false, _) => &[R, W, W, R, R],
    };
    let mode = match pairing {
        Pairing::None => 0,
        Pairing::Half => 1,
        Pairing::Interleaved => 2,
    };
    let defines = vec![("ROPE", mode), ("STACKED", i64::from(stacked && rotates)), ("VEC", i64::from(vec4))];
    Variant { kernel: "rope", source: include_str!("../../shaders/rope.wgsl"), defines, access, subgroup: None }
}

pub(crate) fn variants(_: &Facts) -> Vec<Variant> {
    let pairings = [Pairing::None, Pairing::Half, Pairing::Interleaved].into_iter();
    let flags = [(false, false), (false, true), (true, false), (true, true)];
    pairings.flat_map(|p| flags.map(|(stacked, vec4)| variant(p, stacked, vec4))).collect()
}

/// Appends: rotate `q` in place, rotate `k` into the cache, copy `v` into the cache, at positions `length + t` of the sequences'
/// `state`. Rows beyond a sequence's count, and sequences that are not active, append nothing.
///
/// # Errors
/// [`Error::Shape`] where the operands do not fit each other; [`Error::Limit`].
pub fn rope(b: &mut Builder, label: &str, state: SlotId, x: &Qkv, cache: &Cache, pairing: Pairing, angles: Option<&Angles>) -> Result<()> {
    let (rows, d) = (x.q.rows, cache.head_dim);
    let fits = d % 2 == 0 && x.q.cols.is_multiple_of(d.max(1)) && x.k.cols == cache.kv_heads * d && x.v.cols == x.k.cols;
    if !fits || rows % cache.sequences.max(1) != 0 || x.k.rows != rows || x.v.rows != rows || angles.is_none() != (pairing == Pairing::None)
    {
        return Err(Error::shape("rope", format!("{label}: q ({rows}, {}), k ({}, {}), head {d}", x.q.cols, x.k.rows, x.k.cols)));
    }
    let stacked = x.is_stacked();
    let rotates = pairing != Pairing::None;
    for flat in b.row_chunks(cache.sequences * cache.kv_heads, cache.head_words())? {
        // With several chunks of the cache, only the first may rotate the queries, in place.
        if rotates && flat.start > 0 && stacked {
            return Err(Error::shape("rope", format!("{label}: a cache above the binding limit wants q, k and v apart")));
        }
        let words = flat.start * cache.head_words()..flat.end * cache.head_words();
        let mut bindings = vec![b.window(state, 0..cache.sequences * 32)?, b.window(cache.k, words.clone())?, b.window(cache.v, words)?];
        let (qw, kw, vw) = if stacked && rotates {
            // One window over all columns.
            let start = x.q.offset.min(x.k.offset).min(x.v.offset);
            let end = [&x.q, &x.k, &x.v].iter().map(|t| t.offset + t.span()).max().unwrap_or(0);
            let w = b.window(x.q.slot, start..end)?;
            bindings.push(w);
            let at = |t: &Tensor| w.offset + (t.offset - start) as u32;
            (at(&x.q), at(&x.k), at(&x.v))
        } else {
            let (k, v) = (b.view(&x.k)?, b.view(&x.v)?);
            bindings.extend([k, v]);
            (0, k.offset, v.offset)
        };
        let mut table_offset = 0;
        if let Some(a) = angles {
            let w = b.window(a.slot, 0..a.positions * d)?;
            table_offset = w.offset;
            bindings.push(w);
        }
        let mut q_offset = qw;
        if rotates && !stacked {
            let w = b.view(&x.q)?;
            q_offset = w.offset;
            bindings.push(w);
        }
        let heads = if rotates && flat.start == 0 { x.q.cols / d } else { 0 };
        let sequence_rows = rows / cache.sequences.max(1);
        let mut params = vec![rows as u32, sequence_rows as u32, heads as u32, cache.kv_heads as u32, d as u32, cache.capacity as u32];
        params.extend([q_offset, x.q.stride as u32, kw, x.k.stride as u32, vw, x.v.stride as u32, table_offset / 2]);
        params.extend([flat.start as u32, flat.len() as u32, angles.map_or(0, |a| a.positions as u32)]);
        let pairs = (heads + 2 * cache.kv_heads) * d / 2;
        let places = [q_offset, kw, vw, table_offset].map(|n| n as usize);
        let whole = |n: usize| n.is_multiple_of(4);
        let vec4 = d.is_multiple_of(8) && places.into_iter().chain([x.q.stride, x.k.stride, x.v.stride]).all(whole);
        b.push(OpSpec {
            label: label.into(),
            variant: variant(pairing, stacked, vec4),
            params,
            bindings,
            grid: [pairs.div_ceil(if vec4 { 256 } else { 64 }) as u32, rows as u32, 1],
            bytes: 8 * (rows * pairs * 2) as u64,
            flops: 6 * (rows * pairs) as u64,
            twin: reference::rope::twin(pairing, stacked && rotates),
        })?;
    }
    Ok(())
}
