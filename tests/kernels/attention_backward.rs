use super::attention::like_a_gpu;
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

/// The forward pass and its gradients: every op against its twin, and then dQ, dK and dV against plain sums over whole heads.
/// `aligned`: everything begins at whole vectors.
fn check(facts: &Facts, case: Case<'_>, causal: bool, aligned: bool) -> Vec<String> {
    let Case { d, heads, kv_heads, rows, counts } = case;
    let (n, scale) = (rows * counts.len(), 1.3 / (d as f32).sqrt());
    let mut t = Bench::new(facts, (d * rows + heads) as u64);
    let states: Vec<u32> = counts.iter().flat_map(|c| State { count: *c, ..State::default() }.words()).collect();
    let state = t.words("state", &states);
    let (q_cols, kv_cols) = (heads * d, kv_heads * d);
    // Rows that are not valid hold NaN where the gradients must not look.
    let valid = |r: usize| r % rows < counts[r / rows] as usize;
    let mut matrix = |label: &str, cols: usize| {
        let (offset, stride) = if aligned { (0, cols) } else { (3, cols + 1) };
        let mut values = t.random_values(offset + n * stride);
        for r in (0..n).filter(|r| label == "d_o" && !valid(*r)) {
            values[offset + r * stride..][..cols].fill(f32::NAN);
        }
        (Tensor { slot: t.floats(label, &values), offset, rows: n, cols, stride }, values)
    };
    let (qkv, qkv_values) = matrix("qkv", q_cols + 2 * kv_cols);
    let (d_o, d_o_values) = matrix("d_o", q_cols);
    let x = Qkv::stacked(&qkv, q_cols, kv_cols);
    let mut output = |label: &str, cols: usize| {
        let (offset, stride) = if aligned { (0, cols) } else { (5, cols + 2) };
        let slot = t.floats(label, &vec![POISON; offset + n * stride]);
        Tensor { slot, offset, rows: n, cols, stride }
    };
    let (o, lse) = (output("o", q_cols), output("lse", heads));
    let dx = Qkv { q: output("dq", q_cols), k: output("dk", kv_cols), v: output("dv", kv_cols) };
    let keys = Keys::Activations { causal, sequences: counts.len(), kv_heads };
    attention_saving(&mut t.builder, "forward", state, &x, &keys, d, scale, &o, &lse).unwrap();
    let g = AttentionGradient {
        state,
        x: &x,
        causal,
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
    let label = format!("{case:?}, causal {causal}, aligned {aligned}");
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
        let at = s * rows;
        for kv in 0..kv_heads {
            let keys: Vec<Vec<f64>> = (0..count).map(|j| head(&qkv_values, &x.k, at + j, kv)).collect();
            let values: Vec<Vec<f64>> = (0..count).map(|j| head(&qkv_values, &x.v, at + j, kv)).collect();
            let mut all = Vec::new();
            for (h, r) in (kv * group..(kv + 1) * group).flat_map(|h| (0..rows).map(move |r| (h, r))) {
                if r >= count {
                    near(0, at + r, h, nothing());
                    continue;
                }
                let end = if causal { r + 1 } else { count };
                let (q, d_o) = (head(&qkv_values, &x.q, at + r, h), head(&d_o_values, &d_o, at + r, h));
                let query = query(q, d_o, &keys[..end], &values[..end], f64::from(scale));
                near(0, at + r, h, query_gradient(&query, &keys[..end], &values[..end], f64::from(scale)));
                all.push((r, query));
            }
            for r in 0..rows {
                let seen: Vec<&Query> = all.iter().filter(|(t, _)| !causal || r <= *t).map(|(_, q)| q).collect();
                let (dk, dv) = match r < count {
                    true => key_gradients(&keys[r], &values[r], &seen, f64::from(scale)),
                    false => (nothing(), nothing()),
                };
                near(1, at + r, kv, dk);
                near(2, at + r, kv, dv);
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
        for causal in [false, true] {
            // Whole vectors where they can be, and sometimes not.
            check(context().facts(), case, causal, (i + usize::from(causal)) % 3 != 2);
        }
    }
}

#[test]
fn tiles_match_the_twin() {
    for (i, case) in CASES.into_iter().enumerate() {
        for causal in [false, true] {
            let ops = check(&like_a_gpu(), case, causal, (i + usize::from(causal)) % 3 == 2);
            assert!(ops.iter().any(|n| n.starts_with("attention_backward[")), "{ops:?}");
        }
    }
    check(&like_a_gpu(), Case { d: 160, heads: 1, kv_heads: 1, rows: 34, counts: &[34] }, true, true);
    check(&like_a_gpu(), Case { d: 256, heads: 2, kv_heads: 1, rows: 33, counts: &[33] }, false, true);
}

#[test]
fn long_sequences_match_the_twin() {
    let case = Case { d: 16, heads: 1, kv_heads: 1, rows: 515, counts: &[515] };
    for facts in [context().facts().clone(), like_a_gpu()] {
        check(&facts, case, true, true);
    }
}

#[test]
fn sequences_above_a_binding_are_cut() {
    let facts = all_facts().remove(2).1;
    // 3 x 200 rows of 768 words.
    let case = Case { d: 64, heads: 8, kv_heads: 2, rows: 200, counts: &[120, 3, 64] };
    let ops = check(&facts, case, true, true);
    assert!(ops.iter().filter(|n| n.starts_with("attention_delta")).count() > 1, "{ops:?}");
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
