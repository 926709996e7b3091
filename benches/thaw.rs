use super::Bed;
use criterion::Criterion;
use etalon::kernel::thaw::{Rows, thaw};
use etalon::tensor::Packing;

pub(super) fn bench(c: &mut Criterion) {
    for packing in [Packing::F16, Packing::Int8] {
        let mut bed = Bed::new();
        let (x, y, active) = (bed.packed(packing, 768, 768), bed.tensor(768, 768), bed.tensor(64, 768));
        let slot = bed.words(&(0..64).map(|i| i * 11 + 5).collect::<Vec<_>>());
        thaw(&mut bed.builder, "thaw", &x, &Rows::Overlaid(active, (slot, 0)), &y).unwrap();
        bed.measure(c, "thaw", &format!("{packing:?} 768x768, 64 rows overlaid"));
    }
}
