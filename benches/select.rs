use super::Bed;
use criterion::Criterion;
use etalon::kernel::select::{select_columns, select_rows};

pub(super) fn bench(c: &mut Criterion) {
    let indices: Vec<u32> = (0..64).map(|i| i * 11 + 5).collect();
    let mut bed = Bed::new();
    let (x, y) = (bed.tensor(1024, 768), bed.tensor(1024, 64));
    let slot = bed.words(&indices);
    select_columns(&mut bed.builder, "columns", &x, (slot, 0), None, &y).unwrap();
    bed.measure(c, "select", "64 of 768 columns, 1024 rows");
    let mut bed = Bed::new();
    let (x, y) = (bed.tensor(768, 768), bed.tensor(64, 768));
    let slot = bed.words(&indices);
    select_rows(&mut bed.builder, "rows", &x, (slot, 0), None, &y).unwrap();
    bed.measure(c, "select", "64 of 768 rows of 768");
}
