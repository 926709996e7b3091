use super::Bed;
use criterion::Criterion;
use etalon::kernel::batch::{Batch, batch};
use etalon::kernel::progress::Progress;

pub(super) fn bench(c: &mut Criterion) {
    let mut bed = Bed::new();
    let corpus_len = 1 << 20;
    let corpus = bed.words(&(0..corpus_len as u32).collect::<Vec<_>>());
    let starts = bed.words(&(0..1024u32).map(|i| i * 1021).collect::<Vec<_>>());
    let progress = bed.words(&Progress::default().words());
    let (tokens, targets) = (bed.words(&[0; 32 * 512]), bed.words(&[0; 32 * 512]));
    let from = Batch { corpus, corpus_len, starts, starts_len: 1024, progress, sequences: 32, rows: 512, micros: 1 };
    batch(&mut bed.builder, "batch", &from, tokens, targets).unwrap();
    bed.measure(c, "batch", "32x512");
}
