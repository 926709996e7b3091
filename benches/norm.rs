use super::Bed;
use criterion::Criterion;
use etalon::kernel::norm::{Norm, NormGradient, Rows, norm, norm_backward};

pub(super) fn bench(c: &mut Criterion) {
    for (rows, cols) in [(1, 4096), (512, 1024)] {
        let mut bed = Bed::new();
        let (x, y, gain) = (bed.tensor(rows, cols), bed.tensor(rows, cols), bed.tensor(1, cols));
        let n = Norm { gain: gain.slot, bias: None, rms: true, eps: 1e-5 };
        norm(&mut bed.builder, "norm", &x, &y, &n, Rows::All).unwrap();
        bed.measure(c, "norm", &format!("rms {rows}x{cols}"));
    }
    for cols in [768, 4096] {
        let rows = 512;
        let mut bed = Bed::new();
        let (x, dy, dx) = (bed.tensor(rows, cols), bed.tensor(rows, cols), bed.tensor(rows, cols));
        let (saved, gain) = (bed.tensor(rows, 2), bed.tensor(1, cols));
        let n = Norm { gain: gain.slot, bias: None, rms: true, eps: 1e-5 };
        norm_backward(&mut bed.builder, "norm", &NormGradient { x: &x, dy: &dy, saved: &saved, n: &n, dx: &dx, accumulate: true }).unwrap();
        bed.measure(c, "norm", &format!("rms backward {rows}x{cols}"));
    }
}
