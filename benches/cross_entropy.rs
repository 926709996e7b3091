use super::Bed;
use criterion::Criterion;
use etalon::kernel::cross_entropy::{CrossEntropy, cross_entropy};

pub(super) fn bench(c: &mut Criterion) {
    for (rows, cols) in [(64, 50_272), (64, 30_522)] {
        let mut bed = Bed::new();
        let targets = bed.words(&(0..rows as u32).collect::<Vec<_>>());
        let (x, y, scale) = (bed.tensor(rows, cols), bed.tensor(1, rows), bed.tensor(1, 1));
        let loss = CrossEntropy { logits: &x, targets: (targets, 0), losses: &y, scale: (scale.slot, 0), smoothing: 0.0, gradient: true };
        cross_entropy(&mut bed.builder, "loss", &loss).unwrap();
        bed.measure(c, "cross_entropy", &format!("{rows}x{cols}"));
    }
}
