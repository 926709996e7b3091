//! Translation with the weights that a run has now: the encoder once, the decoder over the prefixes at every token, by plans as long as
//! these need.

use super::layout::Slots;
use super::network::{Constants, Network};
use super::run::Trainer;
use super::translator::{Inputs, On, SentenceBatch, Translator};
use crate::autograd::Tape;
use crate::gpu::{Buffer, Context};
use crate::kernel::add::copy;
use crate::kernel::progress::WORDS as PROGRESS;
use crate::kernel::select::select_rows;
use crate::plan::{Bound, Builder, SlotId};
use crate::{Error, Result};
use std::sync::Arc;

/// A translator's plans and buffers: for each length of sources a plan of the encoder, and for each of prefixes beside it one of the
/// decoder.
#[derive(Debug)]
pub struct Translating {
    context: Context,
    translator: Arc<Translator>,
    lanes: usize,
    stages: Vec<Stage>,
    /// The stage whose encoder ran last.
    at: usize,
    words: Arc<Buffer>,
    rows: Arc<Buffer>,
    logits: Arc<Buffer>,
}

/// Sources of up to so many tokens.
#[derive(Debug)]
struct Stage {
    source: usize,
    encode: Bound,
    /// Longest prefix with the token that begins it, and the plan.
    decode: Vec<(usize, Bound)>,
}

/// Logits of the next token of prefixes.
#[derive(Debug)]
pub struct Logits {
    values: Vec<f32>,
    vocabulary: usize,
}

impl Logits {
    /// Those of a prefix.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.vocabulary..(i + 1) * self.vocabulary]
    }
}

/// A plan under construction with the buffers of its inputs.
struct Bed<'a> {
    context: &'a Context,
    tape: Tape,
    slots: Arc<Slots>,
    inputs: Inputs,
    bound: Vec<(SlotId, Arc<Buffer>)>,
}

impl<'a> Bed<'a> {
    fn new(t: &'a Trainer, label: &str, network: &Network, constants: &Constants, words: (&Arc<Buffer>, usize)) -> Self {
        let mut tape = Tape::forward_only(Builder::new(label, t.context.facts()));
        let slots = Arc::new(Slots::new(&mut tape.builder, &t.layout));
        let [sentences, progress] = [("sentences", words.1), ("progress", PROGRESS)].map(|(l, n)| tape.builder.external(l, n));
        let c = network.constant_slots(&mut tape, &t.options);
        let mut bound = slots.bindings(&t.buffers);
        bound.extend([(sentences, words.0.clone()), (progress, t.feed.progress.clone())]);
        bound.extend(c.bindings(constants));
        let inputs =
            Inputs { words: sentences, full: c.state, positions: c.angles, factors: c.metric, progress, dropout: 0.0, smoothing: 0.0 };
        Self { context: &t.context, tape, slots, inputs, bound }
    }

    fn finish(mut self, more: impl IntoIterator<Item = (SlotId, Arc<Buffer>)>) -> Result<Bound> {
        self.bound.extend(more);
        Arc::new(self.tape.builder.finish()?).bind(self.context, &self.bound)
    }
}

impl Trainer {
    /// Prepares translation, of `lanes` prefixes together, of sentences as long as the batches'.
    ///
    /// # Errors
    /// [`Error::Request`] for a network that is no translator; [`Error::OutOfMemory`], [`Error::Limit`].
    pub fn translating(&self, lanes: usize) -> Result<Translating> {
        let Network::Translator(t) = &self.network else { return Err(Error::Request("only translators translate".into())) };
        let (lanes, d, vocabulary) = (lanes.max(1), t.config.hidden, t.config.vocab);
        let lengths = |of: fn(&SentenceBatch) -> usize| {
            let mut all: Vec<usize> = t.batches.iter().map(of).collect();
            all.sort_unstable();
            all.dedup();
            all
        };
        let (sources, targets) = (lengths(|b| b.source), lengths(|b| b.target));
        let most = |lengths: &[usize]| lengths.last().copied().unwrap_or(1);
        let largest = SentenceBatch { sentences: lanes, source: most(&sources), target: most(&targets) };
        let c = &self.context;
        let on = Beside {
            words: c.storage("sentences", 4 * largest.len() as u64)?,
            memory: c.storage("memory", 4 * (lanes * largest.source * d) as u64)?,
            rows: c.storage("rows", 4 * lanes as u64)?,
            logits: c.storage("logits", 4 * (lanes * vocabulary) as u64)?,
        };
        let stage = |source: &usize| {
            let batch = |target: usize| SentenceBatch { sentences: lanes, source: *source, target };
            let decode = targets.iter().map(|target| Ok((*target, self.decoding(t, batch(*target), &on)?)));
            Ok(Stage { source: *source, encode: self.encoding(t, batch(1), &on)?, decode: decode.collect::<Result<_>>()? })
        };
        let stages = sources.iter().map(stage).collect::<Result<_>>()?;
        let Beside { words, rows, logits, .. } = on;
        Ok(Translating { context: c.clone(), translator: t.clone(), lanes, stages, at: 0, words, rows, logits })
    }

