//! Embeddings, linear layers, norms, activations, rotations, dropout.

use super::{Input, Parameter, Tape, Var, Weight, WeightBackward};
use crate::kernel::activate::{activate, activate_backward};
use crate::kernel::columns::{Columns, column_sums};
use crate::kernel::dropout::dropout;
use crate::kernel::embedding::{Ids, embedding};
use crate::kernel::gate::{gate, gate_backward};
use crate::kernel::linear::Activation;
use crate::kernel::matmul::{Operand, Product, matmul};
use crate::kernel::norm::{Norm, Rows, norm, norm_saving};
use crate::kernel::norm_backward::{NormGradient, norm_backward};
use crate::kernel::rope::{Angles, Pairing};
use crate::kernel::scatter::scatter_add;
use crate::kernel::turn::turn;
use crate::plan::{Builder, SlotId};
use crate::tensor::{Format, Matrix, Segment, Tensor};
use crate::{Error, Result};

/// A norm's parameters, `1 x cols` each.
#[derive(Debug, Clone, Copy)]
pub struct NormParameters {
    /// Gain.
    pub gain: Parameter,
    /// Bias; `None` for an RMSNorm.
    pub bias: Option<Parameter>,
    /// RMSNorm instead of LayerNorm.
    pub rms: bool,
    /// Added to the variance.
    pub eps: f32,
}

/// A product of two stored or computed matrices.
pub(super) fn product(b: &mut Builder, label: &str, x: &Tensor, y: &Tensor, z: &Tensor, p: Product) -> Result<()> {
    matmul(b, label, &Operand::from(*x), &Operand::from(*y), &Operand::from(*z), &p)
}

/// The stored matrix that an embedding is looked up in.
fn table(b: &Builder, t: &Tensor) -> Result<Matrix> {
    if t.stride != t.cols {
        return Err(Error::shape("embedding", "a table whose rows are not dense"));
    }
    let rows = b.row_chunks(t.rows, t.cols)?;
    let segments = rows.into_iter().map(|r| Segment { offset: t.offset + r.start * t.cols, rows: r, data: t.slot, scales: None }).collect();
    Ok(Matrix { rows: t.rows, cols: t.cols, format: Format::F32, segments })
}

