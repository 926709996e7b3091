use super::adam::schedule;
use super::{Bench, all_facts};
use etalon::hyperbolic;
use etalon::kernel::adam::{Adam, Parameters, Rule, Segment, Update, adam, chunks};
use etalon::kernel::grad_norm::{Page, grad_norm};
use etalon::kernel::lorentz_adam::lorentz_adam;
use etalon::kernel::progress::{Progress, SCHEDULE_WORDS};
use etalon::tensor::Tensor;
use std::sync::Arc;

const STEPS: usize = 8;

fn segment(value: usize, gradient: usize, rows: usize, cols: usize) -> Segment {
    let update = Update::Lorentz { cols };
    Segment { label: format!("{rows} points"), value, gradient, len: rows * cols, group: 1, weight_decay: 0.0, update }
}

/// Operands of a step: points on the manifold, first moments tangent there, one second moment a row.
struct Case {
    segments: Vec<Segment>,
    values: Vec<f32>,
    gradients: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
}

impl Case {
    fn new(t: &mut Bench, segments: Vec<Segment>, far: f32) -> Self {
        let words = segments.iter().map(|s| s.value.max(s.gradient) + s.len).max().unwrap() + 5;
        let [mut values, gradients, mut first, mut second] = [(); 4].map(|()| t.random_values(words));
        second.iter_mut().for_each(|v| *v = v.abs());
        for s in &segments {
            let Update::Lorentz { cols } = s.update else { continue };
            for r in 0..s.len / cols {
                let (v, g) = (s.value + r * cols, s.gradient + r * cols);
                let size = far / (cols as f32).sqrt();
                let x = hyperbolic::project(&values[v..v + cols].iter().map(|x| f64::from(x * size)).collect::<Vec<_>>());
                let m: Vec<f64> = first[g..g + cols].iter().map(|m| f64::from(*m)).collect();
                let along = hyperbolic::inner(&x, &m);
                for i in 0..cols {
                    (values[v + i], first[g + i]) = (x[i] as f32, (m[i] + along * x[i]) as f32);
                }
                let second_moment = 0.01 + second[g];
                second[g..g + cols].fill(second_moment);
            }
        }
        Self { segments, values, gradients, first, second }
    }

    /// Verifies one step, and returns values and moments after it.
    fn run(&self, mut t: Bench, progress: Progress, lr: f32) -> [Vec<f32>; 3] {
        let slots = [&self.values, &self.gradients, &self.first, &self.second].map(|v| t.floats("operand", v));
        let [values, gradients, first, second] = slots;
        let indices = t.words("indices", &[0]);
        let schedule = t.floats("schedule", &schedule(&Adam::default(), lr, STEPS));
        let progress = t.words("progress", &progress.words());
        let p = Parameters { values, gradients, first, second, indices, schedule, progress, steps: STEPS };
        lorentz_adam(&mut t.builder, "adam", &p, &self.segments, &Adam::default()).unwrap();
        let whole = |slot| Tensor { slot, offset: 0, rows: 1, cols: self.values.len(), stride: 0 };
        let (got, _) = t.verify_all(&[values, first, second].map(whole).iter().collect::<Vec<_>>());
        got.try_into().unwrap()
    }
}

fn progress(step: u32) -> Progress {
    Progress { step, clip: 0.7, ..Progress::default() }
}

fn bits(v: &[f32]) -> Vec<u32> {
    v.iter().map(|v| v.to_bits()).collect()
}

