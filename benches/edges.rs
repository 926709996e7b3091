use super::Bed;
use criterion::Criterion;
use etalon::kernel::edges::{Pairs, edge_scores};

pub(super) fn bench(c: &mut Criterion) {
    let (nodes, count) = (20_000u32, 100_000u32);
    let mut bed = Bed::new();
    let ends: Vec<u32> = (0..2 * count).map(|i| i.wrapping_mul(2_654_435_761) % nodes).collect();
    let slot = bed.words(&ends);
    let (h, y) = (bed.tensor(nodes as usize, 16), bed.tensor(count as usize, 1));
    let pairs = Pairs { from: (slot, 0), to: (slot, count as usize), count: count as usize };
    edge_scores(&mut bed.builder, "edges", &h, &pairs, &y).unwrap();
    bed.measure(c, "edges", "100000 of 20000x16");
}
