//! Twin of `shaders/spmm.wgsl`.

use crate::plan::{Expected, Snapshot, Tolerance, Twin};

/// `unit`: words that places of b, y and the bias count in.
pub(crate) fn twin(entries: bool, bias: bool, cols: usize, unit: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let p: Vec<usize> = s.params()[4..].iter().map(|v| *v as usize).collect();
        let turned = |col: usize, row: usize| if col == 1 { (row * unit, 1) } else { (row, col) };
        let ((b_row, b_col), (y_row, y_col)) = (turned(p[6], p[5]), turned(p[9], p[8]));
        let alpha = f64::from(f32::from_bits(p[12] as u32));
        let value = |e: usize| match entries {
            true => match s.words(5)[p[17] + e] {
                crate::tensor::NONE => 0.0,
                at => f64::from(s.f32(2)[p[3] + at as usize]),
            },
            false => f64::from(s.f32(2)[p[3] + e]),
        };
        let (mut at, mut want, mut magnitude) = (Vec::new(), Vec::new(), Vec::new());
        let mut longest = 0;
        for r in 0..p[0] {
            let offset = |i: usize| s.words(0)[p[15] + i] as usize;
            let begin = offset(r) + p[10];
            let range = begin..offset(r + 1).min(begin + p[11]);
            longest = longest.max(range.len());
            for c in 0..cols {
                let (mut sum, mut size) = (0.0, 0.0);
                for e in range.clone() {
                    let row = (s.words(1)[p[16] + e] as usize).min(p[2]);
                    let term = value(e) * f64::from(s.f32(3)[p[4] * unit + row * b_row + c * b_col]);
                    (sum, size) = (sum + term, size + term.abs());
                }
                let sign = if c == 0 && p[18] != 0 { -1.0 } else { 1.0 };
                let word = p[7] * unit + r * y_row + c * y_col;
                let before = if p[13] != 0 { f64::from(s.f32(4)[word]) } else { 0.0 };
                let more = if bias { f64::from(s.f32(5 + usize::from(entries))[p[14] * unit + c]) } else { 0.0 };
                at.push(word);
                want.push(sign * alpha * sum + before + more);
                magnitude.push(alpha.abs() * size + before.abs() + more.abs());
            }
        }
        vec![Expected::Floats { binding: 4, at, want, magnitude, tolerance: Tolerance::sum(longest) }]
    })
}
