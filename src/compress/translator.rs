//! Translators as what is compressed: their likelihood of given translations.

use super::subject::{Subject, Weights};
use super::weights;
use crate::format::{Checkpoint, Config, MarianConfig};
use crate::gpu::Context;
use crate::model::{Loss, Probe, linears};
use crate::train::{Geometry, Id, Initial, Method, Options, Spec, Trainer, TranslatorSpec};
use crate::translation::{Pair, all_batches, shapes_of};
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

/// The sizes of a translator, and where its values lie.
///
/// # Errors
/// [`Error::Request`] for a model that is none.
pub fn config(checkpoint: &Checkpoint) -> Result<(&MarianConfig, Geometry)> {
    match &checkpoint.config {
        Config::Translator { config, hyperbolic: false } => Ok((config, Geometry::Euclidean)),
        Config::Translator { config, hyperbolic: true } => Ok((config, Geometry::Lorentz)),
        _ => Err(Error::Request(format!("{}: no translator", checkpoint.name))),
    }
}

/// A translator as a run begins with it, compressed weights decoded; `pairs` are its data, in batches of about so many tokens of sentences of
/// up to `longest`.
///
/// # Errors
/// As [`config`]; what the checkpoint lacks; [`Error::OutOfMemory`].
pub async fn load(context: &Context, checkpoint: &Checkpoint, pairs: &[Pair], (tokens, longest): (usize, usize)) -> Result<Trainer> {
    let (config, geometry) = config(checkpoint)?;
    let batches = shapes_of(tokens, longest.min(config.max_positions));
    let data = all_batches(pairs, config, &batches)?;
    let matrices = linears(&checkpoint.config).into_iter().map(|l| (l.name.clone(), l)).collect::<HashMap<_, _>>();
    let named = |tensor: &str, n: usize| {
        Ok(Some(match matrices.get(tensor) {
            Some(l) => weights(checkpoint, l)?,
            // The table of tokens may be compressed too.
            None if n == config.vocab * config.hidden => checkpoint.matrix(tensor, config.vocab, config.hidden)?.into_f32(),
            None => checkpoint.values(tensor)?,
        }))
    };
    let o = Options { method: Method::Full, steps: 1, ..Options::default() };
    let spec = Spec::Translator(TranslatorSpec { config: config.clone(), geometry, batches });
    let mut trainer = Trainer::new(context, &spec, &o, &data, &Initial::Named(&named)).await?;
    trainer.evaluate_on(&data, data.starts.len())?;
    Ok(trainer)
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
