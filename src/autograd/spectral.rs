//! Spectral layers, `W = U diag(sigma) Vᵀ`, factored or through a dense scratch (SST, sections 3 and 4 of the paper).

use super::layers::product;
use super::{Input, Source, Tape, Var, WeightBackward};
use crate::Result;
use crate::kernel::add::accumulate;
use crate::kernel::columns::{Columns, column_sums};
use crate::kernel::dots::row_dots;
use crate::kernel::matmul::Product;
use crate::kernel::select::{select_columns, select_rows};
use crate::plan::{Builder, SlotId};
use crate::tensor::Tensor;

/// How `x Wᵀ` is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "models", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum Strategy {
    /// The cheaper of the two by their operations: see [`Strategy::resolve`].
    #[default]
    Auto,
    /// `((x V) diag(sigma)) Uᵀ`: nothing of the size of W is made.
    Factored,
    /// W is made once a plan, and used as a dense layer's is; so is its whole gradient, once a layer.
    Dense,
}

impl Strategy {
    /// Factored or dense for `tokens` rows and an `m x n` weight with k singular values.
    ///
    /// Multiplications and additions of a step, forward and backward, beside those of the r active vectors: factored
    /// `8 tokens k (m + n) / 2`, dense `6 tokens m n + 4 k m n`. For a square layer dense is cheaper when `tokens > 2 n`, for
    /// one with m = 4 n never.
    pub fn resolve(self, tokens: usize, m: usize, n: usize) -> Self {
        let k = m.min(n);
        match self {
            Self::Auto if 4 * tokens * k * (m + n) > 6 * tokens * m * n + 4 * k * m * n => Self::Dense,
            Self::Auto => Self::Factored,
            chosen => chosen,
        }
    }
}

/// Which gradient the active singular vectors get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "models", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum Gradient {
    /// `G v` and `Gᵀ u`, without the factor sigma: vectors of small singular values learn as fast as others.
    #[default]
    Enhanced,
    /// `sigma G v` and `sigma Gᵀ u`: the derivatives.
    Default,
}

/// A spectral weight, its singular vectors stored as rows.
#[derive(Debug, Clone, Copy)]
pub struct Spectral {
    /// Uᵀ: `k x m`.
    pub ut: Source,
    /// Singular values: `1 x k`.
    pub sigma: Tensor,
    /// Vᵀ: `k x n`.
    pub vt: Source,
    /// Gradients; `None`: nothing of it is trained.
    pub gradients: Option<SpectralGradients>,
    /// How it is multiplied.
    pub strategy: Strategy,
}

/// Where the gradients of a spectral weight go.
#[derive(Debug, Clone, Copy)]
pub struct SpectralGradients {
    /// Of the r active rows of Uᵀ: `r x m`.
    pub ut: Tensor,
    /// Of all singular values, `1 x k`, or of the r active ones, `1 x r`.
    pub sigma: Tensor,
    /// Whether it is the latter.
    pub sampled_sigma: bool,
    /// Of the r active rows of Vᵀ: `r x n`.
    pub vt: Tensor,
    /// The active indices: slot and first word.
    pub active: (SlotId, usize),
    /// Which gradient.
    pub kind: Gradient,
}

impl Spectral {
    fn sigma_place(&self) -> (SlotId, usize) {
        (self.sigma.slot, self.sigma.offset)
    }
}

impl Tape {
    /// Appends `y = x Wᵀ` with what `epilogue` adds; returns what appends the gradients.
    pub(super) fn spectral(&mut self, label: &str, x: Var, w: Spectral, y: &Tensor, epilogue: Product) -> Result<WeightBackward> {
        let xt = self.input(x);
        match w.strategy.resolve(xt.rows(), w.ut.cols(), w.vt.cols()) {
            // Factors cost sparse rows `entries k` operations, W made whole `k m n`.
            Strategy::Dense if !(xt.is_sparse() && w.strategy == Strategy::Auto) => self.through_dense(label, x, w, y, epilogue),
            _ => self.factored(label, x, w, y, epilogue),
        }
    }

    fn factored(&mut self, label: &str, x: Var, w: Spectral, y: &Tensor, epilogue: Product) -> Result<WeightBackward> {
        let xt = self.input(x);
        let scale = Some(w.sigma_place());
        let z = self.builder.transient(format!("{label} x V"), xt.rows(), w.vt.rows());
        let (v, u) = (format!("{label} V"), format!("{label} U"));
        let vt = w.vt.values(&mut self.builder, &v)?;
        xt.times(&mut self.builder, &v, &vt, &z, Product::default())?;
        let ut = w.ut.values(&mut self.builder, &u)?;
        product(&mut self.builder, &u, &z, &ut, y, Product { b_t: false, scale, ..epilogue })?;
        let label = format!("{label} gradient");
        Ok(Box::new(move |tape, dy| {
            let b = &mut tape.builder;
            let dz = b.transient("dy U", dy.rows, w.ut.rows());
            let ut = w.ut.values(b, &label)?;
            product(b, &label, dy, &ut, &dz, Product { b_t: true, ..Product::default() })?;
            if let Some(g) = w.gradients {
                tape.sigma_gradient(&label, &w, &g, |b, to, adds| column_sums(b, &label, &Columns::Dot(&dz, &z), to, adds))?;
                tape.active_gradient(&label, &w, &g, (&z, &Input::Dense(*dy)), &g.ut)?;
                tape.active_gradient(&label, &w, &g, (&dz, &xt), &g.vt)?;
            }
            tape.contribute(x, |b, dx, accumulate| {
                let vt = w.vt.values(b, &label)?;
                product(b, &label, &dz, &vt, dx, Product { scale, accumulate, ..Product::default() })
            })
        }))
    }

