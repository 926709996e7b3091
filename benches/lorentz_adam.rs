use super::Bed;
use criterion::Criterion;
use etalon::kernel::adam::{Adam, Parameters, Segment, Update};
use etalon::kernel::lorentz_adam::lorentz_adam;
use etalon::kernel::progress::Progress;

/// Embeddings of a graph's nodes, and a few long points.
pub(super) fn bench(c: &mut Criterion) {
    for (rows, cols) in [(20_000, 16), (2048, 576)] {
        let mut bed = Bed::new();
        let [values, gradients, first] = [(); 3].map(|()| bed.tensor(rows, cols).slot);
        let second = bed.words(&vec![0.5f32.to_bits(); rows * cols]);
        let indices = bed.words(&[0]);
        let schedule = bed.words(&[[1e-6f32, 1.0, 1.0, 0.0].map(f32::to_bits); 4].concat());
        let progress = bed.words(&Progress { clip: 1.0, ..Progress::default() }.words());
        let p = Parameters { values, gradients, first, second, indices, schedule, progress, steps: 1 };
        let update = Update::Lorentz { cols };
        let s = Segment { label: "points".into(), value: 0, gradient: 0, len: rows * cols, group: 0, weight_decay: 0.0, update };
        lorentz_adam(&mut bed.builder, "adam", &p, &[s], &Adam::default()).unwrap();
        bed.measure(c, "lorentz_adam", &format!("{rows}x{cols}"));
    }
}
