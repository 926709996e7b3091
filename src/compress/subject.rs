//! What is compressed: something whose weights can be exchanged and whose loss can be measured.

use crate::Result;
use crate::model::{Loss, Model, Probe};
use std::future::Future;

/// Something with linear layers whose weights can be exchanged.
pub trait Weights {
    /// Overwrites the weight of a linear layer, row after row; runs that are submitted from now on see it.
    ///
    /// # Errors
    /// As [`Model::set_weight`].
    fn set_weight(&self, name: &str, values: &[f32]) -> Result<()>;
}

/// The same with a loss.
pub trait Subject: Weights {
    /// What the model loses with the weights as they are now, of which only those from transformer layer `block` on have changed.
    ///
    /// # Errors
    /// As [`Probe::measure`].
    fn measure(&self, block: usize) -> impl Future<Output = Result<Loss>>;

    /// What looks into its layers, if something can.
    fn probe(&self) -> Option<&Probe>;
}

impl Weights for Model {
    fn set_weight(&self, name: &str, values: &[f32]) -> Result<()> {
        Self::set_weight(self, name, values)
    }
}

impl Weights for Probe {
    fn set_weight(&self, name: &str, values: &[f32]) -> Result<()> {
        self.model().set_weight(name, values)
    }
}

impl Subject for Probe {
    fn measure(&self, block: usize) -> impl Future<Output = Result<Loss>> {
        Self::measure(self, block)
    }

    fn probe(&self) -> Option<&Probe> {
        Some(self)
    }
}
