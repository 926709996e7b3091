//! Twins of `shaders/matmul_*.wgsl`.

use crate::plan::{Expected, Snapshot, Tolerance, Twin};

/// How an operand lies: what the parameters of a dispatch do not tell.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lies {
    /// Words of a row of k, rather than of a row within which k runs.
    pub(crate) across: bool,
    /// Two f16 a word.
    pub(crate) half: bool,
}

/// Element `(row, col)` of a matrix that begins at word `offset`.
fn element(words: &[u32], half: bool, offset: usize, stride: usize, row: usize, col: usize) -> f64 {
    if !half {
        return f64::from(f32::from_bits(words[offset + row * stride + col]));
    }
    let word = words[offset + row * stride + col / 2];
    half::f16::from_bits(if col.is_multiple_of(2) { word as u16 } else { (word >> 16) as u16 }).to_f64()
}

/// What the output held, the bias and the residual: each where there is one.
struct Added {
    /// Binding of y.
    y: usize,
    accumulate: bool,
    /// Binding, offset, and for the residual the stride.
    bias: Option<(usize, usize)>,
    residual: Option<(usize, usize, usize)>,
}

impl Added {
    /// `words` are the offsets of bias and residual and the residual's stride; their bindings follow `first`.
    fn new(y: usize, accumulate: bool, first: usize, [bias, residual]: [bool; 2], words: &[usize]) -> Self {
        let second = first + usize::from(bias);
        Self { y, accumulate, bias: bias.then_some((first, words[0])), residual: residual.then_some((second, words[1], words[2])) }
    }

    /// The sum, and the sum of absolute values, for an element of y at `word`.
    fn at(&self, s: &Snapshot, word: usize, row: usize, col: usize) -> (f64, f64) {
        let value = |binding: usize, at: usize| f64::from(s.f32(binding)[at]);
        let before = if self.accumulate { value(self.y, word) } else { 0.0 };
        let bias = self.bias.map_or(0.0, |(binding, at)| value(binding, at + col));
        let residual = self.residual.map_or(0.0, |(binding, at, stride)| value(binding, at + row * stride + col));
        (before + bias + residual, before.abs() + bias.abs() + residual.abs())
    }
}

/// `planes` products, a batch's parts after one another; `swapped`: operand 1 has the rows of y; whether there are a scale, a bias
/// and a residual.
pub(crate) fn twin(lies: [Lies; 2], swapped: bool, planes: usize, [scaled, bias, residual]: [bool; 3]) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let p: Vec<usize> = s.params()[4..].iter().map(|v| *v as usize).collect();
        let [k, k_step, parts] = [p[2], p[3], p[7]];
        let scale = |k: usize| if scaled { f64::from(s.f32(3)[p[16] + k]) } else { 1.0 };
        let added = Added::new(2, p[11] != 0, 3 + usize::from(scaled), [bias, residual], &p[17..]);
        let [y_offset, y_stride, y_step] = [p[12], p[13], p[14]];
        let alpha = f64::from(f32::from_bits(p[15] as u32));
        let (mut at, mut want, mut magnitude) = (Vec::new(), Vec::new(), Vec::new());
        for plane in 0..planes {
            let (batch, part) = (plane / parts, plane % parts);
            let ks = (part * k_step).min(k)..((part + 1) * k_step).min(k);
            // Vectors along k, one for each row of either operand.
            let [l, r]: [Vec<Vec<f64>>; 2] = std::array::from_fn(|o| {
                let [offset, stride, step] = [0, 1, 2].map(|i| p[4 + 4 * o + i]);
                let at = |i, k| {
                    let (row, col) = if lies[o].across { (k, i) } else { (i, k) };
                    element(s.words(o), lies[o].half, offset + batch * step, stride, row, col)
                };
                (0..p[o]).map(|i| ks.clone().map(|k| at(i, k)).collect()).collect()
            });
            let l: Vec<Vec<f64>> = l.into_iter().map(|row| row.iter().zip(ks.clone()).map(|(v, k)| v * scale(k)).collect()).collect();
            let (a, b) = if swapped { (&r, &l) } else { (&l, &r) };
            for (row, a) in a.iter().enumerate() {
                for (col, b) in b.iter().enumerate() {
                    let (sum, size) = super::linear::product(a, b);
                    let word = y_offset + plane * y_step + row * y_stride + col;
                    let (more, more_size) = added.at(s, word, row, col);
                    at.push(word);
                    want.push(alpha * sum + more);
                    magnitude.push(alpha.abs() * size + more_size);
                }
            }
        }
        vec![Expected::Floats { binding: 2, at, want, magnitude, tolerance: Tolerance::sum(k_step.min(k)) }]
    })
}

/// The sum of the parts.
pub(crate) fn sum_twin(batch: usize, extras: [bool; 2]) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let p: Vec<usize> = s.params()[4..].iter().map(|v| *v as usize).collect();
        let [m, n, parts, y_offset, y_stride, y_step] = [p[0], p[1], p[2], p[3], p[4], p[5]];
        let alpha = f64::from(f32::from_bits(p[6] as u32));
        let added = Added::new(1, p[7] != 0, 2, extras, &p[8..]);
        let (mut at, mut want, mut magnitude) = (Vec::new(), Vec::new(), Vec::new());
        for b in 0..batch {
            for row in 0..m {
                for col in 0..n {
                    let values = (0..parts).map(|part| f64::from(s.f32(0)[((b * parts + part) * m + row) * n + col]));
                    let (sum, size) = values.fold((0.0, 0.0), |(sum, size), v| (sum + v, size + v.abs()));
                    let word = y_offset + b * y_step + row * y_stride + col;
                    let (more, more_size) = added.at(s, word, row, col);
                    at.push(word);
                    want.push(alpha * sum + more);
                    magnitude.push(alpha.abs() * size + more_size);
                }
            }
        }
        vec![Expected::Floats { binding: 1, at, want, magnitude, tolerance: Tolerance::sum(parts) }]
    })
}
