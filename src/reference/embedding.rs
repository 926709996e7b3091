//! Twin of `shaders/embedding.wgsl`.

use crate::plan::{Expected, Snapshot, Tolerance, Twin};
use crate::tensor::Format;

pub(crate) fn twin(format: Format, by_position: bool, add: bool, rows: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let p: Vec<usize> = s.params()[4..].iter().map(|v| *v as usize).collect();
        let [cols, _, _, first, table_rows, y_offset, y_stride] = [p[0], p[1], p[2], p[3], p[4], p[5], p[6]];
        let scales = if matches!(format, Format::Quant(_)) { s.words(3) } else { &[] };
        let (mut at, mut want, mut bits) = (Vec::new(), Vec::new(), Vec::new());
        for row in 0..rows {
            let id = if by_position { s.words(0)[row / p[8] * 32] as usize + row % p[8] + p[9] } else { s.words(0)[p[7] + row] as usize };
            let id = id.min(p[10]);
            if id < first || id - first >= table_rows {
                continue;
            }
            for (i, v) in super::weight_row(&format, s.words(2), scales, id - first, cols).into_iter().enumerate() {
                let y = y_offset + row * y_stride + i;
                at.push(y);
                want.push(v + if add { f64::from(s.f32(1)[y]) } else { 0.0 });
                bits.push((v as f32).to_bits());
            }
        }
        if !add {
            // A decoded value is the file's value, bit for bit.
            return vec![Expected::Words { binding: 1, at, want: bits }];
        }
        let magnitude = want.iter().map(|v| v.abs()).collect();
        vec![Expected::Floats { binding: 1, at, want, magnitude, tolerance: Tolerance::elementwise() }]
    })
}
