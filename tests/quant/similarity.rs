//! Correlations of layers: what is known of them, of chance, and of a chain that was never trained.

use etalon::quant::similarity::{Samples, Scope, Similarity, cmpq, null, similarity, spearman};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const ALL: [Similarity; 5] = [Similarity::First, Similarity::Mean, Similarity::R2, Similarity::Pwcca, Similarity::Cka];

/// Nearly normal numbers: sums of some uniform ones, of variance 1.
fn numbers(rng: &mut StdRng, n: usize) -> Vec<f32> {
    (0..n).map(|_| (0..3).map(|_| rng.random_range(-1.0f32..1.0)).sum()).collect()
}

/// `X A` for X with `k` columns and A with `n`.
fn times(x: &[f32], k: usize, a: &[f32], n: usize) -> Vec<f32> {
    let mut out = vec![0.0; x.len() / k * n];
    for (x, out) in x.chunks_exact(k).zip(out.chunks_exact_mut(n)) {
        for (x, a) in x.iter().zip(a.chunks_exact(n)) {
            out.iter_mut().zip(a).for_each(|(o, a)| *o += x * a);
        }
    }
    out
}

#[test]
fn what_is_the_same_or_a_linear_map_is_alike() {
    let mut rng = StdRng::seed_from_u64(1);
    let (n, d) = (400, 24);
    let x = numbers(&mut rng, n * d);
    let y = times(&x, d, &numbers(&mut rng, d * d), d);
    let narrow = times(&x, d, &numbers(&mut rng, d * 5), 5);
    // A shift changes nothing.
    let shifted: Vec<f32> = x.iter().enumerate().map(|(i, v)| v + (i % d) as f32).collect();
    let [x, y, narrow, shifted] = [(x, d), (y, d), (narrow, 5), (shifted, d)].map(|(v, d)| Samples::new(&v, d).unwrap());
    for kind in ALL {
        let of = |a: &Samples, b: &Samples| similarity(a, b, kind).unwrap();
        assert!((of(&x, &x) - 1.0).abs() < 1e-9 && (of(&x, &shifted) - 1.0).abs() < 1e-5, "{kind:?}");
        if kind != Similarity::Cka {
            assert!((of(&x, &y) - 1.0).abs() < 1e-6, "{kind:?}: {}", of(&x, &y));
            assert!((of(&narrow, &x) - 1.0).abs() < 1e-6, "{kind:?}: {}", of(&narrow, &x));
        } else {
            assert!(of(&x, &y) < 0.99);
        }
    }
}

/// A column that another already is, and one that never changes, count for nothing.
#[test]
fn columns_in_the_span_of_others_do_not_count() {
    let mut rng = StdRng::seed_from_u64(5);
    let x = numbers(&mut rng, 300 * 6);
    let wide: Vec<f32> = x.chunks_exact(6).flat_map(|r| [r[0], r[1], r[0] + r[1], 2.0, r[2], r[3], r[4], r[5], r[5]]).collect();
    let [x, wide] = [(x, 6), (wide, 9)].map(|(v, d)| Samples::new(&v, d).unwrap());
    for kind in [Similarity::First, Similarity::Mean, Similarity::R2, Similarity::Pwcca] {
        for (a, b) in [(&x, &wide), (&wide, &x), (&wide, &wide)] {
            let found = similarity(a, b, kind).unwrap();
            assert!((found - 1.0).abs() < 1e-6, "{kind:?}: {found}");
        }
    }
}

/// 768 columns of 2,500 rows, and fewer: the numbers of the literature, and of the law that they follow.
#[test]
fn what_has_nothing_in_common_correlates_by_chance() {
    let mut rng = StdRng::seed_from_u64(2);
    let mut pair = |n: usize, p: usize, q: usize| [p, q].map(|d| Samples::new(&numbers(&mut rng, n * d), d).unwrap());
    let [x, y] = pair(2500, 768, 768);
    let square = similarity(&x, &y, Similarity::R2).unwrap();
    assert!((square - 0.307).abs() < 0.003, "{square}");
    let first = similarity(&x, &y, Similarity::First).unwrap();
    assert!((first - 0.92).abs() < 0.01, "{first}");
    assert!((null(Similarity::First, 2500, 768, 768) - 0.923).abs() < 1e-3);
    for (n, p, q) in [(600, 90, 90), (500, 120, 40), (400, 20, 20), (300, 30, 100)] {
        let [x, y] = pair(n, p, q);
        for kind in ALL {
            let (found, chance) = (similarity(&x, &y, kind).unwrap(), null(kind, n, p, q));
            println!("{n} rows, {p} and {q} columns, {kind:?}: {found:.4}, by the law {chance:.4}");
            // The first one lies within some n^(-2/3) of the edge.
            let limit = if kind == Similarity::First { 0.03 } else { 0.02 };
            assert!((found - chance).abs() < limit, "{n} rows, {p} and {q} columns, {kind:?}: {found} for {chance}");
        }
    }
    // More columns than rows: some correlations are exactly 1.
    let [x, y] = pair(100, 60, 70);
    assert!(similarity(&x, &y, Similarity::First).unwrap() > 1.0 - 1e-6 && null(Similarity::First, 100, 60, 70) == 1.0);
    assert!((similarity(&x, &y, Similarity::Mean).unwrap() - null(Similarity::Mean, 100, 60, 70)).abs() < 0.03);
    // The mean after principal components: about 0.86 sqrt(k / n).
    assert!((null(Similarity::Mean, 2500, 20, 20) - 0.077).abs() < 0.002 && (null(Similarity::Mean, 256, 40, 40) - 0.34).abs() < 0.01);
}

