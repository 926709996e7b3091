use super::{Bench, all_facts};
use etalon::Facts;
use etalon::kernel::dropout::dropout;
use etalon::kernel::progress::Progress;
use etalon::tensor::Tensor;

const HERE: Progress =
    Progress { step: 41, micro: 2, draws: 0, fault: 0, seed: 0x1234_5678_9abc_def0, norm: 0.0, clip: 0.0, loss: 0.0, bad_loss: false };

#[test]
fn dropout_matches_the_twin() {
    for (_, facts) in all_facts() {
        for (i, (rows, cols)) in
            [(1, 1), (3, 65), (7, 576), (2, 577), (5, 4), (600, 577), (600, 576), (1, 255), (0, 3)].into_iter().enumerate()
        {
            for p in [0.0, 0.1, 0.999] {
                let mut t = Bench::new(&facts, i as u64);
                let x = if i % 2 == 0 { t.random_dense("x", rows, cols) } else { t.random("x", rows, cols) };
                let y = t.poisoned("y", rows, cols);
                let progress = t.words("progress", &HERE.words());
                dropout(&mut t.builder, "dropout", &x, &y, p, progress, 3).unwrap();
                t.verify(&y);
            }
        }
    }
}

/// Dropout of a matrix of ones.
fn ones(facts: &Facts, (rows, cols): (usize, usize), p: f32, at: Progress, stream: u32) -> Vec<f32> {
    let mut t = Bench::new(facts, 1);
    let x = Tensor { slot: t.floats("x", &vec![1.0; rows * cols]), offset: 0, rows, cols, stride: cols };
    let (y, progress) = (t.poisoned("y", rows, cols), t.words("progress", &at.words()));
    dropout(&mut t.builder, "dropout", &x, &y, p, progress, stream).unwrap();
    t.verify(&y)
}

#[test]
fn elements_are_kept_as_often_as_wanted() {
    let facts = &all_facts()[0].1;
    for p in [0.0, 0.1f32, 0.5, 0.9] {
        let (n, y) = (400 * 250, ones(facts, (400, 250), p, HERE, 0));
        let dropped = y.iter().filter(|v| **v == 0.0).count() as f64;
        // Five standard deviations.
        let (mean, deviation) = (f64::from(p) * f64::from(n), (f64::from(n) * f64::from(p) * f64::from(1.0 - p)).sqrt());
        assert!((dropped - mean).abs() <= 5.0 * deviation, "{dropped} of {n} at {p}");
        assert!(y.iter().all(|v| *v == 0.0 || (f64::from(*v) * f64::from(1.0 - p) - 1.0).abs() < 1e-6));
    }
}

#[test]
fn masks_differ_by_what_they_should_and_not_by_shape_or_cut() {
    let all = all_facts();
    let base = ones(&all[0].1, (600, 577), 0.5, HERE, 0);
    assert_eq!(base, ones(&all[2].1, (600, 577), 0.5, HERE, 0), "cut into bindings of 1 MiB");
    assert_eq!(base, ones(&all[0].1, (577, 600), 0.5, HERE, 0), "the same elements in rows of whole vectors");
    let others = [
        ones(&all[0].1, (600, 577), 0.5, HERE, 1),
        ones(&all[0].1, (600, 577), 0.5, Progress { step: 42, ..HERE }, 0),
        ones(&all[0].1, (600, 577), 0.5, Progress { micro: 3, ..HERE }, 0),
        ones(&all[0].1, (600, 577), 0.5, Progress { seed: HERE.seed ^ 1 << 40, ..HERE }, 0),
    ];
    for other in others {
        let same = base.iter().zip(&other).filter(|(a, b)| a == b).count() as f64 / base.len() as f64;
        assert!((same - 0.5).abs() < 0.005, "{same} of two masks agree");
    }
}

#[test]
fn bad_operands_are_errors() {
    let mut t = Bench::new(&all_facts()[0].1, 1);
    let (x, y, progress) = (t.random("x", 3, 8), t.poisoned("y", 3, 8), t.words("progress", &HERE.words()));
    for p in [1.0, 1.5, -0.1, f32::NAN] {
        dropout(&mut t.builder, "bad", &x, &y, p, progress, 0).unwrap_err();
    }
    dropout(&mut t.builder, "bad", &x, &y.slice_cols(0..7), 0.1, progress, 0).unwrap_err();
    dropout(&mut t.builder, "in place", &y, &y, 0.1, progress, 0).unwrap_err();
    let huge = Tensor { rows: 1 << 20, cols: 1 << 12, ..x };
    dropout(&mut t.builder, "huge", &huge, &huge, 0.1, progress, 0).unwrap_err();
}
