//! Twins of `shaders/jacobi_*.wgsl`. Which rotations make rows orthogonal is open, so that those are judged by what they do.

use crate::kernel::svd::WIDTH;
use crate::plan::{Expected, Judge, Snapshot, Tolerance, Twin};

/// The pairs of round `t` of `n - 1`, in each of which `n` players meet in `n / 2` pairs: the first stays, the others move on.
pub fn round(n: usize, t: usize) -> Vec<(usize, usize)> {
    let seat = |i: i64| (t as i64 + i).rem_euclid(n as i64 - 1) as usize;
    let sorted = |a: usize, b: usize| (a.min(b), a.max(b));
    std::iter::once(sorted(n - 1, seat(0))).chain((1..n as i64 / 2).map(|i| sorted(seat(i), seat(-i)))).collect()
}

/// `A Aᵀ` of rows.
pub fn gram(rows: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    rows.iter().map(|a| rows.iter().map(|b| dot(a, b)).collect()).collect()
}

/// The largest cosine between two rows, of which neither has at most `low` for its square, and the sum of the squares of all.
pub fn cosines(g: &[Vec<f64>], low: f64) -> (f64, f64) {
    let (mut largest, mut sum) = (0f64, 0.0);
    for i in 0..g.len() {
        for j in (0..i).filter(|j| g[i][i].min(g[*j][*j]) > low) {
            let c = g[i][j].abs() / (g[i][i] * g[j][j]).sqrt();
            largest = largest.max(c);
            sum += c * c;
        }
    }
    (largest, sum)
}

/// `J G Jᵀ`.
fn turned(j: &[Vec<f64>], g: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let product = |a: &[Vec<f64>], b: &[Vec<f64>]| -> Vec<Vec<f64>> {
        a.iter().map(|r| (0..b.len()).map(|c| r.iter().zip(b).map(|(x, y)| x * y[c]).sum()).collect()).collect()
    };
    let t: Vec<Vec<f64>> = (0..j.len()).map(|c| j.iter().map(|r| r[c]).collect()).collect();
    product(&product(j, g), &t)
}

fn floats(s: &Snapshot, i: usize, at: usize, n: usize) -> Vec<f64> {
    s.f32(i)[at..at + n].iter().map(|v| f64::from(*v)).collect()
}

/// Words of the turns of a layer.
fn layer_turns(pairs: usize, p: usize) -> usize {
    (pairs * (p * p + 4)).next_multiple_of(64)
}

/// Where the rows of a pair begin, in words.
fn places(layer_at: usize, stride: usize, (low, high): (usize, usize)) -> Vec<usize> {
    [low, high].iter().flat_map(|b| (0..WIDTH).map(move |r| layer_at + (b * WIDTH + r) * stride)).collect()
}

/// Whether J is orthogonal and turns rows with the products `g` into nearly orthogonal ones.
fn judge_turn(words: &[u32], g: &[Vec<f64>], low: f64, before: f64) -> Result<(), String> {
    let p = g.len();
    let j: Vec<Vec<f64>> = words.chunks_exact(p).map(|r| r.iter().map(|w| f64::from(f32::from_bits(*w))).collect()).collect();
    let products = gram(&j);
    let off = (0..p * p).map(|i| (products[i / p][i % p] - f64::from(u8::from(i / p == i % p))).abs()).fold(0.0, f64::max);
    // After the last step only the rounding of entries to f32 is left, a few half-ulps for a row.
    if off.is_nan() || off > 3e-7 {
        return Err(format!("J Jᵀ is off the identity by {off:.1e}"));
    }
    let mut turned = turned(&j, g);
    let top = (0..p).map(|i| g[i][i]).fold(0.0, f64::max);
    let noise = 1e-6 * p as f64;
    let (off_before, off_after) = (off_squares(g, low), off_squares(&turned, low));
    if off_after > 1e-2 * off_before + (noise * top).powi(2) {
        return Err(format!("squares of products add up to {off_after:.1e} after the turn, and to {off_before:.1e} before"));
    }
    // Cosines of small rows may grow at first, as their directions come out. Where all are small they fall fast, but for rows so
    // small that products beside the largest do not resolve them in f32: those need several turns.
    (0..p).for_each(|i| turned[i][i] += 1e-4 * top);
    let after = cosines(&turned, low + 1e-4 * top).1;
    if before < 1e-2 && after > 0.1 * before + noise * noise {
        return Err(format!("squares of cosines add up to {after:.1e} after the turn, and to {before:.1e} before"));
    }
    Ok(())
}

/// Squares of the products of two rows, of which neither has at most `low` for its square.
fn off_squares(g: &[Vec<f64>], low: f64) -> f64 {
    let all = (0..g.len()).flat_map(|i| (0..i).map(move |j| (i, j)));
    all.filter(|(i, j)| g[*i][*i].min(g[*j][*j]) > low).map(|(i, j)| g[i][j] * g[i][j]).sum()
}

