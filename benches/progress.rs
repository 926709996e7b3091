use super::Bed;
use criterion::Criterion;
use etalon::kernel::progress::{Progress, count_loss, end_step};

pub(super) fn bench(c: &mut Criterion) {
    let mut bed = Bed::new();
    let (losses, scale) = (bed.tensor(1, 2048), bed.tensor(1, 1));
    let (progress, log) = (bed.words(&Progress::default().words()), bed.words(&[0; 4 * 64]));
    count_loss(&mut bed.builder, "count", &losses, (scale.slot, 0), progress).unwrap();
    end_step(&mut bed.builder, "end", progress, log, 64).unwrap();
    bed.measure(c, "progress", "2048 losses and the end of a step");
}
