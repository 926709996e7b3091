//! Twins of `shaders/svd_*.wgsl`.

use crate::plan::{Expected, Snapshot, Tolerance, Twin};

/// A row's flag that says that it is none.
const PADDING: u32 = u32::MAX;

fn params(s: &Snapshot) -> Vec<usize> {
    s.params()[4..].iter().map(|v| *v as usize).collect()
}

fn float(w: u32) -> f64 {
    f64::from(f32::from_bits(w))
}

fn row(s: &Snapshot, binding: usize, at: usize, n: usize) -> Vec<f64> {
    s.words(binding)[at..at + n].iter().map(|w| float(*w)).collect()
}

/// Floats of one binding, put together one by one.
struct Floats {
    binding: usize,
    at: Vec<usize>,
    want: Vec<f64>,
    magnitude: Vec<f64>,
}

impl Floats {
    fn of(binding: usize) -> Self {
        Self { binding, at: Vec::new(), want: Vec::new(), magnitude: Vec::new() }
    }

    fn put(&mut self, at: usize, want: f64, magnitude: f64) {
        self.at.push(at);
        self.want.push(want);
        self.magnitude.push(magnitude);
    }

    fn expect(self, tolerance: Tolerance) -> Expected {
        let Self { binding, at, want, magnitude } = self;
        Expected::Floats { binding, at, want, magnitude, tolerance }
    }
}

pub(crate) fn measure() -> Twin {
    Twin::new(|s: &Snapshot| {
        let q = params(s);
        let bits = s.words(0)[q[2]..q[2] + q[1]].iter().map(|w| w & 0x7fff_ffff);
        vec![Expected::Words { binding: 1, at: vec![q[5]], want: vec![bits.fold(s.words(1)[q[5]], u32::max)] }]
    })
}

pub(crate) fn load(kind: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let q = params(s);
        let (k, cols, offset, leading, factor, stride, padded) = (q[0], q[1], q[2], q[3], q[4], q[6], q[7]);
        let scale = float(s.words(1)[q[5]]);
        let mut out = Floats::of(0);
        for (r, c) in (0..padded).flat_map(|r| (0..stride).map(move |c| (r, c))) {
            let v = match kind {
                _ if r >= k || c >= cols => 0.0,
                0 => scale * float(s.words(2)[offset + r * leading + c]),
                1 => scale * float(s.words(2)[offset + r * leading + c]) * float(s.words(3)[factor + r]),
                2 => scale * float(s.words(2)[offset + c * leading + r]),
                _ => f64::from(u8::from(r == c)),
            };
            out.put(r * stride + c, v, v.abs());
        }
        vec![out.expect(Tolerance::elementwise())]
    })
}

pub(crate) fn store() -> Twin {
    Twin::new(|s: &Snapshot| {
        let q = params(s);
        let (k, cols, offset, stride, at, work_stride, padded) = (q[0], q[1], q[2], q[3], q[5], q[6], q[7]);
        let mut out = Floats::of(0);
        for r in 0..k {
            let from = s.words(2)[at + 3 * padded + r] as usize;
            let sign = float(s.words(2)[at + 2 * padded + from]);
            for c in 0..cols {
                let v = sign * float(s.words(1)[from * work_stride + c]);
                out.put(offset + r * stride + c, v, v.abs());
            }
        }
        vec![out.expect(Tolerance::elementwise())]
    })
}

pub(crate) fn store_values() -> Twin {
    Twin::new(|s: &Snapshot| {
        let q = params(s);
        let mut out = Floats::of(0);
        for r in 0..q[0] {
            let from = s.words(2)[q[5] + 3 * q[7] + r] as usize;
            let v = float(s.words(2)[q[5] + from]) * float(s.words(1)[q[4]]);
            out.put(q[2] + r, v, v.abs());
        }
        vec![out.expect(Tolerance::elementwise())]
    })
}

pub(crate) fn norms(layers: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let q = params(s);
        let (cols, k, padded, first) = (4 * q[0], q[1], q[2], q[3]);
        let mut out = Floats::of(1);
        for (layer, r) in (0..layers).flat_map(|l| (0..k).map(move |r| (l, r))) {
            let norm = row(s, 0, (layer * padded + r) * cols, cols).iter().map(|v| v * v).sum::<f64>().sqrt();
            out.put((first + layer) * 4 * padded + r, norm, norm);
        }
        vec![out.expect(Tolerance::sum(cols))]
    })
}

