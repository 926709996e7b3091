use super::Bed;
use criterion::Criterion;
use etalon::kernel::freeze::freeze;
use etalon::tensor::Packing;

pub(super) fn bench(c: &mut Criterion) {
    for packing in [Packing::F16, Packing::Int8] {
        let mut bed = Bed::new();
        let (x, y) = (bed.tensor(768, 768), bed.packed(packing, 768, 768));
        freeze(&mut bed.builder, "freeze", &x, &y, None, None).unwrap();
        bed.measure(c, "freeze", &format!("{packing:?} 768x768"));
    }
}
