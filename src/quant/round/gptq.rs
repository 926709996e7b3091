//! Rounding that knows the inputs: what a weight's rounding does to the outputs, the weights after it make up for (GPTQ).

use super::{Draft, Grid, Spec};
use crate::error::{Error, Result};
use crate::quant::Packed;
use crate::quant::dense::{axpy, factor, invert, product};
use std::ops::Range;

/// Columns whose errors are passed on together.
const BLOCK: usize = 128;
/// Times that damping is raised tenfold where a matrix is not positive definite.
const ATTEMPTS: i32 = 4;

/// Second moments of a layer's inputs, `H = Xᵀ X` over all rows of X, in f64.
#[derive(Clone, PartialEq)]
pub struct Hessian {
    cols: usize,
    /// `cols x cols`, both triangles.
    sum: Vec<f64>,
    rows: u64,
}

impl std::fmt::Debug for Hessian {
    /// Without its entries.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hessian({} inputs, {} rows)", self.cols, self.rows)
    }
}

impl Hessian {
    /// Of no inputs yet.
    pub fn new(cols: usize) -> Self {
        Self { cols, sum: vec![0.0; cols * cols], rows: 0 }
    }

    /// Of a sum that was made elsewhere, both triangles.
    pub(super) fn from_sum(sum: Vec<f64>, rows: u64) -> Self {
        Self { cols: sum.len().isqrt(), sum, rows }
    }

    /// `X H` of rows X.
    pub(super) fn times(&self, rows: &[f64]) -> Vec<f64> {
        product(rows, self.cols, &self.sum, self.cols)
    }

    /// Adds rows of inputs.
    ///
    /// # Errors
    /// [`Error::Shape`] where they are not whole rows, or hold what is not finite.
    pub fn add(&mut self, inputs: &[f32]) -> Result<()> {
        if self.cols == 0 || !inputs.len().is_multiple_of(self.cols) {
            return Err(Error::shape("hessian", format!("{} inputs in rows of {}", inputs.len(), self.cols)));
        }
        if let Some(at) = inputs.iter().position(|x| !x.is_finite()) {
            return Err(Error::shape("hessian", format!("input {} of row {} is not finite", at % self.cols, at / self.cols)));
        }
        for row in inputs.chunks_exact(self.cols) {
            let row: Vec<f64> = row.iter().map(|x| f64::from(*x)).collect();
            for (x, sums) in row.iter().zip(self.sum.chunks_exact_mut(self.cols)) {
                axpy(*x, &row, sums);
            }
        }
        self.rows += (inputs.len() / self.cols) as u64;
        Ok(())
    }

    /// Adds a product `Xᵀ X` of so many rows that was made elsewhere. Of many rows, several such products lose less than one in f32.
    ///
    /// # Errors
    /// [`Error::Shape`] for another size, or where it holds what is not finite.
    pub fn add_product(&mut self, product: &[f32], rows: u64) -> Result<()> {
        if product.len() != self.sum.len() || product.iter().any(|x| !x.is_finite()) {
            return Err(Error::shape(
                "hessian",
                format!("a product of {} entries, {} and finite ones wanted", product.len(), self.sum.len()),
            ));
        }
        self.sum.iter_mut().zip(product).for_each(|(s, p)| *s += f64::from(*p));
        self.rows += rows;
        Ok(())
    }

    /// Inputs of the layer.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Rows of inputs so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// What each input counts: the diagonal.
    pub fn diagonal(&self) -> Vec<f64> {
        (0..self.cols).map(|i| self.sum[i * self.cols + i]).collect()
    }

