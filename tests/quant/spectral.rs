//! Rounding of factors, against least squares in the open and what it must do in simple cases.

use super::round::normal;
use etalon::quant::round::{Factored, Gptq, Granularity, Hessian, PAIRS, Spec, gptq, spectral};
use faer::Mat;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const WIDTHS: [u32; 6] = [2, 3, 4, 5, 6, 8];

/// A layer's weights, their factors and what it reads.
struct Layer {
    m: usize,
    n: usize,
    w: Vec<f32>,
    sigma: Vec<f32>,
    ut: Vec<f32>,
    vt: Vec<f32>,
    h: Hessian,
    x: Vec<f32>,
}

impl Layer {
    /// Singular values fall as `decay^i`; inputs correlate.
    fn new(seed: u64, m: usize, n: usize, decay: f64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let k = m.min(n);
        let random = Mat::from_fn(m, n, |_, _| f64::from(normal(&mut rng, 1)[0]));
        let svd = random.svd().unwrap();
        let sigma: Vec<f32> = (0..k).map(|i| decay.powi(i as i32) as f32).collect();
        let ut: Vec<f32> = (0..k).flat_map(|i| (0..m).map(move |r| (i, r))).map(|(i, r)| svd.U()[(r, i)] as f32).collect();
        let vt: Vec<f32> = (0..k).flat_map(|i| (0..n).map(move |c| (i, c))).map(|(i, c)| svd.V()[(c, i)] as f32).collect();
        let value =
            |r: usize, c: usize| (0..k).map(|i| f64::from(ut[i * m + r]) * f64::from(sigma[i]) * f64::from(vt[i * n + c])).sum::<f64>();
        let w = (0..m * n).map(|e| value(e / n, e % n) as f32).collect();
        let mut x = normal(&mut rng, 3 * n * n);
        for row in x.chunks_mut(n) {
            let common = normal(&mut rng, 1)[0];
            row.iter_mut().enumerate().for_each(|(i, v)| *v = (*v + common) * (1.0 + (i % 5) as f32));
        }
        let mut h = Hessian::new(n);
        h.add(&x).unwrap();
        Self { m, n, w, sigma, ut, vt, h, x }
    }

    fn factors(&self) -> Factored<'_> {
        Factored { m: self.m, n: self.n, sigma: &self.sigma, ut: &self.ut, vt: &self.vt }
    }

    /// What the outputs lose, as a part of their squares.
    fn loss(&self, values: &[f32]) -> f64 {
        let difference: Vec<f32> = self.w.iter().zip(values).map(|(a, b)| a - b).collect();
        self.h.error(&difference).unwrap() / self.h.error(&self.w).unwrap()
    }

    fn spectral(&self, bits: f64) -> etalon::quant::round::Spectral {
        let budget = (bits * (self.m * self.n) as f64) as u64;
        spectral(&self.factors(), (budget, &WIDTHS), &Spec::default(), &self.h, &Gptq::default()).unwrap()
    }
}

/// Within the budget at awkward shapes, the cost is what the parts take, more bits lose less, larger widths hold more energy.
#[test]
fn budgets_are_kept_and_more_bits_lose_less() {
    for (seed, m, n) in [(1, 64, 64), (2, 40, 131), (3, 131, 40), (4, 33, 97)] {
        let layer = Layer::new(seed, m, n, 0.96);
        let mut before = f64::INFINITY;
        for bits in [4.5, 6.0, 9.0, 18.0] {
            let s = layer.spectral(bits);
            assert!(s.cost as f64 <= bits * (m * n) as f64, "{m} x {n}: {} bits of {bits} a weight", s.cost);
            let stored = |rows: usize, cols: usize, p: &etalon::quant::Packed| {
                let group = if (p.format.group as usize) < cols { Granularity::Group(p.format.group) } else { Granularity::Row };
                Spec { bits: p.format.bits, granularity: group, ..Spec::default() }.stored_bits(rows, cols)
            };
            let sum: u64 = s.bands.iter().map(|b| stored(b.pairs(), n, &b.down) + stored(m, b.pairs(), &b.up)).sum();
            assert_eq!(s.cost, sum, "{m} x {n} at {bits}");
            let widths: Vec<u32> = s.bands.iter().map(etalon::quant::round::Band::bits).collect();
            assert!(widths.windows(2).all(|w| w[0] > w[1]), "{widths:?}");
            assert!(s.bands.iter().map(etalon::quant::round::Band::pairs).sum::<usize>() <= s.pairs);
            let loss = layer.loss(&s.values());
            assert!(loss < before, "{m} x {n} at {bits} bits: {loss} after {before}");
            before = loss;
        }
        // 8 bits for every pair: a 256th of the largest, squared, and something for the scales of halves.
        assert!(before < 1e-4, "{m} x {n}: {before}");
    }
}

