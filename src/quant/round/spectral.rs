//! Rounding of factors: a layer as pairs of singular vectors, those that carry more of the outputs in more bits, the least left out.

use super::{Gptq, Granularity, Hessian, Spec, gptq, nearest};
use crate::error::{Error, Result};
use crate::quant::Packed;
use crate::quant::allocate::{Choice, Unit, lagrange};
use crate::quant::dense::{axpy, factor, invert, product, transpose, transposed_product};

/// Pairs that get a width together.
pub const PAIRS: usize = 16;
/// Most widths of a layer: each takes two products, and scales.
const BANDS: u32 = 3;
/// Halvings of what is not known of a cost.
const BISECTIONS: usize = 16;

/// Pairs of singular vectors of one width: their part of `W = sum_i u_i sigma_i v_iᵀ` is `up down`.
#[derive(Debug, Clone, PartialEq)]
pub struct Band {
    /// `diag(sigma) Vᵀ`, `pairs x inputs`.
    pub down: Packed,
    /// `U`, `outputs x pairs`, fitted to what `down` was rounded to.
    pub up: Packed,
}

impl Band {
    /// Bits of a code.
    pub fn bits(&self) -> u32 {
        self.down.format.bits
    }

    /// Pairs of singular vectors.
    pub fn pairs(&self) -> usize {
        self.down.rows
    }
}

/// The factors of a layer: `W = sum_i u_i sigma_i v_iᵀ` of `m` outputs and `n` inputs.
#[derive(Debug, Clone, Copy)]
pub struct Factored<'a> {
    /// Outputs.
    pub m: usize,
    /// Inputs.
    pub n: usize,
    /// Singular values.
    pub sigma: &'a [f32],
    /// Left singular vectors as rows of m.
    pub ut: &'a [f32],
    /// Right singular vectors as rows of n.
    pub vt: &'a [f32],
}

/// What the pairs of a layer get, in the order of what they carry.
#[derive(Debug, Clone, PartialEq)]
pub struct Spectral {
    /// By falling width.
    pub bands: Vec<Band>,
    /// Pairs there were; those in no band were left out.
    pub pairs: usize,
    /// Bits in a file, scales and zero points among them.
    pub cost: u64,
}

impl Spectral {
    /// The weights, `m x n`, that the codes stand for.
    pub fn values(&self) -> Vec<f32> {
        let mut sum: Vec<f64> = Vec::new();
        for b in &self.bands {
            let (up, down) = (doubles(&b.up.decode()), doubles(&b.down.decode()));
            let part = product(&up, b.pairs(), &down, b.down.cols);
            if sum.is_empty() {
                sum = part;
            } else {
                axpy(1.0, &part, &mut sum);
            }
        }
        sum.into_iter().map(|v| v as f32).collect()
    }
}

/// The scales that a matrix of vectors gets in a band: for `down` the groups of `spec` where they divide its inputs; for `up` groups of 128, 64 or
/// 32 pairs where these divide the band and are fewer than it, else one scale an output.
fn grouped(spec: &Spec, bits: u32, cols: usize, group: Option<u32>) -> Spec {
    let wanted = group.into_iter().chain([128, 64, 32]).find(|g| cols > *g as usize && cols.is_multiple_of(*g as usize));
    Spec { bits, granularity: wanted.map_or(Granularity::Row, Granularity::Group), ..*spec }
}

fn specs(spec: &Spec, bits: u32, pairs: usize, inputs: usize) -> (Spec, Spec) {
    let own = match spec.granularity {
        Granularity::Group(g) => Some(g),
        _ => None,
    };
    (grouped(spec, bits, inputs, own), grouped(spec, bits, pairs, None))
}

fn stored(spec: &Spec, bits: u32, pairs: usize, (m, n): (usize, usize)) -> u64 {
    let (down, up) = specs(spec, bits, pairs, n);
    down.stored_bits(pairs, n) + up.stored_bits(m, pairs)
}

