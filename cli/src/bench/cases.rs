//! The cases: shapes of real models.

use super::bed::Bed;
use anyhow::Result;
use etalon::graphs::adjacency;
use etalon::kernel::attention::{Keys, attention};
use etalon::kernel::linear::{Fused, linear};
use etalon::kernel::matmul::{Operand, Product, matmul};
use etalon::kernel::norm::{Norm, Rows, norm};
use etalon::kernel::rope::{Cache, Qkv};
use etalon::kernel::sample::sample;
use etalon::kernel::spmm::{Spmm, spmm};
use etalon::kernel::state::State;
use etalon::quant::{QuantFormat, Scales};
use etalon::tensor::{Format, SparseData, SparsePair};
use etalon::train::random::Random;

type Build = Box<dyn Fn(&mut Bed) -> Result<()>>;

pub(super) struct Case {
    pub(super) name: String,
    /// Too slow for a software adapter, unless asked for.
    pub(super) large: bool,
    pub(super) build: Build,
}

fn quant(bits: u32, group: u32, scales: Scales) -> Format {
    Format::Quant(QuantFormat { bits, group, scales, table: None, per_tensor: false })
}

/// Symmetric codes with an f16 scale for every 32.
fn symmetric(bits: u32) -> Format {
    quant(bits, 32, Scales::F16 { zero: 1 << (bits - 1) })
}

