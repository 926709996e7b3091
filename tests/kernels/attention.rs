use super::{Bench, all_facts, context};
use etalon::kernel::attention::{Keys, attention};
use etalon::kernel::rope::{Cache, Qkv};
use etalon::kernel::state::State;
use etalon::plan::Builder;
use etalon::tensor::Tensor;
use etalon::{Error, Facts};

#[test]
fn attention_over_a_cache_matches_the_twin() {
    for (_, facts) in all_facts() {
        for (d, heads, kv_heads, rows, capacity) in [
            (64, 9, 3, 1, 128),
            (64, 9, 3, 21, 128),
            (64, 2, 2, 37, 64),
            (32, 8, 1, 1, 64),
            (20, 2, 1, 5, 64),
            (16, 4, 2, 5, 64),
            (80, 2, 2, 3, 192),
            (128, 4, 1, 2, 1024),
        ] {
            let mut t = Bench::new(&facts, d as u64);
            let states: Vec<u32> = [capacity as u32 - rows as u32, 0]
                .iter()
                .flat_map(|l| State { length: *l, count: rows as u32, ..State::default() }.words())
                .collect();
            let state = t.words("state", &states);
            let (q_cols, kv_cols) = (heads * d, kv_heads * d);
            let qkv = t.random("qkv", 2 * rows, q_cols + 2 * kv_cols);
            let x = Qkv::stacked(&qkv, q_cols, kv_cols);
            let mut cache = Cache { k: state, v: state, capacity, sequences: 2, kv_heads, head_dim: d };
            let (k, v) = (t.random_values(cache.words()), t.random_values(cache.words()));
            (cache.k, cache.v) = (t.floats("k", &k), t.floats("v", &v));
            let o = t.poisoned("o", 2 * rows, q_cols);
            attention(&mut t.builder, "attention", state, &x, &Keys::Cache(cache), d, 0.31, &o).unwrap();
            t.verify(&o);
        }
    }
}

#[test]
fn attention_over_activations_matches_the_twin() {
    for (_, facts) in all_facts() {
        for causal in [false, true] {
            let (d, heads, rows) = (32, 4, 70);
            let mut t = Bench::new(&facts, 11);
            let states: Vec<u32> = [70, 33, 0].iter().flat_map(|c| State { count: *c, ..State::default() }.words()).collect();
            let state = t.words("state", &states);
            // With and without rows that begin at whole vectors.
            let qkv = if causal { t.random("qkv", 3 * rows, 3 * heads * d) } else { t.random_dense("qkv", 3 * rows, 3 * heads * d) };
            let x = Qkv::stacked(&qkv, heads * d, heads * d);
            let o = t.poisoned("o", 3 * rows, heads * d);
            let keys = Keys::Activations { causal, sequences: 3, kv_heads: heads };
            attention(&mut t.builder, "attention", state, &x, &keys, d, 0.2, &o).unwrap();
            t.verify(&o);
        }
    }
}

/// Rows of queries and of keys in a sequence: cross attention.
pub const CROSS: [(usize, usize); 5] = [(1, 7), (7, 1), (17, 24), (24, 17), (33, 65)];

/// Valid keys of sequences of `keys` of them: one, all, some, none.
pub fn cross_counts(keys: usize) -> [u32; 4] {
    [1, keys as u32, keys as u32 / 2 + 1, 0]
}

#[test]
fn cross_attention_matches_the_twin() {
    for (name, facts) in [("own", context().facts().clone()), ("gpu", like_a_gpu())] {
        for (i, (rows, keys)) in CROSS.into_iter().enumerate() {
            for (d, kv_heads) in [16, 20, 64].into_iter().flat_map(|d| [(d, 4), (d, 2)]) {
                let (heads, counts) = (4, cross_counts(keys));
                let mut t = Bench::new(&facts, (d + rows) as u64);
                let states: Vec<u32> = counts.iter().flat_map(|c| State { count: *c, ..State::default() }.words()).collect();
                let state = t.words("state", &states);
                let n = keys * counts.len();
                // Keys that are not valid hold NaN; keys and values have strides of their own, with and without whole vectors.
                let mut of_keys = |label: &str, extra: usize| {
                    let (cols, offset) = (kv_heads * d, 4 - i % 2);
                    let stride = cols + extra + i % 2;
                    let mut values = t.random_values(offset + n * stride);
                    for r in (0..n).filter(|r| r % keys >= counts[r / keys] as usize) {
                        values[offset + r * stride..][..cols].fill(f32::NAN);
                    }
                    Tensor { slot: t.floats(label, &values), offset, rows: n, cols, stride }
                };
                let (k, v) = (of_keys("k", 4), of_keys("v", 8));
                let x = Qkv { q: t.random("q", rows * counts.len(), heads * d), k, v };
                let o = t.poisoned("o", rows * counts.len(), heads * d);
                let keys_at = Keys::Activations { causal: false, sequences: counts.len(), kv_heads };
                attention(&mut t.builder, "attention", state, &x, &keys_at, d, 0.3, &o).unwrap();
                let got = t.verify(&o);
                assert!(got.iter().all(|v| v.abs() <= 1.0), "{name}: {rows} queries, {keys} keys");
                let none = &got[3 * rows * heads * d..];
                assert!(none.iter().all(|v| *v == 0.0), "{name}: no keys, {rows} queries");
            }
        }
    }
}

