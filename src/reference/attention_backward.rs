//! Twins of `shaders/attention_delta.wgsl` and `shaders/attention_backward*.wgsl`.

use crate::plan::{Expected, Snapshot, Tolerance, Twin};

/// A query as its gradients see it.
#[derive(Debug, Clone)]
pub struct Query {
    /// Its elements.
    pub q: Vec<f64>,
    /// The gradient of its output.
    pub d_o: Vec<f64>,
    /// The logarithm of the sum of its weights before they are divided by it.
    pub lse: f64,
    /// The product of its output and that output's gradient.
    pub delta: f64,
}

/// `a . b`, and the sum of the absolute products.
pub fn product(a: &[f64], b: &[f64]) -> (f64, f64) {
    a.iter().zip(b).fold((0.0, 0.0), |(s, m), (a, b)| (s + a * b, m + (a * b).abs()))
}

impl Query {
    /// The weight p of a key, the gradient `p (d_o . v - delta)` of its score, and the size of that gradient's terms.
    fn meets(&self, k: &[f64], v: &[f64], scale: f64) -> (f64, f64, f64) {
        let p = (scale * product(&self.q, k).0 - self.lse).exp();
        let (dp, size) = product(&self.d_o, v);
        (p, p * (dp - self.delta), p * (size + self.delta.abs()))
    }
}

/// `y += f x`, and `size` for f in the sum of absolute values.
fn add(y: &mut [(f64, f64)], f: f64, size: f64, x: &[f64]) {
    for (y, x) in y.iter_mut().zip(x) {
        y.0 += f * x;
        y.1 += size * x.abs();
    }
}

/// The gradient of a query, `scale sum_j dS_j k_j`; each element with the sum of its terms' sizes.
pub fn query_gradient(query: &Query, keys: &[Vec<f64>], values: &[Vec<f64>], scale: f64) -> Vec<(f64, f64)> {
    let mut dq = vec![(0.0, 0.0); query.q.len()];
    for (k, v) in keys.iter().zip(values) {
        let (_, ds, size) = query.meets(k, v, scale);
        add(&mut dq, scale * ds, scale.abs() * size, k);
    }
    dq
}

/// A gradient's elements, each with the sum of its terms' sizes.
pub type Gradient = Vec<(f64, f64)>;

/// The gradients of a key and its value over the queries that see it, `scale sum_t dS_t q_t` and `sum_t P_t dO_t`.
pub fn key_gradients(k: &[f64], v: &[f64], queries: &[&Query], scale: f64) -> (Gradient, Gradient) {
    let (mut dk, mut dv) = (vec![(0.0, 0.0); k.len()], vec![(0.0, 0.0); k.len()]);
    for query in queries {
        let (p, ds, size) = query.meets(k, v, scale);
        add(&mut dk, scale * ds, scale.abs() * size, &query.q);
        add(&mut dv, p, p, &query.d_o);
    }
    (dk, dv)
}

fn floats(binding: usize, results: Vec<(usize, (f64, f64))>, tolerance: Tolerance) -> Expected {
    let (at, values): (Vec<usize>, Vec<(f64, f64)>) = results.into_iter().unzip();
    let (want, magnitude) = values.into_iter().unzip();
    Expected::Floats { binding, at, want, magnitude, tolerance }
}

fn row(s: &Snapshot, binding: usize, at: usize, d: usize) -> Vec<f64> {
    s.f32(binding)[at..at + d].iter().map(|v| f64::from(*v)).collect()
}

pub(crate) fn delta_twin(d: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let p: Vec<usize> = s.params()[4..].iter().map(|v| *v as usize).collect();
        let (mut copies, mut bits, mut deltas) = (Vec::new(), Vec::new(), Vec::new());
        for (r, h) in (0..p[0] * p[1]).map(|i| (i / p[1], i % p[1])) {
            let at = 2 * (p[10] + r * p[1] + h);
            copies.push(at);
            bits.push(s.words(3)[p[8] + r * p[9] + h]);
            let valid = p[11] != 0 || r % p[2] < s.words(0)[p[3] + r / p[2] * 32 + 1] as usize;
            let (o, d_o) = (row(s, 1, p[4] + r * p[5] + h * d, d), row(s, 2, p[6] + r * p[7] + h * d, d));
            deltas.push((at + 1, if valid { product(&o, &d_o) } else { (0.0, 0.0) }));
        }
        // O and dO are not related: deltas may all be near zero, where only the bound on each element means anything.
        let tolerance = Tolerance { relative_l2: f64::INFINITY, ..Tolerance::sum(d) };
        vec![Expected::Words { binding: 4, at: copies, want: bits }, floats(4, deltas, tolerance)]
    })
}

