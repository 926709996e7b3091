use super::Bed;
use criterion::Criterion;
use etalon::kernel::hinge::{Hinge, hinge};

pub(super) fn bench(c: &mut Criterion) {
    for (rows, cols) in [(40_000, 2), (40_000, 12)] {
        let mut bed = Bed::new();
        let targets = bed.words(&(0..rows as u32).map(|r| r % cols as u32).collect::<Vec<_>>());
        let (x, y, scale) = (bed.tensor(rows, cols), bed.tensor(1, rows), bed.tensor(1, 1));
        let loss = Hinge { scores: &x, targets: (targets, 0), losses: &y, scale: (scale.slot, 0), margin: 1.0, gradient: true };
        hinge(&mut bed.builder, "loss", &loss).unwrap();
        bed.measure(c, "hinge", &format!("{rows}x{cols}"));
    }
}
