//! The output layer and its loss, some rows at a time, so that the logits of a large vocabulary never exist as a whole.

use super::layers::product;
use super::{Input, Parameter, Tape, Var};
use crate::Result;
use crate::kernel::columns::{Columns, column_sums};
use crate::kernel::cross_entropy::{CrossEntropy, cross_entropy};
use crate::kernel::matmul::Product;
use crate::plan::SlotId;
use crate::tensor::Tensor;

/// Bytes of logits that are made at a time: enough rows to fill a GPU at a vocabulary of 50,000.
const LOGIT_BYTES: usize = 64 << 20;

/// Targets and weights of a cross-entropy.
#[derive(Debug, Clone, Copy)]
pub struct Loss {
    /// A word for each row: the target, or [`crate::kernel::cross_entropy::IGNORE`]; the slot and the first word.
    pub targets: (SlotId, usize),
    /// A word: what each row's loss counts, normally 1 / (number of targets).
    pub scale: (SlotId, usize),
    /// Label smoothing.
    pub smoothing: f32,
}

impl Tape {
    /// Losses of `softmax(x Wᵀ + bias)` against the targets, a row of one value each. When recording, the gradients of x, W and the
    /// bias are made in the same pass over the logits.
    ///
    /// # Errors
    /// [`crate::Error::Shape`], [`crate::Error::Limit`].
    pub fn head_loss(&mut self, label: &str, x: Var, w: &Parameter, bias: Option<&Parameter>, loss: &Loss) -> Result<Tensor> {
        let xt = self.tensor(x);
        let vocabulary = w.value.rows;
        let losses = self.builder.transient(format!("{label} losses"), 1, xt.rows);
        let fit = LOGIT_BYTES.min(self.builder.facts().max_binding as usize - 256) / (4 * vocabulary.max(1));
        let rows = fit.clamp(1, xt.rows.max(1));
        let dx = self.recording.then(|| self.builder.transient("gradient", xt.rows, xt.cols));
        for first in (0..xt.rows).step_by(rows) {
            let part = first..(first + rows).min(xt.rows);
            let (xp, losses) = (xt.slice_rows(part.clone()), losses.slice_cols(part.clone()));
            let logits = self.builder.transient(format!("{label} logits"), part.len(), vocabulary);
            let p = Product { b_t: true, bias: bias.map(|b| (b.value.slot, b.value.offset)), ..Product::default() };
            product(&mut self.builder, label, &xp, &w.value, &logits, p)?;
            let ce = CrossEntropy {
                logits: &logits,
                targets: (loss.targets.0, loss.targets.1 + first),
                losses: &losses,
                scale: loss.scale,
                smoothing: loss.smoothing,
                gradient: self.recording,
            };
            cross_entropy(&mut self.builder, &format!("{label} loss"), &ce)?;
            let Some(dx) = dx else { continue };
            let label = format!("{label} gradient");
            product(&mut self.builder, &label, &logits, &w.value, &dx.slice_rows(part), Product::default())?;
            self.weight_gradient(&label, w, &logits, &Input::Dense(xp), 1.0)?;
            if let Some(g) = bias.and_then(|b| b.gradient) {
                let adds = self.target(&g);
                column_sums(&mut self.builder, &label, &Columns::Sum(&logits), &g, adds)?;
            }
        }
        if let Some(dx) = dx {
            self.pass(x, dx)?;
        }
        Ok(losses)
    }

    /// Losses of `softmax(x)` against the targets; x is overwritten by its gradient when recording.
    ///
    /// # Errors
    /// [`crate::Error::Shape`], [`crate::Error::Limit`].
    pub fn loss(&mut self, label: &str, x: Var, loss: &Loss) -> Result<Tensor> {
        let logits = self.tensor(x);
        let losses = self.builder.transient(format!("{label} losses"), 1, logits.rows);
        let ce = CrossEntropy {
            logits: &logits,
            targets: loss.targets,
            losses: &losses,
            scale: loss.scale,
            smoothing: loss.smoothing,
            gradient: self.recording,
        };
        cross_entropy(&mut self.builder, label, &ce)?;
        if self.recording {
            self.pass(x, logits)?;
        }
        Ok(losses)
    }
}
