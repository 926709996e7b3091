//! Rounding against golden vectors, what is known of normal weights, and a GPTQ that inverts and eliminates in the open.

use etalon::quant::Packed;
use etalon::quant::round::{Gptq, Granularity, Hessian, Spec, gptq, nearest};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

fn spec(bits: u32, granularity: Granularity) -> Spec {
    Spec { bits, granularity, ..Spec::default() }
}

fn codes(p: &Packed) -> Vec<u32> {
    (0..p.rows).flat_map(|r| (0..p.cols).map(move |c| p.code(r, c))).collect()
}

/// Standard normal, by Box and Muller.
pub fn normal(rng: &mut StdRng, n: usize) -> Vec<f32> {
    let mut one = || {
        let radius = (-2.0 * (1.0 - rng.random_range(0.0..1.0f64)).ln()).sqrt();
        (radius * (std::f64::consts::TAU * rng.random_range(0.0..1.0f64)).cos()) as f32
    };
    (0..n).map(|_| one()).collect()
}

/// `|W - Q(W)|^2 / |W|^2`.
fn relative(p: &Packed, w: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let error: f64 = p.decode().iter().zip(w).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    error / w.iter().map(|x| square(f64::from(*x))).sum::<f64>()
}

/// A group whose codes were computed apart, at least 0.057 from any tie.
#[test]
fn a_golden_group() {
    let w = [-0.9, -0.31, -0.02, 0.0, 0.08, 0.4, 0.55, 1.2];
    let cases: [(u32, f64, [u32; 8]); 4] = [
        (2, 0.7, [0, 1, 1, 1, 1, 2, 2, 3]),
        (3, 0.3, [0, 2, 3, 3, 3, 4, 5, 7]),
        (4, 0.14, [0, 4, 6, 6, 7, 9, 10, 15]),
        (8, 0.008_235_294, [0, 71, 107, 109, 119, 158, 176, 255]),
    ];
    for f16_scales in [false, true] {
        for (bits, scale, want) in cases {
            let p = nearest(&w, 1, 8, &Spec { f16_scales, ..spec(bits, Granularity::Row) }).unwrap();
            assert_eq!(codes(&p), want, "{bits} bits");
            let zero = f64::from(want[3]);
            for (v, q) in p.decode().iter().zip(want) {
                // Halves have 11 bits.
                let limit = if f16_scales { 5e-4 } else { 1e-7 } * scale * 256.0;
                assert!((f64::from(*v) - scale * (f64::from(q) - zero)).abs() <= limit, "{bits} bits: {v}");
            }
        }
    }
}

/// Halves go to even codes; groups that are zero or constant are kept; ranges of one sign are widened to 0.
#[test]
fn ties_and_odd_groups() {
    let row = |w: &[f32], s: &Spec| nearest(w, 1, w.len(), s).unwrap();
    let three = Spec { f16_scales: false, ..spec(3, Granularity::Row) };
    assert_eq!(codes(&row(&[0.0, 0.5, 1.5, 2.5, 3.5, 7.0], &three)), [0, 0, 2, 2, 4, 7]);
    let four = spec(4, Granularity::Group(16));
    assert_eq!(row(&[0.0; 20], &four).decode(), [0.0; 20]);
    for constant in [0.25, -3.0] {
        let values = row(&[constant; 20], &Spec { f16_scales: false, ..four }).decode();
        assert!(values.iter().all(|v| (v / constant - 1.0).abs() < 1e-6), "{values:?} for {constant}");
    }
    let near_one: Vec<f32> = (0..128).map(|i| 1.0 + i as f32 / 1000.0).collect();
    assert!(relative(&row(&near_one, &spec(4, Granularity::Row)), &near_one) < 1e-3);
    // A short last group has a scale of its own, and its padding none.
    let mut short = vec![1.0; 16];
    short.extend([100.0, 50.0, 0.0]);
    assert_eq!(row(&short, &Spec { f16_scales: false, ..four }).decode()[..16], [1.0; 16]);
    // A group of halves too small for normal numbers is flushed by no device.
    assert!(row(&[1e-9; 16], &four).decode().iter().all(|v| *v == 0.0 || v.abs() >= 1e-9));
}

