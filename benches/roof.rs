use super::Bed;
use criterion::Criterion;
use etalon::kernel::roof::{copy, fma};

pub(super) fn bench(c: &mut Criterion) {
    let mut bed = Bed::new();
    let (x, y) = (bed.tensor(1024, 4096), bed.tensor(1024, 4096));
    copy(&mut bed.builder, "copy", &x, &y).unwrap();
    bed.measure(c, "roof", "copy 16 MiB");
    let mut bed = Bed::new();
    let y = bed.tensor(1, 1 << 14);
    fma(&mut bed.builder, "fma", &y, 32, 0.999, 0.001).unwrap();
    bed.measure(c, "roof", "multiply-adds 16384 x 32 rounds");
}
