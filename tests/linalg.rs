//! Singular value decompositions on the device against faer's, each dispatch against its twin.

use crate::kernels::{all_facts, context};
use etalon::linalg::{Factors, Options, Place, Svd};
use etalon::{Context, Facts};
use faer::Mat;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;

/// A matrix of f64, row after row.
#[derive(Clone, Debug, PartialEq)]
struct M {
    rows: usize,
    cols: usize,
    v: Vec<f64>,
}

impl M {
    fn new(rows: usize, cols: usize, f: impl FnMut(usize) -> f64) -> Self {
        Self { rows, cols, v: (0..rows * cols).map(f).collect() }
    }

    fn random(rng: &mut StdRng, rows: usize, cols: usize) -> Self {
        // The sum of a few uniform numbers is nearly normal.
        Self::new(rows, cols, |_| (0..4).map(|_| rng.random_range(-1.0..1.0)).sum())
    }

    fn row(&self, r: usize) -> &[f64] {
        &self.v[r * self.cols..(r + 1) * self.cols]
    }

    fn row_mut(&mut self, r: usize) -> &mut [f64] {
        &mut self.v[r * self.cols..(r + 1) * self.cols]
    }

    fn norm(&self) -> f64 {
        self.v.iter().map(|x| x * x).sum::<f64>().sqrt()
    }

    fn faer(&self) -> Mat<f64> {
        Mat::from_fn(self.rows, self.cols, |r, c| self.v[r * self.cols + c])
    }

    fn of(m: faer::MatRef<'_, f64>) -> Self {
        Self::new(m.nrows(), m.ncols(), |i| m[(i / m.ncols(), i % m.ncols())])
    }
}

/// Singular vectors as rows.
#[derive(Clone, Debug, PartialEq)]
struct Split {
    ut: M,
    sigma: Vec<f64>,
    vt: M,
}

impl Split {
    fn product(&self) -> M {
        let left = Mat::from_fn(self.ut.cols, self.sigma.len(), |r, c| self.ut.row(c)[r] * self.sigma[c]);
        M::of((left * self.vt.faer()).as_ref())
    }

    /// faer's decomposition.
    fn of(w: &M) -> Self {
        let svd = w.faer().thin_svd().unwrap();
        let sigma = svd.S().column_vector().iter().copied().collect();
        Self { ut: M::of(svd.U().transpose()), sigma, vt: M::of(svd.V().transpose()) }
    }

    /// Rows that were perturbed and brought back to unit length, as training does.
    fn drifted(mut self, rng: &mut StdRng, by: f64) -> Self {
        for m in [&mut self.ut, &mut self.vt] {
            for r in 0..m.rows {
                let scale = by / (m.cols as f64).sqrt();
                m.row_mut(r).iter_mut().for_each(|x| *x += scale * rng.random_range(-1.7..1.7));
                let norm = m.row(r).iter().map(|x| x * x).sum::<f64>().sqrt();
                m.row_mut(r).iter_mut().for_each(|x| *x /= norm);
            }
        }
        self.sigma.iter_mut().for_each(|s| *s *= 1.0 + by * rng.random_range(-1.0..1.0));
        self
    }
}

/// Factors on the device, all in one buffer, with words in between that must stay.
struct Arena {
    context: Context,
    words: Vec<f32>,
    at: Vec<(usize, usize)>,
}

const BETWEEN: f32 = -7.25e8;

impl Arena {
    fn new(context: &Context) -> Self {
        Self { context: context.clone(), words: vec![BETWEEN; 64], at: Vec::new() }
    }

    fn put(&mut self, values: &[f64]) -> usize {
        let at = self.words.len();
        self.words.extend(values.iter().map(|v| *v as f32));
        self.at.push((at, values.len()));
        self.words.resize((self.words.len() + 1).next_multiple_of(64), BETWEEN);
        at
    }

    fn put_split(&mut self, s: &Split) -> [usize; 3] {
        [self.put(&s.ut.v), self.put(&s.sigma), self.put(&s.vt.v)]
    }

