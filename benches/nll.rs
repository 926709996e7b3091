use super::Bed;
use criterion::Criterion;
use etalon::kernel::nll::nll;

pub(super) fn bench(c: &mut Criterion) {
    let mut bed = Bed::new();
    let targets = bed.words(&(0..64).collect::<Vec<u32>>());
    let (x, y) = (bed.tensor(64, 49_152), bed.tensor(1, 64));
    nll(&mut bed.builder, "nll", &x, targets, &y).unwrap();
    bed.measure(c, "nll", "64x49152");
}
