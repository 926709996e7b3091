use super::Bed;
use criterion::Criterion;
use etalon::kernel::gate::{gate, gate_backward};
use etalon::kernel::linear::Activation;

pub(super) fn bench(c: &mut Criterion) {
    let mut bed = Bed::new();
    let (g, u, y) = (bed.tensor(256, 1536), bed.tensor(256, 1536), bed.tensor(256, 1536));
    gate(&mut bed.builder, "gate", Activation::Silu, &g, &u, &y).unwrap();
    bed.measure(c, "gate", "silu 256x1536");
    let mut bed = Bed::new();
    let operands: [_; 3] = std::array::from_fn(|_| bed.tensor(256, 1536));
    let both = bed.tensor(256, 2 * 1536);
    let ([g, u, dy], (dg, du)) = (operands, (both.slice_cols(0..1536), both.slice_cols(1536..3072)));
    gate_backward(&mut bed.builder, "gate", Activation::Silu, &g, &u, &dy, &dg, &du).unwrap();
    bed.measure(c, "gate", "silu backward 256x1536");
}