/// Rounds a layer's factors within a budget of bits in a file, scales and zero points among them. Leaving out pairs is the pruning of singular
/// values of SST (arXiv 2405.15481, appendix G), here by what they carry on given inputs.
///
/// Pairs are sorted by what they carry of the outputs, `sigma_i^2 v_iᵀ H v_i`, and cut into runs of [`PAIRS`]; each run gets one of
/// the `widths` or is left out (0 bits), so that the sum of errors that each alone makes is least, in no more than three widths. Vectors of V are rounded by
/// [`gptq`]; then U is fitted by least squares to what V became, `argmin |X Wᵀ - X V̂ Uᵀ|`, width after width: what one width's rounding leaves, the
/// vectors of those after it make up for.
///
/// # Errors
/// As [`gptq`]; [`Error::Request`] where the budget does not hold the first run at the smallest width; [`Error::Shape`] for factors that
/// are not of `m`, `n` and the length of sigma.
pub fn spectral(f: &Factored<'_>, (budget, widths): (u64, &[u32]), spec: &Spec, hessian: &Hessian, options: &Gptq) -> Result<Spectral> {
    let k = f.sigma.len();
    if k == 0 || f.ut.len() != k * f.m || f.vt.len() != k * f.n || hessian.cols() != f.n {
        let (u, v, h) = (f.ut.len(), f.vt.len(), hessian.cols());
        return Err(Error::shape("spectral", format!("{k} values, {u} and {v} numbers of vectors, {} x {}, {h} inputs seen", f.m, f.n)));
    }
    let energies: Vec<f64> = (0..k)
        .map(|i| {
            let v: Vec<f32> = f.vt[i * f.n..][..f.n].iter().map(|v| v * f.sigma[i]).collect();
            hessian.error(&v)
        })
        .collect::<Result<_>>()?;
    let mut order: Vec<usize> = (0..k).collect();
    order.sort_by(|a, b| energies[*b].total_cmp(&energies[*a]).then(a.cmp(b)));
    let runs: Vec<Run> = order.chunks(PAIRS).map(|pairs| Run::new(f, pairs, &energies)).collect();
    let units = runs.iter().map(|r| r.unit(f, spec, widths, hessian)).collect::<Result<Vec<_>>>()?;
    let bands = allocate(&units, &runs, (budget, widths), &|bits, pairs| stored(spec, bits, pairs, (f.m, f.n)))?;
    let cost = bands.iter().map(|(bits, run)| stored(spec, *bits, run.energies.len(), (f.m, f.n))).sum();
    let mut downs = Vec::new();
    for (bits, run) in &bands {
        let pairs = run.energies.len();
        downs.push(gptq(&run.down, pairs, f.n, &specs(spec, *bits, pairs, f.n).0, hessian, options)?);
    }
    let mut fit = Fit::new(f, (&runs, &bands), &downs, hessian, options);
    let ups = downs.iter().zip(&bands).map(|(down, (_, band))| fit.up(down, band, spec)).collect::<Result<Vec<_>>>()?;
    Ok(Spectral { bands: downs.into_iter().zip(ups).map(|(down, up)| Band { down, up }).collect(), pairs: k, cost })
}

/// Pairs that are rounded together.
#[derive(Clone, Default)]
struct Run {
    /// `pairs x n`, times sigma.
    down: Vec<f32>,
    /// `pairs x m`.
    ut: Vec<f32>,
    energies: Vec<f64>,
}

impl Run {
    fn new(f: &Factored<'_>, pairs: &[usize], energies: &[f64]) -> Self {
        Self {
            down: pairs.iter().flat_map(|i| f.vt[i * f.n..][..f.n].iter().map(|v| v * f.sigma[*i])).collect(),
            ut: pairs.iter().flat_map(|i| &f.ut[i * f.m..][..f.m]).copied().collect(),
            energies: pairs.iter().map(|i| energies[*i]).collect(),
        }
    }

    fn extend(&mut self, other: &Self) {
        self.down.extend(&other.down);
        self.ut.extend(&other.ut);
        self.energies.extend(&other.energies);
    }