    /// `tr(D H Dᵀ)`: the sum of squares of what the differences D of the weights, row after row, do to the outputs.
    ///
    /// # Errors
    /// [`Error::Shape`] where D has not whole rows.
    pub fn error(&self, difference: &[f32]) -> Result<f64> {
        if self.cols == 0 || !difference.len().is_multiple_of(self.cols) {
            return Err(Error::shape("hessian", format!("{} differences in rows of {}", difference.len(), self.cols)));
        }
        let mut total = 0.0;
        for row in difference.chunks_exact(self.cols) {
            let mut product = vec![0.0; self.cols];
            for (d, h) in row.iter().zip(self.sum.chunks_exact(self.cols)).filter(|(d, _)| **d != 0.0) {
                axpy(f64::from(*d), h, &mut product);
            }
            total += row.iter().zip(&product).map(|(d, p)| f64::from(*d) * p).sum::<f64>();
        }
        Ok(total)
    }
}

/// Options of [`gptq`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gptq {
    /// What is added to the diagonal of H, as a part of its mean.
    pub damp: f64,
    /// Inputs by falling diagonal instead of as they stand; groups keep the scales of the weights as they were.
    pub act_order: bool,
}

impl Default for Gptq {
    /// 1 %, inputs as they stand.
    fn default() -> Self {
        Self { damp: 0.01, act_order: false }
    }
}

/// Rounds `rows x cols` weights one input after another; what the rounding of one does to the outputs, the weights of the inputs after
/// it make up for as well as they can on the inputs that H was made from (Frantar and others 2023). With inputs that do not
/// correlate it is [`super::nearest`]. Inputs that never were anything but 0 get weights of 0. A range search counts errors by the diagonal
/// of H.
///
/// # Errors
/// As [`super::nearest`]; [`Error::Shape`] where H is of another size; [`Error::Request`] where it has no rows, or stays singular
/// with ten thousand times the damping.
pub fn gptq(weights: &[f32], rows: usize, cols: usize, spec: &Spec, hessian: &Hessian, options: &Gptq) -> Result<Packed> {
    let draft = Draft::new(spec, weights, rows, cols)?;
    if hessian.cols != cols {
        return Err(Error::shape("gptq", format!("weights of {cols} inputs, second moments of {}", hessian.cols)));
    }
    let diagonal = hessian.diagonal();
    if hessian.rows == 0 || diagonal.iter().all(|d| *d == 0.0) {
        return Err(Error::Request("gptq: there were no inputs, or only zeros: calibrate first".into()));
    }
    let mut order: Vec<usize> = (0..cols).collect();
    if options.act_order {
        order.sort_by(|a, b| diagonal[*b].total_cmp(&diagonal[*a]).then(a.cmp(b)));
    }
    let inverse = inverse(hessian, &order, options.damp)?;
    let weights: Vec<f32> = weights.iter().enumerate().map(|(i, w)| if diagonal[i % cols] == 0.0 { 0.0 } else { *w }).collect();
    let draft = Draft { weights: &weights, ..draft };
    let importance = spec.search.then_some(diagonal.as_slice());
    // Where nothing is passed on before a group's scale is found, or its inputs do not follow each other.
    let fixed = options.act_order || draft.groups().1 == 1;
    let none = Grid { scale: 1.0, zero: 0.0, top: spec.top() };
    let grids = if fixed { draft.grids(importance)? } else { vec![none; rows * draft.groups().1] };
    // Input after input, so that what is passed on lies side by side.
    let weights = &weights;
    let columns = order.iter().flat_map(|c| (0..rows).map(move |r| f64::from(weights[r * cols + c]))).collect();
    let mut pass = Pass { draft: &draft, order: &order, inverse: &inverse, columns, importance, grids };
    let codes = pass.run(fixed)?;
    draft.pack(&codes, &pass.grids)
}

