use super::Bed;
use criterion::Criterion;
use etalon::kernel::adam::{Segment, Update, chunks};
use etalon::kernel::grad_norm::{Page, grad_norm};

pub(super) fn bench(c: &mut Criterion) {
    let mut bed = Bed::new();
    let gradients = bed.tensor(1, 4 << 20).slot;
    let segments =
        [Segment { label: "all".into(), value: 0, gradient: 0, len: 4 << 20, group: 0, weight_decay: 0.0, update: Update::Dense }];
    let (table, progress) = (bed.words(&chunks(&segments)), bed.words(&[0; 16]));
    grad_norm(&mut bed.builder, "norm", &[Page { gradients, segments: &segments, table }], progress, Some(1.0)).unwrap();
    bed.measure(c, "grad_norm", "4M");
}
