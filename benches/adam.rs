use super::Bed;
use criterion::Criterion;
use etalon::kernel::adam::{After, Parameters, Rule, Segment, Update, adam, chunks};
use etalon::kernel::progress::Progress;

/// A dense model of 4 M values; singular vectors of 12 layers, 64 of 768 rows each, twice.
pub(super) fn bench(c: &mut Criterion) {
    let dense = |i: usize| Segment {
        label: format!("dense {i}"),
        value: i << 20,
        gradient: i << 20,
        len: 1 << 20,
        group: 0,
        weight_decay: 0.01,
        update: Update::Dense,
    };
    let rows = |i: usize| {
        let update = Update::Rows { indices: 64 * i, count: 64, cols: 768, after: After::Normalise };
        Segment { value: i * 768 * 768, gradient: i * 64 * 768, len: 768 * 768, update, ..dense(i) }
    };
    for (name, segments) in [("dense 4M", (0..4).map(dense).collect::<Vec<_>>()), ("rows 24x64x768", (0..24).map(rows).collect())] {
        let mut bed = Bed::new();
        let words = segments.iter().map(|s| s.value + s.len).max().unwrap();
        let [values, gradients, first] = [(); 3].map(|()| bed.tensor(1, words).slot);
        let second = bed.words(&vec![0.5f32.to_bits(); words]);
        let indices = bed.words(&(0..64 * 24).map(|i| (i % 64) * 11).collect::<Vec<_>>());
        let schedule = bed.words(&[[1e-6f32, 1.0, 1.0, 0.0].map(f32::to_bits); 4].concat());
        let progress = bed.words(&Progress { clip: 1.0, ..Progress::default() }.words());
        let table = bed.words(&chunks(&segments));
        let p = Parameters { values, gradients, first, second, indices, schedule, progress, steps: 1 };
        adam(&mut bed.builder, "adam", &p, &segments, table, &Rule::default()).unwrap();
        bed.measure(c, "adam", name);
    }
}