/// U is what least squares gives for the rounded V, but for its own rounding: at 8 bits no worse by more than that.
#[test]
fn u_makes_up_for_the_rounding_of_v() {
    let layer = Layer::new(7, 48, 64, 0.9);
    let s = layer.spectral(4.0);
    let down: Vec<f64> = s.bands.iter().flat_map(|b| b.down.decode()).map(f64::from).collect();
    let k = down.len() / layer.n;
    // T = X D̂ᵀ, Y = X Wᵀ; U = argmin |Y - T Uᵀ|.
    let rows = layer.x.len() / layer.n;
    let dot = |a: &[f32], b: &dyn Fn(usize) -> f64| a.iter().enumerate().map(|(i, x)| f64::from(*x) * b(i)).sum::<f64>();
    let t = Mat::from_fn(rows, k, |r, i| dot(&layer.x[r * layer.n..][..layer.n], &|c| down[i * layer.n + c]));
    let y = Mat::from_fn(rows, layer.m, |r, o| dot(&layer.x[r * layer.n..][..layer.n], &|c| f64::from(layer.w[o * layer.n + c])));
    let u = faer::linalg::solvers::SolveLstsq::solve_lstsq(&t.qr(), &y);
    let best = Mat::from_fn(layer.m, layer.n, |o, c| (0..k).map(|i| u[(i, o)] * down[i * layer.n + c]).sum::<f64>());
    let best: Vec<f32> = (0..layer.m * layer.n).map(|e| best[(e / layer.n, e % layer.n)] as f32).collect();
    let (least, ours) = (layer.loss(&best), layer.loss(&s.values()));
    assert!(least <= ours, "{least} is least, {ours}");
    // The same V, and as many bits for the U that belonged to it before rounding.
    let energy =
        |i: usize| layer.h.error(&layer.vt[i * layer.n..][..layer.n].iter().map(|v| v * layer.sigma[i]).collect::<Vec<_>>()).unwrap();
    let mut order: Vec<usize> = (0..layer.sigma.len()).collect();
    order.sort_by(|a, b| energy(*b).total_cmp(&energy(*a)));
    let (mut unfitted, mut first) = (vec![0.0; layer.m * layer.n], 0);
    for band in &s.bands {
        let pairs = band.pairs();
        let up: Vec<f32> = (0..layer.m)
            .flat_map(|o| order[first..first + pairs].iter().map(move |i| (o, i)))
            .map(|(o, i)| layer.ut[i * layer.m + o])
            .collect();
        let mut h = Hessian::new(pairs);
        (0..rows).for_each(|r| h.add(&(0..pairs).map(|i| t[(r, first + i)] as f32).collect::<Vec<_>>()).unwrap());
        let spec = Spec { bits: band.bits(), granularity: Granularity::Row, ..Spec::default() };
        let up = gptq(&up, layer.m, pairs, &spec, &h, &Gptq::default()).unwrap().decode();
        let value = |o: usize, c: usize| (0..pairs).map(|i| f64::from(up[o * pairs + i]) * down[(first + i) * layer.n + c]).sum::<f64>();
        unfitted.iter_mut().enumerate().for_each(|(e, v)| *v += value(e / layer.n, e % layer.n) as f32);
        first += pairs;
    }
    let unfitted = layer.loss(&unfitted);
    assert!(ours < unfitted, "fitted {ours}, not fitted {unfitted}");
}

/// What carries nothing gets nothing, and a layer of few singular values beats whole weights at the bytes of these.
#[test]
fn low_rank_layers_need_few_bits() {
    let layer = Layer::new(11, 128, 128, 0.7);
    let s = layer.spectral(2.25);
    assert!(s.bands.iter().map(etalon::quant::round::Band::pairs).sum::<usize>() < s.pairs);
    let whole =
        gptq(&layer.w, 128, 128, &Spec { bits: 2, granularity: Granularity::Row, ..Spec::default() }, &layer.h, &Gptq::default()).unwrap();
    let (factors, dense) = (layer.loss(&s.values()), layer.loss(&whole.decode()));
    assert!(10.0 * factors < dense, "{factors} and {dense}");
}

#[test]
fn nonsense_is_refused() {
    let layer = Layer::new(13, 40, 64, 0.9);
    let run = |f: &Factored<'_>, budget, h: &Hessian| spectral(f, (budget, &WIDTHS), &Spec::default(), h, &Gptq::default());
    let least = run(&layer.factors(), 100, &layer.h).unwrap_err().to_string();
    assert!(least.contains("too small for factors") && least.contains(&format!("{PAIRS} pairs")), "{least}");
    let short = Factored { sigma: &layer.sigma[1..], ..layer.factors() };
    assert!(run(&short, 100_000, &layer.h).is_err());
    assert!(run(&layer.factors(), 100_000, &Hessian::new(64)).is_err(), "no inputs");
    assert!(run(&layer.factors(), 100_000, &Hessian::new(63)).is_err(), "other inputs");
    let mut rng = StdRng::seed_from_u64(1);
    let at = rng.random_range(0..layer.vt.len());
    let mut vt = layer.vt.clone();
    vt[at] = f32::NAN;
    assert!(run(&Factored { vt: &vt, ..layer.factors() }, 100_000, &layer.h).is_err());
}