impl Tape {
    /// `y[r] = table[id(r)]`, added to `base` where there is one (in place).
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Limit`].
    pub fn embed(&mut self, label: &str, ids: &Ids, weight: &Parameter, rows: usize, base: Option<Var>) -> Result<Var> {
        self.embed_but(label, ids, weight, rows, base, None)
    }

    /// [`Tape::embed`], where looking up the id `fixed` gives its row no gradient, as PyTorch's `padding_idx` does.
    ///
    /// # Errors
    /// As [`Tape::embed`].
    pub fn embed_but(
        &mut self,
        label: &str,
        ids: &Ids,
        weight: &Parameter,
        rows: usize,
        base: Option<Var>,
        fixed: Option<u32>,
    ) -> Result<Var> {
        let matrix = table(&self.builder, &weight.value)?;
        let y = match base {
            // Nothing saved the sum so far: embeddings are the first operations.
            Some(v) => self.var(self.tensor(v), false),
            None => self.output(label, rows, weight.value.cols).0,
        };
        let t = self.tensor(y);
        embedding(&mut self.builder, label, ids, &matrix, &t, base.is_some())?;
        let (ids, label, gradient) = (*ids, format!("{label} gradient"), weight.gradient);
        self.record(move |tape| {
            let Some(dy) = tape.take(y) else { return Ok(()) };
            if let Some(g) = gradient {
                if !tape.target(&g) {
                    crate::kernel::fill::zero(&mut tape.builder, &label, &g)?;
                }
                scatter_add(&mut tape.builder, &label, &ids, &dy, &g, fixed)?;
            }
            base.map_or(Ok(()), |v| tape.pass(v, dy))
        });
        Ok(y)
    }

    /// `y = x Wᵀ + bias + residual`.
    ///
    /// # Errors
    /// [`Error::Shape`] where the operands do not fit each other, [`Error::Limit`].
    pub fn linear(&mut self, label: &str, x: Var, w: &Weight, bias: Option<&Parameter>, residual: Option<Var>) -> Result<Var> {
        let bias = bias.copied();
        let xt = self.input(x);
        let m = match w {
            Weight::Dense(p) => p.value.rows,
            Weight::LowRank { w, .. } => w.rows(),
            Weight::Projected { w, .. } => w.rows,
            Weight::Spectral(s) => s.ut.cols(),
        };
        let (y, yt) = self.output(label, xt.rows(), m);
        let epilogue = Product {
            bias: bias.map(|b| (b.value.slot, b.value.offset)),
            residual: residual.map(|r| self.tensor(r)),
            ..Product::default()
        };
        let gradient = format!("{label} gradient");
        let backward: WeightBackward = match *w {
            Weight::Dense(p) => {
                xt.times(&mut self.builder, label, &p.value, &yt, epilogue)?;
                Box::new(move |tape, dy| {
                    tape.input_gradient(&gradient, x, dy, &p.value)?;
                    tape.weight_gradient(&gradient, &p, dy, &xt, 1.0)
                })
            }
            Weight::LowRank { w, a, b, scale } => {
                let low = self.builder.transient(format!("{label} low"), xt.rows(), a.value.rows);
                let values = w.values(&mut self.builder, label)?;
                xt.times(&mut self.builder, label, &values, &yt, epilogue)?;
                xt.times(&mut self.builder, label, &a.value, &low, Product::default())?;
                product(
                    &mut self.builder,
                    label,
                    &low,
                    &b.value,
                    &yt,
                    Product { b_t: true, alpha: scale, accumulate: true, ..Product::default() },
                )?;
                Box::new(move |tape, dy| {
                    let d_low = tape.builder.transient("low gradient", low.rows, low.cols);
                    product(&mut tape.builder, &gradient, dy, &b.value, &d_low, Product { alpha: scale, ..Product::default() })?;
                    tape.weight_gradient(&gradient, &b, dy, &Input::Dense(low), scale)?;
                    tape.weight_gradient(&gradient, &a, &d_low, &xt, 1.0)?;
                    let values = w.values(&mut tape.builder, &gradient)?;
                    tape.input_gradient(&gradient, x, dy, &values)?;
                    tape.input_gradient(&gradient, x, &d_low, &a.value)
                })
            }
            Weight::Projected { w, projector, gradient: stored, whole } => {
                xt.times(&mut self.builder, label, &w, &yt, epilogue)?;
                Box::new(move |tape, dy| {
                    tape.input_gradient(&gradient, x, dy, &w)?;
                    tape.projected_gradient(&gradient, dy, &xt, &projector, stored, whole)
                })
            }
            Weight::Spectral(s) => self.spectral(label, x, s, &yt, epilogue)?,
        };
        let bias_label = format!("{label} bias gradient");
        self.record(move |tape| {
            let Some(dy) = tape.take(y) else { return Ok(()) };
            backward(tape, &dy)?;
            if let Some(g) = bias.and_then(|b| b.gradient) {
                let adds = tape.target(&g);
                column_sums(&mut tape.builder, &bias_label, &Columns::Sum(&dy), &g, adds)?;
            }
            // Last, as whoever gets it may add to it.
            residual.map_or(Ok(()), |r| tape.pass(r, dy))
        });
        Ok(y)
    }

    /// `dx += dy W`.
    pub(super) fn input_gradient(&mut self, label: &str, x: Var, dy: &Tensor, w: &Tensor) -> Result<()> {
        self.contribute(x, |b, dx, accumulate| product(b, label, dy, w, dx, Product { accumulate, ..Product::default() }))
    }

    /// `dW += alpha dyᵀ x`.
    pub(super) fn weight_gradient(&mut self, label: &str, p: &Parameter, dy: &Tensor, x: &Input, alpha: f32) -> Result<()> {
        let Some(g) = p.gradient else { return Ok(()) };
        let accumulate = self.target(&g);
        x.gradient(&mut self.builder, label, dy, &g, (alpha, accumulate))
    }

    /// `P dW`, or `P dWᵀ` where W has more rows than columns.
    fn projected_gradient(
        &mut self,
        label: &str,
        dy: &Tensor,
        x: &Input,
        projector: &Tensor,
        stored: Option<Tensor>,
        whole: Option<Tensor>,
    ) -> Result<()> {
        let dw = whole.unwrap_or_else(|| self.builder.transient("whole gradient", dy.cols, x.cols()));
        let accumulate = whole.is_some_and(|w| self.target(&w));
        x.gradient(&mut self.builder, label, dy, &dw, (1.0, accumulate))?;
        let Some(g) = stored else { return Ok(()) };
        let accumulate = self.target(&g);
        product(&mut self.builder, label, projector, &dw, &g, Product { b_t: dw.rows > dw.cols, accumulate, ..Product::default() })
    }

    /// LayerNorm or RMSNorm over each row. Saves each row's mean and inverse deviation.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Limit`].
    pub fn norm(&mut self, label: &str, x: Var, n: &NormParameters) -> Result<Var> {
        let xt = self.tensor(x);
        let (y, yt) = self.output(label, xt.rows, xt.cols);
        let place = |p: &Parameter| (p.value.slot, p.value.offset);
        let kernel = Norm { gain: place(&n.gain), bias: n.bias.as_ref().map(place), rms: n.rms, eps: n.eps };
        if !self.recording {
            norm(&mut self.builder, label, &xt, &yt, &kernel, Rows::All)?;
            return Ok(y);
        }
        let saved = self.builder.transient(format!("{label} statistics"), xt.rows, 2);
        norm_saving(&mut self.builder, label, &xt, &yt, &kernel, &saved)?;
        let (n, label) = (*n, format!("{label} gradient"));
        self.record(move |tape| {
            let Some(dy) = tape.take(y) else { return Ok(()) };
            if let Some(g) = n.gain.gradient {
                let adds = tape.target(&g);
                let what = Columns::Normed { dy: &dy, x: &xt, saved: &saved, rms: n.rms };
                column_sums(&mut tape.builder, &label, &what, &g, adds)?;
            }
            if let Some(g) = n.bias.and_then(|b| b.gradient) {
                let adds = tape.target(&g);
                column_sums(&mut tape.builder, &label, &Columns::Sum(&dy), &g, adds)?;
            }
            tape.contribute(x, |b, dx, accumulate| {
                norm_backward(b, &label, &NormGradient { x: &xt, dy: &dy, saved: &saved, n: &kernel, dx, accumulate })
            })
        });
        Ok(y)
    }

    /// `y = act(x)`, elementwise.
    ///
    /// # Errors
    /// [`Error::Limit`].
    pub fn activate(&mut self, label: &str, act: Activation, x: Var) -> Result<Var> {
        let xt = self.tensor(x);
        let (y, yt) = self.output(label, xt.rows, xt.cols);
        activate(&mut self.builder, label, act, &xt, &yt)?;
        // ReLU's gradient follows from its output, which the next layer keeps anyway.
        let saved = if act == Activation::Relu { yt } else { xt };
        let label = format!("{label} gradient");
        self.elementwise(x, y, move |b, dy, dx| activate_backward(b, &label, act, &saved, dy, dx));
        Ok(y)
    }

    /// `y = act(g) u`, elementwise.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Limit`].
    pub fn gate(&mut self, label: &str, act: Activation, g: Var, u: Var) -> Result<Var> {
        let (gt, ut) = (self.tensor(g), self.tensor(u));
        let (y, yt) = self.output(label, gt.rows, gt.cols);
        gate(&mut self.builder, label, act, &gt, &ut, &yt)?;
        let label = format!("{label} gradient");
        self.record(move |tape| {
            let Some(dy) = tape.take(y) else { return Ok(()) };
            let [dg, du] = ["gate gradient", "up gradient"].map(|l| tape.builder.transient(l, gt.rows, gt.cols));
            gate_backward(&mut tape.builder, &label, act, &gt, &ut, &dy, &dg, &du)?;
            tape.pass(g, dg)?;
            tape.pass(u, du)
        });
        Ok(y)
    }

    /// Rotary position embedding of heads of `head_dim` elements; row r is position `r % sequence_rows`.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Limit`].
    pub fn turn(&mut self, label: &str, x: Var, angles: &Angles, head_dim: usize, sequence_rows: usize) -> Result<Var> {
        let xt = self.tensor(x);
        let (y, yt) = self.output(label, xt.rows, xt.cols);
        turn(&mut self.builder, label, &xt, &yt, angles, head_dim, sequence_rows, Pairing::Half, false)?;
        let (angles, label) = (*angles, format!("{label} gradient"));
        self.elementwise(x, y, move |b, dy, dx| turn(b, &label, dy, dx, &angles, head_dim, sequence_rows, Pairing::Half, true));
        Ok(y)
    }

    /// Zeroes elements with probability p and scales the others by `1 / (1 - p)`; the gradient draws the same ones again.
    ///
    /// # Errors
    /// [`Error::Shape`] for a p outside of 0..1.
    pub fn dropout(&mut self, label: &str, x: Var, p: f32, progress: SlotId, stream: u32) -> Result<Var> {
        if p == 0.0 || !self.training {
            return Ok(x);
        }
        let xt = self.tensor(x);
        let (y, yt) = self.output(label, xt.rows, xt.cols);
        dropout(&mut self.builder, label, &xt, &yt, p, progress, stream)?;
        let label = format!("{label} gradient");
        self.elementwise(x, y, move |b, dy, dx| dropout(b, &label, dy, dx, p, progress, stream));
        Ok(y)
    }

    /// Records the gradient of an operation with one input of the output's shape: `write(builder, dy, dx)`.
    pub(super) fn elementwise(&mut self, x: Var, y: Var, write: impl FnOnce(&mut Builder, &Tensor, &Tensor) -> Result<()> + 'static) {
        self.record(move |tape| {
            let Some(dy) = tape.take(y) else { return Ok(()) };
            let dx = tape.builder.transient("gradient", dy.rows, dy.cols);
            write(&mut tape.builder, &dy, &dx)?;
            tape.pass(x, dx)
        });
    }
}
