use super::{Bench, POISON, all_facts};
use crate::portability::adapters;
use etalon::kernel::matmul::{Operand, Product, matmul};
use etalon::plan::{Builder, Plan, SlotId};
use etalon::tensor::Tensor;
use etalon::{Error, Facts};

/// How an operand lies.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Lie {
    /// One matrix after another, rows without gaps.
    Dense,
    /// From an odd word on, with gaps after rows and matrices.
    Odd,
    /// One matrix for the whole batch.
    Shared,
}
use Lie::{Dense, Odd, Shared};

/// An operand and the values of each of its matrices. Words that nothing may be made of are NaN.
fn operand(t: &mut Bench, label: &str, (rows, cols): (usize, usize), batch: usize, lie: Lie, half: bool) -> (Operand, Vec<Vec<f32>>) {
    let gap = usize::from(lie == Odd);
    let stride = if half { cols.div_ceil(2) } else { cols } + gap;
    let step = if lie == Shared { 0 } else { rows * stride + 2 * gap };
    let matrices = if lie == Shared { 1 } else { batch };
    let mut words = vec![0x7fc0_7e00; 3 * gap + matrices.saturating_sub(1) * step + rows * stride];
    let mut all = Vec::new();
    for b in 0..matrices {
        let mut values = t.random_values(rows * cols);
        for (r, row) in values.chunks_mut(cols.max(1)).enumerate() {
            let words = &mut words[3 * gap + b * step + r * stride..];
            for (i, v) in row.iter_mut().enumerate() {
                if half {
                    let h = half::f16::from_f32(*v);
                    *v = h.to_f32();
                    let shift = 16 * (i % 2);
                    words[i / 2] = words[i / 2] & !(0xffff << shift) | u32::from(h.to_bits()) << shift;
                } else {
                    words[i] = v.to_bits();
                }
            }
        }
        all.push(values);
    }
    let first = Tensor { slot: t.words(label, &words), offset: 3 * gap, rows, cols, stride };
    (Operand { first, step }, all)
}

/// Runs a product and compares every op with its twin, and the whole with the plain product.
fn check(facts: &Facts, size: (usize, usize, usize), p: Product, lies: [Lie; 3]) {
    check_with(facts, size, p, lies, [false; 3]);
}

/// A vector that begins at an odd word; before it lies NaN.
fn vector(t: &mut Bench, label: &str, n: usize) -> ((SlotId, usize), Vec<f32>) {
    let values = t.random_values(n);
    let words: Vec<f32> = [f32::NAN; 5].into_iter().chain(values.iter().copied()).collect();
    ((t.floats(label, &words), 5), values)
}

/// The same with a scale, a bias and a residual.
fn check_with(facts: &Facts, (m, n, k): (usize, usize, usize), mut p: Product, lies: [Lie; 3], extras: [bool; 3]) {
    let mut t = Bench::new(facts, (m * 31 + n * 7 + k) as u64);
    let (a, av) = operand(&mut t, "A", if p.a_t { (k, m) } else { (m, k) }, p.batch, lies[0], false);
    let (b, bv) = operand(&mut t, "B", if p.b_t { (n, k) } else { (k, n) }, p.batch, lies[1], p.b_half);
    let gap = usize::from(lies[2] == Odd);
    let (stride, step) = (n + gap, m * (n + gap) + gap);
    let words = gap + p.batch * step;
    let before = if p.accumulate { t.random_values(words) } else { vec![POISON; words] };
    let slot = t.floats("Y", &before);
    let y = Operand { first: Tensor { slot, offset: gap, rows: m, cols: n, stride }, step };
    let (mut scales, mut bias, mut added) = (vec![1.0; k], vec![0.0; n], vec![0.0; m * n]);
    if extras[0] {
        let (at, values) = vector(&mut t, "scale", k);
        (p.scale, scales) = (Some(at), values);
    }
    if extras[1] {
        let (at, values) = vector(&mut t, "bias", n);
        (p.bias, bias) = (Some(at), values);
    }
    if extras[2] {
        let (r, mut values) = operand(&mut t, "residual", (m, n), 1, lies[2], false);
        (p.residual, added) = (Some(r.first), values.remove(0));
    }
    let label = format!("({m}, {n}, {k}) {p:?} {lies:?}");
    matmul(&mut t.builder, &label, &a, &b, &y, &p).unwrap();
    let got = t.verify(&Tensor { slot, offset: 0, rows: 1, cols: words, stride: words });
    for i in 0..p.batch {
        let (av, bv) = (&av[i % av.len()], &bv[i % bv.len()]);
        for (r, c) in (0..m).flat_map(|r| (0..n).map(move |c| (r, c))) {
            let a = |j| f64::from(av[if p.a_t { j * m + r } else { r * k + j }]);
            let b = |j| f64::from(bv[if p.b_t { c * k + j } else { j * n + c }]);
            let (sum, size) = (0..k).map(|j| a(j) * f64::from(scales[j]) * b(j)).fold((0.0, 0.0), |(s, t), v| (s + v, t + v.abs()));
            let at = gap + i * step + r * stride + c;
            let adds = [if p.accumulate { before[at] } else { 0.0 }, bias[c], added[r * n + c]].map(f64::from);
            let want = f64::from(p.alpha) * sum + adds.iter().sum::<f64>();
            let bound = 1e-5 * (f64::from(p.alpha).abs() * size + adds.iter().map(|v| v.abs()).sum::<f64>());
            let got = f64::from(got[at]);
            assert!((got - want).abs() <= bound, "{label}: {i} ({r}, {c}): {got} where {want} is expected");
        }
    }
}