/// Relative squared errors of normal weights, computed apart.
#[test]
fn errors_of_normal_weights_are_the_known_ones() {
    let w = normal(&mut StdRng::seed_from_u64(7), 512 * 3072);
    let table = [
        (Granularity::Tensor, false, [0.72, 0.166, 0.036, 1.2e-4]),
        (Granularity::Row, false, [0.45, 0.087, 0.019, 6.5e-5]),
        (Granularity::Group(128), false, [0.25, 0.047, 0.0102, 3.5e-5]),
        (Granularity::Group(64), false, [0.21, 0.038, 0.0083, 2.9e-5]),
        (Granularity::Group(32), false, [0.165, 0.030, 0.0065, 2.3e-5]),
    ];
    for (granularity, symmetric, want) in table {
        for (bits, want) in [2, 3, 4, 8].into_iter().zip(want) {
            let got = relative(&nearest(&w, 512, 3072, &Spec { symmetric, ..spec(bits, granularity) }).unwrap(), &w);
            // The range of a whole matrix hangs on its two largest entries.
            let slack = if granularity == Granularity::Tensor { 0.08 } else { 0.03 };
            println!("{granularity:?} {bits} bits: {got:.3e} for {want:.3e}");
            assert!((got / want - 1.0f64).abs() < slack, "{granularity:?} {bits} bits: {got:.3e} for {want:.3e}");
        }
    }
}

#[test]
fn a_search_for_the_range_pays() {
    let w = normal(&mut StdRng::seed_from_u64(8), 64 * 256);
    for (bits, part) in [(2, 0.75), (3, 0.85), (4, 0.97)] {
        for symmetric in [false, true] {
            let plain = Spec { symmetric, ..spec(bits, Granularity::Group(128)) };
            let [a, b] = [false, true].map(|search| relative(&nearest(&w, 64, 256, &Spec { search, ..plain }).unwrap(), &w));
            println!("{bits} bits, symmetric {symmetric}: {a:.4} without, {b:.4} with");
            assert!(b < part * a, "{bits} bits, symmetric {symmetric}: {b} of {a}");
        }
    }
}

/// What files take, at groups of 128: the effective widths of a mix.
#[test]
fn stored_bits_count_scales_and_zero_points() {
    for (bits, want) in [(2, 2.140625), (3, 3.1484375), (4, 4.15625), (5, 5.1640625), (6, 6.171875), (8, 8.1875)] {
        let s = spec(bits, Granularity::Group(128));
        assert_eq!(s.stored_bits(768, 3072) as f64 / (768.0 * 3072.0), want);
    }
    assert_eq!(Spec { symmetric: true, ..spec(4, Granularity::Row) }.stored_bits(10, 100), 4000 + 160);
    assert_eq!(spec(4, Granularity::Group(64)).stored_bits(3, 65), 4 * 195 + 6 * 20);
    assert_eq!(Spec { f16_scales: false, ..spec(8, Granularity::Tensor) }.stored_bits(3, 5), 120 + 40);
}

/// Inputs that correlate: each is a mix of its neighbours.
fn inputs(rng: &mut StdRng, rows: usize, cols: usize) -> Vec<f32> {
    let mut x = normal(rng, rows * cols);
    for row in x.chunks_exact_mut(cols) {
        for c in 1..cols {
            row[c] = 0.8 * row[c - 1] + 0.6 * row[c];
        }
    }
    x
}

/// GPTQ as its formulae stand: the inverse by elimination, an input at a time, one row of weights after another.
struct Plain {
    inverse: Vec<Vec<f64>>,
}

impl Plain {
    fn new(x: &[f32], cols: usize, damp: f64) -> Self {
        let mut h = vec![vec![0.0; 2 * cols]; cols];
        for row in x.chunks_exact(cols) {
            for i in 0..cols {
                for j in 0..cols {
                    h[i][j] += f64::from(row[i]) * f64::from(row[j]);
                }
            }
        }
        let mean = (0..cols).map(|i| h[i][i]).sum::<f64>() / cols as f64;
        for i in 0..cols {
            h[i][i] += damp * mean;
            h[i][cols + i] = 1.0;
        }
        // Gauss and Jordan; the matrix is positive definite.
        for i in 0..cols {
            let pivot = h[i][i];
            h[i].iter_mut().for_each(|v| *v /= pivot);
            let row = h[i].clone();
            for (_, other) in h.iter_mut().enumerate().filter(|(j, _)| *j != i) {
                let factor = other[i];
                other.iter_mut().zip(&row).for_each(|(v, r)| *v -= factor * r);
            }
        }
        Self { inverse: h.into_iter().map(|row| row[cols..].to_vec()).collect() }
    }

