use super::attention::{CROSS, cross_counts, like_a_gpu};
use super::{Bench, POISON, all_facts, context};
use etalon::kernel::attention::{Keys, attention_saving};
use etalon::kernel::attention_backward::{AttentionGradient, attention_backward};
use etalon::kernel::rope::Qkv;
use etalon::kernel::state::State;
use etalon::plan::Builder;
use etalon::reference::attention_backward::{Query, key_gradients, query_gradient};
use etalon::tensor::Tensor;
use etalon::{Error, Facts};

/// Head dimension, heads, key heads, rows of a sequence, and the valid rows of each.
#[derive(Debug, Clone, Copy)]
struct Case<'a> {
    d: usize,
    heads: usize,
    kv_heads: usize,
    rows: usize,
    counts: &'a [u32],
}

/// Which keys a query sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sees {
    /// Those of the valid rows up to its own.
    Earlier,
    /// Those of all valid rows.
    All,
    /// The valid ones of so many rows of another sequence.
    Other(usize),
}

/// The forward pass and its gradients: every op against its twin, and then dQ, dK and dV against plain sums over whole heads.
/// `aligned`: everything begins at whole vectors.
fn check(facts: &Facts, case: Case<'_>, sees: Sees, aligned: bool) -> Vec<String> {
    let Case { d, heads, kv_heads, rows, counts } = case;
    let (cross, key_rows) = if let Sees::Other(keys) = sees { (true, keys) } else { (false, rows) };
    let (n, n_keys, causal) = (rows * counts.len(), key_rows * counts.len(), sees == Sees::Earlier);
    let scale = 1.3 / (d as f32).sqrt();
    let mut t = Bench::new(facts, (d * rows + heads) as u64);
    let states: Vec<u32> = counts.iter().flat_map(|c| State { count: *c, ..State::default() }.words()).collect();
    let state = t.words("state", &states);
    let (q_cols, kv_cols) = (heads * d, kv_heads * d);
    // Rows that are not valid hold NaN where the gradients must not look.
    let mut matrix = |label: &str, n: usize, cols: usize, poisoned: bool| {
        // The strides of keys and values differ where they are matrices of their own.
        let (offset, stride) = if aligned { (0, cols) } else { (3, cols + 1) };
        let stride = stride + if label == "v" { 4 } else { 0 };
        let mut values = t.random_values(offset + n * stride);
        let of_sequence = n / counts.len();
        for r in (0..n).filter(|r| poisoned && r % of_sequence >= counts[r / of_sequence] as usize) {
            values[offset + r * stride..][..cols].fill(f32::NAN);
        }
        (Tensor { slot: t.floats(label, &values), offset, rows: n, cols, stride }, values)
    };
    let (x, [q_values, k_values, v_values]) = if cross {
        let (q, k, v) = (matrix("q", n, q_cols, false), matrix("k", n_keys, kv_cols, true), matrix("v", n_keys, kv_cols, true));
        (Qkv { q: q.0, k: k.0, v: v.0 }, [q.1, k.1, v.1])
    } else {
        let (qkv, values) = matrix("qkv", n, q_cols + 2 * kv_cols, false);
        (Qkv::stacked(&qkv, q_cols, kv_cols), [values.clone(), values.clone(), values])
    };
    let (d_o, d_o_values) = matrix("d_o", n, q_cols, !cross);
    let mut output = |label: &str, rows: usize, cols: usize| {
        let (offset, stride) = if aligned { (0, cols) } else { (5, cols + 2) };
        let slot = t.floats(label, &vec![POISON; offset + rows * stride]);
        Tensor { slot, offset, rows, cols, stride }
    };
    let (o, lse) = (output("o", n, q_cols), output("lse", n, heads));
    let dx = Qkv { q: output("dq", n, q_cols), k: output("dk", n_keys, kv_cols), v: output("dv", n_keys, kv_cols) };
    let keys = Keys::Activations { causal, sequences: counts.len(), kv_heads };
    attention_saving(&mut t.builder, "forward", state, &x, &keys, d, scale, &o, &lse).unwrap();
    let g = AttentionGradient {
        state,
        x: &x,
        causal,
        cross,
        sequences: counts.len(),
        kv_heads,
        head_dim: d,
        scale,
        o: &o,
        lse: &lse,
        d_o: &d_o,
        dx: &dx,
    };
    attention_backward(&mut t.builder, "backward", &g).unwrap();
    let (got, ops) = t.verify_all(&[&dx.q, &dx.k, &dx.v]);
    let label = format!("{case:?}, {sees:?}, aligned {aligned}");
    let head = |values: &[f32], m: &Tensor, r: usize, h: usize| -> Vec<f64> {
        values[m.offset + r * m.stride + h * d..][..d].iter().map(|v| f64::from(*v)).collect()
    };
    let group = heads / kv_heads;
    let near = |which: usize, r: usize, h: usize, want: Vec<(f64, f64)>| {
        let cols = [q_cols, kv_cols, kv_cols][which];
        for (i, (w, size)) in want.into_iter().enumerate() {
            let g = f64::from(got[which][r * cols + h * d + i]);
            assert!((g - w).abs() <= 3e-5 * size, "{label}: {which} ({r}, {h}, {i}): {g} where {w} is expected");
        }
    };
    let nothing = || vec![(0.0, 0.0); d];
    for (s, count) in counts.iter().map(|c| *c as usize).enumerate() {
        let (at, keys_at) = (s * rows, s * key_rows);
        let queries = if cross { rows } else { count };
        for kv in 0..kv_heads {
            let keys: Vec<Vec<f64>> = (0..count).map(|j| head(&k_values, &x.k, keys_at + j, kv)).collect();
            let values: Vec<Vec<f64>> = (0..count).map(|j| head(&v_values, &x.v, keys_at + j, kv)).collect();
            let mut all = Vec::new();
            for (h, r) in (kv * group..(kv + 1) * group).flat_map(|h| (0..rows).map(move |r| (h, r))) {
                if r >= queries {
                    near(0, at + r, h, nothing());
                    continue;
                }
                let end = if causal { r + 1 } else { count };
                let (q, d_o) = (head(&q_values, &x.q, at + r, h), head(&d_o_values, &d_o, at + r, h));
                let query = query(q, d_o, &keys[..end], &values[..end], f64::from(scale));
                near(0, at + r, h, query_gradient(&query, &keys[..end], &values[..end], f64::from(scale)));
                all.push((r, query));
            }
            for r in 0..key_rows {
                let seen: Vec<&Query> = all.iter().filter(|(t, _)| !causal || r <= *t).map(|(_, q)| q).collect();
                let (dk, dv) = match r < count {
                    true => key_gradients(&keys[r], &values[r], &seen, f64::from(scale)),
                    false => (nothing(), nothing()),
                };
                near(1, keys_at + r, kv, dk);
                near(2, keys_at + r, kv, dv);
            }
        }
    }
    ops
}