fn k_quants() -> [(&'static str, Format); 5] {
    [
        ("Q2_K", quant(2, 16, Scales::K2)),
        ("Q3_K", quant(3, 16, Scales::K3)),
        ("Q4_K", quant(4, 32, Scales::K4)),
        ("Q5_K", quant(5, 32, Scales::K4)),
        ("Q6_K", quant(6, 16, Scales::K6)),
    ]
}

pub(super) fn all() -> Vec<Case> {
    let mut out = Vec::new();
    let mut add = |name: String, large: bool, build: Build| out.push(Case { name, large, build });
    for (n, large) in [(4096, false), (8192, true)] {
        let plain = [8, 4, 2, 3, 5, 6].map(|bits| (format!("int{bits} g32"), symmetric(bits)));
        let formats = plain.into_iter().chain(k_quants().map(|(name, f)| (name.to_owned(), f))).chain([("f16".into(), Format::F16)]);
        for (name, format) in formats {
            add(format!("vector {name} {n}x{n}"), large, product(1, n, n, format));
        }
    }
    add("few columns int4 g32 4x4096x4096".into(), false, product(4, 4096, 4096, symmetric(4)));
    add("few columns Q4_K 4x4096x4096".into(), false, product(4, 4096, 4096, quant(4, 32, Scales::K4)));
    for m in [64, 128, 512] {
        add(format!("matrix int4 g32 {m}x2048x2048"), false, product(m, 2048, 2048, symmetric(4)));
        add(format!("matrix f32 {m}x2048x2048"), false, product(m, 2048, 2048, Format::F32));
    }
    for (n, large) in [(1024, false), (4096, true)] {
        add(format!("matrix f32 {n}x{n}x{n}"), large, product(n, n, n, Format::F32));
    }
    for (n, large) in [(1024, false), (4096, true)] {
        for (name, a_t, b_t) in [("A B", false, false), ("A Bt", false, true), ("At B", true, false)] {
            add(format!("matmul {name} {n}x{n}x{n}"), large, general(n, a_t, b_t));
        }
    }
    for (rows, cols) in [(1, 576), (1, 4096), (512, 2048)] {
        add(format!("RMSNorm {rows}x{cols}"), false, normalise(rows, cols, true));
        add(format!("LayerNorm {rows}x{cols}"), false, normalise(rows, cols, false));
    }
    for context in [512, 4096] {
        add(format!("attention decode 32/8 x 128, {context}"), false, decode_attention(32, 8, 128, context));
        add(format!("attention decode 9/3 x 64, {context}"), false, decode_attention(9, 3, 64, context));
    }
    for cols in [16, 256] {
        add(format!("aggregate 19717 nodes x {cols}, 44324 edges"), false, aggregate(19_717, 44_324, cols));
    }
    add("sample greedy 49152".into(), false, choose(49_152, State::default()));
    let filtered = State { temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0.05, ..State::default() };
    add("sample top-k, top-p, min-p 49152".into(), false, choose(49_152, filtered));
    out
}

/// `m` rows of x times the transpose of an `n x k` weight.
fn product(m: usize, n: usize, k: usize, format: Format) -> Build {
    Box::new(move |bed| {
        let r = bed.rotation(4 * (n * (format.row_words(k) + format.scale_words(k))) as u64, 4 * (m * n) as u64);
        let x = bed.input(m, k)?;
        let weights = bed.matrices(r.operands, format, n, k)?;
        let outputs = bed.outputs(r.outputs, m, n)?;
        for i in 0..r.repeats {
            linear(bed.builder(), "linear", &x, &weights[i % r.operands], &outputs[i % r.outputs], &Fused::default())?;
        }
        Ok(())
    })
}

/// A square product of activations.
fn general(n: usize, a_t: bool, b_t: bool) -> Build {
    Box::new(move |bed| {
        let r = bed.rotation(8 * (n * n) as u64, 4 * (n * n) as u64);
        let pairs = (0..r.operands).map(|_| Ok([bed.input(n, n)?, bed.input(n, n)?])).collect::<Result<Vec<_>>>()?;
        let outputs = bed.outputs(r.outputs, n, n)?;
        let product = Product { a_t, b_t, ..Product::default() };
        for i in 0..r.repeats {
            let [a, b] = pairs[i % r.operands].map(Operand::from);
            matmul(bed.builder(), "matmul", &a, &b, &outputs[i % r.outputs].into(), &product)?;
        }
        Ok(())
    })
}

fn normalise(rows: usize, cols: usize, rms: bool) -> Build {
    Box::new(move |bed| {
        let r = bed.rotation(4 * (rows * cols) as u64, 4 * (rows * cols) as u64);
        let inputs = (0..r.operands).map(|_| bed.input(rows, cols)).collect::<Result<Vec<_>>>()?;
        let outputs = bed.outputs(r.outputs, rows, cols)?;
        let gain = (bed.input(1, cols)?.slot, 0);
        let bias = if rms { None } else { Some((bed.input(1, cols)?.slot, 0)) };
        let n = Norm { gain, bias, rms, eps: 1e-5 };
        for i in 0..r.repeats {
            norm(bed.builder(), "norm", &inputs[i % r.operands], &outputs[i % r.outputs], &n, Rows::All)?;
        }
        Ok(())
    })
}

/// One new token against `context` keys.
fn decode_attention(heads: usize, kv_heads: usize, head_dim: usize, context: usize) -> Build {
    Box::new(move |bed| {
        let r = bed.rotation(8 * (kv_heads * context * head_dim) as u64, 4 * (heads * head_dim) as u64);
        let state = State { length: context as u32 - 1, count: 1, ..State::default() };
        let state = bed.words("state", &state.words())?;
        let (q_cols, kv_cols) = (heads * head_dim, kv_heads * head_dim);
        let qkv = bed.input(1, q_cols + 2 * kv_cols)?;
        let x = Qkv::stacked(&qkv, q_cols, kv_cols);
        let mut caches = Vec::new();
        for _ in 0..r.operands {
            let (k, v) = (bed.input(kv_heads * context, head_dim)?.slot, bed.input(kv_heads * context, head_dim)?.slot);
            caches.push(Cache { k, v, capacity: context, sequences: 1, kv_heads, head_dim });
        }
        let outputs = bed.outputs(r.outputs, 1, q_cols)?;
        for i in 0..r.repeats {
            let keys = Keys::Cache(caches[i % r.operands]);
            attention(bed.builder(), "attention", state, &x, &keys, head_dim, 0.1, &outputs[i % r.outputs])?;
        }
        Ok(())
    })
}

/// Sums over a node and its neighbours, in a graph of PubMed's size whose edges are drawn at random.
fn aggregate(nodes: usize, edges: usize, cols: usize) -> Build {
    Box::new(move |bed| {
        let r = bed.rotation(4 * ((nodes + 2 * edges) * cols) as u64, 4 * (nodes * cols) as u64);
        let mut random = Random::new(0, 0);
        let mut node = || (random.uniform() * nodes as f64) as u32;
        let pairs: Vec<[u32; 2]> = (0..edges).map(|_| [node(), node()]).collect();
        let graph = SparseData::from(&adjacency(nodes, &pairs)?);
        let (pair, slots) = SparsePair::external(bed.builder(), "graph", &graph.extent);
        for (slot, words) in slots.into_iter().zip(&graph.words) {
            bed.bound(slot, words)?;
        }
        let inputs = (0..r.operands).map(|_| bed.input(nodes, cols)).collect::<Result<Vec<_>>>()?;
        let outputs = bed.outputs(r.outputs, nodes, cols)?;
        for i in 0..r.repeats {
            let (x, y) = (&inputs[i % r.operands], &outputs[i % r.outputs]);
            spmm(bed.builder(), "aggregate", &pair.matrix, x, y, &Spmm::default())?;
        }
        Ok(())
    })
}

fn choose(vocabulary: usize, state: State) -> Build {
    Box::new(move |bed| {
        let r = bed.rotation(4 * vocabulary as u64, 512);
        let logits = (0..r.operands).map(|_| bed.input(1, vocabulary)).collect::<Result<Vec<_>>>()?;
        // A dispatch advances its state, so each has one of its own.
        let mut states = Vec::new();
        for _ in 0..r.outputs {
            states.push((bed.words("state", &state.words())?, bed.words("next", &[0; 64])?, bed.words("output", &[0; 64])?));
        }
        for i in 0..r.repeats {
            let (state, next, output) = states[i % r.outputs];
            sample(bed.builder(), "sample", &logits[i % r.operands], state, next, output, 64)?;
        }
        Ok(())
    })
}
