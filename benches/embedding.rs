use super::Bed;
use criterion::Criterion;
use etalon::kernel::embedding::{Ids, embedding};
use etalon::quant::{QuantFormat, Scales};
use etalon::tensor::Format;

pub(super) fn bench(c: &mut Criterion) {
    let q8 = Format::Quant(QuantFormat { bits: 8, group: 32, scales: Scales::F16 { zero: 128 }, table: None, per_tensor: false });
    for (name, format) in [("f32", Format::F32), ("q8", q8)] {
        let mut bed = Bed::new();
        let ids = bed.words(&(0..256u32).map(|i| i * 127 % 32_000).collect::<Vec<_>>());
        let (table, y) = (bed.matrix(format, 32_000, 576), bed.tensor(256, 576));
        embedding(&mut bed.builder, "embedding", &Ids::Buffer(ids, 0), &table, &y, false).unwrap();
        bed.measure(c, "embedding", &format!("{name} 256x576"));
    }
}
