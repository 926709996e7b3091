//! Translation with the weights that a run has now: the encoder once, the decoder over the prefixes at every token.

use super::layout::Slots;
use super::network::Network;
use super::run::Trainer;
use super::translator::{Inputs, On, SentenceBatch, Translator, positions};
use crate::autograd::Tape;
use crate::gpu::{Buffer, Context};
use crate::kernel::add::copy;
use crate::kernel::progress::WORDS as PROGRESS;
use crate::kernel::select::select_rows;
use crate::kernel::state::{State, WORDS};
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

/// Buffers of a plan's inputs.
struct Bed<'a> {
    context: &'a Context,
    bound: Vec<(SlotId, Arc<Buffer>)>,
    inputs: Inputs,
}

impl<'a> Bed<'a> {
    fn new(context: &'a Context, t: &Translator, b: &mut Builder, words: &Arc<Buffer>, constants: &[Arc<Buffer>; 6]) -> Self {
        let (batch, d) = (t.batch, t.config.hidden);
        let sizes = [batch.sentences * WORDS, batch.source.max(batch.target) * d, d, d, d, PROGRESS];
        let labels = ["states", "positions", "coordinates", "factors", "signs", "progress"];
        let slot = b.external("sentences", batch.len());
        let [full, positions, numbers, factors, signs, progress] = std::array::from_fn(|i| b.external(labels[i], sizes[i]));
        let mut bound = vec![(slot, words.clone())];
        bound.extend([full, positions, numbers, factors, signs, progress].into_iter().zip(constants.iter().cloned()));
        let inputs = Inputs { words: slot, full, positions, factors: [numbers, factors, signs], progress, dropout: 0.0, smoothing: 0.0 };
        Self { context, bound, inputs }
    }

    fn finish(mut self, b: Builder, more: Vec<(SlotId, Arc<Buffer>)>) -> Result<Bound> {
        self.bound.extend(more);
        Arc::new(b.finish()?).bind(self.context, &self.bound)
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
        let states = State { count: batch.target as u32, ..State::default() }.words().repeat(batch.sentences);
        let [factors, signs] = t.factors();
        let constants = [
            c.upload("constants", &states)?,
            c.upload("constants", bytemuck::cast_slice(&positions(batch.source.max(batch.target), d)))?,
            c.upload("constants", &(0..d as u32).collect::<Vec<_>>())?,
            c.upload("constants", bytemuck::cast_slice(&factors))?,
            c.upload("constants", bytemuck::cast_slice(&signs))?,
            c.storage("constants", 4 * PROGRESS as u64)?,
        ];
        let memory = c.storage("memory", 4 * (batch.sentences * batch.source * d) as u64)?;
        let rows = c.storage("rows", 4 * batch.sentences as u64)?;
        let logits = c.storage("logits", 4 * (batch.sentences * vocabulary) as u64)?;

        let mut b = Builder::new("encode", c.facts());
        let (slots, bed) = (Slots::new(&mut b, &self.layout), Bed::new(c, &t, &mut b, &words, &constants));
        let to = b.external_tensor("memory", batch.sentences * batch.source, d);
        let mut tape = Tape::forward_only(b);
        let x = t.encoded(&mut tape, On { slots: &slots, inputs: &bed.inputs })?;
        let x = tape.tensor(x);
        copy(&mut tape.builder, "memory", &x, &to)?;
        let more = slots.bindings(&self.buffers).into_iter().chain([(to.slot, memory.clone())]).collect();
        let encode = bed.finish(tape.builder, more)?;

        let mut b = Builder::new("decode", c.facts());
        let (slots, bed) = (Slots::new(&mut b, &self.layout), Bed::new(c, &t, &mut b, &words, &constants));
        let from = b.external_tensor("memory", batch.sentences * batch.source, d);
        let picked = b.external("rows", batch.sentences);
        let to = b.external_tensor("logits", batch.sentences, vocabulary);
        let mut tape = Tape::forward_only(b);
        let remembered = tape.constant(from);
        let x = t.decoded(&mut tape, On { slots: &slots, inputs: &bed.inputs }, remembered)?;
        let (x, last) = (tape.tensor(x), tape.builder.transient("last rows", batch.sentences, d));
        select_rows(&mut tape.builder, "last rows", &x, (picked, 0), None, &last)?;
        let last = tape.constant(last);
        let y = t.logits(&mut tape, On { slots: &slots, inputs: &bed.inputs }, last)?;
        copy(&mut tape.builder, "logits", &y, &to)?;
        let own = [(from.slot, memory), (picked, rows.clone()), (to.slot, logits.clone())];
        let more = slots.bindings(&self.buffers).into_iter().chain(own).collect();
        let decode = bed.finish(tape.builder, more)?;
        Ok(Translating { context: c.clone(), translator: Arc::new(t), encode, decode, words, rows, logits })
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