/// `keys`: dK and dV, else dQ.
pub(crate) fn twin(d: usize, causal: bool, keys: bool, sequences: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let p: Vec<usize> = s.params()[4..].iter().map(|v| *v as usize).collect();
        let [own, heads, group, state, stats, stream, cross] = [p[0], p[1], p[2], p[3], p[16], p[18], p[19]];
        let scale = f64::from(f32::from_bits(p[17] as u32));
        let (query_rows, key_rows) = if keys { (stream, own) } else { (own, stream) };
        // Bindings and parameters of Q and dO, and of K and V.
        let [(q, q_at), (k, k_at)] = if keys { [(3, 8), (1, 4)] } else { [(1, 4), (3, 8)] };
        let take = |(binding, param): (usize, usize), r: usize, h: usize| row(s, binding, p[param] + r * p[param + 1] + h * d, d);
        let both = |(binding, param), r, h| (take((binding, param), r, h), take((binding + 1, param + 2), r, h));
        let query = |r: usize, h: usize| {
            let (q, d_o) = both((q, q_at), r, h);
            let at = 2 * (stats + r * heads + h);
            Query { q, d_o, lse: f64::from(s.f32(5)[at]), delta: f64::from(s.f32(5)[at + 1]) }
        };
        let (mut first, mut second, mut longest, mut uncancelled) = (Vec::new(), Vec::new(), 0, 0.0);
        let without_delta = |query: &Query| Query { delta: 0.0, ..query.clone() };
        let mut count_squares = |gradient: Gradient| uncancelled += gradient.iter().map(|v| v.0 * v.0).sum::<f64>();
        let mut put = |out: usize, r: usize, h: usize, gradient: Gradient| {
            let results = if out == 0 { &mut first } else { &mut second };
            let at = p[12 + 2 * out] + r * p[13 + 2 * out] + h * d;
            results.extend(gradient.into_iter().enumerate().map(|(i, v)| (at + i, v)));
        };
        for sequence in 0..sequences {
            let valid = s.words(0)[state + 32 * sequence + 1] as usize;
            let (count, of_queries) = (valid.min(key_rows), if cross != 0 { query_rows } else { valid.min(query_rows) });
            let at = sequence * own;
            for kv in 0..heads / group {
                let (keys_of, values_of): (Vec<_>, Vec<_>) = (0..count).map(|j| both((k, k_at), sequence * key_rows + j, kv)).unzip();
                let of_head = |h: usize| (0..of_queries).map(|t| query(sequence * query_rows + t, h)).collect::<Vec<_>>();
                let queries: Vec<Vec<Query>> = (kv * group..(kv + 1) * group).map(of_head).collect();
                let plain: Vec<Vec<Query>> = queries.iter().map(|all| all.iter().map(without_delta).collect()).collect();
                longest = longest.max(if keys { group * of_queries } else { count });
                for r in 0..own {
                    let nothing = || vec![(0.0, 0.0); d];
                    if keys {
                        let sees = |t: usize| r < count && (!causal || r <= t);
                        let of = |all: &[Vec<Query>]| {
                            let seen: Vec<&Query> =
                                all.iter().flat_map(|of| (0..of_queries).filter(|t| sees(*t)).map(|t| &of[t])).collect();
                            match r < count {
                                true => key_gradients(&keys_of[r], &values_of[r], &seen, scale),
                                false => (nothing(), nothing()),
                            }
                        };
                        let (dk, dv) = of(&queries);
                        count_squares(of(&plain).0);
                        put(0, at + r, kv, dk);
                        put(1, at + r, kv, dv);
                    } else {
                        let end = if causal { count.min(r + 1) } else { count };
                        for i in 0..group {
                            let of = |all: &[Vec<Query>]| match all[i].get(r) {
                                Some(query) => query_gradient(query, &keys_of[..end], &values_of[..end], scale),
                                None => nothing(),
                            };
                            put(0, at + r, kv * group + i, of(&queries));
                            count_squares(of(&plain));
                        }
                    }
                }
            }
        }
        // As in the forward pass: an error of a score (a sum of d terms, up to some tens) multiplies its weight.
        let mut tolerance = Tolerance::sum(longest.max(d));
        tolerance.ulps += 8.0 * Tolerance::transcendental().ulps;
        // dP and delta cancel, wholly where a query sees one key: what is left is as exact as what they give apart.
        let left = first.iter().map(|(_, v): &(usize, (f64, f64))| v.0 * v.0).sum::<f64>();
        let of_first = Tolerance { relative_l2: tolerance.relative_l2 * (uncancelled / left).sqrt().max(1.0), ..tolerance };
        let mut expected = vec![floats(6, first, of_first)];
        if keys {
            expected.push(floats(7, second, tolerance));
        }
        expected
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::attention::{attend, log_total};

    const D: usize = 5;
    const SCALE: f64 = 0.43;

    /// Rows of heads: `x[head][row]`.
    type Heads = Vec<Vec<Vec<f64>>>;

    fn heads(count: usize, rows: usize, seed: f64) -> Heads {
        let value = |h: usize, r: usize, i: usize| (seed + 1.7 * h as f64 + 0.31 * r as f64 * (1.0 + i as f64) + 2.3 * i as f64).sin();
        (0..count).map(|h| (0..rows).map(|r| (0..D).map(|i| value(h, r, i)).collect()).collect()).collect()
    }

    fn seen(causal: bool, t: usize, keys: usize) -> usize {
        if causal { t + 1 } else { keys }
    }

    /// `sum w o` over all heads and rows.
    fn loss([q, k, v, w]: [&Heads; 4], causal: bool) -> f64 {
        let group = q.len() / k.len();
        let mut sum = 0.0;
        for (h, rows) in q.iter().enumerate() {
            for (t, query) in rows.iter().enumerate() {
                let end = seen(causal, t, k[0].len());
                let o = attend(query, &k[h / group][..end], &v[h / group][..end], SCALE);
                sum += o.iter().zip(&w[h][t]).map(|(o, w)| o.0 * w).sum::<f64>();
            }
        }
        sum
    }

    #[test]
    fn gradients_are_those_of_central_differences() {
        for (causal, rows, key_rows) in [(false, 6, 6), (true, 6, 6), (false, 4, 7), (false, 7, 1)] {
            let group = 2;
            let [q, w] = [0.3, 0.9].map(|seed| heads(2 * group, rows, seed));
            let [k, v] = [1.4, 2.2].map(|seed| heads(2, key_rows, seed));
            let queries: Vec<Vec<Query>> = (0..2 * group)
                .map(|h| {
                    let of_row = |t: usize| {
                        let end = seen(causal, t, key_rows);
                        let (keys, values) = (&k[h / group][..end], &v[h / group][..end]);
                        let o: Vec<f64> = attend(&q[h][t], keys, values, SCALE).into_iter().map(|v| v.0).collect();
                        let lse = log_total(&q[h][t], keys, SCALE).0;
                        Query { q: q[h][t].clone(), d_o: w[h][t].clone(), lse, delta: product(&o, &w[h][t]).0 }
                    };
                    (0..rows).map(of_row).collect()
                })
                .collect();
            let difference = |which: usize, h: usize, t: usize, i: usize| {
                let at = |step: f64| {
                    let mut all = [q.clone(), k.clone(), v.clone(), w.clone()];
                    all[which][h][t][i] += step;
                    loss([&all[0], &all[1], &all[2], &all[3]], causal)
                };
                (at(1e-4) - at(-1e-4)) / 2e-4
            };
            let close = |gradient: Gradient, which: usize, h: usize, t: usize| {
                for (i, (got, size)) in gradient.into_iter().enumerate() {
                    let want = difference(which, h, t, i);
                    assert!((got - want).abs() <= 1e-6 * want.abs().max(size), "{which} {h} {t} {i}: {got} where {want} is expected");
                }
            };
            for (h, of_head) in queries.iter().enumerate() {
                for (t, query) in of_head.iter().enumerate() {
                    let end = seen(causal, t, key_rows);
                    close(query_gradient(query, &k[h / group][..end], &v[h / group][..end], SCALE), 0, h, t);
                }
            }
            for t in 0..key_rows {
                for h in 0..2 {
                    let of_group = &queries[h * group..(h + 1) * group];
                    let from = if causal { t } else { 0 };
                    let all: Vec<&Query> = of_group.iter().flat_map(|rows| &rows[from..]).collect();
                    let (dk, dv) = key_gradients(&k[h][t], &v[h][t], &all, SCALE);
                    close(dk, 1, h, t);
                    close(dv, 2, h, t);
                }
            }
        }
    }
}
