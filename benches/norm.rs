use super::Bed;
use criterion::Criterion;
use etalon::kernel::norm::{Norm, Rows, norm};

pub(super) fn bench(c: &mut Criterion) {
    for (rows, cols) in [(1, 4096), (512, 1024)] {
        let mut bed = Bed::new();
        let (x, y, gain) = (bed.tensor(rows, cols), bed.tensor(rows, cols), bed.tensor(1, cols));
        let n = Norm { gain: gain.slot, bias: None, rms: true, eps: 1e-5 };
        norm(&mut bed.builder, "norm", &x, &y, &n, Rows::All).unwrap();
        bed.measure(c, "norm", &format!("rms {rows}x{cols}"));
    }
}