/// Where whole vectors begin, and at odd words; a short step and one beyond the largest norm.
#[test]
fn steps_match_the_twin() {
    for (_, facts) in all_facts() {
        for (i, cols) in [2usize, 3, 16, 65, 68].into_iter().enumerate() {
            for rows in [1, 7] {
                for (at, far) in [(64, 0.1), (64, 3.0), (5, 1.0)] {
                    for (step, lr) in [(0, 0.01), (3, 0.01), (9, 0.3), (2, 500.0)] {
                        let mut t = Bench::new(&facts, i as u64);
                        let second = at + (rows * cols).next_multiple_of(64);
                        let case = Case::new(&mut t, vec![segment(at, at, rows, cols), segment(second, 2 * second, 3, cols)], far);
                        let [values, first, second] = case.run(t, progress(step), lr);
                        assert_ne!(values, case.values);
                        for r in 0..rows {
                            let row = |v: &[f32]| v[at + r * cols..][..cols].iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
                            let (x, m, v) = (row(&values), row(&first), row(&second));
                            assert!((hyperbolic::inner(&x, &x) + 1.0).abs() <= 1e-4 * x[0] * x[0]);
                            let size = m.iter().map(|m| m.abs()).fold(1e-3, f64::max);
                            assert!(hyperbolic::inner(&x, &m).abs() <= 1e-4 * x[0] * size * cols as f64, "the moment is tangent");
                            assert!(v.iter().all(|w| *w == v[0]));
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn rows_beyond_a_binding_are_cut() {
    let (_, facts) = &all_facts()[2];
    let mut t = Bench::new(facts, 2);
    let case = Case::new(&mut t, vec![segment(0, 64, 20_000, 16)], 1.0);
    case.run(t, progress(1), 0.1);
}

#[test]
fn a_rate_of_zero_and_a_fault_keep_all_bits() {
    let fresh = || Bench::new(&all_facts()[0].1, 6);
    for cols in [5, 80] {
        let case = Case::new(&mut fresh(), vec![segment(0, 0, 3, cols)], 1.0);
        let [values, first, second] = case.run(fresh(), progress(1), 0.0);
        assert_eq!(bits(&values), bits(&case.values));
        assert!(first != case.first && second != case.second);
        for p in [Progress { fault: 2, ..progress(1) }, Progress { bad_loss: true, ..progress(1) }] {
            let after = case.run(fresh(), p, 0.1);
            assert_eq!(after.map(|v| bits(&v)), [&case.values, &case.first, &case.second].map(|v| bits(v)));
        }
    }
}

#[test]
fn fresh_moments_count_as_zero_even_if_they_are_nan() {
    for cols in [16, 80] {
        let mut t = Bench::new(&all_facts()[0].1, 7);
        let mut case = Case::new(&mut t, vec![segment(0, 0, 9, cols)], 1.0);
        case.first.fill(f32::NAN);
        case.second.fill(f32::NAN);
        // One without a gradient stays where it is.
        case.gradients[cols..2 * cols].fill(0.0);
        let after = case.run(t, progress(0), 0.1);
        assert!(after.iter().all(|v| v[..9 * cols].iter().all(|v| v.is_finite())));
        assert_eq!(after[0][cols + 1..2 * cols], case.values[cols + 1..2 * cols]);
    }
}

/// `adam` leaves points and their moments alone; the norm counts their gradients.
#[test]
fn other_kernels_know_the_segments() {
    for (_, facts) in all_facts() {
        let mut t = Bench::new(&facts, 8);
        let dense = |at| Segment { update: Update::Dense, weight_decay: 0.1, ..segment(at, at, 5, 7) };
        let case = Case::new(&mut t, vec![dense(0), segment(64, 64, 300, 17), dense(5184)], 1.0);
        for rule in [Rule::default(), Rule::Sgd] {
            let mut t = Bench::new(&facts, 8);
            let slots = [&case.values, &case.gradients, &case.first, &case.second].map(|v| t.floats("operand", v));
            let [values, gradients, first, second] = slots;
            let (indices, table) = (t.words("indices", &[0]), t.words("table", &chunks(&case.segments)));
            let schedule = t.floats("schedule", &schedule(&Adam::default(), 0.1, STEPS));
            let words = t.words("progress", &progress(1).words());
            let p = Parameters { values, gradients, first, second, indices, schedule, progress: words, steps: STEPS };
            grad_norm(&mut t.builder, "norm", &[Page { gradients, segments: &case.segments, table }], words, None).unwrap();
            adam(&mut t.builder, "adam", &p, &case.segments, table, &rule).unwrap();
            let whole = |slot, cols| Tensor { slot, offset: 0, rows: 1, cols, stride: 0 };
            let (got, _) = t.verify_all(&[&whole(values, case.values.len()), &whole(words, 16)]);
            assert_eq!(bits(&got[0][64..64 + 5100]), bits(&case.values[64..64 + 5100]));
            assert!(got[0][..35] != case.values[..35] && got[0][5184..5219] != case.values[5184..5219]);
            let all = case.segments.iter().flat_map(|s| &case.gradients[s.gradient..][..s.len]).map(|g| f64::from(*g).powi(2)).sum::<f64>();
            assert!((f64::from(got[1][6]) / all.sqrt() - 1.0).abs() < 1e-6);
        }
    }
}

/// A thousand steps towards targets, by squared Lorentzian distances: the points arrive, and never leave the manifold.
#[test]
fn points_converge_and_stay_on_the_manifold() {
    let (rows, cols, steps) = (4, 6, 1000);
    let mut t = Bench::new(&all_facts()[0].1, 11);
    let mut points = || {
        let spaces = t.random_values(rows * (cols - 1));
        spaces.chunks(cols - 1).map(|v| hyperbolic::exp0(&v.iter().map(|v| 1.5 * f64::from(*v)).collect::<Vec<_>>())).collect::<Vec<_>>()
    };
    let (start, targets) = (points(), points());
    let narrow = |v: &[Vec<f64>]| v.iter().flatten().map(|v| *v as f32).collect::<Vec<f32>>();
    let words = rows * cols;
    let values = t.floats("values", &narrow(&start));
    let [gradients, first, second] = ["gradients", "first", "second"].map(|label| t.floats(label, &vec![0.0; words]));
    // Rates fall to 0 in a straight line.
    let mut rates = schedule(&Adam::default(), 0.05, steps);
    for (i, row) in rates.chunks_mut(SCHEDULE_WORDS).enumerate() {
        row.chunks_mut(4).for_each(|group| group[0] *= 1.0 - i as f32 / steps as f32);
    }
    let (schedule, indices) = (t.floats("schedule", &rates), t.words("indices", &[0]));
    let progress = t.words("progress", &Progress::default().words());
    let p = Parameters { values, gradients, first, second, indices, schedule, progress, steps };
    lorentz_adam(&mut t.builder, "adam", &p, &[segment(0, 0, rows, cols)], &Adam::default()).unwrap();
    let buffer = |slot| t.bound.iter().find(|b| b.0 == slot).unwrap().1.clone();
    let [at, to, counter] = [values, gradients, progress].map(buffer);
    let bound = Arc::new(t.builder.finish().unwrap()).bind(&t.context, &t.bound).unwrap();
    let read = || {
        let read = t.context.read_ranges(&[(&*at, 0..4 * words as u64)]).unwrap().words();
        let all: Vec<f64> = t.context.block_on(read).unwrap().remove(0).into_iter().map(|v| f64::from(f32::from_bits(v))).collect();
        all.chunks(cols).map(<[f64]>::to_vec).collect::<Vec<_>>()
    };
    for step in 0..steps {
        let x = read();
        for x in &x {
            assert!((hyperbolic::inner(x, x) + 1.0).abs() <= 1e-4, "step {step}: {x:?}");
        }
        // Of -2 - 2 <x,y>_L.
        let slopes = targets.iter().flat_map(|y| y.iter().enumerate().map(|(i, y)| if i == 0 { 2.0 * y } else { -2.0 * y }));
        t.context.write(&to, 0, &slopes.map(|g| (g as f32).to_bits()).collect::<Vec<_>>()).unwrap();
        let now = Progress { step: step as u32, clip: 1.0, ..Progress::default() };
        t.context.write(&counter, 0, &now.words()).unwrap();
        bound.run(1).unwrap();
    }
    for ((x, y), from) in read().iter().zip(&targets).zip(&start) {
        let (before, after) = (hyperbolic::distance(from, y), hyperbolic::distance(x, y));
        assert!(after < 5e-3, "{after} away, from {before}");
    }
}

#[test]
fn segments_that_do_not_fit_are_refused() {
    let mut t = Bench::new(&all_facts()[0].1, 2);
    let slots = ["values", "gradients", "first", "second"].map(|label| t.floats(label, &[0.5; 640]));
    let [values, gradients, first, second] = slots;
    let [indices, schedule, progress] = ["indices", "schedule", "progress"].map(|label| t.words(label, &[0; 64]));
    let p = Parameters { values, gradients, first, second, indices, schedule, progress, steps: 1 };
    let mut why = |p: &Parameters, s: &[Segment]| lorentz_adam(&mut t.builder, "adam", p, s, &Adam::default()).map_err(|e| e.to_string());
    assert!(why(&p, &[segment(0, 0, 3, 1)]).unwrap_err().contains("points of 1 words"));
    assert!(why(&p, &[segment(0, 0, 3, 0)]).unwrap_err().contains("points of 0 words"));
    assert!(why(&p, &[Segment { len: 13, ..segment(0, 0, 3, 4) }]).unwrap_err().contains("rows of 4"));
    assert!(why(&p, &[segment(0, 0, 2, 4), segment(7, 64, 2, 4)]).unwrap_err().contains("share values"));
    assert!(why(&Parameters { steps: 0, ..p }, &[segment(0, 0, 2, 4)]).unwrap_err().contains("without steps"));
    assert!(why(&Parameters { first: values, ..p }, &[segment(0, 0, 2, 4)]).is_err(), "a slot bound twice");
    assert!(why(&p, &[segment(0, 0, 200, 4)]).is_err(), "words beyond the slot");
    assert!(why(&p, &[Segment { group: 4, ..segment(0, 0, 2, 4) }]).is_err());
    why(&p, &[segment(0, 0, 0, 4), Segment { update: Update::Dense, ..segment(0, 0, 3, 3) }]).unwrap();
}