    /// What each width costs and loses, rounded to the nearest codes; 0 bits lose all.
    fn unit(&self, f: &Factored<'_>, spec: &Spec, widths: &[u32], hessian: &Hessian) -> Result<Unit> {
        let pairs = self.energies.len();
        let up: Vec<f32> = (0..f.m).flat_map(|r| (0..pairs).map(move |i| self.ut[i * f.m + r])).collect();
        let mut choices = vec![Choice { bits: 0, cost: 0, loss: self.energies.iter().sum() }];
        for bits in widths {
            let (of_down, of_up) = specs(spec, *bits, pairs, f.n);
            let difference =
                |values: &[f32], codes: &Packed| -> Vec<f32> { values.iter().zip(codes.decode()).map(|(a, b)| a - b).collect() };
            let down = difference(&self.down, &nearest(&self.down, pairs, f.n, &of_down)?);
            let up = difference(&up, &nearest(&up, f.m, pairs, &of_up)?);
            let of_up: f64 = up.iter().enumerate().map(|(i, d)| f64::from(*d).powi(2) * self.energies[i % pairs]).sum();
            // Scales of `up` are counted afterwards: they hang on which runs share a width.
            let cost = of_down.stored_bits(pairs, f.n) + u64::from(*bits) * (f.m * pairs) as u64;
            choices.push(Choice { bits: *bits, cost, loss: hessian.error(&down)? + of_up });
        }
        Unit::new(format!("pairs of {pairs}"), (pairs * (f.m + f.n)) as u64, choices)
    }
}

/// The best of all ways to use up to [`BANDS`] widths. Scales of U come once a band, so that they are not known before runs have been put
/// together: what runs may take without them is found by bisection.
fn allocate(units: &[Unit], runs: &[Run], (budget, widths): (u64, &[u32]), stored: &dyn Fn(u32, usize) -> u64) -> Result<Vec<(u32, Run)>> {
    let mut falling = widths.to_vec();
    falling.sort_unstable_by(|a, b| b.cmp(a));
    falling.dedup();
    let mut best: Option<(f64, Vec<u32>)> = None;
    for set in (1u32..1 << falling.len()).filter(|set| set.count_ones() <= BANDS) {
        let has = |bits: u32| bits == 0 || falling.iter().enumerate().any(|(i, w)| *w == bits && set >> i & 1 == 1);
        let own = units.iter().map(|u| u.restricted(has)).collect::<Result<Vec<_>>>()?;
        let (mut low, mut high) = (0, budget);
        for _ in 0..BISECTIONS {
            let within = u64::midpoint(low, high) + 1;
            let found = lagrange(&own, within)?;
            let bits = found.bits(&own);
            let pairs = |w: u32| runs.iter().zip(&bits).filter(|(_, b)| **b == w).map(|(r, _)| r.energies.len()).sum::<usize>();
            let of_width = |w: &u32| if pairs(*w) > 0 { stored(*w, pairs(*w)) } else { 0 };
            let cost: u64 = falling.iter().map(of_width).sum();
            if cost > budget {
                high = within - 1;
                continue;
            }
            low = within;
            if cost > 0 && best.as_ref().is_none_or(|(loss, _)| found.loss < *loss) {
                best = Some((found.loss, bits));
            }
        }
    }
    let first = runs.first().map_or(0, |r| r.energies.len());
    let (smallest, least) = falling.last().map_or((0, 0), |bits| (*bits, stored(*bits, first)));
    if least > budget || falling.is_empty() {
        return Err(Error::Request(format!("a budget of {budget} bits is too small for factors: {PAIRS} pairs of vectors take {least}")));
    }
    // Where nothing is worth its bits, as in a layer beyond the range of its scales, something must stand there.
    let bits = best.map_or_else(|| (0..runs.len()).map(|i| if i == 0 { smallest } else { 0 }).collect(), |(_, bits)| bits);
    Ok(bands(runs, &bits, &falling))
}

/// Runs of one width put together, by falling width; those of 0 bits are left out.
fn bands(runs: &[Run], bits: &[u32], falling: &[u32]) -> Vec<(u32, Run)> {
    let of = |width: u32| {
        let mut band = Run::default();
        runs.iter().zip(bits).filter(|(_, b)| **b == width).for_each(|(r, _)| band.extend(r));
        (width, band)
    };
    falling.iter().map(|w| of(*w)).filter(|(_, b)| !b.energies.is_empty()).collect()
}