pub(crate) fn gram_twin(layers: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let q = &s.params()[4..];
        let [stride, step] = [q[0], q[1]].map(|v| 4 * v as usize);
        let (blocks, t, first) = (q[2] as usize, q[3] as usize, q[4] as usize);
        let [tolerance, floor] = [q[6], q[7]].map(|w| f64::from(f32::from_bits(w)));
        let (p, pairs) = (2 * WIDTH, blocks / 2);
        // Sums of `stride` products in the numerator and in both norms.
        let error = 3.0 * 2f64.powi(-24) * (8.0 + stride as f64 / 64.0);
        let mut out = Vec::new();
        for layer in 0..layers {
            let state = &s.words(1)[(first + layer) * 16..][..16];
            if state[0] != 0 {
                continue;
            }
            let low = (floor * f64::from(f32::from_bits(state[2]))).powi(2);
            let mut largest = 0f64;
            for (i, pair) in round(blocks, t).into_iter().enumerate() {
                let rows: Vec<_> = places(layer * step, stride, pair).into_iter().map(|at| floats(s, 0, at, stride)).collect();
                let g = gram(&rows);
                let (cosine, before) = cosines(&g, low);
                largest = largest.max(cosine);
                let at = layer_turns(pairs, p) * layer + i * (p * p + 4);
                let old = s.words(2)[at..at + p * p].to_vec();
                let judge: Judge = Box::new(move |w| {
                    let flag = f32::from_bits(w[at + p * p]);
                    if w[at + p * p + 1..at + p * p + 4] != [0; 3] || (flag != 0.0 && flag != 1.0) {
                        return Err(format!("pair {i}: flag {flag}"));
                    }
                    if (flag == 1.0 && cosine < tolerance - error) || (flag == 0.0 && cosine > tolerance + error) {
                        return Err(format!("pair {i}: flag {flag} where the largest cosine is {cosine:.2e}"));
                    }
                    if flag == 1.0 {
                        return judge_turn(&w[at..at + p * p], &g, low, before).map_err(|e| format!("pair {i}: {e}"));
                    }
                    if w[at..at + p * p] == old { Ok(()) } else { Err(format!("pair {i}: J was written without need")) }
                });
                out.push(Expected::Choice { binding: 2, at: (at..at + p * p + 4).collect(), judge });
            }
            let word = first + layer;
            let before = f64::from(f32::from_bits(s.words(3)[word]));
            let want = largest.max(before);
            let judge: Judge = Box::new(move |w| {
                let got = f64::from(f32::from_bits(w[word]));
                // A cosine of two rows that nearly count as zero may or may not count.
                if (got - want).abs() <= error { Ok(()) } else { Err(format!("peak {got:e} where {want:e} is expected")) }
            });
            out.push(Expected::Choice { binding: 3, at: vec![word], judge });
        }
        out
    })
}

pub(crate) fn apply_twin(layers: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let q: Vec<usize> = s.params()[4..].iter().map(|v| *v as usize).collect();
        let (p, blocks, first) = (2 * WIDTH, q[4], q[6]);
        let mut out = Vec::new();
        for (binding, (cols, step)) in [(4 * q[0], 4 * q[1]), (4 * q[2], 4 * q[3])].into_iter().enumerate() {
            let (mut at, mut want, mut magnitude) = (Vec::new(), Vec::new(), Vec::new());
            for layer in (0..layers).filter(|l| s.words(3)[(first + l) * 16] == 0) {
                for (i, pair) in round(blocks, q[5]).into_iter().enumerate() {
                    let turn = floats(s, 2, layer_turns(blocks / 2, p) * layer + i * (p * p + 4), p * p + 1);
                    if turn[p * p] == 0.0 {
                        continue;
                    }
                    let rows = places(layer * step, cols, pair);
                    let values: Vec<_> = rows.iter().map(|r| floats(s, binding, *r, cols)).collect();
                    for (r, row) in rows.iter().enumerate() {
                        for c in 0..cols {
                            let terms = values.iter().enumerate().map(|(l, v)| turn[r * p + l] * v[c]);
                            at.push(row + c);
                            want.push(terms.clone().sum());
                            magnitude.push(terms.map(f64::abs).sum());
                        }
                    }
                }
            }
            out.push(Expected::Floats { binding, at, want, magnitude, tolerance: Tolerance::sum(p) });
        }
        out
    })
}

pub(crate) fn close_twin() -> Twin {
    Twin::new(|s: &Snapshot| {
        let (layers, tolerance) = (s.params()[4] as usize, f32::from_bits(s.params()[5]));
        let (mut peaks, mut state) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
        for layer in (0..layers).filter(|l| s.words(1)[l * 16] == 0) {
            let own = &s.words(1)[layer * 16..][..16];
            let peak = s.words(0)[layer];
            peaks.0.push(layer);
            peaks.1.push(0);
            let mut put = |word: usize, v: u32| {
                state.0.push(layer * 16 + word);
                state.1.push(v);
            };
            put(4, peak);
            if f32::from_bits(peak) <= tolerance {
                put(0, 1);
            } else {
                put(5, if own[6] == 0 { peak } else { own[5] });
                put(6, own[6] + 1);
            }
        }
        let words = |binding, (at, want)| Expected::Words { binding, at, want };
        vec![words(0, peaks), words(1, state)]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_two_meet_once_in_all_rounds() {
        for n in [2, 4, 6, 16, 18] {
            let mut met: Vec<_> = (0..n - 1).flat_map(|t| round(n, t)).collect();
            met.sort_unstable();
            let want: Vec<_> = (0..n).flat_map(|a| (a + 1..n).map(move |b| (a, b))).collect();
            assert_eq!(met, want, "{n}");
        }
    }
}
