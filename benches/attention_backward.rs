use super::Bed;
use criterion::Criterion;
use etalon::kernel::attention::{Keys, attention_saving};
use etalon::kernel::attention_backward::{AttentionGradient, attention_backward};
use etalon::kernel::rope::Qkv;
use etalon::kernel::state::State;

/// The attention of one layer over 2048 tokens in training, forward and backward; the label has the number of operations of both
/// passes, in millions.
pub(super) fn bench(c: &mut Criterion) {
    for (d, heads, kv_heads, rows) in [(24, 4, 4, 128), (24, 4, 4, 1024), (64, 12, 12, 128), (64, 12, 12, 1024), (64, 12, 4, 512)] {
        for backward in [false, true] {
            let mut bed = Bed::new();
            let sequences = 2048 / rows;
            let one = State { count: rows as u32, ..State::default() }.words();
            let state = bed.words(&one.repeat(sequences));
            let (q, kv) = (heads * d, kv_heads * d);
            let qkv = bed.tensor(2048, q + 2 * kv);
            let x = Qkv::stacked(&qkv, q, kv);
            let (o, lse, d_o) = (bed.tensor(2048, q), bed.tensor(2048, heads), bed.tensor(2048, q));
            let dx = Qkv { q: bed.tensor(2048, q), k: bed.tensor(2048, kv), v: bed.tensor(2048, kv) };
            let scale = 1.0 / (d as f32).sqrt();
            if backward {
                let g = AttentionGradient {
                    state,
                    x: &x,
                    causal: true,
                    cross: false,
                    sequences,
                    kv_heads,
                    head_dim: d,
                    scale,
                    o: &o,
                    lse: &lse,
                    d_o: &d_o,
                    dx: &dx,
                };
                attention_backward(&mut bed.builder, "backward", &g).unwrap();
            } else {
                let keys = Keys::Activations { causal: true, sequences, kv_heads };
                attention_saving(&mut bed.builder, "forward", state, &x, &keys, d, scale, &o, &lse).unwrap();
            }
            let pairs = sequences * rows * (rows + 1) / 2 * heads;
            let millions = pairs * d * if backward { 14 } else { 4 } / 1_000_000;
            let pass = if backward { "backward" } else { "forward" };
            bed.measure(c, "attention_backward", &format!("{pass} {heads}/{kv_heads} heads of {d}, {rows} rows, {millions} Mflop"));
        }
    }
}
