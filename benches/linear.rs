use super::Bed;
use criterion::Criterion;
use etalon::kernel::linear::{Fused, linear};
use etalon::quant::{QuantFormat, Scales};
use etalon::tensor::Format;

fn quant(bits: u32, group: u32, scales: Scales) -> Format {
    Format::Quant(QuantFormat { bits, group, scales, table: None, per_tensor: false })
}

pub(super) fn bench(c: &mut Criterion) {
    let formats = [
        ("f32", Format::F32),
        ("f16", Format::F16),
        ("q8", quant(8, 32, Scales::F16 { zero: 128 })),
        ("q6k", quant(6, 16, Scales::K6)),
        ("q4", quant(4, 32, Scales::F16 { zero: 8 })),
        ("q4k", quant(4, 32, Scales::K4)),
        ("q3k", quant(3, 16, Scales::K3)),
        ("q2k", quant(2, 16, Scales::K2)),
    ];
    for (name, format) in formats {
        for (m, k, n) in [(1, 2048, 2048), (4, 2048, 2048), (128, 1024, 1024)] {
            let mut bed = Bed::new();
            let (x, w, y) = (bed.tensor(m, k), bed.matrix(format, n, k), bed.tensor(m, n));
            linear(&mut bed.builder, "linear", &x, &w, &y, &Fused::default()).unwrap();
            bed.measure(c, "linear", &format!("{name} {m}x{k}x{n}"));
        }
    }
}
