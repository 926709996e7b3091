use super::Bed;
use criterion::Criterion;
use etalon::kernel::embedding::Ids;
use etalon::kernel::scatter::scatter_add;
use etalon::kernel::state::State;

pub(super) fn bench(c: &mut Criterion) {
    // Some ids are frequent, as in text: the n-th with a weight of about 1 / n.
    let id = |i: u32| ((f64::from(i * 7919 % 2048) / 2048.0 * 32_000f64.ln()).exp() as u32).min(31_999);
    for (name, by_position) in [("tokens", false), ("positions", true)] {
        let mut bed = Bed::new();
        let ids = match by_position {
            false => Ids::Buffer(bed.words(&(0..2048).map(id).collect::<Vec<_>>()), 0),
            true => {
                let states: Vec<u32> = (0..8).flat_map(|_| State::default().words()).collect();
                Ids::Position { state: bed.words(&states), sequence_rows: 256, add: 0 }
            }
        };
        let (dy, dw) = (bed.tensor(2048, 768), bed.tensor(if by_position { 256 } else { 32_000 }, 768));
        scatter_add(&mut bed.builder, "scatter", &ids, &dy, &dw, None).unwrap();
        bed.measure(c, "scatter", &format!("{name} 2048x768"));
    }
}
