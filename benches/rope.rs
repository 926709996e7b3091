use super::Bed;
use criterion::Criterion;
use etalon::kernel::rope::{Angles, Cache, Pairing, Qkv, rope};
use etalon::kernel::state::State;

pub(super) fn bench(c: &mut Criterion) {
    let (heads, kv_heads, d, capacity) = (9, 3, 64, 512);
    for rows in [1, 256] {
        let mut bed = Bed::new();
        let state = bed.words(&State { count: rows as u32, ..State::default() }.words());
        let qkv = bed.tensor(rows, (heads + 2 * kv_heads) * d);
        let x = Qkv::stacked(&qkv, heads * d, kv_heads * d);
        let (k, v) = (bed.tensor(kv_heads * capacity, d).slot, bed.tensor(kv_heads * capacity, d).slot);
        let cache = Cache { k, v, capacity, sequences: 1, kv_heads, head_dim: d };
        let angles = Angles { slot: bed.tensor(capacity, d).slot, positions: capacity };
        rope(&mut bed.builder, "rope", state, &x, &cache, Pairing::Half, Some(&angles)).unwrap();
        bed.measure(c, "rope", &format!("{rows} rows"));
    }
}
