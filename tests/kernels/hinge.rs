use super::{Bench, all_facts};
use etalon::kernel::cross_entropy::IGNORE;
use etalon::kernel::hinge::{Hinge, MAX_COLS, hinge};
use etalon::tensor::Tensor;
use rand::RngExt;

/// Scores as they are, rows one after the other.
fn scores(t: &mut Bench, values: &[f32], cols: usize) -> Tensor {
    Tensor { slot: t.floats("scores", values), offset: 0, rows: values.len() / cols, cols, stride: cols }
}

/// Losses and what the scores became.
fn run(mut t: Bench, x: &Tensor, targets: &[u32], margin: f32, scale: f32, gradient: bool) -> (Vec<f32>, Vec<f32>) {
    let mut words = vec![7; 5];
    words.extend(targets);
    let (targets, scale) = (t.words("targets", &words), t.floats("scale", &[9.0, 9.0, scale]));
    let y = t.poisoned("losses", 2, x.rows.max(1) + 2);
    let losses = Tensor { rows: 1, offset: 1, cols: x.rows, ..y };
    let h = Hinge { scores: x, targets: (targets, 5), losses: &losses, scale: (scale, 2), margin, gradient };
    hinge(&mut t.builder, "loss", &h).unwrap();
    let mut all = t.verify_all(&[&losses, x]).0;
    (all.remove(0), all.remove(0))
}

/// Random numbers seldom come near a term of 0, and where one does the twin takes either side.
#[test]
fn losses_and_gradients_match_the_twin() {
    let sizes = [(1, 1), (3, 2), (65, 7), (576, 12), (577, 3), (64, 2), (2, 577), (40_000, 7), (0, 3)];
    for (_, facts) in all_facts() {
        for (i, (rows, cols)) in sizes.into_iter().enumerate() {
            for (gradient, margin, size) in [(false, 1.0, 1.0), (true, 1.0, 1.0), (true, 0.0, 1e4), (true, -0.3, 1.0), (true, 0.5, 1e30)] {
                let mut t = Bench::new(&facts, i as u64);
                let values: Vec<f32> = t.random_values(3 + rows * (cols + 1)).iter().map(|v| v * size).collect();
                let x = Tensor { slot: t.floats("scores", &values), offset: 3, rows, cols, stride: cols + 1 };
                let targets: Vec<u32> = (0..rows).map(|r| if r % 5 == 4 { IGNORE } else { t.rng.random_range(0..cols as u32) }).collect();
                run(t, &x, &targets, margin, 0.37, gradient);
            }
        }
    }
}

#[test]
fn a_row_by_hand() {
    for (_, facts) in all_facts() {
        let mut t = Bench::new(&facts, 1);
        // Terms 1, 3, 0 and -1: numbers that every order of rounding keeps exact. The term 0 has the gradient 0.
        let x = scores(&mut t, &[1.0, 3.0, 0.0, -1.0], 4);
        let (losses, gradients) = run(t, &x, &[0], 1.0, 8.0, true);
        assert_eq!((losses, gradients), (vec![1.0], vec![-2.0, 2.0, 0.0, 0.0]));
    }
}

/// Scores on a grid whose ties rounding breaks: margin 0.1 against differences of about 0.1.
#[test]
fn near_the_kink_either_side_is_right() {
    for (_, facts) in all_facts() {
        let mut t = Bench::new(&facts, 1);
        let values: Vec<f32> = (0..700).map(|_| t.rng.random_range(0..40) as f32 * 0.1).collect();
        let x = scores(&mut t, &values, 7);
        let targets: Vec<u32> = (0..100).map(|r| r % 7).collect();
        run(t, &x, &targets, 0.1, 1.0, true);
    }
}

#[test]
fn ignored_rows_are_zero_whatever_they_hold() {
    for (_, facts) in all_facts() {
        let mut t = Bench::new(&facts, 1);
        let x = scores(&mut t, &[f32::NAN; 9], 3);
        let (losses, gradients) = run(t, &x, &[IGNORE, 3, 1 << 31], 1.0, 1.0, true);
        assert!(losses.iter().chain(&gradients).all(|v| *v == 0.0));
    }
}

#[test]
fn a_nan_is_not_hidden() {
    for (_, facts) in all_facts() {
        for bad in [f32::NAN, -f32::NAN] {
            for gradient in [false, true] {
                let mut t = Bench::new(&facts, 1);
                // At the target, beside it, and in no other row.
                let x = scores(&mut t, &[bad, 1.0, 2.0, 1.0, bad, 2.0, 0.5, 1.0, 2.0], 3);
                let (losses, _) = run(t, &x, &[0, 0, 2], 0.25, 1.0, gradient);
                assert!(losses[0].is_nan() && losses[1].is_nan() && losses[2] == 0.25 / 3.0, "{losses:?}");
                let mut t = Bench::new(&facts, 1);
                let x = scores(&mut t, &[bad], 1);
                assert!(run(t, &x, &[0], 0.25, 1.0, gradient).0[0].is_nan());
            }
        }
        let mut t = Bench::new(&facts, 1);
        let x = scores(&mut t, &[0.0, f32::INFINITY], 2);
        assert_eq!(run(t, &x, &[0], 1.0, 1.0, true).0, [f32::INFINITY]);
    }
}

#[test]
fn bad_operands_are_errors() {
    let mut t = Bench::new(&all_facts()[0].1, 1);
    let x = t.random("scores", 3, 8);
    let (targets, scale, y) = (t.words("targets", &[0; 3]), t.floats("scale", &[1.0]), t.poisoned("losses", 1, 3));
    let good = Hinge { scores: &x, targets: (targets, 0), losses: &y, scale: (scale, 0), margin: 1.0, gradient: true };
    let short = y.slice_cols(0..2);
    let tensors = [0, MAX_COLS + 1].map(|cols| Tensor { cols, ..x });
    for bad in [
        Hinge { losses: &short, ..good },
        Hinge { losses: &x, ..good },
        Hinge { scores: &tensors[0], ..good },
        Hinge { scores: &tensors[1], ..good },
        Hinge { margin: f32::NAN, ..good },
        Hinge { margin: f32::INFINITY, ..good },
        Hinge { targets: (targets, 1 << 20), ..good },
        Hinge { scale: (scale, 1 << 20), ..good },
        Hinge { scale: (x.slot, 0), ..good },
    ] {
        hinge(&mut t.builder, "bad", &bad).unwrap_err();
    }
}