    /// The gradient of all singular values, which `write(builder, to, adds)` appends, or that of the active ones taken from it.
    fn sigma_gradient(
        &mut self,
        label: &str,
        w: &Spectral,
        g: &SpectralGradients,
        write: impl FnOnce(&mut Builder, &Tensor, bool) -> Result<()>,
    ) -> Result<()> {
        let adds = self.target(&g.sigma);
        let b = &mut self.builder;
        if !g.sampled_sigma {
            return write(b, &g.sigma, adds);
        }
        let (all, active) = (b.transient("sigma gradient", 1, w.sigma.cols), b.transient("active sigma", 1, g.sigma.cols));
        write(b, &all, false)?;
        select_columns(b, label, &all, g.active, None, if adds { &active } else { &g.sigma })?;
        if adds { accumulate(b, label, &active, &g.sigma) } else { Ok(()) }
    }

    /// `to += selected(left)ᵀ right`: r active columns of `left`.
    fn active_gradient(
        &mut self,
        label: &str,
        w: &Spectral,
        g: &SpectralGradients,
        (left, right): (&Tensor, &Input),
        to: &Tensor,
    ) -> Result<()> {
        let active = self.builder.transient("active columns", left.rows, to.rows);
        let factors = (g.kind == Gradient::Default).then(|| w.sigma_place());
        select_columns(&mut self.builder, label, left, g.active, factors, &active)?;
        let accumulate = self.target(to);
        right.gradient(&mut self.builder, label, &active, to, (1.0, accumulate))
    }

    fn through_dense(&mut self, label: &str, x: Var, w: Spectral, y: &Tensor, epilogue: Product) -> Result<WeightBackward> {
        let xt = self.input(x);
        let (k, m, n) = (w.ut.rows(), w.ut.cols(), w.vt.cols());
        let dense = self.builder.transient(format!("{label} dense"), m, n);
        let made = Product { a_t: true, scale: Some(w.sigma_place()), ..Product::default() };
        let [ut, vt] = [(w.ut, "U"), (w.vt, "V")].map(|(f, which)| f.values(&mut self.builder, &format!("{label} {which}")));
        product(&mut self.builder, &format!("{label} W"), &ut?, &vt?, &dense, made)?;
        xt.times(&mut self.builder, label, &dense, y, epilogue)?;
        let label = format!("{label} gradient");
        Ok(Box::new(move |tape, dy| {
            tape.input_gradient(&label, x, dy, &dense)?;
            let Some(g) = w.gradients else { return Ok(()) };
            let b = &mut tape.builder;
            let (whole, ug) = (b.transient("whole gradient", m, n), b.transient("Uᵀ G", k, n));
            xt.gradient(b, &label, dy, &whole, (1.0, false))?;
            let ut = w.ut.values(b, &label)?;
            product(b, &label, &ut, &whole, &ug, Product::default())?;
            let vt = w.vt.values(b, &label)?;
            tape.sigma_gradient(&label, &w, &g, |b, to, adds| row_dots(b, &label, &ug, &vt, to, adds))?;
            tape.active_rows(&label, &w, &g, &ug, &g.vt)?;
            // Rows of (G V)ᵀ = Vᵀ Gᵀ, of the active v only.
            let (r, factors) = (g.ut.rows, (g.kind == Gradient::Default).then(|| w.sigma_place()));
            let v = tape.builder.transient("active v", r, n);
            select_rows(&mut tape.builder, &label, &vt, g.active, factors, &v)?;
            let accumulate = tape.target(&g.ut);
            product(&mut tape.builder, &label, &v, &whole, &g.ut, Product { b_t: true, accumulate, ..Product::default() })
        }))
    }

    /// `to += selected rows of from`.
    fn active_rows(&mut self, label: &str, w: &Spectral, g: &SpectralGradients, from: &Tensor, to: &Tensor) -> Result<()> {
        let factors = (g.kind == Gradient::Default).then(|| w.sigma_place());
        if !self.target(to) {
            return select_rows(&mut self.builder, label, from, g.active, factors, to);
        }
        let active = self.builder.transient("active rows", to.rows, to.cols);
        select_rows(&mut self.builder, label, from, g.active, factors, &active)?;
        accumulate(&mut self.builder, label, &active, to)
    }
}