    fn upload(&self) -> Arc<etalon::gpu::Buffer> {
        self.context.upload("arena", bytemuck::cast_slice(&self.words)).unwrap()
    }

    fn read(&self, buffer: &etalon::gpu::Buffer) -> Vec<f32> {
        let words = self.context.block_on(self.context.read_ranges(&[(buffer, 0..buffer.size())]).unwrap().words()).unwrap().remove(0);
        words.into_iter().map(f32::from_bits).collect()
    }

    /// Whether what lies between the operands is what it was.
    fn check_between(&self, after: &[f32]) {
        let inside = |i: usize| self.at.iter().any(|(at, n)| (*at..at + n).contains(&i));
        assert!((0..self.words.len()).all(|i| inside(i) || after[i] == BETWEEN));
    }
}

fn factors(i: usize, buffer: &Arc<etalon::gpu::Buffer>, at: [usize; 3]) -> Factors {
    let place = |offset| Place { buffer: buffer.clone(), offset };
    Factors { name: format!("layer {i}"), ut: place(at[0]), sigma: place(at[1]), vt: place(at[2]) }
}

fn take(words: &[f32], at: [usize; 3], m: usize, n: usize) -> Split {
    let k = m.min(n);
    let matrix = |at: usize, rows, cols| M::new(rows, cols, |i| f64::from(words[at + i]));
    Split { ut: matrix(at[0], k, m), sigma: matrix(at[1], 1, k).v, vt: matrix(at[2], k, n) }
}

/// `max |A Aᵀ - I|`.
fn off_orthonormal(a: &M) -> f64 {
    let p = a.faer() * a.faer().transpose();
    let off = |i: usize, j: usize| (p[(i, j)] - f64::from(u8::from(i == j))).abs();
    (0..a.rows).flat_map(|i| (0..a.rows).map(move |j| (i, j))).map(|(i, j)| off(i, j)).fold(0.0, f64::max)
}

fn check(name: &str, got: &Split, w: &M) {
    let want = Split::of(w).sigma;
    let top = want[0].max(f64::MIN_POSITIVE);
    let values = got.sigma.iter().zip(&want).map(|(a, b)| (a - b).abs() / top).fold(0.0, f64::max);
    let difference = M::new(w.rows, w.cols, {
        let p = got.product();
        let w = w.clone();
        move |i| p.v[i] - w.v[i]
    });
    let kept = difference.norm() / w.norm().max(f64::MIN_POSITIVE);
    let (u, v) = (off_orthonormal(&got.ut), off_orthonormal(&got.vt));
    println!("{name}: values {values:.1e}, W {kept:.1e}, U {u:.1e}, V {v:.1e}");
    assert!(values <= 1e-5 && kept <= 1e-5 && u <= 1e-5 && v <= 1e-5, "{name}: values {values:.1e}, W {kept:.1e}, U {u:.1e}, V {v:.1e}");
    assert!(got.sigma.is_sorted_by(|a, b| a >= b) && got.sigma.iter().all(|s| *s >= 0.0), "{name}: order");
    for r in 0..got.ut.rows {
        let top = got.ut.row(r).iter().map(|x| x.abs()).fold(0.0, f64::max);
        let first = got.ut.row(r).iter().find(|x| x.abs() == top).unwrap();
        assert!(*first > 0.0, "{name}: sign of row {r}");
    }
}

/// Re-decomposes factors of one shape, on a device of these facts.
fn again(facts: &Facts, splits: &[Split], judged: bool) -> (Vec<Split>, Vec<f32>) {
    let context = context().with_facts(facts.clone());
    let mut arena = Arena::new(&context);
    let at: Vec<_> = splits.iter().map(|s| arena.put_split(s)).collect();
    let buffer = arena.upload();
    let layers: Vec<_> = at.iter().enumerate().map(|(i, at)| factors(i, &buffer, *at)).collect();
    let (m, n) = (splits[0].ut.cols, splits[0].vt.cols);
    let svd = Svd::of_factors(&context, &layers, m, n, &Options::default(), None).unwrap();
    let report = context.block_on(async { if judged { svd.verify().await } else { svd.run().await } });
    println!("{:?}", report.unwrap());
    let words = arena.read(&buffer);
    arena.check_between(&words);
    (at.iter().map(|at| take(&words, *at, m, n)).collect(), words)
}