/// All ways that A and B may lie.
fn products() -> impl Iterator<Item = Product> {
    (0..8).map(|i| Product { a_t: i & 1 > 0, b_t: i & 2 > 0, b_half: i & 4 > 0, ..Product::default() })
}

#[test]
fn awkward_sizes_match_the_twin() {
    let sizes = [(1, 1, 1), (13, 17, 5), (63, 65, 31), (65, 64, 33), (33, 31, 64), (1, 67, 66), (3, 41, 97), (71, 8, 7), (129, 5, 4)];
    for (_, facts) in all_facts().into_iter().take(2) {
        for (i, p) in products().enumerate() {
            // Sizes take turns, since compiling takes most of the time.
            for size in sizes.into_iter().skip(i % 2).step_by(2) {
                check(&facts, size, p, [Odd; 3]);
            }
        }
    }
}

#[test]
fn dense_operands_match_the_twin() {
    for (_, facts) in all_facts().into_iter().take(2) {
        for (i, p) in products().enumerate() {
            for (j, size) in [(64, 64, 64), (68, 132, 20), (1, 72, 64), (96, 4, 8)].into_iter().enumerate() {
                check(&facts, size, p, [[Dense; 3], [Odd, Dense, Dense], [Dense, Odd, Odd]][(i + j) % 3]);
            }
        }
    }
}

#[test]
fn large_tiles_match_the_twin() {
    for (name, facts) in all_facts().into_iter().take(2) {
        for (i, p) in products().enumerate() {
            // 256 tiles of 128 x 128, the last ones not full.
            let p = Product { batch: 64, ..p };
            let (size, lie) = [((129, 131, 9), Odd), ((132, 136, 12), Dense)][i.count_ones() as usize % 2];
            let plan = planned(&facts, size, p);
            assert!(name == "own" || plan.ops().iter().all(|op| op.variant().define("BM") == 128), "{}", plan.describe());
            check(&facts, size, p, [lie; 3]);
        }
    }
}

#[test]
fn batches_factors_and_accumulation_match_the_twin() {
    for (_, facts) in all_facts().into_iter().take(2) {
        for (i, p) in products().enumerate() {
            let p = Product { batch: 3, alpha: -0.37, accumulate: i % 2 == 0, ..p };
            match i % 3 {
                0 => check(&facts, (37, 35, 19), p, [Odd; 3]),
                1 => check(&facts, (36, 40, 20), p, [Dense, Shared, Dense]),
                _ => check(&facts, (5, 40, 33), p, [Shared, Odd, Odd]),
            }
        }
    }
}

/// All of a scale, a bias and a residual, and each two of them.
const EXTRAS: [[bool; 3]; 4] = [[true; 3], [true, true, false], [true, false, true], [false, true, true]];

#[test]
fn scales_biases_and_residuals_match_the_twin() {
    let sizes = [(1, 67, 66), (3, 41, 97), (71, 8, 7), (65, 64, 33), (33, 31, 64), (129, 1, 4), (1, 1, 1)];
    for (_, facts) in all_facts().into_iter().take(2) {
        for (i, p) in products().enumerate() {
            for (j, size) in sizes.into_iter().enumerate().skip(i % 2).step_by(2) {
                let p = Product { alpha: -0.7, accumulate: i % 3 == 0, ..p };
                check_with(&facts, size, p, [Odd; 3], EXTRAS[(i + j / 2) % 4]);
            }
            for (j, size) in [(64, 64, 64), (68, 132, 20), (1, 72, 64), (96, 4, 8)].into_iter().enumerate() {
                check_with(&facts, size, p, [[Dense; 3], [Odd, Dense, Dense], [Dense, Odd, Odd]][(i + j) % 3], EXTRAS[(i + j) % 4]);
            }
        }
    }
}

