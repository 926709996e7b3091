use super::Bed;
use criterion::Criterion;
use etalon::kernel::dropout::dropout;
use etalon::kernel::progress::Progress;

pub(super) fn bench(c: &mut Criterion) {
    let mut bed = Bed::new();
    let (x, y) = (bed.tensor(2048, 768), bed.tensor(2048, 768));
    let progress = bed.words(&Progress::default().words());
    dropout(&mut bed.builder, "dropout", &x, &y, 0.1, progress, 0).unwrap();
    bed.measure(c, "dropout", "2048x768");
}
