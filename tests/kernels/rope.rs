use super::{Bench, POISON, all_facts};
use etalon::kernel::rope::{Angles, Cache, Pairing, Qkv, rope};
use etalon::kernel::state::State;

#[test]
fn rotating_and_appending_match_the_twin() {
    for (_, facts) in all_facts() {
        for pairing in [Pairing::None, Pairing::Half, Pairing::Interleaved] {
            for stacked in [false, true] {
                for (d, heads, kv_heads) in [(64, 3, 1), (16, 4, 2), (80, 2, 2), (20, 2, 1)] {
                    let mut t = Bench::new(&facts, d as u64);
                    let states = [
                        State { length: 3, count: 2, ..State::default() },
                        State { length: 60, count: 3, ..State::default() },
                        State { length: 0, count: 3, active: false, ..State::default() },
                    ];
                    let words: Vec<u32> = states.iter().flat_map(State::words).collect();
                    let state = t.words("state", &words);
                    let rows = 9;
                    let (q_cols, kv_cols) = (heads * d, kv_heads * d);
                    // Aligned for vectors, but for one of the sizes.
                    let mut random = |label, cols| if d == 16 { t.random(label, rows, cols) } else { t.random_dense(label, rows, cols) };
                    let x = if stacked {
                        Qkv::stacked(&random("qkv", q_cols + 2 * kv_cols), q_cols, kv_cols)
                    } else {
                        Qkv { q: random("q", q_cols), k: random("k", kv_cols), v: random("v", kv_cols) }
                    };
                    let mut cache = Cache { k: state, v: state, capacity: 64, sequences: 3, kv_heads, head_dim: d };
                    let poison = vec![POISON; cache.words()];
                    cache.k = t.floats("k cache", &poison);
                    cache.v = t.floats("v cache", &poison);
                    let table: Vec<f32> = (0..64 * d / 2).flat_map(|i| [(i as f32).cos(), (i as f32).sin()]).collect();
                    let angles = Angles { slot: t.floats("angles", &table), positions: 64 };
                    let angles = (pairing != Pairing::None).then_some(&angles);
                    rope(&mut t.builder, "rope", state, &x, &cache, pairing, angles).unwrap();
                    t.verify(&x.q);
                }
            }
        }
    }
}