    /// Codes of one row, whose scales `of` finds for the weights of a group as they stand.
    fn codes(&self, w: &[f32], size: usize, of: &dyn Fn(&[f32]) -> Packed) -> Vec<u32> {
        let n = w.len();
        let (mut w, mut inverse) = (w.iter().map(|v| f64::from(*v)).collect::<Vec<_>>(), self.inverse.clone());
        let (mut out, mut scale, mut zero, mut top) = (Vec::new(), 1.0f32, 0.0f32, 0.0f32);
        for i in 0..n {
            if i.is_multiple_of(size) {
                let p = of(&w[i..(i + size).min(n)].iter().map(|v| *v as f32).collect::<Vec<_>>());
                (scale, zero, top) = (f32::from_bits(p.scales[0]), p.scales[1] as f32, ((1u32 << p.format.bits) - 1) as f32);
            }
            let q = ((w[i] as f32 / scale).round_ties_even() + zero).clamp(0.0, top);
            out.push(q as u32);
            let error = (w[i] - f64::from(scale * (q - zero))) / inverse[i][i];
            let row = inverse[i].clone();
            for k in i + 1..n {
                w[k] -= error * row[k];
                let factor = inverse[k][i] / row[i];
                inverse[k].iter_mut().zip(&row).for_each(|(v, r)| *v -= factor * r);
            }
        }
        out
    }
}

fn moments(x: &[f32], cols: usize) -> Hessian {
    let mut h = Hessian::new(cols);
    h.add(x).unwrap();
    h
}

#[test]
fn gptq_gives_the_codes_of_its_formulae() {
    let mut rng = StdRng::seed_from_u64(9);
    // Groups within blocks of 128 inputs, across them, and a short last one.
    for (rows, cols, group) in [(5, 48, 16), (3, 150, 64), (2, 300, 144), (3, 40, 48)] {
        let (w, x) = (normal(&mut rng, rows * cols), inputs(&mut rng, 2 * cols, cols));
        for bits in [2, 3, 4, 8] {
            let s = Spec { bits, granularity: Granularity::Group(group), f16_scales: false, ..Spec::default() };
            let got = gptq(&w, rows, cols, &s, &moments(&x, cols), &Gptq::default()).unwrap();
            let plain = Plain::new(&x, cols, 0.01);
            let grid = |w: &[f32]| nearest(w, 1, w.len(), &s).unwrap();
            let want: Vec<u32> = w.chunks_exact(cols).flat_map(|w| plain.codes(w, group as usize, &grid)).collect();
            assert_eq!(codes(&got), want, "{rows} x {cols}, groups of {group}, {bits} bits");
        }
    }
}

#[test]
fn gptq_lowers_the_error_of_the_outputs() {
    let mut rng = StdRng::seed_from_u64(10);
    let (rows, cols) = (64, 256);
    let (w, x) = (normal(&mut rng, rows * cols), inputs(&mut rng, 1024, cols));
    let h = moments(&x, cols);
    for bits in [2, 3, 4] {
        let s = spec(bits, Granularity::Group(64));
        let error = |p: &Packed| h.error(&p.decode().iter().zip(&w).map(|(a, b)| a - b).collect::<Vec<_>>()).unwrap();
        let plain = error(&nearest(&w, rows, cols, &s).unwrap());
        for options in [Gptq::default(), Gptq { act_order: true, ..Gptq::default() }] {
            for search in [false, true] {
                let found = error(&gptq(&w, rows, cols, &Spec { search, ..s }, &h, &options).unwrap());
                println!("{bits} bits, {options:?}, search {search}: {:.3} of the nearest", found / plain);
                assert!(found < 0.6 * plain, "{bits} bits, {options:?}: {found} of {plain}");
            }
        }
    }
}

/// Inputs that do not correlate leave nothing to make up for; an input that never is anything but 0 does not count.
#[test]
fn gptq_without_correlation_is_the_nearest() {
    let mut rng = StdRng::seed_from_u64(11);
    let (rows, cols) = (4, 160);
    let mut w = normal(&mut rng, rows * cols);
    let mut x = vec![0.0; cols * cols];
    (0..cols).for_each(|i| x[i * cols + i] = 1.0 + i as f32);
    for granularity in [Granularity::Group(32), Granularity::Row, Granularity::Tensor] {
        for act_order in [false, true] {
            let s = spec(3, granularity);
            let got = gptq(&w, rows, cols, &s, &moments(&x, cols), &Gptq { act_order, ..Gptq::default() }).unwrap();
            assert_eq!(got, nearest(&w, rows, cols, &s).unwrap(), "{granularity:?}");
        }
    }
    x[7 * cols + 7] = 0.0;
    let s = spec(4, Granularity::Group(32));
    let got = gptq(&w, rows, cols, &s, &moments(&x, cols), &Gptq::default()).unwrap();
    w.chunks_exact_mut(cols).for_each(|row| row[7] = 0.0);
    assert_eq!(got, nearest(&w, rows, cols, &s).unwrap());
}