/// Decomposes dense matrices of one shape.
fn dense(facts: &Facts, matrices: &[M], judged: bool) -> Vec<Split> {
    let context = context().with_facts(facts.clone());
    let (m, n) = (matrices[0].rows, matrices[0].cols);
    let k = m.min(n);
    let mut arena = Arena::new(&context);
    let ws: Vec<_> = matrices.iter().map(|w| arena.put(&w.v)).collect();
    let (source, mut targets) = (arena.upload(), Arena::new(&context));
    let at: Vec<_> = matrices.iter().map(|_| [k * m, k, k * n].map(|words| targets.put(&vec![0.5; words]))).collect();
    let buffer = targets.upload();
    let out: Vec<_> = at.iter().enumerate().map(|(i, at)| factors(i, &buffer, *at)).collect();
    let places: Vec<_> = ws.iter().map(|w| Place { buffer: source.clone(), offset: *w }).collect();
    let svd = Svd::of_matrices(&context, &places, (m, n), &out, &Options::default(), None).unwrap();
    let report = context.block_on(async { if judged { svd.verify().await } else { svd.run().await } });
    println!("{:?}", report.unwrap());
    let words = targets.read(&buffer);
    targets.check_between(&words);
    at.iter().map(|at| take(&words, *at, m, n)).collect()
}

/// The values as f32 has them.
fn rounded(s: &Split) -> Split {
    let round = |m: &M| M { v: m.v.iter().map(|v| f64::from(*v as f32)).collect(), ..*m };
    Split { ut: round(&s.ut), sigma: s.sigma.iter().map(|v| f64::from(*v as f32)).collect(), vt: round(&s.vt) }
}

fn rounded_matrix(m: M) -> M {
    M { v: m.v.iter().map(|v| f64::from(*v as f32)).collect(), ..m }
}

const SIZES: [(usize, usize); 9] = [(1, 1), (5, 3), (3, 5), (16, 16), (17, 40), (96, 96), (96, 384), (384, 96), (130, 70)];

#[test]
fn small_drifted_factors_each_dispatch_judged() {
    for (name, facts) in all_facts() {
        for (m, n) in &SIZES[..5] {
            let mut rng = StdRng::seed_from_u64((m * n) as u64);
            let splits: Vec<_> = (0..3).map(|_| rounded(&Split::of(&M::random(&mut rng, *m, *n)).drifted(&mut rng, 0.3))).collect();
            let (got, _) = again(&facts, &splits, true);
            for (g, s) in got.iter().zip(&splits) {
                check(&format!("{name} {m} x {n}"), g, &s.product());
            }
        }
    }
}

#[test]
fn drifted_factors_of_all_sizes() {
    let facts = context().facts().clone();
    for (m, n) in SIZES {
        for by in [0.03, 0.5] {
            let mut rng = StdRng::seed_from_u64((m * 1000 + n) as u64);
            let splits: Vec<_> = (0..2).map(|_| rounded(&Split::of(&M::random(&mut rng, m, n)).drifted(&mut rng, by))).collect();
            let (got, words) = again(&facts, &splits, false);
            for (g, s) in got.iter().zip(&splits) {
                check(&format!("{m} x {n} by {by}"), g, &s.product());
            }
            assert_eq!(words, again(&facts, &splits, false).1, "other bits in a second run");
        }
    }
}

#[test]
fn dense_matrices_each_dispatch_judged() {
    for (_, facts) in all_facts() {
        for (m, n) in &SIZES[..5] {
            let mut rng = StdRng::seed_from_u64((m * n) as u64);
            let ws: Vec<_> = (0..2).map(|_| rounded_matrix(M::random(&mut rng, *m, *n))).collect();
            for (g, w) in dense(&facts, &ws, true).iter().zip(&ws) {
                check(&format!("{m} x {n}"), g, w);
            }
        }
    }
}