/// Least squares of U on what the inputs become, band after band: `G = D H Dᵀ`, D being all rounded `down`, and what is left of the outputs,
/// `R = (W - U D) H Dᵀ`. U is damped towards what it was, not towards 0.
struct Fit<'a> {
    m: usize,
    k: usize,
    /// Where the next band begins.
    first: usize,
    g: Vec<f64>,
    r: Vec<f64>,
    rows: u64,
    options: &'a Gptq,
}

impl<'a> Fit<'a> {
    fn new(f: &Factored<'_>, (runs, bands): (&[Run], &[(u32, Run)]), downs: &[Packed], hessian: &Hessian, options: &'a Gptq) -> Self {
        let d: Vec<f64> = downs.iter().flat_map(|p| doubles(&p.decode())).collect();
        let k = d.len() / f.n;
        let hd_t = transpose(&hessian.times(&d), f.n);
        let g = product(&d, f.n, &hd_t, k);
        // W H Dᵀ over all pairs, those that were left out too: u_i (sigma_i v_iᵀ H Dᵀ).
        let mut r = vec![0.0; f.m * k];
        for run in runs {
            let part = transposed_product(&doubles(&run.ut), f.m, &product(&doubles(&run.down), f.n, &hd_t, k), k);
            axpy(1.0, &part, &mut r);
        }
        let ut: Vec<f64> = bands.iter().flat_map(|(_, b)| doubles(&b.ut)).collect();
        axpy(-1.0, &transposed_product(&ut, f.m, &g, k), &mut r);
        Self { m: f.m, k, first: 0, g, r, rows: hessian.rows(), options }
    }

    /// Fits and rounds the next band; what is left of R goes on to those after it.
    fn up(&mut self, down: &Packed, band: &Run, spec: &Spec) -> Result<Packed> {
        let (pairs, was) = (down.rows, transpose(&doubles(&band.ut), self.m));
        let (mut target, hessian) = self.correction(pairs)?;
        axpy(1.0, &was, &mut target);
        let target: Vec<f32> = target.into_iter().map(|v| v as f32).collect();
        let up = gptq(&target, self.m, pairs, &specs(spec, down.format.bits, pairs, down.cols).1, &hessian, self.options)?;
        let mut change = doubles(&up.decode());
        axpy(-1.0, &was, &mut change);
        let rows = &self.g[self.first * self.k..][..pairs * self.k];
        axpy(-1.0, &product(&change, pairs, rows, self.k), &mut self.r);
        self.first += pairs;
        Ok(up)
    }

    /// How the next `pairs` are to change, and what an error of theirs costs once those after them have been fitted anew: the inverse of a
    /// part of the inverse.
    fn correction(&self, pairs: usize) -> Result<(Vec<f64>, Hessian)> {
        let (first, n) = (self.first, self.k - self.first);
        let mean = (first..self.k).map(|i| self.g[i * self.k + i]).sum::<f64>() / n as f64;
        // Of a layer of zeros nothing is left to fit.
        let damp = self.options.damp.max(1e-9) * if mean == 0.0 { 1.0 } else { mean };
        let part = |i: usize, j: usize| self.g[(first + i) * self.k + first + j] + if i == j { damp } else { 0.0 };
        let singular = || Error::Request("spectral: what the rounded vectors make of the inputs is not finite or all 0".into());
        let whole = inverse((0..n * n).map(|e| part(e / n, e % n)).collect(), n).ok_or_else(singular)?;
        let own = (0..pairs).flat_map(|i| whole[i * n..][..pairs].iter().copied()).collect();
        let hessian = Hessian::from_sum(inverse(own, pairs).ok_or_else(singular)?, self.rows);
        let rest: Vec<f64> = self.r.chunks_exact(self.k).flat_map(|r| &r[first..]).copied().collect();
        Ok((product(&rest, n, &transpose(&whole[..pairs * n], n), pairs), hessian))
    }
}

/// The inverse of a positive definite matrix.
fn inverse(mut a: Vec<f64>, n: usize) -> Option<Vec<f64>> {
    factor(&mut a, n, None)?;
    invert(&mut a, n);
    Some(transposed_product(&a, n, &a, n))
}

fn doubles(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}
