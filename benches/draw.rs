use super::Bed;
use criterion::Criterion;
use etalon::kernel::draw::{Law, Layer, draw, draw_table};
use etalon::kernel::progress::Progress;

pub(super) fn bench(c: &mut Criterion) {
    for (n, k, r) in [(72, 768, 64), (8, 8192, 512)] {
        let mut bed = Bed::new();
        let layers: Vec<Layer> = (0..n).map(|i| Layer { sigma: i * k, k, r, indices: i * r }).collect();
        let values = bed.tensor(n, k).slot;
        let indices = bed.words(&vec![0; n * r]);
        let (table, progress) = (bed.words(&draw_table(&layers)), bed.words(&Progress::default().words()));
        draw(&mut bed.builder, "draw", values, indices, table, &layers, progress, Law::Mixture).unwrap();
        bed.measure(c, "draw", &format!("{r} of {k}, {n} layers"));
    }
}
