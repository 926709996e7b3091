//! Translators as what is compressed: their likelihood of given translations.

use super::subject::{Subject, Weights};
use crate::format::Checkpoint;
use crate::gpu::Context;
use crate::model::{Loss, Probe};
use crate::train::{Id, Trainer};
use crate::translation::{Pair, load};
use crate::{Error, Result};
use std::collections::HashMap;

/// Tokens of a batch, of either language.
const TOKENS: usize = 2048;

/// A translator with its weights in f32, and pairs that its loss is measured on. Besides the weights it takes the memory of training them.
#[derive(Debug)]
pub struct Translator {
    trainer: Trainer,
    ids: HashMap<String, Id>,
    /// The loss before any change.
    base: f64,
}

impl Translator {
    /// Loads a translator; sentences of `pairs` end with the token that does so.
    ///
    /// # Errors
    /// As [`load`].
    pub async fn new(context: &Context, checkpoint: &Checkpoint, pairs: &[Pair]) -> Result<Self> {
        let longest = pairs.iter().map(|(s, t)| s.len().max(t.len())).max().unwrap_or(1);
        let trainer = load(context, checkpoint, pairs, (TOKENS, longest)).await?;
        let (ids, base) = (trainer.ids(), f64::from(trainer.evaluate().await?));
        Ok(Self { trainer, ids, base })
    }

    /// The mean negative log-likelihood of a target token before any change, in nats.
    pub fn base(&self) -> f64 {
        self.base
    }
}

impl Weights for Translator {
    fn set_weight(&self, name: &str, values: &[f32]) -> Result<()> {
        let id = self.ids.get(name).ok_or_else(|| Error::Request(format!("`{name}` is no tensor of the translator")))?;
        self.trainer.set(*id, values)
    }
}

impl Subject for Translator {
    /// The rise of the mean negative log-likelihood of a target token: what a translator says is judged by what it should say.
    async fn measure(&self, _: usize) -> Result<Loss> {
        let nll = f64::from(self.trainer.evaluate().await?);
        Ok(Loss { change: nll - self.base, nll: Some(nll) })
    }

    fn probe(&self) -> Option<&Probe> {
        None
    }
}
