use super::{Bench, all_facts};
use etalon::kernel::adam::{Adam, After, Parameters, Rule, Segment, Update, adam, chunks, table_words};
use etalon::kernel::progress::{Progress, SCHEDULE_WORDS};
use etalon::plan::SlotId;
use etalon::tensor::Tensor;

const STEPS: usize = 8;

/// A schedule of one row a step, the same for all groups but for the rate: group g has `lr (g + 1)`.
pub fn schedule(a: &Adam, lr: f32, steps: usize) -> Vec<f32> {
    let row = |t: usize| {
        let c = move |beta: f32| (1.0 / (1.0 - f64::from(beta).powi(t as i32 + 1))) as f32;
        (0..SCHEDULE_WORDS / 4).flat_map(move |g| [lr * (g + 1) as f32, c(a.beta1), c(a.beta2), f32::from(u8::from(t == 0))])
    };
    (0..steps).flat_map(row).collect()
}

fn segment(label: &str, value: usize, gradient: usize, len: usize, update: Update) -> Segment {
    Segment { label: label.into(), value, gradient, len, group: 0, weight_decay: 0.1, update }
}

fn rows(indices: usize, count: usize, cols: usize, after: After) -> Update {
    Update::Rows { indices, count, cols, after }
}

/// What a step works on, kept so that it can be run again from the same numbers.
struct Case {
    segments: Vec<Segment>,
    values: Vec<f32>,
    gradients: Vec<f32>,
    moments: [Vec<f32>; 2],
    indices: Vec<u32>,
}

impl Case {
    fn new(t: &mut Bench, segments: Vec<Segment>, indices: Vec<u32>) -> Self {
        let values = segments.iter().map(|s| s.value + s.len).max().unwrap_or(1) + 3;
        let gradients = segments.iter().map(|s| s.gradient + s.gradient_len()).max().unwrap_or(1) + 3;
        let moments = [t.random_values(gradients), t.random_values(gradients).iter().map(|v| v * v).collect()];
        Self { values: t.random_values(values), gradients: t.random_values(gradients), moments, segments, indices }
    }

    /// Verifies one step, and returns values and moments after it.
    fn run(&self, mut t: Bench, rule: &Rule, progress: Progress, lr: f32) -> [Vec<f32>; 3] {
        let values = t.floats("values", &self.values);
        let gradients = t.floats("gradients", &self.gradients);
        let (first, second) = (t.floats("first", &self.moments[0]), t.floats("second", &self.moments[1]));
        let indices = t.words("indices", &self.indices);
        let schedule = t.floats("schedule", &schedule(&Adam::default(), lr, STEPS));
        let progress = t.words("progress", &progress.words());
        let table = t.words("table", &chunks(&self.segments));
        let p = Parameters { values, gradients, first, second, indices, schedule, progress, steps: STEPS };
        adam(&mut t.builder, "adam", &p, &self.segments, table, rule).unwrap();
        let whole = |slot: SlotId, n: usize| Tensor { slot, offset: 0, rows: 1, cols: n, stride: n };
        let all = [(values, self.values.len()), (first, self.gradients.len()), (second, self.gradients.len())];
        let (context, bound) = (t.context.clone(), t.bound.clone());
        t.verify(&whole(values, self.values.len()));
        all.map(|(slot, n)| {
            let buffer = &bound.iter().find(|b| b.0 == slot).unwrap().1;
            let words = context.block_on(context.read_ranges(&[(buffer, 0..4 * n as u64)]).unwrap().words()).unwrap().remove(0);
            words.into_iter().map(f32::from_bits).collect()
        })
    }
}

fn progress(step: u32) -> Progress {
    Progress { step, clip: 0.7, ..Progress::default() }
}

