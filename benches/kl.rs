use super::Bed;
use criterion::Criterion;
use etalon::kernel::kl::kl;

pub(super) fn bench(c: &mut Criterion) {
    let mut bed = Bed::new();
    let (p, q, y) = (bed.tensor(64, 49_152), bed.tensor(64, 49_152), bed.tensor(1, 64));
    kl(&mut bed.builder, "kl", &p, &q, &y).unwrap();
    bed.measure(c, "kl", "64x49152");
}