#[test]
fn dense_matrices_of_all_sizes() {
    for (m, n) in SIZES {
        let mut rng = StdRng::seed_from_u64((m * n) as u64);
        let ws: Vec<_> = (0..2).map(|_| rounded_matrix(M::random(&mut rng, m, n))).collect();
        for (g, w) in dense(context().facts(), &ws, false).iter().zip(&ws) {
            check(&format!("{m} x {n}"), g, w);
        }
    }
}

/// A matrix with these singular values and random vectors.
fn with_values(rng: &mut StdRng, m: usize, n: usize, values: impl Fn(usize) -> f64) -> Split {
    let mut s = Split::of(&M::random(rng, m, n));
    s.sigma = (0..m.min(n)).map(values).collect();
    s
}

fn awkward(rng: &mut StdRng, m: usize, n: usize) -> Vec<(&'static str, Split)> {
    let k = m.min(n);
    vec![
        ("all values equal", with_values(rng, m, n, |_| 2.0)),
        ("pairs of equal values", with_values(rng, m, n, |i| 1.0 / (1 + i / 2) as f64)),
        ("half of them zero", with_values(rng, m, n, |i| if i < k / 2 { 3.0 - i as f64 / k as f64 } else { 0.0 })),
        ("one value", with_values(rng, m, n, |i| if i == 0 { 1e-4 } else { 0.0 })),
        ("falling over 12 orders", with_values(rng, m, n, |i| 10f64.powf(-12.0 * i as f64 / k as f64))),
        ("falling over 5 orders", with_values(rng, m, n, |i| 10f64.powf(-5.0 * i as f64 / k as f64))),
        ("huge", with_values(rng, m, n, |i| 1e30 * (1.0 + i as f64))),
        ("tiny", with_values(rng, m, n, |i| 1e-30 * (1.0 + i as f64))),
        ("zero", with_values(rng, m, n, |_| 0.0)),
    ]
}

#[test]
fn repeated_zero_and_spread_values() {
    for (m, n) in [(40, 40), (24, 50), (50, 24)] {
        let mut rng = StdRng::seed_from_u64(7);
        for (name, split) in awkward(&mut rng, m, n) {
            // A product whose factors are rounded first has no exact zeros.
            let w = rounded_matrix(split.product());
            check(&format!("dense {m} x {n}, {name}"), &dense(context().facts(), std::slice::from_ref(&w), false)[0], &w);
            for by in [0.0, 0.2] {
                let drifted = rounded(&split.clone().drifted(&mut rng, by));
                let (got, _) = again(context().facts(), std::slice::from_ref(&drifted), false);
                check(&format!("{m} x {n}, {name}, drifted by {by}"), &got[0], &drifted.product());
            }
        }
    }
}

#[test]
fn factors_that_are_nearly_or_wholly_dependent() {
    for (m, n) in [(40, 40), (24, 50), (50, 24)] {
        let mut rng = StdRng::seed_from_u64(8);
        let whole = Split::of(&M::random(&mut rng, m, n));
        for near in [1e-2, 1e-4, 1e-6, 0.0] {
            let mut s = whole.clone();
            for (from, to) in [(0, 1), (2, 5), (2, 6)] {
                let row = s.ut.row(from).to_vec();
                s.ut.row_mut(to).iter_mut().zip(row).for_each(|(a, b)| *a = b + near * *a);
            }
            let s = rounded(&s);
            let (got, _) = again(context().facts(), std::slice::from_ref(&s), false);
            check(&format!("{m} x {n}, rows {near} apart"), &got[0], &s.product());
        }
        let mut s = whole.clone();
        s.ut.v.fill(0.0);
        let (got, _) = again(context().facts(), std::slice::from_ref(&s), false);
        check(&format!("{m} x {n}, no left vectors"), &got[0], &s.product());
    }
}

