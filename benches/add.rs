use super::Bed;
use criterion::Criterion;
use etalon::kernel::add::{accumulate, add};

pub(super) fn bench(c: &mut Criterion) {
    let (rows, cols) = (2048, 768);
    let mut bed = Bed::new();
    let (x, y, z) = (bed.tensor(rows, cols), bed.tensor(rows, cols), bed.tensor(rows, cols));
    add(&mut bed.builder, "add", &x, &y, &z).unwrap();
    bed.measure(c, "add", &format!("{rows}x{cols}"));
    let mut bed = Bed::new();
    let (x, y) = (bed.tensor(rows, cols), bed.tensor(rows, cols));
    accumulate(&mut bed.builder, "add", &x, &y).unwrap();
    bed.measure(c, "add", &format!("in place {rows}x{cols}"));
}