#[test]
fn keys_that_do_not_fit_are_refused() {
    let mut b = Builder::new("test", &all_facts().remove(0).1);
    let state = b.external("state", 64);
    let mut t = |label: &str, rows, cols| b.external_tensor(label, rows, cols);
    let x = Qkv { q: t("q", 8, 32), k: t("k", 6, 16), v: t("v", 6, 16) };
    let (o, other) = (t("o", 8, 32), t("other", 5, 16));
    let mut run = |x: &Qkv, causal: bool, kv_heads: usize| {
        attention(&mut b, "cross", state, x, &Keys::Activations { causal, sequences: 2, kv_heads }, 8, 1.0, &o)
    };
    run(&x, false, 2).unwrap();
    for (x, causal, kv_heads) in
        [(x, true, 2), (x, false, 4), (Qkv { v: other, ..x }, false, 2), (Qkv { k: other, v: other, ..x }, false, 2)]
    {
        let e = run(&x, causal, kv_heads).unwrap_err();
        assert!(matches!(e, Error::Shape { .. }) && e.to_string().contains("q (8, 32), k ("), "{e}");
    }
}

/// Facts of a GPU without subgroup operations, on whatever adapter there is.
pub fn like_a_gpu() -> Facts {
    let mut facts = context().facts().clone();
    facts.features = wgpu::Features::empty();
    facts.info.device_type = wgpu::DeviceType::DiscreteGpu;
    facts
}

/// Head dimension, heads, key heads, rows, capacity, and the tokens before the run of each sequence.
type Case<'a> = (usize, usize, usize, usize, usize, &'a [u32]);

/// The output of attention over a cache, each op having been checked, and the variants of the ops.
fn over_a_cache(facts: &Facts, (d, heads, kv_heads, rows, capacity, lengths): Case<'_>) -> (Vec<f32>, Vec<String>) {
    let mut t = Bench::new(facts, (d + capacity) as u64);
    let states = lengths.iter().flat_map(|l| State { length: *l, count: rows as u32, ..State::default() }.words());
    let states: Vec<u32> = states.collect();
    let state = t.words("state", &states);
    let (q_cols, kv_cols) = (heads * d, kv_heads * d);
    let qkv = t.random("qkv", lengths.len() * rows, q_cols + 2 * kv_cols);
    let x = Qkv::stacked(&qkv, q_cols, kv_cols);
    let mut cache = Cache { k: state, v: state, capacity, sequences: lengths.len(), kv_heads, head_dim: d };
    let (k, v) = (t.random_values(cache.words()), t.random_values(cache.words()));
    (cache.k, cache.v) = (t.floats("k", &k), t.floats("v", &v));
    let o = t.poisoned("o", lengths.len() * rows, q_cols);
    attention(&mut t.builder, "attention", state, &x, &Keys::Cache(cache), d, 0.31, &o).unwrap();
    t.verify_ops(&o)
}

fn is_split(ops: &[String]) -> bool {
    ops.iter().any(|n| n.starts_with("attention_merge"))
}

#[test]
fn attention_split_over_keys_matches_the_twin() {
    let mut all: Vec<(&str, Facts)> = all_facts();
    all.push(("gpu", like_a_gpu()));
    for (name, facts) in all {
        for case in [
            (64, 3, 1, 1, 1024, &[0, 62, 63, 64, 1023][..]),
            (32, 3, 1, 2, 2048, &[125, 2045]),
            (64, 6, 2, 1, 4096, &[1022, 1023, 1024]),
            (128, 4, 1, 3, 1024, &[1021, 511]),
            (80, 2, 2, 2, 600, &[127, 598]),
            (20, 4, 1, 1, 2048, &[1, 255, 256]),
            (65, 3, 3, 1, 1024, &[700]),
        ] {
            let (d, _, _, _, capacity, _) = case;
            if 4 * d * capacity + 256 > facts.max_binding as usize {
                continue; // a head of the cache must fit into a binding
            }
            let (_, ops) = over_a_cache(&facts, case);
            assert!(name != "gpu" || is_split(&ops), "{case:?}: {ops:?}");
        }
    }
}

#[test]
fn split_or_not_the_result_is_the_same_and_its_bits_do_not_change() {
    // Enough workgroups for a CPU, but not for a GPU.
    let case: Case<'_> = (64, 12, 4, 1, 1024, &[0, 100, 1023]);
    let (whole, ops) = over_a_cache(&Facts { features: wgpu::Features::empty(), ..context().facts().clone() }, case);
    assert!(!is_split(&ops) || !context().facts().is_software(), "{ops:?}");
    let (split, ops) = over_a_cache(&like_a_gpu(), case);
    assert!(is_split(&ops), "{ops:?}");
    let error = whole.iter().zip(&split).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(error < 1e-6, "off by {error:e}");
    assert_eq!(split, over_a_cache(&like_a_gpu(), case).0);
}

#[test]
fn queries_that_share_keys_match_the_twin() {
    for (d, heads, kv_heads, rows) in [
        (64, 7, 1, 1),
        (64, 8, 1, 2),
        (32, 3, 3, 9),
        (128, 6, 2, 3),
        (256, 4, 2, 2),
        (96, 5, 1, 4),
        (20, 4, 1, 7),
        (160, 3, 1, 1),
        (8, 2, 2, 1),
    ] {
        over_a_cache(&like_a_gpu(), (d, heads, kv_heads, rows, 256, &[0, 90]));
    }
}

#[test]
fn short_or_busy_attention_is_one_dispatch() {
    let ops = |facts: &Facts, heads, kv_heads, capacity, sequences: usize| {
        over_a_cache(facts, (64, heads, kv_heads, 1, capacity, &vec![40; sequences])).1.len()
    };
    assert_eq!(ops(&like_a_gpu(), 3, 1, 127, 1), 1, "short");
    assert_eq!(ops(&like_a_gpu(), 3, 1, 128, 1), 2, "long");
    assert_eq!(ops(&like_a_gpu(), 66, 66, 512, 4), 1, "264 workgroups");
}