pub(crate) fn nulls(layers: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let q = params(s);
        let (k, padded, least) = (q[1], q[2], f32::from_bits(s.params()[8]));
        let (mut flags, mut state) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
        for layer in 0..layers {
            let norm = |r: usize| f32::from_bits(s.words(0)[layer * 4 * padded + r]);
            let largest = (0..k).map(norm).fold(0.0, f32::max);
            let null = |r: usize| norm(r) <= least * largest;
            for r in 0..padded {
                flags.0.push((layer * 4 + 1) * padded + r);
                flags.1.push(if r >= k { PADDING } else { u32::from(null(r)) });
            }
            state.0.extend([layer * 16 + 1, layer * 16 + 2]);
            state.1.extend([(0..k).filter(|r| null(*r)).count() as u32, largest.to_bits()]);
        }
        let words = |binding, (at, want)| Expected::Words { binding, at, want };
        vec![words(0, flags), words(1, state)]
    })
}

pub(crate) fn scale(layers: usize, times: bool) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let q = params(s);
        let (cols, k, padded, first) = (q[0], q[1], q[2], q[3]);
        let mut out = Floats::of(0);
        for (layer, r) in (0..layers).flat_map(|l| (0..k).map(move |r| (l, r))) {
            let norm = float(s.words(1)[(first + layer) * 4 * padded + r]);
            let factor = if times {
                norm
            } else if norm > 1e-30 {
                1.0 / norm
            } else {
                0.0
            };
            let at = (layer * padded + r) * cols;
            for (c, v) in row(s, 0, at, cols).into_iter().enumerate() {
                out.put(at + c, v * factor, (v * factor).abs());
            }
        }
        vec![out.expect(Tolerance::elementwise())]
    })
}

pub(crate) fn orient(layers: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let q = params(s);
        let (cols, k, padded, first) = (q[0], q[1], q[2], q[3]);
        let (mut at, mut want) = (Vec::new(), Vec::new());
        for (layer, r) in (0..layers).flat_map(|l| (0..k).map(move |r| (l, r))) {
            let values = row(s, 0, (layer * padded + r) * cols, cols);
            // The last of the largest in the reversed row is the first in the row.
            let top = values.iter().rev().copied().max_by(|a, b| a.abs().total_cmp(&b.abs()));
            at.push(((first + layer) * 4 + 2) * padded + r);
            want.push(if top.is_some_and(|v| v < 0.0) { -1f32 } else { 1.0 }.to_bits());
        }
        vec![Expected::Words { binding: 1, at, want }]
    })
}

pub(crate) fn order(layers: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let q = params(s);
        let (k, padded) = (q[1], q[2]);
        let (mut at, mut want) = (Vec::new(), Vec::new());
        for layer in 0..layers {
            let norms = row(s, 0, layer * 4 * padded, k);
            let mut rows: Vec<usize> = (0..k).collect();
            rows.sort_by(|a, b| norms[*b].total_cmp(&norms[*a]));
            at.extend((0..k).map(|r| (layer * 4 + 3) * padded + r));
            want.extend(rows.into_iter().map(|r| r as u32));
        }
        vec![Expected::Words { binding: 0, at, want }]
    })
}

/// A permutation of 32-bit words with no visible pattern (O'Neill's PCG, RXS-M-XS).
pub fn mixed(x: u32) -> u32 {
    let v = x.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
    let v = ((v >> ((v >> 28) + 4)) ^ v).wrapping_mul(277_803_737);
    (v >> 22) ^ v
}

pub(crate) fn pick(layers: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let q = params(s);
        let (cols, k, padded, first, width) = (q[0], q[1], q[2], q[3], q[4]);
        let (mut state, mut values) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
        for layer in 0..layers {
            let rows = &s.words(1)[(first + layer) * 4 * padded..];
            let chosen = (0..k).find(|r| rows[padded + r] != 0);
            state.0.push((first + layer) * 16 + 3);
            state.1.push(chosen.unwrap_or(k) as u32);
            let Some(r) = chosen.filter(|r| rows[padded + r] > 1 || f32::from_bits(rows[*r]) <= 1e-30) else { continue };
            let seed = mixed(r as u32 * 64 + rows[padded + r]);
            for c in 0..width {
                values.0.push((layer * padded + r) * cols + c);
                values.1.push(((mixed(seed.wrapping_add(c as u32)) >> 8) as f32 * 2f32.powi(-23) - 1.0).to_bits());
            }
        }
        let words = |binding, (at, want)| Expected::Words { binding, at, want };
        vec![words(2, state), words(0, values)]
    })
}

