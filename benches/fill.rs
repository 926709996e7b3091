use super::Bed;
use criterion::Criterion;
use etalon::kernel::fill::zero;

pub(super) fn bench(c: &mut Criterion) {
    let mut bed = Bed::new();
    let y = bed.tensor(4096, 768);
    zero(&mut bed.builder, "zero", &y).unwrap();
    bed.measure(c, "fill", "4096x768");
}
