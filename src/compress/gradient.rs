//! Gradients of a decoder's likelihood with respect to its linear weights, by the autograd that training uses.

use super::{order, weights};
use crate::format::{Checkpoint, Config};
use crate::gpu::Context;
use crate::model::{Linear, linears};
use crate::train::{Data, Initial, Named, Options, Spec, Trainer};
use crate::{Error, Result};
use std::collections::BTreeMap;

/// What a text must have: a token, and the one after it.
const SHORTEST: usize = 2;

/// The diagonal of the empirical Fisher information of each linear layer's weights, for one token: the mean over texts of `T g^2`, g being
/// the gradient of a text's mean negative log-likelihood over its T tokens but the first. Of sums over independent tokens the squares add
/// up, which is what T stands for. By tensor names, in the order of the weights.
///
/// # Errors
/// [`Error::Request`] for a model that cannot be trained here, or without a text of two tokens; what the checkpoint lacks; [`Error::OutOfMemory`]: besides
/// the model it takes what training of all its weights would.
pub async fn fisher(context: &Context, checkpoint: &Checkpoint, texts: &[&[u32]]) -> Result<BTreeMap<String, Vec<f32>>> {
    if matches!(checkpoint.config, Config::Bert(_) | Config::Translator { .. }) {
        return Err(Error::Request("gradients of a likelihood need a decoder: take another score".into()));
    }
    let mut by_length: BTreeMap<usize, Vec<&[u32]>> = BTreeMap::new();
    texts.iter().filter(|t| t.len() >= SHORTEST).for_each(|t| by_length.entry(t.len()).or_default().push(t));
    let count: usize = by_length.values().map(Vec::len).sum();
    if count == 0 {
        return Err(Error::Request("gradients need texts of two tokens or more".into()));
    }
    let all = linears(&checkpoint.config);
    let mut sums: BTreeMap<String, Vec<f32>> = all.iter().map(|l| (l.name.clone(), vec![0.0; l.rows * l.cols])).collect();
    for (length, texts) in by_length {
        let mut trainer = trainer(context, checkpoint, &all, &texts).await?;
        let ids = trainer.ids();
        for _ in &texts {
            trainer.submit_step().await?;
            trainer.reports().await?;
            for l in &all {
                let gradient = match ids.get(&l.name) {
                    Some(id) => trainer.gradient(*id).await?,
                    None => None,
                };
                let gradient = gradient.ok_or_else(|| Error::Request(format!("`{}` has no gradient", l.name)))?;
                let sum = sums.entry(l.name.clone()).or_default();
                let factor = (length - 1) as f32 / count as f32;
                for (row, to) in rows(checkpoint, l).zip(0..) {
                    let g = &gradient[to * l.cols..][..l.cols];
                    sum[row * l.cols..][..l.cols].iter_mut().zip(g).for_each(|(s, g)| *s += factor * g * g);
                }
            }
        }
    }
    Ok(sums)
}

/// For each row in Hugging Face's order, which trained models have, the one of the file.
fn rows(checkpoint: &Checkpoint, l: &Linear) -> impl Iterator<Item = usize> {
    let turned = order(checkpoint, &l.name, l.rows);
    (0..l.rows).map(move |r| turned.as_ref().map_or(r, |t| t[r]))
}

/// A run of a step a text that changes nothing.
async fn trainer(context: &Context, checkpoint: &Checkpoint, all: &[Linear], texts: &[&[u32]]) -> Result<Trainer> {
    let length = texts[0].len();
    let data = Data { tokens: texts.concat(), starts: (0..texts.len()).map(|i| (i * length) as u32).collect(), ..Data::default() };
    let options = Options {
        steps: texts.len(),
        rate: 0.0,
        warmup: 0,
        sgd: true,
        clip: None,
        sequences: 1,
        context: length - 1,
        ..Options::default()
    };
    let named: &Named<'_> = &|name, _| {
        let Some(l) = all.iter().find(|l| l.name == name) else {
            return checkpoint.values(name).map(Some);
        };
        let w = weights(checkpoint, l)?;
        Ok(Some(rows(checkpoint, l).flat_map(|r| &w[r * l.cols..][..l.cols]).copied().collect()))
    };
    Trainer::new(context, &Spec::Decoder(checkpoint.config.clone()), &options, &data, &Initial::Named(named)).await
}