fn magnitude(a: &[f64], b: &[f64]) -> (f64, f64) {
    let terms = a.iter().zip(b).map(|(x, y)| x * y);
    (terms.clone().sum(), terms.map(f64::abs).sum())
}

pub(crate) fn dots(layers: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let q = params(s);
        let (cols, k, padded, first, pass) = (4 * q[0], q[1], q[2], q[3], q[5]);
        let mut out = Floats::of(3);
        for layer in 0..layers {
            let chosen = s.words(2)[(first + layer) * 16 + 3] as usize;
            if chosen >= k {
                continue;
            }
            let values = |r: usize| row(s, 0, (layer * padded + r) * cols, cols);
            let z = values(chosen);
            let to = (first + layer) * (padded + 4);
            for r in 0..k {
                let flag = s.words(1)[((first + layer) * 4 + 1) * padded + r];
                let (sum, size) = if flag == 0 && r != chosen { magnitude(&values(r), &z) } else { (0.0, 0.0) };
                out.put(to + r, sum, size);
            }
            let (sum, size) = magnitude(&z, &z);
            out.put(to + padded + pass, sum, size);
        }
        vec![out.expect(Tolerance { relative_l2: 3e-6, ..Tolerance::sum(cols) })]
    })
}

pub(crate) fn subtract(layers: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let q = params(s);
        let (cols, k, padded, first) = (q[0], q[1], q[2], q[3]);
        let mut out = Floats::of(0);
        for layer in 0..layers {
            let chosen = s.words(2)[(first + layer) * 16 + 3] as usize;
            if chosen >= k {
                continue;
            }
            let coefs = row(s, 1, (first + layer) * (padded + 4), k);
            let at = (layer * padded + chosen) * cols;
            for (c, z) in row(s, 0, at, cols).into_iter().enumerate() {
                let column: Vec<f64> = (0..k).map(|r| float(s.words(0)[(layer * padded + r) * cols + c])).collect();
                let (sum, size) = magnitude(&coefs, &column);
                out.put(at + c, z - sum, z.abs() + size);
            }
        }
        // What is left may be much smaller than what it is the difference of.
        vec![out.expect(Tolerance { relative_l2: f64::INFINITY, ..Tolerance::sum(k) })]
    })
}

pub(crate) fn judge(layers: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let q = params(s);
        let (cols, k, padded, first) = (q[0], q[1], q[2], q[3]);
        let (mut a, mut norms) = (Floats::of(0), Floats::of(2));
        let (mut flags, mut state) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
        for layer in 0..layers {
            let own = (first + layer) * 16;
            let chosen = s.words(3)[own + 3] as usize;
            if chosen >= k {
                continue;
            }
            let at = (layer * padded + chosen) * cols;
            let z = row(s, 0, at, cols);
            let left = magnitude(&z, &z).0;
            let squares = row(s, 1, (first + layer) * (padded + 4) + padded, 3);
            let words = (first + layer) * 4 * padded + chosen;
            let (norm, flag) = (float(s.words(2)[words]), s.words(2)[words + padded]);
            flags.0.push(words + padded);
            if left <= 0.8 * squares[2] || left <= 1e-7 * squares[0] {
                flags.1.push(flag + 1);
                continue;
            }
            flags.1.push(0);
            state.0.push(own + 1);
            state.1.push(s.words(3)[own + 1] - 1);
            let keeps = flag == 1 && norm > 1e-30;
            let norm = if keeps { norm * (left / squares[0]).sqrt() } else { 0.0 };
            norms.put(words, norm, norm);
            for (c, v) in z.into_iter().enumerate() {
                a.put(at + c, v / left.sqrt(), (v / left.sqrt()).abs());
            }
        }
        let words = |binding, (at, want)| Expected::Words { binding, at, want };
        vec![a.expect(Tolerance::sum(cols)), norms.expect(Tolerance::sum(cols)), words(2, flags), words(3, state)]
    })
}
