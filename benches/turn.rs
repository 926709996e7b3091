use super::Bed;
use criterion::Criterion;
use etalon::kernel::rope::{Angles, Pairing};
use etalon::kernel::turn::turn;

pub(super) fn bench(c: &mut Criterion) {
    let (rows, cols, d) = (2048, 768, 64);
    let mut bed = Bed::new();
    let (x, y) = (bed.tensor(rows, cols), bed.tensor(rows, cols));
    let angles = Angles { slot: bed.tensor(512, d).slot, positions: 512 };
    turn(&mut bed.builder, "turn", &x, &y, &angles, d, 512, Pairing::Half, false).unwrap();
    bed.measure(c, "turn", &format!("{rows}x{cols}"));
}
