//! Pruning of normal weights against what is known of it.

use super::round::normal;
use etalon::quant::round::{Granularity, Spec, nearest};
use etalon::quant::{matched_sparsity, prune};
use rand::SeedableRng;
use rand::rngs::StdRng;

fn energy(w: &[f32]) -> f64 {
    w.iter().map(|v| f64::from(*v) * f64::from(*v)).sum()
}

/// `(2 Phi(t) - 1) - 2 t phi(t)`, t the magnitude below which a part lies: computed apart.
#[test]
fn pruning_removes_the_energy_that_it_should() {
    let w = normal(&mut StdRng::seed_from_u64(1), 400_000);
    let known = [(0.1, 0.0005), (0.2, 0.0042), (0.3, 0.0146), (0.4, 0.0353), (0.5, 0.0713), (0.6, 0.129), (0.7, 0.217), (0.8, 0.350)];
    for (sparsity, want) in known {
        let mut pruned = w.clone();
        assert!((prune(&mut pruned, sparsity).unwrap() - sparsity).abs() < 1e-5);
        let removed = 1.0 - energy(&pruned) / energy(&w);
        // One to three digits are known, and the magnitude that a tenth of this many numbers ends at has a deviation of 0.5 %, its cube
        // of 1.5 %.
        assert!((removed - want).abs() < 0.04 * want + 6e-5, "{sparsity}: {removed} for {want}");
        assert!(w.iter().zip(&pruned).all(|(a, b)| a == b || *b == 0.0));
    }
}

/// Sparsities at which pruning makes the noise of a rounding.
#[test]
fn a_roundings_noise_has_the_known_sparsity() {
    let (rows, cols) = (256, 3072);
    let w = normal(&mut StdRng::seed_from_u64(2), rows * cols);
    let table = [
        (Granularity::Row, [0.854, 0.531, 0.326, 0.203, 0.127, 0.050]),
        (Granularity::Group(128), [0.732, 0.437, 0.267, 0.165, 0.103, 0.041]),
        (Granularity::Group(64), [0.693, 0.410, 0.250, 0.154, 0.096, 0.038]),
        (Granularity::Group(32), [0.646, 0.379, 0.231, 0.143, 0.089, 0.035]),
    ];
    for (granularity, want) in table {
        for (bits, want) in [2, 3, 4, 5, 6, 8].into_iter().zip(want) {
            let values = nearest(&w, rows, cols, &Spec { bits, granularity, ..Spec::default() }).unwrap().decode();
            let noise = energy(&w.iter().zip(&values).map(|(a, b)| a - b).collect::<Vec<_>>());
            let got = matched_sparsity(&w, noise).unwrap();
            assert!((got - want).abs() < 0.01, "{granularity:?}, {bits} bits: {got} for {want}");
        }
    }
}

#[test]
fn ties_ends_and_nonsense() {
    let mut tied = [1.0, -1.0, 2.0, 1.0, 0.0];
    assert_eq!((prune(&mut tied, 0.4).unwrap(), tied), (0.8, [0.0, 0.0, 2.0, 0.0, 0.0]));
    let mut all = [1.0, 2.0];
    assert_eq!((prune(&mut all, 0.0).unwrap(), all), (0.0, [1.0, 2.0]));
    assert_eq!((prune(&mut all, 1.0).unwrap(), all), (1.0, [0.0; 2]));
    assert_eq!(prune(&mut [], 0.5).unwrap(), 0.0);
    assert!(prune(&mut [1.0], -0.1).is_err() && prune(&mut [1.0], f64::NAN).is_err() && prune(&mut [f32::NAN], 0.5).is_err());
    assert_eq!(matched_sparsity(&[3.0, 1.0, 2.0], 5.0).unwrap(), 2.0 / 3.0);
    assert_eq!((matched_sparsity(&[3.0], 0.0).unwrap(), matched_sparsity(&[3.0], 1e9).unwrap()), (0.0, 1.0));
    assert!(matched_sparsity(&[1.0], f64::NAN).is_err() && matched_sparsity(&[1.0], -1.0).is_err());
}
