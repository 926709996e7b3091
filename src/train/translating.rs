//! Translation with the weights that a run has now: the encoder once, the decoder over the prefixes at every token.

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

/// A translator's plans and buffers.
#[derive(Debug)]
pub struct Translating {
    context: Context,
    translator: Arc<Translator>,
    encode: Bound,
    decode: Bound,
    words: Arc<Buffer>,
    rows: Arc<Buffer>,
    logits: Arc<Buffer>,
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
    /// Prepares translation, in batches of another number of sentences where `sentences` says one.
    ///
    /// # Errors
    /// [`Error::Request`] for a network that is no translator; [`Error::OutOfMemory`], [`Error::Limit`].
    pub fn translating(&self, sentences: Option<usize>) -> Result<Translating> {
        let Network::Translator(t) = &self.network else { return Err(Error::Request("only translators translate".into())) };
        let mut t = Translator::clone(t);
        t.batch.sentences = sentences.unwrap_or(t.batch.sentences).max(1);
        let (batch, d, vocabulary) = (t.batch, t.config.hidden, t.config.vocab);
        let c = &self.context;
        let words = c.storage("sentences", 4 * batch.len() as u64)?;
        let t = Arc::new(t);
        let network = Network::Translator(t.clone());
        let constants = network.constants(c, &self.options)?;
        let memory = c.storage("memory", 4 * (batch.sentences * batch.source * d) as u64)?;
        let rows = c.storage("rows", 4 * batch.sentences as u64)?;
        let logits = c.storage("logits", 4 * (batch.sentences * vocabulary) as u64)?;

        let mut bed = Bed::new(self, "encode", &network, &constants, (&words, batch.len()));
        let to = bed.tape.builder.external_tensor("memory", batch.sentences * batch.source, d);
        let x = t.encoded(&mut bed.tape, On { slots: &bed.slots, inputs: &bed.inputs })?;
        let x = bed.tape.tensor(x);
        copy(&mut bed.tape.builder, "memory", &x, &to)?;
        let encode = bed.finish([(to.slot, memory.clone())])?;

        let mut bed = Bed::new(self, "decode", &network, &constants, (&words, batch.len()));
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
        let decode = bed.finish([(from.slot, memory), (picked, rows.clone()), (to.slot, logits.clone())])?;
        Ok(Translating { context: c.clone(), translator: t, encode, decode, words, rows, logits })
    }
}

impl Translating {
    /// The shape of its batches.
    pub fn batch(&self) -> SentenceBatch {
        self.translator.batch
    }

    /// The token that ends sentences.
    pub fn eos(&self) -> u32 {
        self.translator.config.eos
    }

    /// Runs the encoder over sentences, each with the token that ends it.
    ///
    /// # Errors
    /// [`Error::Request`] for more, or longer ones, than a batch holds.
    pub fn encode(&self, sources: &[&[u32]]) -> Result<()> {
        let t = &self.translator;
        let end = [t.config.eos];
        let pairs: Vec<(&[u32], &[u32])> = sources.iter().map(|s| (*s, &end[..])).collect();
        self.context.write(&self.words, 0, &t.batch.words(&pairs, &t.config, 1)?)?;
        self.encode.run(1)?;
        Ok(())
    }

    /// Logits of the token that follows each prefix, for as many as sentences were encoded.
    ///
    /// # Errors
    /// [`Error::Request`] for more, or longer ones, than a batch holds; [`Error::DeviceLost`].
    pub async fn next(&self, prefixes: &[&[u32]]) -> Result<Logits> {
        let (batch, c) = (self.translator.batch, &self.translator.config);
        if prefixes.len() > batch.sentences || prefixes.iter().any(|p| p.len() >= batch.target) {
            let longest = prefixes.iter().map(|p| p.len()).max().unwrap_or(0);
            return Err(Error::Request(format!("{} prefixes of up to {longest} tokens in batches of {batch:?}", prefixes.len())));
        }
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
        self.decode.run(1)?;
        let values = self.context.read_ranges(&[(&*self.logits, 0..4 * (batch.sentences * c.vocab) as u64)])?.words().await?.remove(0);
        Ok(Logits { values: bytemuck::cast_vec(values), vocabulary: c.vocab })
    }
}