fn query(q: Vec<f64>, d_o: Vec<f64>, keys: &[Vec<f64>], values: &[Vec<f64>], scale: f64) -> Query {
    let o = etalon::reference::attention::attend(&q, keys, values, scale);
    let delta = o.iter().zip(&d_o).map(|(o, d)| o.0 * d).sum();
    let lse = etalon::reference::attention::log_total(&q, keys, scale).0;
    Query { q, d_o, lse, delta }
}

/// Sizes around tiles of 32 and blocks of 8 to 32; sequences that are full, partly valid, and empty.
const CASES: [Case<'_>; 9] = [
    Case { d: 24, heads: 4, kv_heads: 4, rows: 33, counts: &[33, 32] },
    Case { d: 64, heads: 6, kv_heads: 2, rows: 37, counts: &[37, 5, 0] },
    Case { d: 32, heads: 2, kv_heads: 1, rows: 70, counts: &[70, 65, 1] },
    Case { d: 65, heads: 2, kv_heads: 2, rows: 31, counts: &[31, 30] },
    Case { d: 128, heads: 2, kv_heads: 1, rows: 40, counts: &[39] },
    Case { d: 8, heads: 3, kv_heads: 1, rows: 1, counts: &[1, 0, 1] },
    Case { d: 20, heads: 1, kv_heads: 1, rows: 64, counts: &[64] },
    Case { d: 80, heads: 2, kv_heads: 2, rows: 3, counts: &[3, 2] },
    Case { d: 1, heads: 2, kv_heads: 1, rows: 9, counts: &[9] },
];

#[test]
fn gradients_match_the_twin() {
    for (i, case) in CASES.into_iter().enumerate() {
        for (j, sees) in [Sees::All, Sees::Earlier].into_iter().enumerate() {
            // Whole vectors where they can be, and sometimes not.
            check(context().facts(), case, sees, (i + j) % 3 != 2);
        }
    }
}

#[test]
fn tiles_match_the_twin() {
    for (i, case) in CASES.into_iter().enumerate() {
        for (j, sees) in [Sees::All, Sees::Earlier].into_iter().enumerate() {
            let ops = check(&like_a_gpu(), case, sees, (i + j) % 3 == 2);
            assert!(ops.iter().any(|n| n.starts_with("attention_backward[")), "{ops:?}");
        }
    }
    check(&like_a_gpu(), Case { d: 160, heads: 1, kv_heads: 1, rows: 34, counts: &[34] }, Sees::Earlier, true);
    check(&like_a_gpu(), Case { d: 256, heads: 2, kv_heads: 1, rows: 33, counts: &[33] }, Sees::All, true);
}

#[test]
fn long_sequences_match_the_twin() {
    let case = Case { d: 16, heads: 1, kv_heads: 1, rows: 515, counts: &[515] };
    for facts in [context().facts().clone(), like_a_gpu()] {
        check(&facts, case, Sees::Earlier, true);
    }
}

