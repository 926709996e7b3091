//! Translators from files.

use super::{Pair, all_batches, shapes_of};
use crate::format::{Checkpoint, Config, MarianConfig};
use crate::gpu::Context;
use crate::model::linears;
use crate::train::{Geometry, Initial, Method, Options, Spec, Trainer, TranslatorSpec};
use crate::{Error, Result};
use std::collections::HashMap;

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
            Some(l) => checkpoint.matrix(&l.name, l.rows, l.cols)?.into_f32(),
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
