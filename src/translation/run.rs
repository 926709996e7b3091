//! A training run of a translator, and how good it is: loss on the validation part, BLEU on the test part.

use super::{Bleu, Pair, Search, all_batches, bleu, drawn_batches, translate};
use crate::format::{MarianConfig, Tokenizer};
use crate::gpu::Context;
use crate::train::job::Control;
use crate::train::random::hash;
use crate::train::{Geometry, Initial, Options, SentenceBatch, Spec, Trainer, TranslatorSpec};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Steps between reads of the device's log, which holds 256.
const REPORT_EVERY: usize = 100;

/// What a run is to do.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Method, rates, steps, seed; sequences and context follow from the batches.
    pub options: Options,
    /// The model.
    pub config: MarianConfig,
    /// Where its values lie.
    pub geometry: Geometry,
    /// The shapes of its batches.
    pub batches: Vec<SentenceBatch>,
    /// Steps between evaluations; 0: only at the end.
    pub evaluate_every: usize,
}

/// Sentences to train on, to choose by, and to translate.
#[derive(Debug, Clone, Default)]
pub struct Corpus {
    /// Pairs to train on.
    pub train: Vec<Pair>,
    /// Pairs whose loss is told.
    pub valid: Vec<Pair>,
    /// Sentences to translate.
    pub sources: Vec<Vec<u32>>,
    /// What they should become.
    pub references: Vec<String>,
}

impl Corpus {
    /// A number for all of it, so that runs on other sentences are not taken for runs on these.
    pub fn fingerprint(&self) -> u64 {
        let pairs = self.train.iter().chain(&self.valid).flat_map(|(s, t)| [s, t]);
        // No token is this large: it parts the sentences.
        let tokens = pairs.chain(&self.sources).flat_map(|ids| ids.iter().copied().chain([u32::MAX])).flat_map(u32::to_le_bytes);
        hash(tokens.chain(self.references.iter().flat_map(|line| line.bytes().chain([b'\n']))))
    }
}

/// What a run gave. A run that diverged has a loss of infinity, which is `null` in JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The method's name.
    pub method: String,
    /// Its rank; 0 for full rank.
    pub rank: usize,
    /// Highest learning rate of the linear layers.
    pub rate: f64,
    /// The seed.
    pub seed: u64,
    /// Steps done.
    pub steps: usize,
    /// Mean loss of a target token on the validation part, in nats.
    #[serde(deserialize_with = "crate::train::job::null_is_infinite")]
    pub valid_loss: f64,
    /// Evaluations: steps done, loss.
    pub evaluations: Vec<(usize, f64)>,
    /// Mean loss of the last steps reported, label smoothing and dropout included.
    #[serde(deserialize_with = "crate::train::job::null_is_infinite")]
    pub train_loss: f64,
    /// Re-SVDs done.
    pub re_svds: usize,
    /// Elements that have a gradient.
    pub trained: usize,
    /// Seconds of training, evaluations included.
    pub seconds: f64,
    /// What it ran on.
    pub adapter: String,
    /// What was not a number, where the run ended by that.
    pub diverged: Option<String>,
}

/// Called with steps done, the last loss, and the last evaluation; tells whether to go on.
pub type Watch<'a> = dyn FnMut(usize, f32, f64) -> Control + Send + 'a;

/// Trains a translator. Returns it with the outcome, or without where it diverged; nothing if it was stopped.
///
/// # Errors
/// [`Error::Request`] for options or data that do not fit; [`Error::OutOfMemory`], [`Error::DeviceLost`].
pub async fn train(context: &Context, corpus: &Corpus, r: &Request, watch: &mut Watch<'_>) -> Result<Option<(Outcome, Option<Trainer>)>> {
    let begun = Instant::now();
    let words = context.facts().max_binding as usize / 4;
    let data = drawn_batches(&corpus.train, &r.config, &r.batches, r.options.seed, (r.options.steps, words))?;
    let valid = all_batches(&corpus.valid, &r.config, &r.batches)?;
    let options = Options { batches: 1, ..r.options.clone() };
    let spec = Spec::Translator(TranslatorSpec { config: r.config.clone(), geometry: r.geometry, batches: r.batches.clone() });
    let mut t = Trainer::new(context, &spec, &options, &data, &Initial::Random).await?;
    t.evaluate_on(&valid, valid.starts.len())?;
    let (mut evaluations, mut loss, mut diverged) = (Vec::new(), f64::INFINITY, None);
    for step in 1..=options.steps {
        t.submit_step().await?;
        let last = step == options.steps;
        if step.is_multiple_of(REPORT_EVERY) || last {
            match t.reports().await {
                Ok(steps) => loss = steps.iter().map(|s| f64::from(s.loss)).sum::<f64>() / steps.len().max(1) as f64,
                Err(Error::Diverged { step, what }) => diverged = Some(format!("{what} at step {step}")),
                Err(e) => return Err(e),
            }
        }
        if diverged.is_none() && (last || r.evaluate_every > 0 && step.is_multiple_of(r.evaluate_every)) {
            evaluations.push((step, f64::from(t.evaluate().await?)));
        }
        let seen = step.is_multiple_of(REPORT_EVERY) || last;
        if seen && watch(step, loss as f32, evaluations.last().map_or(f64::NAN, |e| e.1)) == Control::Stop && !last {
            return Ok(None);
        }
        if diverged.is_some() {
            break;
        }
    }
    let outcome = Outcome {
        method: options.method.name().into(),
        rank: options.method.rank(),
        rate: options.rate,
        seed: options.seed,
        steps: t.step(),
        valid_loss: if diverged.is_some() { f64::INFINITY } else { evaluations.last().map_or(f64::INFINITY, |e| e.1) },
        evaluations,
        train_loss: loss,
        re_svds: t.re_svds(),
        trained: t.layout().trained_elements().0,
        seconds: begun.elapsed().as_secs_f64(),
        adapter: context.facts().summary(),
        diverged: diverged.clone(),
    };
    Ok(Some((outcome, diverged.is_none().then_some(t))))
}

/// Translates a corpus' sentences with a trained translator, `lanes` prefixes at a time.
///
/// # Errors
/// As [`translate`]; what the tokenizer returns.
pub async fn test(t: &Trainer, tokenizer: &Tokenizer, corpus: &Corpus, s: &Search, lanes: usize) -> Result<(Bleu, Vec<String>)> {
    let mut translating = t.translating(lanes)?;
    let tokens = translate(&mut translating, &corpus.sources, s).await?;
    let texts = tokens.iter().map(|ids| Ok(tokenizer.decode(ids, true)?.trim().to_owned())).collect::<Result<Vec<_>>>()?;
    Ok((bleu(&texts, &corpus.references), texts))
}
