//! A classifier of linear layers and ReLU, the smallest network that the methods can be compared on.

use super::layout::{Layout, Slots};
use super::method::{Decay, Linear, Method};
use crate::Result;
use crate::autograd::{Loss, Tape};
use crate::kernel::embedding::Ids;
use crate::kernel::linear::Activation;
use crate::plan::SlotId;
use crate::tensor::Tensor;

/// Its layers, planned for one method.
#[derive(Debug, Clone)]
pub(super) struct Mlp {
    layers: Vec<Linear>,
    method: Method,
}

impl Mlp {
    /// Plans layers of these widths, inputs first, classes last.
    pub(super) fn plan(layout: &mut Layout, widths: &[usize], method: &Method, decay: Decay) -> Self {
        let pairs = widths.windows(2).enumerate();
        let layers = pairs.map(|(i, w)| Linear::plan(layout, method, &format!("layers.{i}"), (w[1], w[0]), true, decay)).collect();
        Self { layers, method: *method }
    }

    /// Its layers.
    pub(super) fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.layers.iter()
    }

    /// Appends the losses of `rows` examples: row r is row `tokens[r]` of the table `examples`.
    ///
    /// # Errors
    /// What the kernels return.
    pub(super) fn losses(
        &self,
        tape: &mut Tape,
        slots: &Slots,
        tokens: SlotId,
        examples: &Tensor,
        rows: usize,
        loss: &Loss,
    ) -> Result<Tensor> {
        let frozen = crate::autograd::Parameter::frozen(*examples);
        let mut x = tape.embed("examples", &Ids::Buffer(tokens, 0), &frozen, rows, None)?;
        tape.stop(x);
        for (i, l) in self.layers.iter().enumerate() {
            x = tape.linear(&l.name, x, &l.weight(slots, &self.method), l.bias(slots).as_ref(), None)?;
            if i + 1 < self.layers.len() {
                x = tape.activate(&format!("{} relu", l.name), Activation::Relu, x)?;
            }
        }
        tape.loss("loss", x, loss)
    }
}
