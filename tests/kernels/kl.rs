use super::{Bench, all_facts};
use etalon::kernel::kl::kl;
use etalon::tensor::Tensor;
use std::sync::Arc;

fn logits(t: &mut Bench, label: &str, rows: usize, cols: usize, values: &[f32]) -> Tensor {
    let dense = cols.is_multiple_of(8);
    let (offset, stride) = if dense { (0, cols) } else { (3, cols + 1) };
    let mut all = vec![9.0; offset + rows * stride];
    for (row, values) in all[offset..].chunks_mut(stride).zip(values.chunks(cols)) {
        row[..cols].copy_from_slice(values);
    }
    Tensor { slot: t.floats(label, &all), offset, rows, cols, stride }
}

fn run(mut t: Bench, rows: usize, cols: usize, p: &[f32], q: &[f32]) -> Vec<f32> {
    let [p, q] = [("p", p), ("q", q)].map(|(label, v)| logits(&mut t, label, rows, cols, v));
    let y = t.poisoned("y", 2, rows.max(1) + 2);
    let y = Tensor { rows: 1, offset: 1, cols: rows, ..y };
    kl(&mut t.builder, "kl", &p, &q, &y).unwrap();
    t.verify(&y)
}

/// From divergences of 1e-9 nats to some of 100.
#[test]
fn small_and_large_divergences_match_the_twin() {
    let sizes = [(1, 1), (3, 2), (6, 65), (5, 576), (7, 577), (2, 1024), (1, 4099), (1, 50_272), (600, 33), (0, 8)];
    for (_, facts) in all_facts() {
        for (i, (rows, cols)) in sizes.into_iter().enumerate() {
            for apart in [0.0, 1e-4, 0.02, 0.5, 3.0, 40.0] {
                let mut t = Bench::new(&facts, i as u64);
                let p: Vec<f32> = t.random_values(rows * cols).iter().map(|v| 8.0 * v).collect();
                let q: Vec<f32> = p.iter().zip(t.random_values(rows * cols)).map(|(p, d)| p + apart * d).collect();
                let got = run(t, rows, cols, &p, &q);
                assert!(got.iter().all(|v| *v >= 0.0));
                if apart == 0.0 {
                    assert!(got.iter().all(|v| *v == 0.0));
                }
            }
        }
    }
}

/// A shift of all logits changes nothing; a token that only one of the two believes in changes much, without overflow.
#[test]
fn shifts_cancel_and_outliers_do_not_overflow() {
    for (_, facts) in all_facts() {
        for cols in [64, 67] {
            let mut t = Bench::new(&facts, 3);
            // Such that nothing is rounded.
            let p: Vec<f32> = t.random_values(cols).iter().map(|v| (v * 1024.0).round() / 1024.0).collect();
            let shifted: Vec<f32> = p.iter().map(|v| v + 64.0).collect();
            assert!(run(t, 1, cols, &p, &shifted)[0] < 1e-12);
            // A small change beside a large shift: what the mean difference is off by must not count.
            let changed: Vec<f32> = p.iter().enumerate().map(|(i, v)| v + 512.0 + (i % 3) as f32 / 1024.0).collect();
            let small = run(Bench::new(&facts, 3), 1, cols, &p, &changed)[0];
            assert!((1e-7..1e-6).contains(&small), "{small}");
            for size in [30.0, 200.0, 1e4, 1e30] {
                let mut outlier = p.clone();
                outlier[5] = size;
                for (a, b) in [(&p, &outlier), (&outlier, &p)] {
                    assert!(run(Bench::new(&facts, 3), 1, cols, a, b)[0].is_finite());
                }
            }
        }
    }
}

/// A broken model must not pass for one that changed nothing.
#[test]
fn what_is_not_a_number_is_seen() {
    for (_, facts) in all_facts() {
        for (bad, cols) in [(f32::NAN, 64), (f32::NAN, 67), (f32::INFINITY, 64)] {
            let (good, mut broken) = (vec![0.5; cols], vec![0.5; cols]);
            broken[9] = bad;
            for (p, q) in [(&good, &broken), (&broken, &good)] {
                let mut t = Bench::new(&facts, 1);
                let [p, q] = [("p", p), ("q", q)].map(|(label, v)| logits(&mut t, label, 1, cols, v));
                let y = t.poisoned("y", 1, 1);
                kl(&mut t.builder, "kl", &p, &q, &y).unwrap();
                let plan = Arc::new(t.builder.finish().unwrap()).bind(&t.context, &t.bound).unwrap();
                plan.run(1).unwrap();
                let buffer = &t.bound.iter().find(|(s, _)| *s == y.slot).unwrap().1;
                let words = t.context.block_on(t.context.read_ranges(&[(buffer, 0..4)]).unwrap().words()).unwrap();
                assert!(!f32::from_bits(words[0][0]).is_finite(), "{bad}: {}", f32::from_bits(words[0][0]));
            }
        }
    }
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let mut t = Bench::new(&all_facts()[0].1, 1);
    let p = logits(&mut t, "p", 3, 8, &[0.0; 24]);
    let q = logits(&mut t, "q", 3, 8, &[0.0; 24]);
    let y = t.poisoned("y", 1, 3);
    let cases =
        [(p, q.slice_rows(0..2), y), (p, q.slice_cols(0..7), y), (p, q, y.slice_cols(0..2)), (p.slice_cols(0..0), q.slice_cols(0..0), y)];
    for (p, q, y) in cases {
        assert!(kl(&mut t.builder, "kl", &p, &q, &y).unwrap_err().to_string().contains("into"));
    }
}
