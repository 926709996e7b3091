use super::{Bench, all_facts};
use etalon::Error;
use etalon::kernel::batch::{Batch, batch};
use etalon::kernel::progress::Progress;

/// Token i of the corpus is 7 i + 1.
fn corpus(t: &mut Bench, len: usize) -> etalon::plan::SlotId {
    t.words("corpus", &(0..len as u32).map(|i| 7 * i + 1).collect::<Vec<_>>())
}

#[test]
fn batches_follow_the_progress() {
    for (_, facts) in all_facts() {
        let cases = [(1, 1, 1, 2, 1), (3, 5, 2, 100, 7), (2, 65, 1, 66, 3), (4, 63, 3, 1009, 11), (2, 2000, 1, 5000, 2)];
        for (sequences, rows, micros, corpus_len, starts_len) in cases {
            for (step, micro) in [(0, 0), (3, micros - 1), (u32::MAX / 2, 0)] {
                let mut t = Bench::new(&facts, 1);
                let starts: Vec<u32> = (0..starts_len as u32).map(|i| i * 97 % corpus_len as u32).collect();
                let (corpus, starts) = (corpus(&mut t, corpus_len), t.words("starts", &starts));
                let progress = t.words("progress", &Progress { step, micro, ..Progress::default() }.words());
                let from = Batch { corpus, corpus_len, starts, starts_len, progress, sequences, rows, micros: micros as usize };
                let (tokens, targets) = (t.poisoned("tokens", sequences, rows), t.poisoned("targets", sequences, rows));
                batch(&mut t.builder, "batch", &from, tokens.slot, targets.slot).unwrap();
                let got = t.verify(&targets);
                assert!(got.iter().all(|w| w.to_bits() % 7 == 1));
            }
        }
    }
}

#[test]
fn a_start_past_the_end_takes_the_last_tokens() {
    let mut t = Bench::new(&all_facts()[0].1, 2);
    let (corpus, starts) = (corpus(&mut t, 10), t.words("starts", &[u32::MAX, 2]));
    let progress = t.words("progress", &Progress::default().words());
    let from = Batch { corpus, corpus_len: 10, starts, starts_len: 2, progress, sequences: 2, rows: 3, micros: 1 };
    let (tokens, targets) = (t.poisoned("tokens", 2, 3), t.poisoned("targets", 2, 3));
    batch(&mut t.builder, "batch", &from, tokens.slot, targets.slot).unwrap();
    let got: Vec<u32> = t.verify(&targets).iter().map(|w| w.to_bits() / 7).collect();
    assert_eq!(got, [7, 8, 9, 3, 4, 5]);
}

#[test]
fn bad_sizes_are_errors() {
    let facts = all_facts().remove(2).1;
    let mut t = Bench::new(&facts, 3);
    let (corpus, starts) = (t.builder.external("corpus", 1 << 20), t.words("starts", &[0]));
    let progress = t.words("progress", &Progress::default().words());
    let (tokens, targets) = (t.poisoned("tokens", 2, 3), t.poisoned("targets", 2, 3));
    let good = Batch { corpus, corpus_len: 100, starts, starts_len: 1, progress, sequences: 2, rows: 3, micros: 1 };
    for bad in [
        Batch { corpus_len: 3, ..good },
        Batch { corpus_len: 0, ..good },
        Batch { starts_len: 0, ..good },
        Batch { sequences: 0, ..good },
        Batch { rows: 0, ..good },
        Batch { micros: 0, ..good },
        Batch { sequences: usize::MAX, ..good },
    ] {
        let e = batch(&mut t.builder, "bad", &bad, tokens.slot, targets.slot).unwrap_err();
        assert!(matches!(e, Error::Shape { .. }), "{e}");
    }
    let large = Batch { corpus_len: 1 << 20, ..good };
    let e = batch(&mut t.builder, "large", &large, tokens.slot, targets.slot).unwrap_err();
    assert!(matches!(e, Error::Limit { .. }), "{e}");
    let short = batch(&mut t.builder, "short", &Batch { sequences: 200, ..good }, tokens.slot, targets.slot).unwrap_err();
    assert!(matches!(short, Error::Plan { .. }), "{short}");
}
