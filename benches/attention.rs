use super::Bed;
use criterion::Criterion;
use etalon::kernel::attention::{Keys, attention};
use etalon::kernel::rope::{Cache, Qkv};
use etalon::kernel::state::State;

pub(super) fn bench(c: &mut Criterion) {
    let (heads, kv_heads, d) = (9, 3, 64);
    for (rows, length) in [(1usize, 511usize), (1, 4095), (64, 0)] {
        let mut bed = Bed::new();
        let capacity = (length + rows).next_multiple_of(64);
        let state = bed.words(&State { length: length as u32, count: rows as u32, ..State::default() }.words());
        let qkv = bed.tensor(rows, (heads + 2 * kv_heads) * d);
        let x = Qkv::stacked(&qkv, heads * d, kv_heads * d);
        let (k, v) = (bed.tensor(kv_heads * capacity, d).slot, bed.tensor(kv_heads * capacity, d).slot);
        let cache = Cache { k, v, capacity, sequences: 1, kv_heads, head_dim: d };
        let o = bed.tensor(rows, heads * d);
        attention(&mut bed.builder, "attention", state, &x, &Keys::Cache(cache), d, 0.125, &o).unwrap();
        bed.measure(c, "attention", &format!("{rows} rows at {length}"));
    }
}
