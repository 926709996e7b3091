use super::{Bench, all_facts};
use etalon::kernel::sample::sample;
use etalon::kernel::state::State;

#[test]
fn choices_have_the_right_property() {
    let base = State { temperature: 0.8, count: 3, length: 7, step: 5, seed: 0x1234_5678_9abc_def0, stops: vec![1, 2], ..State::default() };
    let settings = [
        State { temperature: 0.0, ..base.clone() },
        base.clone(),
        State { top_k: 1, ..base.clone() },
        State { top_k: 40, ..base.clone() },
        State { top_p: 0.3, ..base.clone() },
        State { min_p: 0.2, ..base.clone() },
        State { top_k: 100, top_p: 0.9, min_p: 0.05, temperature: 1.7, ..base.clone() },
        State { active: false, ..base.clone() },
    ];
    for (_, facts) in all_facts().into_iter().take(2) {
        for n in [1, 7, 257, 5000] {
            let mut t = Bench::new(&facts, n as u64);
            let words: Vec<u32> = settings.iter().flat_map(State::words).collect();
            let state = t.words("state", &words);
            let mut logits = t.random("logits", settings.len(), n);
            logits.rows = settings.len();
            let next = t.words("next", &[9; 8]);
            let output = t.words("output", &[77; 8 * 4]);
            sample(&mut t.builder, "sample", &logits, state, next, output, 4).unwrap();
            t.verify(&logits);
        }
    }
}
