use super::Bed;
use criterion::Criterion;
use etalon::kernel::dots::row_dots;

pub(super) fn bench(c: &mut Criterion) {
    for (rows, cols) in [(96, 384), (768, 768)] {
        let mut t = Bed::new();
        let (a, b, y) = (t.tensor(rows, cols), t.tensor(rows, cols), t.tensor(1, rows));
        row_dots(&mut t.builder, "dots", &a, &b, &y, false).unwrap();
        t.measure(c, "dots", &format!("{rows}x{cols}"));
    }
}
