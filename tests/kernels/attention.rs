use super::{Bench, all_facts};
use etalon::kernel::attention::{Keys, attention};
use etalon::kernel::rope::{Cache, Qkv};
use etalon::kernel::state::State;

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
            let qkv = t.random("qkv", 3 * rows, 3 * heads * d);
            let x = Qkv::stacked(&qkv, heads * d, heads * d);
            let o = t.poisoned("o", 3 * rows, heads * d);
            let keys = Keys::Activations { causal, sequences: 3, kv_heads: heads };
            attention(&mut t.builder, "attention", state, &x, &keys, d, 0.2, &o).unwrap();
            t.verify(&o);
        }
    }
}