#[test]
fn second_moments_of_few_inputs_are_damped() {
    let mut rng = StdRng::seed_from_u64(12);
    let (w, x) = (normal(&mut rng, 3 * 64), inputs(&mut rng, 2, 64));
    for damp in [0.01, 0.0] {
        assert!(gptq(&w, 3, 64, &Spec::default(), &moments(&x, 64), &Gptq { damp, act_order: false }).is_ok());
    }
}

#[test]
fn nonsense_is_refused() {
    let w = [1.0f32; 64];
    let refused = |w: &[f32], rows, cols, s: &Spec| nearest(w, rows, cols, s).unwrap_err().to_string();
    let s = spec(4, Granularity::Group(32));
    assert!(refused(&w, 2, 31, &s).contains("2 x 31") && refused(&w, 0, 0, &s).contains("no weights"));
    assert!(refused(&w, 2, 32, &spec(7, Granularity::Row)).contains("7 bits"));
    assert!(refused(&w, 2, 32, &spec(4, Granularity::Group(20))).contains("multiple of 16"));
    assert!(refused(&[1e9; 64], 2, 32, &spec(2, Granularity::Row)).contains("f32 scales"));
    let mut nan = w;
    nan[40] = f32::NAN;
    assert!(refused(&nan, 2, 32, &s).contains("row 1, column 8"));
    let h = Hessian::new(32);
    assert!(gptq(&w, 2, 32, &s, &h, &Gptq::default()).unwrap_err().to_string().contains("calibrate"));
    assert!(gptq(&w, 4, 16, &s, &h, &Gptq::default()).unwrap_err().to_string().contains("16 inputs"));
    let mut h = Hessian::new(32);
    assert!(h.add(&w[..33]).is_err() && h.add(&nan).unwrap_err().to_string().contains("input 8 of row 1"));
    assert!(h.add_product(&w, 1).is_err() && h.error(&w[..5]).is_err());
    // No matrix of second moments: all pairs are opposed.
    let mut opposed = vec![-1.0f32; 32 * 32];
    (0..32).for_each(|i| opposed[33 * i] = 1e-3);
    h.add_product(&opposed, 10).unwrap();
    assert!(gptq(&w, 2, 32, &s, &h, &Gptq::default()).is_err());
}

proptest! {
    /// Every value is within half a step of its weight, or at an end of the range.
    #[test]
    fn nearest_is_near(rows in 1usize..4, cols in 1usize..70, bits in prop::sample::select(vec![2u32, 3, 4, 5, 6, 8]), at in 0u32..4,
        symmetric: bool, f16_scales: bool, seed: u64) {
        let w = normal(&mut StdRng::seed_from_u64(seed), rows * cols);
        let granularity = [Granularity::Tensor, Granularity::Row, Granularity::Group(16), Granularity::Group(48)][at as usize];
        let p = nearest(&w, rows, cols, &Spec { bits, granularity, symmetric, f16_scales, search: false }).unwrap();
        let size = match granularity { Granularity::Group(n) => n as usize, _ => cols };
        let values = p.decode();
        for (r, row) in w.chunks_exact(cols).enumerate() {
            for (g, group) in row.chunks(size).enumerate() {
                let all: &[f32] = if granularity == Granularity::Tensor { &w } else { group };
                let (lo, hi) = all.iter().fold((0f32, 0f32), |(lo, hi), v| (lo.min(*v), hi.max(*v)));
                let range = if symmetric { 2.0 * hi.max(-lo) } else { hi - lo };
                let step = range / ((1u32 << bits) - 1) as f32;
                for (i, v) in group.iter().enumerate() {
                    let got = values[r * cols + g * size + i];
                    // Symmetric codes have no middle at the top end: up to a whole step there. Half scales move the ends.
                    let limit = step * if symmetric { 1.0 } else { 0.5 } + range * if f16_scales { 1e-3 } else { 1e-6 };
                    prop_assert!((got - v).abs() <= limit, "{got} for {v}, step {step}");
                }
            }
        }
    }
}