/// Principal components hold the variance that they are asked for, and lie in the span of the leading directions.
#[test]
fn principal_components_are_the_leading_ones() {
    let mut rng = StdRng::seed_from_u64(3);
    let (n, d) = (500, 40);
    let mut x = numbers(&mut rng, n * d);
    // Variances fall by 4 from column to column; a rotation mixes them.
    x.chunks_exact_mut(d).for_each(|row| row.iter_mut().enumerate().for_each(|(c, v)| *v *= f32::powi(0.5, c as i32)));
    let mut turned = x.clone();
    for row in turned.chunks_exact_mut(d) {
        for c in 0..d - 1 {
            (row[c], row[c + 1]) = (0.6 * row[c] - 0.8 * row[c + 1], 0.8 * row[c] + 0.6 * row[c + 1]);
        }
    }
    let [plain, turned] = [x, turned].map(|v| Samples::new(&v, d).unwrap());
    assert_eq!((turned.principal(3, 1.0).cols(), turned.principal(40, 0.9).cols(), turned.principal(40, 0.0).cols()), (3, 2, 1));
    let leading = Samples::new(&numbers(&mut rng, 8), 2).unwrap();
    assert_eq!(leading.principal(5, 1.0).cols(), 2);
    let few = similarity(&turned.principal(3, 1.0), &plain.principal(3, 1.0), Similarity::R2).unwrap();
    assert!(few > 1.0 - 1e-6, "{few}");
}

/// Twelve blocks of a residual net that was never trained: compared with all others, layers at the ends score highest; compared with the one
/// before, they do not.
#[test]
fn a_random_chain_looks_sensitive_at_its_ends() {
    let mut rng = StdRng::seed_from_u64(4);
    let (n, d, blocks) = (1500, 32, 12);
    let mut h = numbers(&mut rng, n * d);
    let mut layers = vec![Samples::new(&h, d).unwrap()];
    for _ in 0..blocks {
        let [a, b] = [0, 1].map(|_| numbers(&mut rng, d * d));
        let inner: Vec<f32> = times(&h, d, &a, d).into_iter().map(|v| (v / (d as f32).sqrt()).max(0.0)).collect();
        // What a block adds grows with what there is, as after a norm.
        let scale = 0.2 * (h.iter().map(|v| v * v).sum::<f32>() / (n * d) as f32).sqrt() / (d as f32).sqrt();
        h.iter_mut().zip(times(&inner, d, &b, d)).for_each(|(h, v)| *h += scale * v);
        layers.push(Samples::new(&h, d).unwrap());
    }
    let means = |scope| {
        let s = cmpq(&layers, Similarity::R2, scope, true).unwrap();
        println!("{scope:?}: {s:.3?}");
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
        (mean(&s[..4]) / mean(&s[4..8]), mean(&s[8..]) / mean(&s[4..8]))
    };
    let (first, last) = means(Scope::All);
    assert!(first > 1.1 && last > 1.1, "{first} and {last} times the middle");
    let (first, last) = means(Scope::Adjacent);
    assert!(!(first > 1.1 && last > 1.1), "{first} and {last} times the middle");
}

#[test]
fn nonsense_is_refused() {
    assert!(Samples::new(&[1.0; 7], 2).is_err() && Samples::new(&[1.0; 6], 2).is_err() && Samples::new(&[], 0).is_err());
    let mut bad = [1.0; 8];
    bad[5] = f32::INFINITY;
    assert!(Samples::new(&bad, 2).unwrap_err().to_string().contains("number 1 of row 2"));
    let [four, five] = [8, 10].map(|n| Samples::new(&vec![1.0; n], 2).unwrap());
    assert!(similarity(&four, &five, Similarity::R2).unwrap_err().to_string().contains("4 and 5 rows"));
    assert!(cmpq(std::slice::from_ref(&four), Similarity::R2, Scope::All, true).is_err());
    // Outputs that never change have nothing in common with anything, and divide by nothing.
    for kind in ALL {
        let found = similarity(&four, &four, kind).unwrap();
        assert!((0.0..=1.0).contains(&found), "{kind:?}: {found}");
    }
}

#[test]
fn ranks_that_agree_and_ranks_that_are_shared() {
    assert_eq!(spearman(&[1.0, 2.0, 3.0], &[10.0, 20.0, 40.0]), 1.0);
    assert_eq!(spearman(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]), -1.0);
    assert_eq!(spearman(&[1.0, 2.0, 3.0], &[5.0, 5.0, 5.0]), 0.0);
    // Ranks 0.5, 0.5, 2 and 0, 1, 2: 1.5 / sqrt(1.5 * 2).
    assert!((spearman(&[1.0, 1.0, 3.0], &[1.0, 2.0, 3.0]) - 0.75f64.sqrt()).abs() < 1e-15);
}