#[test]
fn scales_biases_and_residuals_of_batches_long_sums_and_cuts_match_the_twin() {
    for (i, (_, facts)) in all_facts().into_iter().enumerate() {
        for (j, p) in products().enumerate().filter(|(j, _)| i < 2 || *j < 4) {
            // A batch, with large tiles where a device has them, shares the vectors.
            let batch = Product { batch: 3, accumulate: j % 2 == 0, ..p };
            check_with(&facts, (37, 35, 19), batch, [Odd; 3], [true, true, false]);
            if j % 4 == 1 {
                check_with(&facts, (132, 136, 12), Product { batch: 16, ..p }, [Dense; 3], [true, true, false]);
            }
            // Parts that are summed.
            let p = Product { alpha: 0.5, accumulate: j % 2 == 1, ..p };
            check_with(&facts, (12, 20 - 13 * (j % 2), 8195 + j), p, [Odd; 3], EXTRAS[j % 4]);
            // An empty k leaves the bias and the residual.
            for (size, extras) in [((3, 5, 0), EXTRAS[0]), ((40, 70, 0), EXTRAS[j % 4])] {
                check_with(&facts, size, p, [Odd; 3], extras);
            }
            if i == 2 {
                // A, B, Y and the residual above 1 MiB: cuts along m, n and k.
                let size = [(1031, 9, 577), (577, 576, 65), (9, 1031, 577), (7, 576, 1031)][j];
                check_with(&facts, size, p, [[Dense; 3], [Odd; 3]][j % 2], EXTRAS[(j + 3) % 4]);
            }
        }
    }
}

#[test]
fn runs_of_k_add_the_bias_and_the_residual_once() {
    // More partial sums than a binding holds: runs follow one another. Rows overlap, so that A and B are small.
    let facts = all_facts().remove(2).1;
    let (n, k) = (363, 4100);
    let mut t = Bench::new(&facts, 1);
    let mut rows = |label: &str, gap: usize| {
        let values = t.random_values(gap * n + k);
        (Tensor { slot: t.floats(label, &values), offset: 0, rows: n, cols: k, stride: gap }, values)
    };
    let ((a, av), (b, bv)) = (rows("A", 3), rows("B", 5));
    let ((scale, sv), (bias, cv)) = (vector(&mut t, "scale", k), vector(&mut t, "bias", n));
    let r = t.random_dense("residual", n, n);
    let y = t.poisoned("Y", n, n);
    let p = Product { b_t: true, scale: Some(scale), bias: Some(bias), residual: Some(r), ..Product::default() };
    matmul(&mut t.builder, "runs", &a.into(), &b.into(), &y.into(), &p).unwrap();
    let (got, ops) = t.verify_all(&[&y, &r]);
    assert!(ops.len() == 2 && ops.iter().all(|name| !name.starts_with("matmul_sum")), "{ops:?}");
    for (i, j) in [(0, 0), (362, 0), (17, 362), (362, 362)] {
        let sum: f64 = (0..k).map(|l| f64::from(av[3 * i + l]) * f64::from(sv[l]) * f64::from(bv[5 * j + l])).sum();
        let want = sum + f64::from(cv[j]) + f64::from(got[1][i * n + j]);
        assert!((f64::from(got[0][i * n + j]) - want).abs() < 1e-3, "({i}, {j}): {} where {want} is expected", got[0][i * n + j]);
    }
}

#[test]
fn an_empty_k_gives_zeros_or_leaves_y() {
    for (_, facts) in all_facts().into_iter().take(2) {
        for p in products().step_by(3) {
            for (size, accumulate) in [((3, 5, 0), false), ((40, 70, 0), false), ((3, 5, 0), true), ((0, 5, 4), false), ((5, 0, 4), false)]
            {
                check(&facts, size, Product { batch: 2, accumulate, ..p }, [Dense; 3]);
                check(&facts, size, Product { batch: 2, accumulate, ..p }, [Odd; 3]);
            }
            check(&facts, (3, 4, 5), Product { batch: 0, ..p }, [Dense; 3]);
        }
    }
}

