use super::Bed;
use criterion::Criterion;
use etalon::kernel::sample::sample;
use etalon::kernel::state::State;

pub(super) fn bench(c: &mut Criterion) {
    let settings = [
        ("greedy", State::default()),
        ("temperature", State { temperature: 0.8, ..State::default() }),
        ("top-k and top-p", State { temperature: 0.8, top_k: 40, top_p: 0.95, ..State::default() }),
    ];
    for (name, state) in settings {
        let mut bed = Bed::new();
        let logits = bed.tensor(1, 49_152);
        let (state, next, output) = (bed.words(&state.words()), bed.words(&[0]), bed.words(&[0; 64]));
        sample(&mut bed.builder, "sample", &logits, state, next, output, 64).unwrap();
        bed.measure(c, "sample", &format!("{name} 49152"));
    }
}
