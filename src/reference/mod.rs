//! CPU twins: for each kernel a plain function in f64 that shares nothing with the shader, under the same file name.

pub mod activate;
pub mod adam;
pub mod add;
pub mod attention;
pub mod attention_backward;
pub mod batch;
pub mod columns;
pub mod cross_entropy;
pub mod dots;
pub mod draw;
pub mod dropout;
pub mod edges;
pub mod embedding;
pub mod fill;
pub mod freeze;
pub mod gate;
pub mod grad_norm;
pub mod hinge;
pub mod jacobi;
pub mod kl;
pub mod linear;
pub mod lorentz;
pub mod lorentz_adam;
pub mod matmul;
pub mod negatives;
pub mod nll;
pub mod norm;
pub mod norm_backward;
pub mod polar;
pub mod progress;
pub mod roof;
pub mod rope;
pub mod rows;
pub mod sample;
pub mod scatter;
pub mod select;
pub mod spmm;
pub mod svd;
pub mod thaw;
pub mod turn;

use crate::quant::Packed;
use crate::tensor::Format;

/// Row `row` of a weight matrix given by its planes, decoded to f64.
pub fn weight_row(format: &Format, data: &[u32], scales: &[u32], row: usize, cols: usize) -> Vec<f64> {
    let stride = format.row_words(cols);
    let words = &data[row * stride..(row + 1) * stride];
    let half = |i: usize| (words[i / 2] >> (16 * (i % 2))) as u16;
    match format {
        Format::F32 => words.iter().map(|w| f64::from(f32::from_bits(*w))).collect(),
        Format::F16 => (0..cols).map(|i| half::f16::from_bits(half(i)).to_f64()).collect(),
        Format::Bf16 => (0..cols).map(|i| half::bf16::from_bits(half(i)).to_f64()).collect(),
        Format::Quant(q) => {
            let s = q.scale_words(cols);
            let scales = if q.per_tensor { scales } else { &scales[row * s..(row + 1) * s] };
            let mut out = vec![0.0; cols];
            let row = Packed { format: *q, rows: 1, cols, codes: words.to_vec(), scales: scales.to_vec() };
            row.decode_row(0, &mut out);
            out.into_iter().map(f64::from).collect()
        }
    }
}