/// The upper triangle U with `H⁻¹ = Uᵀ U`, inputs in this order, row after row. With `H = R Rᵀ`, R an upper triangle, it is R⁻¹; and R is the
/// lower factor of H with rows and columns reversed.
fn inverse(hessian: &Hessian, order: &[usize], damp: f64) -> Result<Vec<f64>> {
    let n = order.len();
    let diagonal = hessian.diagonal();
    let mean = diagonal.iter().sum::<f64>() / n as f64;
    for attempt in 0..=ATTEMPTS {
        let extra = damp.max(1e-9) * 10f64.powi(attempt) * mean;
        let mut h = vec![0.0; n * n];
        for (i, row) in h.chunks_exact_mut(n).enumerate() {
            let from = order[n - 1 - i];
            for (j, v) in row[..=i].iter_mut().enumerate() {
                *v = hessian.sum[from * n + order[n - 1 - j]];
            }
            // Where there never was an input, anything but 0 will do.
            row[i] = if diagonal[from] == 0.0 { mean } else { row[i] } + extra;
        }
        if factor(&mut h, n, None).is_some() {
            invert(&mut h, n);
            h.reverse();
            return Ok(h);
        }
    }
    Err(Error::Request("gptq: the second moments of the inputs are not finite, or no matrix of second moments".into()))
}

/// A pass over the inputs.
struct Pass<'a, 'b> {
    draft: &'a Draft<'b>,
    order: &'a [usize],
    inverse: &'a [f64],
    /// Weights as they have become, an input's side by side.
    columns: Vec<f64>,
    importance: Option<&'a [f64]>,
    grids: Vec<Grid>,
}

impl Pass<'_, '_> {
    /// Codes, row after row. Grids are found anew where a group begins, unless they are `fixed`.
    fn run(&mut self, fixed: bool) -> Result<Vec<u8>> {
        let (rows, cols) = (self.draft.rows, self.draft.cols);
        let (size, _) = self.draft.groups();
        // Whole groups, so that a group's weights have all that was passed on when its scale is found.
        let block = if fixed { BLOCK } else { size * (BLOCK / size).max(1) };
        let mut codes = vec![0; rows * cols];
        for first in (0..cols).step_by(block) {
            let last = (first + block).min(cols);
            let mut errors = vec![0.0; (last - first) * rows];
            for i in first..last {
                if !fixed && i.is_multiple_of(size) {
                    self.regroup(i, size)?;
                }
                let error = &mut errors[(i - first) * rows..][..rows];
                self.round(i, error, &mut codes);
                self.pass_on(i..i + 1, i + 1..last, error);
            }
            self.pass_on(first..last, last..cols, &errors);
        }
        Ok(codes)
    }

    /// Rounds an input's weights; leaves what is to be passed on.
    fn round(&mut self, i: usize, error: &mut [f64], codes: &mut [u8]) {
        let (rows, cols, col) = (self.draft.rows, self.draft.cols, self.order[i]);
        let diagonal = self.inverse[i * cols + i];
        for (r, e) in error.iter_mut().enumerate() {
            let (w, grid) = (self.columns[i * rows + r], &self.grids[self.draft.place(r, col)]);
            let code = grid.code(w as f32);
            codes[r * cols + col] = code;
            *e = (w - f64::from(grid.value(code))) / diagonal;
        }
    }

    /// Takes the errors of some inputs out of the weights of later ones.
    fn pass_on(&mut self, of: Range<usize>, to: Range<usize>, errors: &[f64]) {
        let (rows, cols) = (self.draft.rows, self.draft.cols);
        for c in to {
            let weights = &mut self.columns[c * rows..][..rows];
            for (i, error) in of.clone().zip(errors.chunks_exact(rows)) {
                axpy(-self.inverse[i * cols + c], error, weights);
            }
        }
    }

    /// Grids of the group that begins with an input, inputs as they stand.
    fn regroup(&mut self, first: usize, size: usize) -> Result<()> {
        let (rows, last) = (self.draft.rows, (first + size).min(self.draft.cols));
        let importance = self.importance.map(|v| &v[first..last]);
        for r in 0..rows {
            let weights: Vec<f32> = (first..last).map(|c| self.columns[c * rows + r] as f32).collect();
            let at = self.draft.place(r, first);
            self.grids[at] = self.draft.spec.grid(&weights, importance)?;
        }
        Ok(())
    }
}
