use super::Bed;
use criterion::Criterion;
use etalon::kernel::activate::{activate, activate_backward};
use etalon::kernel::linear::Activation;

pub(super) fn bench(c: &mut Criterion) {
    let (rows, cols) = (256, 3072);
    let mut bed = Bed::new();
    let (x, y) = (bed.tensor(rows, cols), bed.tensor(rows, cols));
    activate(&mut bed.builder, "activate", Activation::GeluTanh, &x, &y).unwrap();
    bed.measure(c, "activate", &format!("gelu {rows}x{cols}"));
    for act in [Activation::Relu, Activation::GeluErf, Activation::GeluTanh, Activation::Silu] {
        let mut bed = Bed::new();
        let (x, dy, dx) = (bed.tensor(rows, cols), bed.tensor(rows, cols), bed.tensor(rows, cols));
        activate_backward(&mut bed.builder, "backward", act, &x, &dy, &dx).unwrap();
        bed.measure(c, "activate", &format!("{act:?} backward {rows}x{cols}"));
    }
}