/// Every kind of update, lengths beside whole vectors and chunks, a segment beyond 1 MiB, gaps between segments.
fn awkward() -> (Vec<Segment>, Vec<u32>) {
    let mut all = Vec::new();
    let (mut value, mut gradient) = (64, 0);
    let lengths = [1, 3, 4, 5, 63, 64, 65, 577, 4095, 4096, 4097, 8193, 70_001, 300_000, 0];
    for (i, len) in lengths.into_iter().enumerate() {
        let mut s = segment(&format!("segment {i}"), value, gradient, len, [Update::Dense, Update::Clamped, Update::Step][i % 3]);
        s.group = i % 4;
        all.push(s);
        value = (value + len + 64).next_multiple_of(64);
        gradient = (gradient + len).next_multiple_of(64);
    }
    let shapes = [(1, 1, 1), (5, 3, 7), (7, 7, 64), (40, 11, 65), (9, 2, 1028), (3, 1, 4099), (70, 8, 1), (9, 2, 12)];
    let mut indices: Vec<u32> = vec![9; 5];
    for (i, (k, r, cols)) in shapes.into_iter().enumerate() {
        let mut s = segment(
            &format!("rows {i}"),
            value,
            gradient,
            k * cols,
            rows(indices.len(), r, cols, [After::Normalise, After::Nothing, After::Clamp][i % 3]),
        );
        s.group = 1;
        all.push(s);
        indices.extend((0..r as u32).map(|j| (j * 3 + 1) % k as u32));
        value = (value + k * cols + 64).next_multiple_of(64);
        gradient = (gradient + r * cols).next_multiple_of(64);
    }
    for (i, (r, cols)) in [(1, 1), (7, 64), (3, 65), (2, 4100)].into_iter().enumerate() {
        all.push(segment(&format!("unit rows {i}"), value, gradient, r * cols, Update::Unit { cols }));
        value = (value + r * cols + 64).next_multiple_of(64);
        gradient = (gradient + r * cols).next_multiple_of(64);
    }
    (all, indices)
}

#[test]
fn every_update_matches_the_twin() {
    for (_, facts) in all_facts() {
        for rule in [Rule::default(), Rule::Sgd] {
            for step in [0, 2, 9] {
                let mut t = Bench::new(&facts, step.into());
                let (segments, indices) = awkward();
                assert_eq!(chunks(&segments).len(), table_words(&segments));
                let case = Case::new(&mut t, segments, indices);
                let [values, ..] = case.run(t, &rule, progress(step), 0.01);
                assert_ne!(values, case.values);
            }
        }
    }
}

#[test]
fn segments_at_odd_words_match_the_twin() {
    for (_, facts) in all_facts() {
        let mut t = Bench::new(&facts, 3);
        let segments = vec![
            segment("a", 0, 0, 5, Update::Dense),
            segment("b", 5, 5, 4097, Update::Clamped),
            segment("c", 4103, 4102, 21, rows(0, 3, 3, After::Normalise)),
            segment("d", 4124, 4111, 6, Update::Step),
        ];
        let case = Case::new(&mut t, segments, vec![6, 0, 3]);
        case.run(t, &Rule::default(), progress(1), 0.01);
    }
}

