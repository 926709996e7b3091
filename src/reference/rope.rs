//! Twin of `shaders/rope.wgsl`.

use crate::kernel::rope::Pairing;
use crate::plan::{Expected, Snapshot, Tolerance, Twin};

/// Values for one binding, as they are collected.
#[derive(Default)]
struct Floats {
    at: Vec<usize>,
    want: Vec<f64>,
    magnitude: Vec<f64>,
}

impl Floats {
    fn push(&mut self, at: usize, want: f64, magnitude: f64) {
        self.at.push(at);
        self.want.push(want);
        self.magnitude.push(magnitude);
    }

    fn expect(self, binding: usize) -> Expected {
        // Two products and a sum.
        Expected::Floats { binding, at: self.at, want: self.want, magnitude: self.magnitude, tolerance: Tolerance::elementwise() }
    }
}

/// The elements of a head that pair `i` of `d / 2` rotates.
pub fn pair(pairing: Pairing, i: usize, d: usize) -> (usize, usize) {
    match pairing {
        Pairing::Half => (i, i + d / 2),
        _ => (2 * i, 2 * i + 1),
    }
}

pub(crate) fn twin(pairing: Pairing, stacked: bool) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let p: Vec<usize> = s.params()[4..].iter().map(|v| *v as usize).collect();
        let [rows, sequence_rows, heads, kv_heads, d, capacity] = [p[0], p[1], p[2], p[3], p[4], p[5]];
        let [q_offset, q_stride, k_offset, k_stride, v_offset, v_stride] = [p[6], p[7], p[8], p[9], p[10], p[11]];
        let [table_offset, first, count, positions] = [p[12], p[13], p[14], p[15]];
        let q_binding = if stacked { 3 } else { 6 };
        let (k_binding, v_binding) = if stacked { (3, 3) } else { (3, 4) };
        let (mut q_out, mut k_out, mut v_out) = (Floats::default(), Floats::default(), Floats::default());
        for row in 0..rows {
            let (sequence, t) = (row / sequence_rows, row % sequence_rows);
            let state = &s.words(0)[sequence * 32..][..32];
            let position = state[0] as usize + t;
            let valid = t < state[1] as usize && state[2] != 0 && position < capacity;
            let angle = |i: usize| match pairing {
                Pairing::None => (1.0, 0.0),
                _ => {
                    let at = 2 * (table_offset + position.min(positions - 1) * (d / 2) + i);
                    let table = s.f32(if stacked { 4 } else { 5 });
                    (f64::from(table[at]), f64::from(table[at + 1]))
                }
            };
            let rotate = |words: &[f32], at: usize, i: usize| {
                let ((x, y), (c, n)) = (pair(pairing, i, d), angle(i));
                let (a, b) = (f64::from(words[at + x]), f64::from(words[at + y]));
                let (mx, my) = ((a * c).abs() + (b * n).abs(), (a * n).abs() + (b * c).abs());
                [(x, a * c - b * n, mx), (y, a * n + b * c, my)]
            };
            for head in 0..heads {
                let at = q_offset + row * q_stride + head * d;
                for (e, v, m) in (0..d / 2).flat_map(|i| rotate(s.f32(q_binding), at, i)) {
                    q_out.push(at + e, v, m);
                }
            }
            for kv in 0..kv_heads {
                let flat = sequence * kv_heads + kv;
                if !valid || flat < first || flat >= first + count {
                    continue;
                }
                let to = ((flat - first) * capacity + position) * d;
                for (e, v, m) in (0..d / 2).flat_map(|i| rotate(s.f32(k_binding), k_offset + row * k_stride + kv * d, i)) {
                    k_out.push(to + e, v, m);
                }
                for e in 0..d {
                    let v = f64::from(s.f32(v_binding)[v_offset + row * v_stride + kv * d + e]);
                    v_out.push(to + e, v, v.abs());
                }
            }
        }
        let mut out = vec![k_out.expect(1), v_out.expect(2)];
        if heads > 0 && pairing != Pairing::None {
            out.push(q_out.expect(q_binding));
        }
        out
    })
}
