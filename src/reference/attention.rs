//! Twin of `shaders/attention.wgsl`.

use crate::plan::{Expected, Snapshot, Tolerance, Twin};

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

pub(crate) fn twin(causal: bool, sequences: usize, q_heads: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let p: Vec<usize> = s.params()[4..].iter().map(|v| *v as usize).collect();
        let [rows, _, group, d] = [p[0], p[1], p[2], p[3]];
        let [capacity, first_head, first_sequence] = [p[16], p[17], p[18]];
        let scale = f64::from(f32::from_bits(s.params()[4 + 19]));
        // Offsets of q and o count from row 0 of the first sequence, and may wrap.
        let word =
            |offset: usize, stride: usize, row: usize, head: usize| (offset as u32).wrapping_add((row * stride + head * d) as u32) as usize;
        let take = |binding: usize, at: usize| s.f32(binding)[at..at + d].iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
        let (mut at, mut want, mut magnitude, mut most) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for sequence in first_sequence..first_sequence + sequences {
            let state = &s.words(0)[sequence * 32..][..32];
            for t in 0..rows {
                let row = sequence * rows + t;
                let seen = if causal { state[0] as usize + t + 1 } else { state[1] as usize }.min(capacity);
                most = most.max(seen);
                for head in first_head..first_head + q_heads {
                    let kv = head / group - first_head / group;
                    let q = take(1, word(p[4], p[5], row, head));
                    let rows_of = |binding: usize, b: usize| -> Vec<Vec<f64>> {
                        (0..seen)
                            .map(|j| take(binding, p[b] + (sequence - first_sequence) * p[b + 1] + kv * p[b + 2] + j * p[b + 3]))
                            .collect()
                    };
                    for (i, (v, m)) in attend(&q, &rows_of(2, 8), &rows_of(3, 12), scale).into_iter().enumerate() {
                        at.push(word(p[6], p[7], row, head) + i);
                        want.push(v);
                        magnitude.push(m);
                    }
                }
            }
        }
        // An error of a score (a sum of d terms, up to some tens) multiplies its weight; then a sum over the keys.
        let mut tolerance = Tolerance::sum(most);
        tolerance.ulps += 8.0 * Tolerance::transcendental().ulps;
        vec![Expected::Floats { binding: 4, at, want, magnitude, tolerance }]
    })
}