#[test]
fn a_long_k_is_cut_into_parts() {
    for (_, facts) in all_facts().into_iter().take(2) {
        for (i, p) in products().enumerate() {
            let p = Product { batch: 1 + i % 2, alpha: 0.5, accumulate: i % 2 == 0, ..p };
            let size = (12, 20 - 13 * (i % 2), 8195 + i);
            let plan = planned(&facts, size, p);
            assert_eq!(plan.ops().len(), 2, "{}", plan.describe());
            check(&facts, size, p, [Odd; 3]);
        }
        check(&facts, (8, 16, 4096), Product { a_t: true, ..Product::default() }, [Dense; 3]);
    }
}

#[test]
fn operands_above_a_binding_are_cut() {
    let facts = all_facts().remove(2).1;
    for (i, p) in products().enumerate() {
        // A, B or Y above 1 MiB; row lengths 65, 576 and 577.
        let sizes =
            [((1031, 9, 577), Dense), ((577, 576, 65), Dense), ((9, 1031, 577), Odd), ((7, 576, 1031), Dense), ((577, 5, 577), Odd)];
        for (size, lie) in sizes.into_iter().skip(i % 2).step_by(1 + i / 4) {
            assert!(p.b_half || planned(&facts, size, p).ops().len() > 1);
            check(&facts, size, p, [lie; 3]);
        }
    }
    let p = Product { batch: 41, ..Product::default() };
    check(&facts, (65, 65, 65), p, [Dense, Shared, Dense]);
    check(&facts, (129, 65, 65), Product { b_t: true, ..p }, [Odd; 3]);
}

#[test]
fn grids_are_cut_along_every_dimension() {
    for (_, mut facts) in all_facts().into_iter().take(2) {
        facts.max_dispatch_ms = 1e-6;
        for (size, batch) in [((9, 300, 16), 1), ((300, 40, 16), 1), ((9, 9, 16), 5), ((9, 70, 1100), 2)] {
            let p = Product { batch, b_t: true, ..Product::default() };
            assert!(planned(&facts, size, p).ops().iter().any(|op| op.cuts().len() > 1));
            check(&facts, size, p, [Odd; 3]);
        }
    }
}

/// The plan of a product of dense operands.
fn planned(facts: &Facts, (m, n, k): (usize, usize, usize), p: Product) -> Plan {
    let mut b = Builder::new("test", facts);
    let mut dense = |rows: usize, cols: usize, half: bool| {
        let stride = if half { cols.div_ceil(2) } else { cols };
        let slot = b.external("operand", p.batch * rows * stride);
        Operand { first: Tensor { slot, offset: 0, rows, cols, stride }, step: rows * stride }
    };
    let a = if p.a_t { dense(k, m, false) } else { dense(m, k, false) };
    let w = if p.b_t { dense(n, k, p.b_half) } else { dense(k, n, p.b_half) };
    let y = dense(m, n, false);
    matmul(&mut b, "planned", &a, &w, &y, &p).unwrap();
    b.finish().unwrap()
}

