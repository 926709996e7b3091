//! Twin of `shaders/select.wgsl`.

use crate::plan::{Expected, Snapshot, Tolerance, Twin};

/// `unit`: words that the parameters count in.
pub(crate) fn twin(columns: bool, scaled: bool, rows: usize, cols: usize, unit: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let p: Vec<usize> = s.params()[4..].iter().map(|v| *v as usize).collect();
        let (last, indices) = (p[2], &s.words(1)[p[3]..]);
        let [x_offset, x_stride, y_offset, y_stride] = [p[4], p[5], p[6], p[7]].map(|v| v * unit);
        let (mut at, mut want, mut products) = (Vec::new(), Vec::new(), Vec::new());
        for t in 0..rows {
            for j in 0..cols {
                let index = (indices[if columns { j } else { t }] as usize).min(last);
                let (row, col) = if columns { (t, index) } else { (index, j) };
                at.push(y_offset + t * y_stride + j);
                let word = s.words(0)[x_offset + row * x_stride + col];
                want.push(word);
                if scaled {
                    products.push(f64::from(f32::from_bits(word)) * f64::from(s.f32(3)[p[8] + index]));
                }
            }
        }
        if !scaled {
            return vec![Expected::Words { binding: 2, at, want }];
        }
        let magnitude = products.iter().map(|v| v.abs()).collect();
        vec![Expected::Floats { binding: 2, at, want: products, magnitude, tolerance: Tolerance::elementwise() }]
    })
}
