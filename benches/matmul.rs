use super::Bed;
use criterion::Criterion;
use etalon::kernel::matmul::{Product, matmul};
use etalon::tensor::Tensor;

/// The products of a layer in training, forward and backward, and of attention's heads.
pub(super) fn bench(c: &mut Criterion) {
    let square = (512, 512, 512);
    let plain = Product::default();
    let cases = [
        ("A B", square, plain),
        ("A Bt", square, Product { b_t: true, ..plain }),
        ("A Bt f16", square, Product { b_t: true, b_half: true, ..plain }),
        ("At B", square, Product { a_t: true, ..plain }),
        ("At B long k", (64, 64, 16384), Product { a_t: true, ..plain }),
        ("A B one row", (1, 2048, 2048), plain),
        ("A Bt 12 heads", (128, 128, 64), Product { batch: 12, b_t: true, ..plain }),
    ];
    for (name, (m, n, k), p) in cases {
        let mut bed = Bed::new();
        let mut operand = |rows: usize, cols: usize, half: bool| {
            let words = cols / if half { 2 } else { 1 };
            let t = bed.tensor(p.batch * rows, words);
            etalon::kernel::matmul::Operand { first: Tensor { rows, cols, ..t }, step: rows * words }
        };
        let a = if p.a_t { operand(k, m, false) } else { operand(m, k, false) };
        let b = if p.b_t { operand(n, k, p.b_half) } else { operand(k, n, p.b_half) };
        let y = operand(m, n, false);
        matmul(&mut bed.builder, name, &a, &b, &y, &p).unwrap();
        bed.measure(c, "matmul", &format!("{name} {m}x{k}x{n}"));
    }
}
