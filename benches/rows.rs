use super::Bed;
use criterion::Criterion;
use etalon::kernel::rows::last_rows;
use etalon::kernel::state::State;

pub(super) fn bench(c: &mut Criterion) {
    let mut bed = Bed::new();
    let state = bed.words(&State { count: 64, ..State::default() }.words().repeat(8));
    let (x, y) = (bed.tensor(8 * 64, 2048), bed.tensor(8, 2048));
    last_rows(&mut bed.builder, "rows", &x, &y, state, 64).unwrap();
    bed.measure(c, "rows", "8 of 512x2048");
}