fn bits(v: &[f32]) -> Vec<u32> {
    v.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn a_rate_of_zero_and_a_fault_keep_all_bits() {
    let mut t = Bench::new(&all_facts()[0].1, 5);
    let segments = vec![
        segment("dense", 0, 0, 4099, Update::Dense),
        segment("clamped", 4160, 4160, 9, Update::Clamped),
        segment("rows", 4224, 4224, 5 * 68, rows(0, 2, 68, After::Normalise)),
    ];
    let mut case = Case::new(&mut t, segments, vec![4, 1]);
    case.values[..4].copy_from_slice(&[-0.0, 1e-41, f32::INFINITY, 0.0]);
    let fresh = || Bench::new(&all_facts()[0].1, 6);
    let [values, first, _] = case.run(fresh(), &Rule::default(), progress(1), 0.0);
    assert_eq!(bits(&values), bits(&case.values));
    assert_ne!(first, case.moments[0]);
    for p in [Progress { fault: 2, ..progress(1) }, Progress { bad_loss: true, ..progress(1) }] {
        let after = case.run(fresh(), &Rule::default(), p, 0.1);
        assert_eq!(bits(&after[0]), bits(&case.values));
        assert_eq!((&after[1], &after[2]), (&case.moments[0], &case.moments[1]));
    }
}

#[test]
fn fresh_moments_count_as_zero_even_if_they_are_nan() {
    let mut t = Bench::new(&all_facts()[0].1, 7);
    let mut case = Case::new(&mut t, vec![segment("dense", 0, 0, 131, Update::Dense)], vec![0]);
    case.moments.iter_mut().for_each(|m| m.fill(f32::NAN));
    let after = case.run(t, &Rule::default(), progress(0), 0.1);
    assert!(after.iter().all(|v| v[..131].iter().all(|v| v.is_finite())));
}

#[test]
fn rows_have_unit_norm_and_the_others_keep_their_bits() {
    let mut t = Bench::new(&all_facts()[0].1, 8);
    let mut s = segment("rows", 0, 0, 6 * 768, rows(0, 3, 768, After::Normalise));
    s.weight_decay = 0.0;
    // An index beyond the last row counts as the last.
    let mut case = Case::new(&mut t, vec![s], vec![3, 0, 77]);
    case.gradients[768..2 * 768].fill(0.0);
    case.values[..768].fill(0.0);
    case.moments.iter_mut().for_each(|m| m.fill(0.0));
    let [after, ..] = case.run(t, &Rule::default(), progress(1), 0.01);
    let norm = |r: usize| after[768 * r..768 * (r + 1)].iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    for r in [1, 2, 4] {
        assert_eq!(after[768 * r..768 * (r + 1)], case.values[768 * r..768 * (r + 1)]);
    }
    assert!([3, 5].iter().all(|r| (norm(*r) - 1.0).abs() < 1e-6), "{} {}", norm(3), norm(5));
    assert_eq!(norm(0), 0.0, "a row of zeros stays");
}

/// `torch.optim.AdamW` as its documentation writes it, in f64.
#[test]
fn six_steps_are_those_of_adamw() {
    let (n, steps, lr, decay) = (1000, 6, 0.01f32, 0.1f32);
    let a = Adam::default();
    let mut t = Bench::new(&all_facts()[0].1, 9);
    let start = t.random_values(n);
    let mut want: Vec<[f64; 3]> = start.iter().map(|p| [f64::from(*p), 0.0, 0.0]).collect();
    let mut buffers = [start, vec![f32::NAN; n], vec![f32::NAN; n]];
    for step in 0..steps {
        let gradients = t.random_values(n);
        let mut s = segment("p", 0, 0, n, Update::Dense);
        s.weight_decay = decay;
        let [values, first, second] = buffers;
        let case = Case { segments: vec![s], values, gradients, moments: [first, second], indices: vec![0] };
        let p = Progress { step, clip: 1.0, ..Progress::default() };
        buffers = case.run(Bench::new(&all_facts()[0].1, 1), &Rule::AdamW(a), p, lr);
        let (b1, b2) = (f64::from(a.beta1), f64::from(a.beta2));
        for (w, g) in want.iter_mut().zip(&case.gradients) {
            let g = f64::from(*g);
            w[0] *= 1.0 - f64::from(lr) * f64::from(decay);
            w[1] = b1 * w[1] + (1.0 - b1) * g;
            w[2] = b2 * w[2] + (1.0 - b2) * g * g;
            let t = step as i32 + 1;
            let (m, v) = (w[1] / (1.0 - b1.powi(t)), w[2] / (1.0 - b2.powi(t)));
            w[0] -= f64::from(lr) * m / (v.sqrt() + f64::from(a.epsilon));
        }
    }
    for (got, want) in buffers[0].iter().zip(&want) {
        assert!((f64::from(*got) - want[0]).abs() < 2e-6, "{got} where {} is expected", want[0]);
    }
}

#[test]
fn segments_that_do_not_fit_are_refused() {
    let mut t = Bench::new(&all_facts()[2].1, 2);
    let slots = ["values", "gradients", "first", "second"].map(|l| t.floats(l, &vec![0.5; 600_000]));
    let [values, gradients, first, second] = slots;
    let small = ["indices", "schedule", "progress", "table"].map(|l| t.words(l, &[0; 64]));
    let p = Parameters { values, gradients, first, second, indices: small[0], schedule: small[1], progress: small[2], steps: 1 };
    let mut why = |s: Vec<Segment>| adam(&mut t.builder, "adam", &p, &s, small[3], &Rule::default()).unwrap_err().to_string();
    let dense = |value, gradient, len| segment("s", value, gradient, len, Update::Dense);
    assert!(why(vec![dense(0, 0, 9), dense(8, 64, 9)]).contains("share values"));
    assert!(why(vec![dense(0, 0, 9), dense(64, 8, 9)]).contains("share gradients"));
    assert!(why(vec![segment("s", 0, 0, 12, rows(0, 4, 4, After::Normalise))]).contains("4 rows of 4"));
    assert!(why(vec![segment("s", 0, 0, 13, rows(0, 2, 4, After::Normalise))]).contains("rows of 4"));
    assert!(why(vec![segment("s", 0, 0, 0, rows(0, 0, 0, After::Normalise))]).contains("rows of 0"));
    assert!(why(vec![segment("s", 0, 0, 13, Update::Unit { cols: 4 })]).contains("rows of 4"));
    assert!(why(vec![Segment { group: 4, ..dense(0, 0, 1) }]).contains("group 4"));
    assert!(why(vec![segment("s", 0, 0, 400_000, rows(0, 2, 400, After::Normalise))]).contains("max_storage_buffer_binding_size"));
    assert!(why(vec![dense(0, 599_990, 100)]).contains("gradients"));
    adam(&mut t.builder, "nothing", &p, &[], small[3], &Rule::default()).unwrap();
}
