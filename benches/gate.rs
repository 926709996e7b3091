use super::Bed;
use criterion::Criterion;
use etalon::kernel::gate::gate;
use etalon::kernel::linear::Activation;

pub(super) fn bench(c: &mut Criterion) {
    let mut bed = Bed::new();
    let (g, u, y) = (bed.tensor(256, 1536), bed.tensor(256, 1536), bed.tensor(256, 1536));
    gate(&mut bed.builder, "gate", Activation::Silu, &g, &u, &y).unwrap();
    bed.measure(c, "gate", "silu 256x1536");
}
