//! Twin of `shaders/attention.wgsl`, `shaders/attention_lanes.wgsl` and `shaders/attention_merge.wgsl`.

use crate::plan::{Expected, Snapshot, Tolerance, Twin};
use std::ops::Range;

/// What the kernels write for the logarithm of an empty sum.
const NONE: f32 = -3.0e38;

/// `softmax(scale q . k_j) v_j` over the given keys in two plain passes, and `sum p |v|` for each element.
pub fn attend(q: &[f64], keys: &[Vec<f64>], values: &[Vec<f64>], scale: f64) -> Vec<(f64, f64)> {
    let scores: Vec<f64> = keys.iter().map(|k| scale * q.iter().zip(k).map(|(a, b)| a * b).sum::<f64>()).collect();
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
    let total: f64 = weights.iter().sum();
    (0..q.len())
        .map(|i| {
            let terms = weights.iter().zip(values).map(|(w, v)| w * v[i]);
            let sums = terms.fold((0.0, 0.0), |(s, m), t| (s + t, m + t.abs()));
            if total > 0.0 { (sums.0 / total, sums.1 / total) } else { (0.0, 0.0) }
        })
        .collect()
}

/// `log sum exp(scale q . k_j)`, and the largest `scale |q| . |k_j|`, which errors of the scores are relative to, plus the logarithm
/// of the number of keys.
pub fn log_total(q: &[f64], keys: &[Vec<f64>], scale: f64) -> (f64, f64) {
    let sum = |k: &[f64], f: fn(f64) -> f64| scale * q.iter().zip(k).map(|(a, b)| f(a * b)).sum::<f64>();
    let scores: Vec<f64> = keys.iter().map(|k| sum(k, |t| t)).collect();
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = scores.iter().map(|s| (s - top).exp()).sum();
    let largest = keys.iter().map(|k| sum(k, f64::abs).abs()).fold(0.0, f64::max);
    (top + total.ln(), largest + (keys.len() as f64).ln() + 1.0)
}

/// The keys that a split has of those that a row sees, where the last row of the sequence sees `most`.
fn part(splits: usize, split: usize, seen: usize, most: usize) -> Range<usize> {
    // Whole tiles of 64.
    let size = if splits == 1 { most } else { most.div_ceil(64 * splits) * 64 };
    (split * size).min(seen)..((split + 1) * size).min(seen)
}

/// Where one head's result of a part of the keys lies, and what it is.
#[derive(Default)]
struct Wanted {
    at: Vec<usize>,
    want: Vec<f64>,
    magnitude: Vec<f64>,
}

impl Wanted {
    fn push(&mut self, at: usize, (want, magnitude): (f64, f64)) {
        self.at.push(at);
        self.want.push(want);
        self.magnitude.push(magnitude);
    }

    fn floats(self, binding: usize, tolerance: Tolerance) -> Expected {
        Expected::Floats { binding, at: self.at, want: self.want, magnitude: self.magnitude, tolerance }
    }
}

/// `saves`: the logarithms of the totals go to a binding of their own.
pub(crate) fn twin(d: usize, causal: bool, sequences: usize, q_heads: usize, saves: bool) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let p: Vec<usize> = s.params()[4..].iter().map(|v| *v as usize).collect();
        let [rows, _, group, splits] = [p[0], p[1], p[2], p[3]];
        let [capacity, first_head, first_sequence] = [p[16], p[17], p[18]];
        let scale = f64::from(f32::from_bits(s.params()[4 + 19]));
        // Offsets of q and o count from row 0 of the first sequence, and may wrap.
        let word =
            |offset: usize, stride: usize, row: usize, in_row: usize| (offset as u32).wrapping_add((row * stride + in_row) as u32) as usize;
        let take = |binding: usize, at: usize| s.f32(binding)[at..at + d].iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
        let (mut heads_of, mut totals, mut longest) = (Wanted::default(), Wanted::default(), 0);
        let mut empty = Vec::new();
        for sequence in first_sequence..first_sequence + sequences {
            let state = &s.words(0)[sequence * 32..][..32];
            let sees = |t: usize| if causal { state[0] as usize + t + 1 } else { state[1] as usize }.min(capacity);
            for (t, head, split) in (0..rows * q_heads * splits).map(|i| (i / splits / q_heads, i / splits % q_heads, i % splits)) {
                let (row, head) = (sequence * rows + t, head + first_head);
                let kv = head / group - first_head / group;
                let range = part(splits, split, sees(t), sees(rows - 1));
                longest = longest.max(range.len());
                let q = take(1, word(p[4], p[5], row, head * d));
                let rows_of = |binding: usize, b: usize| -> Vec<Vec<f64>> {
                    let first = p[b] + (sequence - first_sequence) * p[b + 1] + kv * p[b + 2];
                    range.clone().map(|j| take(binding, first + j * p[b + 3])).collect()
                };
                let keys = rows_of(2, 8);
                let stride = if splits > 1 { d + 4 } else { d };
                let at = word(p[6], p[7], row, (head * splits + split) * stride);
                for (i, v) in attend(&q, &keys, &rows_of(3, 12), scale).into_iter().enumerate() {
                    heads_of.push(at + i, v);
                }
                let total_at = if saves { word(p[20], p[21], row, head) } else { at + d };
                match (splits > 1 || saves, keys.is_empty()) {
                    (true, true) => empty.push(total_at),
                    (true, false) => totals.push(total_at, log_total(&q, &keys, scale)),
                    (false, _) => {}
                }
            }
        }
        // An error of a score (a sum of d terms, up to some tens) multiplies its weight; then a sum over the keys.
        let mut tolerance = Tolerance::sum(longest);
        tolerance.ulps += 8.0 * Tolerance::transcendental().ulps;
        // A logarithm may be near zero while its terms are not: only the bound on each element means anything.
        let mut of_totals = Tolerance::sum(longest + d);
        of_totals.ulps += Tolerance::transcendental().ulps;
        of_totals.relative_l2 = f64::INFINITY;
        let nothing = vec![NONE.to_bits(); empty.len()];
        let binding = if saves { 5 } else { 4 };
        vec![heads_of.floats(4, tolerance), totals.floats(binding, of_totals), Expected::Words { binding, at: empty, want: nothing }]
    })
}

/// Sums over the parts of the keys, weighted by their totals.
pub(crate) fn merge_twin(d: usize, rows: usize, heads: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let p: Vec<usize> = s.params()[4..].iter().map(|v| *v as usize).collect();
        let [splits, p_offset, p_stride, o_offset, o_stride] = [p[0], p[2], p[3], p[4], p[5]];
        let value = |at: usize| f64::from(s.f32(0)[at]);
        let mut result = Wanted::default();
        for (row, head) in (0..rows * heads).map(|i| (i / heads, i % heads)) {
            let at = |split: usize| p_offset + row * p_stride + (head * splits + split) * (d + 4);
            let top = (0..splits).map(|i| value(at(i) + d)).fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = (0..splits).map(|i| (value(at(i) + d) - top).exp()).collect();
            let total: f64 = weights.iter().sum();
            for e in 0..d {
                let terms = weights.iter().enumerate().map(|(i, w)| w * value(at(i) + e) / total);
                let sums = terms.fold((0.0, 0.0), |(sum, m), t| (sum + t, m + t.abs()));
                result.push(o_offset + row * o_stride + head * d + e, sums);
            }
        }
        // Differences of up to some tens go into exp: their rounding multiplies the weights.
        let mut tolerance = Tolerance::sum(splits);
        tolerance.ulps += 8.0 * Tolerance::transcendental().ulps;
        vec![result.floats(1, tolerance)]
    })
}