#[test]
fn gradients_of_cross_attention_match_the_twin() {
    for (i, (rows, keys)) in CROSS.into_iter().enumerate() {
        for (j, (d, kv_heads)) in [16, 20, 64].into_iter().flat_map(|d| [(d, 4), (d, 2)]).enumerate() {
            let case = Case { d, heads: 4, kv_heads, rows, counts: &cross_counts(keys) };
            check(context().facts(), case, Sees::Other(keys), (i + j) % 3 != 2);
            check(&like_a_gpu(), case, Sees::Other(keys), (i + j) % 3 == 2);
        }
    }
}

#[test]
fn sequences_above_a_binding_are_cut() {
    let facts = all_facts().remove(2).1;
    // 3 x 200 rows of 768 words.
    let case = Case { d: 64, heads: 8, kv_heads: 2, rows: 200, counts: &[120, 3, 64] };
    let cross = Case { rows: 20, counts: &[120, 800, 64], ..case };
    for (case, sees) in [(case, Sees::Earlier), (cross, Sees::Other(800))] {
        let ops = check(&facts, case, sees, true);
        assert!(ops.iter().filter(|n| n.starts_with("attention_delta")).count() > 1, "{ops:?}");
    }
}

#[test]
fn an_empty_run_appends_nothing_and_what_does_not_fit_is_refused() {
    let facts = all_facts().remove(0).1;
    let mut b = Builder::new("test", &facts);
    let state = b.external("state", 64);
    let mut t = |label: &str, rows, cols| b.external_tensor(label, rows, cols);
    let x = Qkv { q: t("q", 8, 32), k: t("k", 8, 16), v: t("v", 8, 16) };
    let dx = Qkv { q: t("dq", 8, 32), k: t("dk", 8, 16), v: t("dv", 8, 16) };
    let (o, lse, d_o, other) = (t("o", 8, 32), t("lse", 8, 4), t("d_o", 8, 32), t("other", 8, 8));
    let good = AttentionGradient {
        state,
        x: &x,
        causal: true,
        cross: false,
        sequences: 2,
        kv_heads: 2,
        head_dim: 8,
        scale: 1.0,
        o: &o,
        lse: &lse,
        d_o: &d_o,
        dx: &dx,
    };
    let mut refused = |g: AttentionGradient<'_>, why: &str| {
        let e = attention_backward(&mut b, "bad", &g).unwrap_err();
        assert!(matches!(e, Error::Shape { .. }) && e.to_string().contains(why), "{e}");
    };
    refused(AttentionGradient { head_dim: 7, ..good }, "heads must divide");
    refused(AttentionGradient { head_dim: 0, ..good }, "heads must divide");
    refused(AttentionGradient { kv_heads: 3, ..good }, "heads must divide");
    refused(AttentionGradient { kv_heads: 1, ..good }, "keys and values must have");
    refused(AttentionGradient { sequences: 3, ..good }, "sequences must divide");
    refused(AttentionGradient { sequences: 0, ..good }, "sequences must divide");
    refused(AttentionGradient { lse: &other, ..good }, "must fit the queries");
    refused(AttentionGradient { d_o: &other, ..good }, "must fit the queries");
    refused(AttentionGradient { dx: &Qkv { v: other, ..dx }, ..good }, "each gradient must have the shape");
    refused(AttentionGradient { dx: &Qkv { v: Tensor { stride: 3, ..dx.v }, ..dx }, ..good }, "rows of a gradient overlap");
    refused(AttentionGradient { cross: true, ..good }, "cannot be causal");
    let few = |x: Qkv, rows: usize| Qkv { k: Tensor { rows, ..x.k }, v: Tensor { rows, ..x.v }, ..x };
    for causal in [false, true] {
        refused(AttentionGradient { causal, x: &few(x, 6), dx: &few(dx, 6), ..good }, "a row for each query");
    }
    let cross = AttentionGradient { causal: false, cross: true, ..good };
    refused(AttentionGradient { x: &few(x, 5), dx: &few(dx, 5), ..cross }, "sequences must divide");
    refused(AttentionGradient { x: &few(x, 0), dx: &few(dx, 0), ..cross }, "where there are queries");
    refused(AttentionGradient { x: &few(x, 6), ..cross }, "each gradient must have the shape");
    let shared = Qkv { v: dx.k, ..dx };
    assert!(matches!(attention_backward(&mut b, "bad", &AttentionGradient { dx: &shared, ..good }), Err(Error::Plan { .. })));
    let keys = Keys::Activations { causal: true, sequences: 2, kv_heads: 2 };
    let e = attention_saving(&mut b, "bad", state, &x, &keys, 8, 1.0, &o, &other).unwrap_err();
    assert!(e.to_string().contains("logarithms (8, 8) of 8 rows and 4 heads"), "{e}");
    let mut b = Builder::new("test", &facts);
    let none = |t: Tensor| Tensor { rows: 0, ..t };
    let x = Qkv { q: none(x.q), k: none(x.k), v: none(x.v) };
    let g = AttentionGradient { x: &x, o: &none(o), lse: &none(lse), d_o: &none(d_o), dx: &x, ..good };
    attention_backward(&mut b, "empty", &g).unwrap();
    assert!(b.finish().unwrap().ops().is_empty());
}
