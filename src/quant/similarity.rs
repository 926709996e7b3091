//! How alike the outputs of two layers are, over the same tokens: what CPTQuant's correlation method (CMPQ) scores layers by.
//!
//! With centred X of `n x p` and Y of `n x q`, canonical correlations are the singular values of `Uᵀ V`, U and V being orthonormal bases
//! of their columns. They are biased: two matrices that have nothing to do with each other correlate the more, the fewer rows there are
//! for their columns. [`null`] says how much; scores without that number say little.

use super::dense::{axpy, dot, factor, invert, orthogonalise, orthogonalise_with, product, transpose, transposed_product};
use crate::reference::sample::threefry;
use crate::{Error, Result};

/// A measure between 0 (nothing in common) and 1 (one is a linear map of the other; for kernel alignment: a rotation and a scale).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "models", derive(serde::Serialize, serde::Deserialize))]
pub enum Similarity {
    /// The first canonical correlation.
    First,
    /// The mean of all of them.
    Mean,
    /// The mean of their squares.
    R2,
    /// Their mean, each weighted by what its variate in X has of X: `sum_j |<h_i, x_j>|` (Morcos and others 2018).
    Pwcca,
    /// Linear centred kernel alignment by its unbiased estimate; a little below 0 at times (Kornblith and others 2019).
    Cka,
}

/// Rows of samples, centred by columns.
#[derive(Clone, PartialEq)]
pub struct Samples {
    cols: usize,
    values: Vec<f64>,
}

impl std::fmt::Debug for Samples {
    /// Without the values.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Samples({} x {})", self.rows(), self.cols)
    }
}

/// Part of the largest squared length of a column: a column of which less is left beside those before lies in their span, and does not
/// count.
const RANK: f64 = 1e-12;

impl Samples {
    /// Rows of `cols` numbers, an output of a layer for a token each.
    ///
    /// # Errors
    /// [`Error::Shape`] where they are not whole rows, fewer than four, or hold what is not finite.
    pub fn new(values: &[f32], cols: usize) -> Result<Self> {
        if cols == 0 || !values.len().is_multiple_of(cols) || values.len() < 4 * cols {
            return Err(Error::shape("samples", format!("{} numbers in rows of {cols}: four rows are the least", values.len())));
        }
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            return Err(Error::shape("samples", format!("number {} of row {} is not finite", at % cols, at / cols)));
        }
        let mut values: Vec<f64> = values.iter().map(|v| f64::from(*v)).collect();
        let rows = (values.len() / cols) as f64;
        let mut mean = vec![0.0; cols];
        values.chunks_exact(cols).for_each(|row| axpy(1.0 / rows, row, &mut mean));
        values.chunks_exact_mut(cols).for_each(|row| axpy(-1.0, &mean, row));
        Ok(Self { cols, values })
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.values.len() / self.cols
    }

    /// Columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The leading principal components: as many as hold a part `energy` of the variance, `most` at most, and one at least.
    pub fn principal(&self, most: usize, energy: f64) -> Self {
        let covariance = transposed_product(&self.values, self.cols, &self.values, self.cols);
        let total: f64 = (0..self.cols).map(|i| covariance[i * self.cols + i]).sum();
        let (vectors, values) = leading(&covariance, self.cols, most.clamp(1, self.cols));
        let mut held = 0.0;
        let wanted = values.iter().take_while(|v| {
            let more = held < energy * total;
            held += **v;
            more
        });
        let k = wanted.count().max(1);
        let basis = transpose(&vectors[..k * self.cols], self.cols);
        Self { cols: k, values: product(&self.values, self.cols, &basis, k) }
    }

    /// `L⁻¹` of `Xᵀ X = L Lᵀ`, with zeros for columns that lie in the span of those before; and the number of the others.
    fn whitening(&self) -> Result<(Vec<f64>, usize)> {
        let n = self.cols;
        let mut gram = transposed_product(&self.values, n, &self.values, n);
        let largest = (0..n).map(|i| gram[i * n + i]).fold(f64::MIN_POSITIVE, f64::max);
        let Some(rank) = factor(&mut gram, n, Some(RANK * largest)) else {
            return Err(Error::Request("samples: their products are beyond f64".into()));
        };
        invert(&mut gram, n);
        Ok((gram, rank))
    }
}

/// The leading eigenvectors of a symmetric `n x n` matrix without negative eigenvalues, as rows, and their values, falling: powers of the
/// matrix times some vectors, made orthogonal. Where values lie close, their vectors mix.
fn leading(a: &[f64], n: usize, k: usize) -> (Vec<f64>, Vec<f64>) {
    /// Vectors beyond those wanted, and powers.
    const MORE: usize = 16;
    const POWERS: usize = 12;
    let wide = (k + MORE).min(n);
    // Any start will do that no eigenvector is orthogonal to.
    let number = |i: u32| f64::from(threefry([i, 0, 0, 0], [0; 4])[0]) - 2f64.powi(31);
    let mut rows: Vec<f64> = (0..(n * wide) as u32).map(number).collect();
    let mut values = Vec::new();
    for _ in 0..POWERS {
        rows = product(&rows, n, a, n);
        values = orthogonalise(&mut rows, n);
        let most = values.iter().copied().fold(0.0, f64::max);
        for (row, length) in rows.chunks_exact_mut(n).zip(&values) {
            // What is nothing beside the others is rounding, and would grow to copies of them.
            let scale = if *length > 1e-12 * most { length.recip() } else { 0.0 };
            row.iter_mut().for_each(|v| *v *= scale);
        }
    }
    let mut order: Vec<usize> = (0..wide).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
    order.truncate(k);
    (order.iter().flat_map(|i| rows[i * n..][..n].to_vec()).collect(), order.iter().map(|i| values[*i]).collect())
}