#[test]
fn directions_are_completed_each_dispatch_judged() {
    for (_, facts) in all_facts() {
        let mut rng = StdRng::seed_from_u64(9);
        let ws = [M::new(9, 9, |_| 0.0), rounded_matrix(with_values(&mut rng, 9, 9, |i| if i < 4 { 1.0 } else { 0.0 }).product())];
        for (g, w) in dense(&facts, &ws, true).iter().zip(&ws) {
            check("9 x 9", g, w);
        }
        let s = rounded(&with_values(&mut rng, 7, 9, |i| if i == 3 { 0.0 } else { 1.0 + i as f64 }).drifted(&mut rng, 0.1));
        let (got, _) = again(&facts, std::slice::from_ref(&s), true);
        check("7 x 9", &got[0], &s.product());
    }
}

#[test]
fn what_is_not_finite_is_named_and_nothing_changes() {
    let context = context();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for part in 0..3 {
            let mut rng = StdRng::seed_from_u64(10);
            let mut arena = Arena::new(&context);
            let at: Vec<_> = (0..3).map(|_| arena.put_split(&rounded(&Split::of(&M::random(&mut rng, 20, 30))))).collect();
            arena.words[at[1][part] + 7] = bad;
            let buffer = arena.upload();
            let layers: Vec<_> = at.iter().enumerate().map(|(i, at)| factors(i, &buffer, *at)).collect();
            let svd = Svd::of_factors(&context, &layers, 20, 30, &Options::default(), None).unwrap();
            let e = context.block_on(svd.run()).unwrap_err().to_string();
            assert!(e.contains("`layer 1`") && !e.contains("layer 0") && !e.contains("layer 2"), "{e}");
            let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&arena.read(&buffer)[..arena.words.len()]), bits(&arena.words));
        }
    }
}

#[test]
fn too_few_sweeps_are_an_error_and_nothing_changes() {
    let context = context();
    let mut rng = StdRng::seed_from_u64(11);
    let mut arena = Arena::new(&context);
    let good = arena.put_split(&rounded(&Split::of(&M::random(&mut rng, 40, 40))));
    let bad = arena.put_split(&rounded(&Split::of(&M::random(&mut rng, 40, 40)).drifted(&mut rng, 1.0)));
    let buffer = arena.upload();
    let layers = [factors(0, &buffer, good), factors(1, &buffer, bad)];
    let options = Options { sweeps: 1, ..Options::default() };
    let svd = Svd::of_factors(&context, &layers, 40, 40, &options, None).unwrap();
    let e = context.block_on(svd.run()).unwrap_err().to_string();
    assert!(e.contains("`layer 1`") && !e.contains("layer 0"), "{e}");
    assert_eq!(arena.read(&buffer)[..arena.words.len()], arena.words);
}

#[test]
fn hostile_shapes_and_places_are_errors() {
    let context = context();
    let buffer = context.storage("factors", 4096).unwrap();
    let options = Options::default();
    let of = |at, m, n| Svd::of_factors(&context, &[factors(0, &buffer, at)], m, n, &options, None).map(drop);
    of([0, 64, 128], 4, 4).unwrap();
    assert!(of([0, 64, 128], 0, 4).unwrap_err().to_string().contains("0 x 4"));
    assert!(of([0, 1, 128], 4, 4).unwrap_err().to_string().contains("multiples of 64"));
    assert!(of([0, 64, 1024], 4, 4).unwrap_err().to_string().contains("slot"));
    assert!(Svd::of_factors(&context, &[], 4, 4, &options, None).is_err());
    let place = Place { buffer: buffer.clone(), offset: 0 };
    assert!(Svd::of_matrices(&context, &[place.clone(), place], (4, 4), &[], &options, None).is_err());
    let mut tiny = context.facts().clone();
    tiny.max_binding = 1 << 20;
    let tiny = context.with_facts(tiny);
    let buffer = tiny.storage("factors", 16 << 20).unwrap();
    let layer = factors(0, &buffer, [0, 1 << 20, 2 << 20]);
    assert!(
        Svd::of_factors(&tiny, &[layer], 600, 600, &options, None).unwrap_err().to_string().contains("max_storage_buffer_binding_size")
    );
}
