use super::{Bench, POISON, all_facts};
use etalon::kernel::progress::{LOG_WORDS, Progress, WORDS, count_loss, end_step};
use etalon::plan::SlotId;
use etalon::tensor::Tensor;

const START: Progress = Progress { step: 5, micro: 0, draws: 9, fault: 0, seed: 77, norm: 1.5, clip: 0.5, loss: 8.0, bad_loss: false };

/// A slot of words as one row.
fn row(slot: SlotId, cols: usize) -> Tensor {
    Tensor { slot, offset: 0, rows: 1, cols, stride: cols }
}

fn progress(values: Vec<f32>) -> Progress {
    Progress::from_words(&values.into_iter().map(f32::to_bits).collect::<Vec<_>>())
}

#[test]
fn losses_are_counted_and_start_anew_with_a_step() {
    for (_, facts) in all_facts() {
        for (rows, micro) in [(0, 0), (1, 0), (2, 1), (255, 0), (256, 7), (257, 1), (8209, 2)] {
            let mut t = Bench::new(&facts, rows as u64);
            let losses = t.random("losses", 1, rows);
            let scale = t.floats("scale", &[5.0, 0.125]);
            let slot = t.words("progress", &Progress { micro, ..START }.words());
            count_loss(&mut t.builder, "count", &losses, (scale, 1), slot).unwrap();
            let p = progress(t.verify(&row(slot, WORDS)));
            assert_eq!((p.step, p.micro, p.bad_loss, p.norm), (5, micro + 1, false, 1.5));
            assert!(rows > 0 || p.loss == 0.0);
        }
    }
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run() {
    for (_, facts) in all_facts() {
        for (bad, scale, micro) in
            [(f32::NAN, 1.0, 0), (f32::INFINITY, 1.0, 3), (f32::NEG_INFINITY, 0.0, 0), (3e38, 1.0, 0), (1.0, f32::NAN, 0)]
        {
            let mut t = Bench::new(&facts, 1);
            let mut values = t.random_values(300);
            values[299] = bad;
            values[31] = bad;
            let losses = row(t.floats("losses", &values), 300);
            let (good, scale) = (t.random("good", 1, 5), t.floats("scale", &[scale]));
            let slot = t.words("progress", &Progress { micro, ..START }.words());
            let log = t.words("log", &[POISON.to_bits(); 3 * LOG_WORDS]);
            count_loss(&mut t.builder, "bad", &losses, (scale, 0), slot).unwrap();
            count_loss(&mut t.builder, "good", &good, (scale, 0), slot).unwrap();
            end_step(&mut t.builder, "end", slot, log, 3).unwrap();
            let p = progress(t.verify(&row(slot, WORDS)));
            assert_eq!((p.step, p.micro, p.bad_loss, p.loss.is_finite()), (5, micro + 2, true, false));
        }
    }
}

#[test]
fn steps_end_with_a_line_of_the_log() {
    for (_, facts) in all_facts() {
        let mut t = Bench::new(&facts, 1);
        let slot = t.words("progress", &Progress { micro: 2, ..START }.words());
        let log = t.words("log", &[POISON.to_bits(); 4 * LOG_WORDS]);
        let losses = t.random("losses", 1, 9);
        let scale = t.floats("scale", &[1.0]);
        for _ in 0..4 {
            end_step(&mut t.builder, "end", slot, log, 3).unwrap();
            count_loss(&mut t.builder, "count", &losses, (scale, 0), slot).unwrap();
        }
        let p = progress(t.verify(&row(slot, WORDS)));
        assert_eq!((p.step, p.micro), (9, 1));
    }
}

#[test]
fn nothing_advances_after_a_fault() {
    for (fault, bad_loss) in [(3, false), (0, true)] {
        let mut t = Bench::new(&all_facts()[0].1, 1);
        let before = Progress { micro: 2, fault, bad_loss, ..START };
        let slot = t.words("progress", &before.words());
        let log = t.words("log", &[0; LOG_WORDS]);
        end_step(&mut t.builder, "end", slot, log, 1).unwrap();
        end_step(&mut t.builder, "end", slot, log, 1).unwrap();
        assert_eq!(progress(t.verify(&row(slot, WORDS))), before);
    }
}

#[test]
fn bad_operands_are_errors() {
    let mut t = Bench::new(&all_facts()[0].1, 1);
    let (slot, log) = (t.words("progress", &START.words()), t.words("log", &[0; LOG_WORDS]));
    let (losses, scale) = (t.random("losses", 2, 9), t.floats("scale", &[1.0]));
    count_loss(&mut t.builder, "two rows", &losses, (scale, 0), slot).unwrap_err();
    count_loss(&mut t.builder, "same slot", &losses.slice_rows(0..1), (slot, 7), slot).unwrap_err();
    for rows in [0, 1 << 20, usize::MAX] {
        end_step(&mut t.builder, "end", slot, log, rows).unwrap_err();
    }
}