/// How alike X and Y are. For [`Similarity::Pwcca`] it matters which is X.
///
/// # Errors
/// [`Error::Shape`] for another number of rows; [`Error::Request`] for numbers whose products are beyond f64.
pub fn similarity(x: &Samples, y: &Samples, kind: Similarity) -> Result<f64> {
    let n = x.rows();
    if n != y.rows() {
        return Err(Error::shape("similarity", format!("{n} and {} rows: they must belong to the same tokens", y.rows())));
    }
    if kind == Similarity::Cka {
        return Ok(alignment(x, y));
    }
    let (p, q) = (x.cols, y.cols);
    let ((lx, rank_x), (ly, rank_y)) = (x.whitening()?, y.whitening()?);
    let few = rank_x.min(rank_y);
    if few == 0 {
        return Ok(0.0);
    }
    let cross = product(&lx, p, &transposed_product(&x.values, p, &y.values, q), q);
    // p x q, its singular values the canonical correlations.
    let mut m = product(&cross, q, &transpose(&ly, q), q);
    Ok(match kind {
        Similarity::R2 => (dot(&m, &m) / few as f64).min(1.0),
        Similarity::First => largest(&m, q).min(1.0),
        Similarity::Mean => (orthogonalise(&mut m, q).iter().map(|v| v.min(1.0)).sum::<f64>() / few as f64).min(1.0),
        _ => weighted(x, &lx, m, q, few),
    })
}

/// The largest singular value of a matrix with `n` columns, by powers.
fn largest(a: &[f64], n: usize) -> f64 {
    /// The largest correlations of matrices that have nothing in common lie close: 100 powers find them to a few in a thousand.
    const POWERS: usize = 100;
    let number = |i: u32| f64::from(threefry([i, 1, 0, 0], [0; 4])[0]) - 2f64.powi(31);
    let mut v: Vec<f64> = (0..n as u32).map(number).collect();
    let mut length = 0.0;
    for _ in 0..POWERS {
        let u: Vec<f64> = a.chunks_exact(n).map(|row| dot(row, &v)).collect();
        let mut next = vec![0.0; n];
        a.chunks_exact(n).zip(&u).for_each(|(row, u)| axpy(*u, row, &mut next));
        length = dot(&v, &v).max(f64::MIN_POSITIVE).sqrt();
        length = (dot(&next, &next).sqrt() / length).sqrt();
        let scale = dot(&next, &next).sqrt().max(f64::MIN_POSITIVE).recip();
        v = next.iter().map(|v| v * scale).collect();
    }
    length
}

/// Correlations weighted by what their variates have of X. Rows of `m` are columns of X made orthonormal by `lx`: turned so that they are
/// orthogonal, they are the variates.
fn weighted(x: &Samples, lx: &[f64], mut m: Vec<f64>, q: usize, few: usize) -> f64 {
    let (p, mut turns) = (x.cols, lx.to_vec());
    // Rotations of rows of [m | L⁻¹]: the first part becomes orthogonal, the second is what makes variates of X.
    let rho = orthogonalise_with(&mut m, q, &mut turns, p);
    let gram = transposed_product(&x.values, p, &x.values, p);
    // <h_i, x_j> of all variates and columns.
    let products = product(&turns, p, &gram, p);
    let weights: Vec<f64> = products.chunks_exact(p).map(|row| row.iter().map(|v| v.abs()).sum()).collect();
    // With fewer columns in Y there are only as many variates; the other rows correlate with nothing.
    let mut both: Vec<(f64, f64)> = rho.iter().map(|r| r.min(1.0)).zip(weights).collect();
    both.sort_by(|a, b| b.0.total_cmp(&a.0));
    both.truncate(few);
    let total: f64 = both.iter().map(|b| b.1).sum();
    both.iter().map(|(r, w)| r * w).sum::<f64>() / total.max(f64::MIN_POSITIVE)
}

