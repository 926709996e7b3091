use super::{Bench, all_facts};
use etalon::kernel::edges::{MAX_COLS, Pairs, edge_scores};
use etalon::tensor::Tensor;
use rand::RngExt;

/// Random pairs, some past the last of `nodes`.
fn pairs(t: &mut Bench, nodes: usize, count: usize) -> Pairs {
    let mut ends = |label, at: usize| {
        let words: Vec<u32> =
            (0..count + at).map(|i| if i % 9 == 8 { u32::MAX } else { t.rng.random_range(0..nodes as u32 + 2) }).collect();
        (t.words(label, &words), at)
    };
    Pairs { from: ends("from", 5), to: ends("to", 0), count }
}

#[test]
fn scores_match_the_twin() {
    let sizes = [(1, 1, 1), (7, 2, 65), (40, 16, 576), (65, 17, 577), (3, 4, 64), (64, 65, 63), (9, 576, 5), (2, 577, 3), (5, 3, 0)];
    for (_, facts) in all_facts() {
        for (i, (nodes, d, count)) in sizes.into_iter().enumerate() {
            for (dense, stride) in [(false, 1), (true, 1), (true, 3)] {
                let mut t = Bench::new(&facts, i as u64);
                let h = if dense { t.random_dense("h", nodes, d) } else { t.random("h", nodes, d) };
                let pairs = pairs(&mut t, nodes, count);
                let y = t.poisoned("y", count.max(1), stride);
                let y = Tensor { offset: stride / 2, rows: count, cols: 1, ..y };
                edge_scores(&mut t.builder, "edges", &h, &pairs, &y).unwrap();
                t.verify(&y);
            }
        }
    }
}

/// Points of the hyperboloid far out, where what is added is a thousand times what is left.
#[test]
fn scores_of_near_points_are_as_exact_as_the_terms_allow() {
    for (_, facts) in all_facts() {
        for d in [16, 17] {
            let mut t = Bench::new(&facts, 1);
            let mut values = Vec::new();
            for r in 0..20 {
                let mut row: Vec<f32> = (1..d).map(|i| ((r / 2 * i) as f32).sin() * 30.0 + (r % 2) as f32 * 0.1).collect();
                row.insert(0, (1.0 + row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>()).sqrt() as f32);
                values.extend(row);
            }
            let h = Tensor { slot: t.floats("h", &values), offset: 0, rows: 20, cols: d, stride: d };
            let (even, odd): (Vec<u32>, Vec<u32>) = (0..20).partition(|r| r % 2 == 0);
            let pairs = Pairs { from: (t.words("from", &even), 0), to: (t.words("to", &odd), 0), count: 10 };
            let y = t.poisoned("y", 10, 1);
            edge_scores(&mut t.builder, "edges", &h, &pairs, &y).unwrap();
            assert!(t.verify(&y).iter().all(|v| v.abs() < 1.0));
        }
    }
}

#[test]
fn one_slot_may_hold_both_ends_and_many_pairs_are_cut() {
    for (name, facts) in all_facts() {
        let mut t = Bench::new(&facts, 1);
        let (h, count) = (t.random_dense("h", 100, 8), 200_000);
        let words: Vec<u32> = (0..2 * count).map(|_| t.rng.random_range(0..100)).collect();
        let slot = t.words("ends", &words);
        let y = t.poisoned("y", count, 2).slice_cols(1..2);
        let pairs = Pairs { from: (slot, 0), to: (slot, count), count };
        edge_scores(&mut t.builder, "edges", &h, &pairs, &y).unwrap();
        let ops = t.verify_ops(&y).1;
        assert_eq!(ops.len() > 1, name == "1 MiB bindings", "{ops:?}");
    }
}

#[test]
fn bad_operands_are_errors() {
    let tiny = all_facts().remove(2).1;
    let mut t = Bench::new(&tiny, 1);
    let h = t.random("h", 7, 5);
    let (pairs, y) = (pairs(&mut t, 7, 4), t.poisoned("y", 4, 1));
    let b = &mut t.builder;
    edge_scores(b, "count", &h, &Pairs { count: 3, ..pairs }, &y).unwrap_err();
    edge_scores(b, "columns", &h, &pairs, &Tensor { cols: 2, ..y }).unwrap_err();
    edge_scores(b, "coordinates", &Tensor { cols: 0, ..h }, &pairs, &y).unwrap_err();
    edge_scores(b, "coordinates", &Tensor { cols: MAX_COLS + 1, ..h }, &pairs, &y).unwrap_err();
    edge_scores(b, "nodes", &Tensor { rows: 0, ..h }, &pairs, &y).unwrap_err();
    edge_scores(b, "ends", &h, &Pairs { from: (pairs.from.0, 1 << 20), ..pairs }, &y).unwrap_err();
    edge_scores(b, "slot", &h, &Pairs { to: (y.slot, 0), ..pairs }, &y).unwrap_err();
    let wide = b.external_tensor("wide", 1 << 16, 8);
    edge_scores(b, "binding", &wide, &pairs, &y).unwrap_err();
}
