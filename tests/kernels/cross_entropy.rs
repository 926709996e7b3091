use super::{Bench, all_facts};
use etalon::kernel::cross_entropy::{CrossEntropy, IGNORE, MAX_COLS, cross_entropy};
use etalon::tensor::Tensor;
use rand::RngExt;
use std::sync::Arc;

/// A matrix with random values of a size, aligned or not.
fn logits(t: &mut Bench, rows: usize, cols: usize, size: f32) -> Tensor {
    let dense = cols.is_multiple_of(8);
    let (offset, stride) = if dense { (0, cols) } else { (3, cols + 1) };
    let values: Vec<f32> = t.random_values(offset + rows * stride).iter().map(|v| v * size).collect();
    Tensor { slot: t.floats("logits", &values), offset, rows, cols, stride }
}

fn targets(t: &mut Bench, rows: usize, cols: usize) -> Vec<u32> {
    (0..rows).map(|r| if r % 5 == 4 { IGNORE } else { t.rng.random_range(0..cols as u32) }).collect()
}

/// The losses or, where they are asked for, the gradients.
fn run(mut t: Bench, x: &Tensor, targets: &[u32], smoothing: f32, scale: f32, gradient: bool) -> Vec<f32> {
    let mut words = vec![7; 5];
    words.extend(targets);
    let (targets, scale) = (t.words("targets", &words), t.floats("scale", &[9.0, 9.0, scale]));
    let y = t.poisoned("losses", 2, x.rows.max(1) + 2);
    let losses = Tensor { rows: 1, offset: 1, cols: x.rows, ..y };
    let c = CrossEntropy { logits: x, targets: (targets, 5), losses: &losses, scale: (scale, 2), smoothing, gradient };
    cross_entropy(&mut t.builder, "loss", &c).unwrap();
    t.verify(if gradient { x } else { &losses })
}

#[test]
fn losses_and_gradients_match_the_twin() {
    let sizes = [(1, 1), (3, 2), (6, 65), (5, 576), (7, 577), (2, 1024), (1, 4099), (2, 4104), (1, 50_272), (600, 577), (0, 8)];
    for (_, facts) in all_facts() {
        for (i, (rows, cols)) in sizes.into_iter().enumerate() {
            for (gradient, smoothing) in [(false, 0.0), (true, 0.0), (true, 0.1)] {
                let mut t = Bench::new(&facts, i as u64);
                let x = logits(&mut t, rows, cols, 8.0);
                let targets = targets(&mut t, rows, cols);
                run(t, &x, &targets, smoothing, 0.37, gradient);
            }
        }
    }
}

#[test]
fn large_logits_do_not_overflow() {
    for (_, facts) in all_facts() {
        for size in [100.0, 1e4, 1e30] {
            for cols in [64, 67] {
                let mut t = Bench::new(&facts, cols as u64);
                let x = logits(&mut t, 9, cols, size);
                let targets = targets(&mut t, 9, cols);
                let got = run(t, &x, &targets, if size == 1e4 { 0.2 } else { 0.0 }, 1.0, true);
                assert!(got.iter().all(|v| v.abs() <= 1.0));
            }
        }
    }
}

#[test]
fn rising_logits_rescale_the_sum_at_every_step() {
    for (_, facts) in all_facts() {
        for cols in [4096, 4097] {
            let mut t = Bench::new(&facts, 3);
            let values: Vec<f32> = (0..cols).map(|i| i as f32 / 200.0).collect();
            let x = Tensor { slot: t.floats("logits", &values), offset: 0, rows: 1, cols, stride: cols };
            run(t, &x, &[17], 0.1, 1.0, true);
        }
    }
}

#[test]
fn ignored_rows_are_zero_whatever_they_hold() {
    for (_, facts) in all_facts() {
        for cols in [40, 41] {
            let mut t = Bench::new(&facts, 1);
            let slot = t.floats("logits", &vec![f32::NAN; 3 * cols]);
            let x = Tensor { slot, offset: 0, rows: 3, cols, stride: cols };
            let got = run(t, &x, &[IGNORE, cols as u32, 1 << 31], 0.1, 1.0, true);
            assert!(got.iter().all(|v| *v == 0.0));
        }
    }
}

/// The first element of `y` after a run that no twin judges.
fn unverified(t: Bench, y: &Tensor) -> f32 {
    let bound = Arc::new(t.builder.finish().unwrap()).bind(&t.context, &t.bound).unwrap();
    bound.run(1).unwrap();
    let buffer = &t.bound.iter().find(|(s, _)| *s == y.slot).unwrap().1;
    let words = t.context.block_on(t.context.read_ranges(&[(buffer, 0..4)]).unwrap().words()).unwrap();
    f32::from_bits(words[0][0])
}

#[test]
fn a_loss_that_is_not_finite_stays_so() {
    let facts = all_facts().remove(0).1;
    for bad in [f32::NAN, f32::INFINITY] {
        for (cols, gradient) in [(64, false), (65, true)] {
            let mut t = Bench::new(&facts, 1);
            let mut values = t.random_values(cols);
            values[cols / 2] = bad;
            let (slot, targets) = (t.floats("logits", &values), t.words("targets", &[3]));
            let x = Tensor { slot, offset: 0, rows: 1, cols, stride: cols };
            let (y, scale) = (t.poisoned("losses", 1, 1), t.floats("scale", &[1.0]));
            let c = CrossEntropy { logits: &x, targets: (targets, 0), losses: &y, scale: (scale, 0), smoothing: 0.0, gradient };
            cross_entropy(&mut t.builder, "loss", &c).unwrap();
            assert!(!unverified(t, &y).is_finite());
        }
    }
}

#[test]
fn bad_operands_are_errors() {
    let mut t = Bench::new(&all_facts()[0].1, 1);
    let x = logits(&mut t, 3, 8, 1.0);
    let (targets, scale, y) = (t.words("targets", &[0; 3]), t.floats("scale", &[1.0]), t.poisoned("losses", 1, 3));
    let good = CrossEntropy { logits: &x, targets: (targets, 0), losses: &y, scale: (scale, 0), smoothing: 0.0, gradient: true };
    let short = y.slice_cols(0..2);
    let tensors = [0, MAX_COLS + 1].map(|cols| Tensor { cols, ..x });
    for bad in [
        CrossEntropy { losses: &short, ..good },
        CrossEntropy { logits: &tensors[0], ..good },
        CrossEntropy { logits: &tensors[1], ..good },
        CrossEntropy { smoothing: 1.0, ..good },
        CrossEntropy { smoothing: -0.1, ..good },
        CrossEntropy { smoothing: f32::NAN, ..good },
        CrossEntropy { targets: (targets, 1 << 20), ..good },
        CrossEntropy { scale: (scale, 1 << 20), ..good },
    ] {
        cross_entropy(&mut t.builder, "bad", &bad).unwrap_err();
    }
}