#[test]
fn variants_follow_the_shape() {
    let kernel = |facts: &Facts, size, define: &str| {
        let plan = planned(facts, size, Product::default());
        (plan.ops()[0].variant().kernel, plan.ops()[0].variant().define(define), plan.ops().len())
    };
    let all = adapters();
    for facts in &all[2..] {
        assert_eq!(kernel(facts, (2048, 2048, 512), "BM"), ("matmul_tile", 128, 1));
        assert_eq!(kernel(facts, (1024, 2048, 64), "BM"), ("matmul_tile", 64, 1));
        assert_eq!(kernel(facts, (64, 64, 1 << 16), "BM"), ("matmul_tile", 64, 2));
        // Few workgroups: k is cut, with large tiles where its parts are long.
        assert_eq!(kernel(facts, (512, 512, 512), "BM"), ("matmul_tile", 64, 2));
        assert_eq!(kernel(facts, (64, 64, 512), "BM"), ("matmul_tile", 64, 2));
        assert_eq!(kernel(facts, (512, 2048, 2048), "BM"), ("matmul_tile", 128, 2));
        assert_eq!(kernel(facts, (1, 1024, 512), "SWAP"), ("matmul_tile", 1, 2));
        // Partial sums would take more than the product is worth: runs of k follow one another.
        assert_eq!(kernel(facts, (2048, 2048, 9000), "BM"), ("matmul_tile", 128, 3));
    }
    // Memory shared with the processor is too slow for many partial sums.
    let mut shared = all[2].clone();
    shared.info.device_type = wgpu::DeviceType::IntegratedGpu;
    assert_eq!(kernel(&shared, (512, 512, 512), "BM"), ("matmul_tile", 64, 1));
    assert_eq!(kernel(&all[0], (2048, 2048, 512), "COLS"), ("matmul_lanes", 32, 1));
    assert_eq!(kernel(&all[0], (2, 2048, 512), "COLS"), ("matmul_lanes", 4, 1));
    assert_eq!(kernel(&all[1], (2048, 2048, 512), "BM"), ("matmul_tile", 128, 1));
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let facts = all_facts().remove(0).1;
    let mut b = Builder::new("test", &facts);
    let slot = b.external("operand", 4096);
    let out = b.external("output", 4096);
    let t = |slot, rows, cols, stride| Tensor { slot, offset: 0, rows, cols, stride };
    let mut refused = |a: Tensor, w: Tensor, y: Operand, p: Product, why: &str| {
        let e = matmul(&mut b, "bad", &a.into(), &w.into(), &y, &p).unwrap_err();
        assert!(matches!(e, Error::Shape { .. }), "{e}");
        assert!(e.to_string().contains(why), "{e}");
    };
    let (a, w, y) = (t(slot, 2, 5, 5), t(slot, 5, 3, 3), t(out, 2, 3, 3));
    let one = Product::default();
    refused(a, t(slot, 4, 3, 3), y.into(), one, "A (2, 5) times B (4, 3) into Y (2, 3), batch 1: A and B differ in k");
    refused(a, w, y.into(), Product { a_t: true, ..one }, "A (2, 5)ᵀ times B (5, 3)");
    refused(a, w, y.into(), Product { b_t: true, ..one }, "A and B differ in k");
    refused(a, w, t(out, 2, 4, 4).into(), one, "Y must have");
    refused(a, w, t(out, 3, 3, 3).into(), one, "Y must have");
    refused(a, w, t(out, 2, 3, 2).into(), one, "the rows of Y overlap");
    for step in [0, 2, 5] {
        refused(a, w, Operand { first: y, step }, Product { batch: 2, ..one }, "the matrices of Y overlap");
    }
    refused(t(slot, 2, 5, usize::MAX), w, y.into(), one, "ends beyond any buffer");
    refused(a, w, Operand { first: y, step: usize::MAX / 2 }, Product { batch: 9, ..one }, "ends beyond any buffer");
    refused(a, w, y.into(), Product { residual: Some(t(slot, 3, 2, 2)), ..one }, "the residual is (3, 2)");
    let r = Product { residual: Some(t(slot, 2, 3, 3)), batch: 2, ..one };
    refused(a, w, Operand { first: y, step: 6 }, r, "a batch cannot have a residual");
    let far = Product { bias: Some((slot, 4095)), ..one };
    assert!(matches!(matmul(&mut b, "bad", &a.into(), &w.into(), &y.into(), &far), Err(Error::Plan { .. })));
    let far = Product { scale: Some((slot, 4095)), ..one };
    assert!(matches!(matmul(&mut b, "bad", &a.into(), &w.into(), &y.into(), &far), Err(Error::Plan { .. })));
    let own = Product { residual: Some(y), ..one };
    assert!(matches!(matmul(&mut b, "bad", &a.into(), &w.into(), &y.into(), &own), Err(Error::Plan { .. })));
    // Outside of its slot; and Y in a slot of A.
    let far = t(slot, 2, 5, 4096);
    assert!(matches!(matmul(&mut b, "bad", &far.into(), &w.into(), &y.into(), &one), Err(Error::Plan { .. })));
    let same = Tensor { slot, ..y };
    assert!(matches!(matmul(&mut b, "bad", &a.into(), &w.into(), &same.into(), &one), Err(Error::Plan { .. })));
}

#[test]
fn matrices_may_lie_side_by_side() {
    // As heads do within the rows of a layer's output.
    let facts = all_facts().remove(0).1;
    let mut t = Bench::new(&facts, 3);
    let (rows, heads, dim) = (7, 3, 5);
    let [q, k] = ["q", "k"].map(|l| t.random_dense(l, rows, heads * dim));
    let scores = t.poisoned("scores", heads * rows, rows);
    let head = |x: Tensor| Operand { first: x.slice_cols(0..dim), step: dim };
    let p = Product { batch: heads, b_t: true, ..Product::default() };
    let s = Operand { first: scores.slice_rows(0..rows), step: rows * rows };
    matmul(&mut t.builder, "scores", &head(q), &head(k), &s, &p).unwrap();
    let o = t.poisoned("o", rows, heads * dim);
    matmul(&mut t.builder, "values", &s, &head(k), &head(o), &Product { batch: heads, ..Product::default() }).unwrap();
    assert!(t.verify(&o).iter().all(|v| *v != POISON));
}