    fn encoding(&self, t: &Translator, batch: SentenceBatch, on: &Beside) -> Result<Bound> {
        let t = Arc::new(t.in_batches(batch));
        let network = Network::Translator(t.clone());
        let constants = network.constants(&self.context, &self.options)?;
        let mut bed = Bed::new(self, "encode", &network, &constants, (&on.words, batch.len()));
        let to = bed.tape.builder.external_tensor("memory", batch.sentences * batch.source, t.config.hidden);
        let x = t.encoded(&mut bed.tape, On { slots: &bed.slots, inputs: &bed.inputs })?;
        let x = bed.tape.tensor(x);
        copy(&mut bed.tape.builder, "memory", &x, &to)?;
        bed.finish([(to.slot, on.memory.clone())])
    }

    fn decoding(&self, t: &Translator, batch: SentenceBatch, on: &Beside) -> Result<Bound> {
        let t = Arc::new(t.in_batches(batch));
        let (d, vocabulary) = (t.config.hidden, t.config.vocab);
        let network = Network::Translator(t.clone());
        let constants = network.constants(&self.context, &self.options)?;
        let mut bed = Bed::new(self, "decode", &network, &constants, (&on.words, batch.len()));
        let from = bed.tape.builder.external_tensor("memory", batch.sentences * batch.source, d);
        let picked = bed.tape.builder.external("rows", batch.sentences);
        let to = bed.tape.builder.external_tensor("logits", batch.sentences, vocabulary);
        let remembered = bed.tape.constant(from);
        let x = t.decoded(&mut bed.tape, On { slots: &bed.slots, inputs: &bed.inputs }, remembered)?;
        let (x, last) = (bed.tape.tensor(x), bed.tape.builder.transient("last rows", batch.sentences, d));
        select_rows(&mut bed.tape.builder, "last rows", &x, (picked, 0), None, &last)?;
        let last = bed.tape.constant(last);
        let y = t.logits(&mut bed.tape, On { slots: &bed.slots, inputs: &bed.inputs }, last)?;
        copy(&mut bed.tape.builder, "logits", &y, &to)?;
        bed.finish([(from.slot, on.memory.clone()), (picked, on.rows.clone()), (to.slot, on.logits.clone())])
    }
}

/// Buffers that the plans share.
struct Beside {
    words: Arc<Buffer>,
    memory: Arc<Buffer>,
    rows: Arc<Buffer>,
    logits: Arc<Buffer>,
}

impl Translating {
    /// Prefixes that are lengthened together.
    pub fn lanes(&self) -> usize {
        self.lanes
    }

    /// Most tokens of a translation, the one that ends it included.
    pub fn longest(&self) -> usize {
        self.stages[0].decode.last().map_or(0, |d| d.0)
    }

    /// The token that ends sentences.
    pub fn eos(&self) -> u32 {
        self.translator.config.eos
    }

    /// Runs the encoder over sentences, each with the token that ends it.
    ///
    /// # Errors
    /// [`Error::Request`] for more than there are lanes, or for longer ones than batches have.
    pub fn encode(&mut self, sources: &[&[u32]]) -> Result<()> {
        let c = &self.translator.config;
        let longest = sources.iter().map(|s| s.len()).max().unwrap_or(0);
        self.at = self.stages.iter().position(|s| s.source >= longest).unwrap_or(self.stages.len() - 1);
        let end = [c.eos];
        let pairs: Vec<(&[u32], &[u32])> = sources.iter().map(|s| (*s, &end[..])).collect();
        let batch = SentenceBatch { sentences: self.lanes, source: self.stages[self.at].source, target: 1 };
        self.context.write(&self.words, 0, &batch.words(&pairs, c, 1)?)?;
        self.stages[self.at].encode.run(1)?;
        Ok(())
    }

    /// Logits of the token that follows each prefix, for as many as sentences were encoded.
    ///
    /// # Errors
    /// [`Error::Request`] for more than there are lanes, or for longer ones than batches have; [`Error::DeviceLost`].
    pub async fn next(&self, prefixes: &[&[u32]]) -> Result<Logits> {
        let (stage, c) = (&self.stages[self.at], &self.translator.config);
        let longest = prefixes.iter().map(|p| p.len()).max().unwrap_or(0);
        let Some((target, decode)) = stage.decode.iter().find(|d| d.0 > longest).filter(|_| prefixes.len() <= self.lanes) else {
            let (n, most) = (prefixes.len(), self.longest());
            return Err(Error::Request(format!("{n} prefixes of up to {longest} tokens: {} of fewer than {most} fit", self.lanes)));
        };
        let batch = SentenceBatch { sentences: self.lanes, source: stage.source, target: *target };
        let mut inputs = vec![c.pad; batch.sentences * batch.target];
        let mut rows = vec![0; batch.sentences];
        for (i, p) in prefixes.iter().enumerate() {
            let line = &mut inputs[i * batch.target..];
            line[0] = c.start;
            line[1..=p.len()].copy_from_slice(p);
            rows[i] = (i * batch.target + p.len()) as u32;
        }
        self.context.write(&self.words, 4 * batch.inputs() as u64, &inputs)?;
        self.context.write(&self.rows, 0, &rows)?;
        decode.run(1)?;
        let values = self.context.read_ranges(&[(&*self.logits, 0..4 * (batch.sentences * c.vocab) as u64)])?.words().await?.remove(0);
        Ok(Logits { values: bytemuck::cast_vec(values), vocabulary: c.vocab })
    }
}