/// Linear centred kernel alignment, each of its three parts estimated without bias over pairs of different rows (Song and others 2012).
fn alignment(x: &Samples, y: &Samples) -> f64 {
    let n = x.rows() as f64;
    let squares = |s: &Samples| s.values.chunks_exact(s.cols).map(|row| dot(row, row)).collect::<Vec<f64>>();
    let part = |a: &Samples, b: &Samples| {
        let cross = transposed_product(&a.values, a.cols, &b.values, b.cols);
        let (da, db) = (squares(a), squares(b));
        // Gram matrices K and L without their diagonals. As columns are centred, rows of the whole ones sum to 0.
        let trace = dot(&cross, &cross) - dot(&da, &db);
        let (sum_a, sum_b) = (-da.iter().sum::<f64>(), -db.iter().sum::<f64>());
        // 1ᵀ K L 1: rows of K sum to -da.
        let both = dot(&da, &db);
        (trace + sum_a * sum_b / ((n - 1.0) * (n - 2.0)) - 2.0 * both / (n - 2.0)) / (n * (n - 3.0))
    };
    let scale = (part(x, x) * part(y, y)).sqrt();
    if scale > 0.0 { part(x, y) / scale } else { 0.0 }
}

/// What a measure is for n rows of normal numbers in p and in q columns that have nothing in common; 0 for [`Similarity::Cka`].
///
/// Squared correlations are then distributed by Wachter's law between `a + b - 2ab -+ 2 sqrt(ab(1-a)(1-b))`, `a = p/n`, `b = q/n`; with more
/// columns than rows, `p + q - (n - 1)` of them are 1.
pub fn null(kind: Similarity, n: usize, p: usize, q: usize) -> f64 {
    let rows = (n.max(2) - 1) as f64;
    let [a, b] = [p.max(q), p.min(q)].map(|v| (v as f64 / rows).min(1.0));
    let exact = (a + b - 1.0).max(0.0);
    match kind {
        Similarity::Cka => return 0.0,
        Similarity::R2 => return a,
        _ if b == 0.0 => return 0.0,
        _ if a >= 1.0 || (exact > 0.0 && kind == Similarity::First) => return 1.0,
        _ => {}
    }
    let (middle, half) = (a + b - 2.0 * a * b, 2.0 * (a * b * (1.0 - a) * (1.0 - b)).sqrt());
    if kind == Similarity::First {
        return (middle + half).min(1.0).sqrt();
    }
    // The density sqrt((l - low)(high - l)) / (2 pi b l (1 - l)), by the midpoint rule in the angle of l = middle + half cos(t).
    const STEPS: usize = 2000;
    let of = |i: usize| {
        let t = std::f64::consts::PI * (i as f64 + 0.5) / STEPS as f64;
        let l = middle + half * t.cos();
        (half * t.sin()).powi(2) / (2.0 * b * l.sqrt() * (1.0 - l)) / STEPS as f64
    };
    (0..STEPS).map(of).sum::<f64>() + exact / b
}

/// Spearman's rank correlation of two lists of one length, from -1 to 1: whether they put the same things in the same order. Equal values
/// share their mean rank; 0 where all values of a list are equal.
pub fn spearman(a: &[f64], b: &[f64]) -> f64 {
    let below = |v: &[f64], x: f64| v.iter().filter(|y| **y < x).count() as f64;
    let equal = |v: &[f64], x: f64| v.iter().filter(|y| **y == x).count() as f64;
    let mean = (a.len() as f64 - 1.0) / 2.0;
    let ranks = |v: &[f64]| v.iter().map(|x| below(v, *x) + (equal(v, *x) - 1.0) / 2.0 - mean).collect::<Vec<f64>>();
    let (a, b) = (ranks(a), ranks(b));
    dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt().max(f64::MIN_POSITIVE)
}

/// Which layers each is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "models", derive(serde::Serialize, serde::Deserialize))]
pub enum Scope {
    /// All others: along a chain, layers at its ends score higher whatever they do, since they are farther from the rest.
    All,
    /// The one before.
    Adjacent,
}

/// CPTQuant's CMPQ: 1 - the mean similarity of each layer's output to others', each corrected for chance as `max(0, (s - c) / (1 - c))`, c
/// being [`null`], where that is asked for. `layers[0]` is what the first one reads (the embedding),
/// which others are compared with but which has no score. Higher is taken for more sensitive.
///
/// # Errors
/// As [`similarity`]; [`Error::Request`] for fewer than two.
pub fn cmpq(layers: &[Samples], kind: Similarity, scope: Scope, corrected: bool) -> Result<Vec<f64>> {
    if layers.len() < 2 {
        return Err(Error::Request("cmpq: one layer and its input are the least".into()));
    }
    let one = |i: usize| {
        let others: Vec<usize> = match scope {
            Scope::All => (0..layers.len()).filter(|j| *j != i).collect(),
            Scope::Adjacent => vec![i - 1],
        };
        let alike = |j: &usize| {
            let (x, y) = (&layers[i], &layers[*j]);
            let (found, chance) = (similarity(x, y, kind)?, null(kind, x.rows(), x.cols, y.cols));
            Ok::<_, Error>(match corrected {
                true if chance >= 1.0 => 0.0,
                true => ((found - chance) / (1.0 - chance)).max(0.0),
                false => found,
            })
        };
        let sum = others.iter().map(alike).sum::<Result<f64>>()?;
        Ok(1.0 - sum / others.len() as f64)
    };
    (1..layers.len()).map(one).collect()
}
