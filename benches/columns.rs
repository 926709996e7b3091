use super::Bed;
use criterion::Criterion;
use etalon::kernel::columns::{Columns, column_sums};

pub(super) fn bench(c: &mut Criterion) {
    let rows = 2048;
    for cols in [96, 768, 3072] {
        let mut bed = Bed::new();
        let (a, y) = (bed.tensor(rows, cols), bed.tensor(1, cols));
        column_sums(&mut bed.builder, "sum", &Columns::Sum(&a), &y, true).unwrap();
        bed.measure(c, "columns", &format!("sum {rows}x{cols}"));
        let mut bed = Bed::new();
        let (a, b, y) = (bed.tensor(rows, cols), bed.tensor(rows, cols), bed.tensor(1, cols));
        column_sums(&mut bed.builder, "dot", &Columns::Dot(&a, &b), &y, true).unwrap();
        bed.measure(c, "columns", &format!("dot {rows}x{cols}"));
        let mut bed = Bed::new();
        let (dy, x, saved, y) = (bed.tensor(rows, cols), bed.tensor(rows, cols), bed.tensor(rows, 2), bed.tensor(1, cols));
        column_sums(&mut bed.builder, "normed", &Columns::Normed { dy: &dy, x: &x, saved: &saved, rms: false }, &y, true).unwrap();
        bed.measure(c, "columns", &format!("normed {rows}x{cols}"));
    }
}
