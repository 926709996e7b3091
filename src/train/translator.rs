//! Encoder-decoder transformers built like Marian's, for training and for whole sentences at once.
//!
//! A batch is one window of the data, for S sentences of at most L source and T target tokens (`Batch::words`): the sentences' states
//! with the number of source tokens of each, a header whose first word is what a row's loss counts, source tokens, decoder inputs,
//! targets.

use super::feed::FeedSlots;
use super::layout::{Group, Id, Layout, Slots};
use super::method::{Decay, Linear, Method};
use super::network::ConstantSlots;
use super::options::Options;
use crate::autograd::{Attention, Loss, NormParameters, Parameter, Tape, Var, Weight};
use crate::format::{Activation as Act, MarianConfig};
use crate::kernel::cross_entropy::IGNORE;
use crate::kernel::embedding::Ids;
use crate::kernel::linear::Activation;
use crate::kernel::state::{State, WORDS};
use crate::plan::SlotId;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Words of a batch's header: bindings begin at whole 64.
const HEADER: usize = 64;

/// A translator and the shape of its batches.
#[derive(Debug, Clone, PartialEq)]
pub struct TranslatorSpec {
    /// The model.
    pub config: MarianConfig,
    /// Its batches.
    pub batch: Batch,
}

/// The shape of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Batch {
    /// Sentences (S).
    pub sentences: usize,
    /// Most source tokens of a sentence, the one that ends it included (L).
    pub source: usize,
    /// Most target tokens, the one that ends the sentence included (T).
    pub target: usize,
}

impl Batch {
    fn header(&self) -> usize {
        self.sentences * WORDS
    }

    fn sources(&self) -> usize {
        (self.header() + HEADER).next_multiple_of(64)
    }

    pub(super) fn inputs(&self) -> usize {
        self.sources() + self.sentences * self.source
    }

    fn targets(&self) -> usize {
        self.inputs() + self.sentences * self.target
    }

    /// Words of a batch.
    pub fn len(&self) -> usize {
        self.targets() + self.sentences * self.target
    }

    /// Whether a batch has no word.
    pub fn is_empty(&self) -> bool {
        self.sentences == 0
    }

    /// The words of sentences, source and target of each, both with the token that ends them; fewer than S leave the others empty.
    /// `count`: what the loss of all targets of a batch (or of several, together) is divided by.
    ///
    /// # Errors
    /// [`Error::Request`] for more sentences, or longer ones, than fit; for an empty one.
    pub fn words(&self, pairs: &[(&[u32], &[u32])], c: &MarianConfig, count: usize) -> Result<Vec<u32>> {
        let fits = |(s, t): &(&[u32], &[u32])| (1..=self.source).contains(&s.len()) && (1..=self.target).contains(&t.len());
        if let Some((s, t)) = pairs.iter().find(|p| !fits(p)) {
            let most = format!("1 to {} and 1 to {} fit", self.source, self.target);
            return Err(Error::Request(format!("a sentence of {} tokens and its translation of {}: {most}", s.len(), t.len())));
        }
        if pairs.len() > self.sentences {
            return Err(Error::Request(format!("{} sentences in a batch of {}", pairs.len(), self.sentences)));
        }
        let mut words = vec![c.pad; self.len()];
        words[..self.sources()].fill(0);
        words[self.targets()..].fill(IGNORE);
        words[self.header()] = (1.0 / count.max(1) as f32).to_bits();
        for i in 0..self.sentences {
            // Sentences that are not there are one token of padding: attention wants something to see.
            let count = pairs.get(i).map_or(1, |(s, _)| s.len()) as u32;
            words[i * WORDS..][..WORDS].copy_from_slice(&State { count, ..State::default() }.words());
        }
        for (i, (source, target)) in pairs.iter().enumerate() {
            words[self.sources() + i * self.source..][..source.len()].copy_from_slice(source);
            let inputs = &mut words[self.inputs() + i * self.target..][..target.len()];
            inputs[0] = c.start;
            inputs[1..].copy_from_slice(&target[..target.len() - 1]);
            words[self.targets() + i * self.target..][..target.len()].copy_from_slice(target);
        }
        Ok(words)
    }
}

#[derive(Debug, Clone)]
struct Norm {
    gain: Id,
    bias: Id,
}

/// Queries, keys, values, output, and the norm after them.
#[derive(Debug, Clone)]
struct Attending {
    parts: [Linear; 4],
    norm: Norm,
}

#[derive(Debug, Clone)]
struct Block {
    own: Attending,
    /// Attention over the encoder's output, in a decoder.
    other: Option<Attending>,
    up: Linear,
    down: Linear,
    norm: Norm,
}

/// A translator's tensors, planned for one method.
#[derive(Debug, Clone)]
pub(super) struct Translator {
    pub(super) config: MarianConfig,
    pub(super) batch: Batch,
    tokens: Id,
    /// Added to the logits, never trained.
    bias: Id,
    encoder: Vec<Block>,
    decoder: Vec<Block>,
    method: Method,
}

/// Slots of a batch and of constants.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inputs {
    /// The batch's words.
    pub(super) words: SlotId,
    /// States of S full targets.
    pub(super) full: SlotId,
    /// Table of positions, `max(L, T) x width`.
    pub(super) positions: SlotId,
    /// Numbers `0..width`, and the factor of the embeddings in as many words.
    pub(super) factors: [SlotId; 2],
    pub(super) progress: SlotId,
    pub(super) dropout: f32,
    pub(super) smoothing: f32,
}

/// Which rows attend, and to what.
#[derive(Clone, Copy)]
struct Seen {
    state: SlotId,
    causal: bool,
    cross: bool,
    heads: usize,
}

/// What a plan's operations are appended with.
#[derive(Clone, Copy)]
pub(super) struct On<'a> {
    /// Slots of the weights.
    pub(super) slots: &'a Slots,
    /// Slots of everything else.
    pub(super) inputs: &'a Inputs,
}

/// Sines and then cosines of `position / 10000^(2 i / width)`, a row a position.
pub(super) fn positions(rows: usize, width: usize) -> Vec<f32> {
    let half = width.div_ceil(2);
    let angle = |p: usize, i: usize| p as f64 / 10000f64.powf(2.0 * i as f64 / width as f64);
    let value = |p: usize, j: usize| if j < half { angle(p, j).sin() } else { angle(p, j - half).cos() };
    (0..rows).flat_map(|p| (0..width).map(move |j| value(p, j) as f32)).collect()
}

struct Planner<'a> {
    layout: &'a mut Layout,
    method: &'a Method,
    decay: Decay,
    hidden: usize,
}

impl Planner<'_> {
    fn norm(&mut self, name: &str) -> Norm {
        let mut one = |part: &str| self.layout.trained(&format!("{name}.{part}"), (1, self.hidden), Group::Rest, self.decay.vectors);
        Norm { gain: one("weight"), bias: one("bias") }
    }

    fn linear(&mut self, name: &str, m: usize, n: usize) -> Linear {
        Linear::plan(self.layout, self.method, name, (m, n), true, self.decay)
    }

    fn attending(&mut self, layer: &str, which: &str) -> Attending {
        let d = self.hidden;
        let parts = ["q_proj", "k_proj", "v_proj", "out_proj"].map(|part| self.linear(&format!("{layer}.{which}.{part}"), d, d));
        Attending { parts, norm: self.norm(&format!("{layer}.{which}_layer_norm")) }
    }

    fn block(&mut self, layer: &str, ffn: usize, crosses: bool) -> Block {
        let d = self.hidden;
        Block {
            own: self.attending(layer, "self_attn"),
            other: crosses.then(|| self.attending(layer, "encoder_attn")),
            up: self.linear(&format!("{layer}.fc1"), ffn, d),
            down: self.linear(&format!("{layer}.fc2"), d, ffn),
            norm: self.norm(&format!("{layer}.final_layer_norm")),
        }
    }
}

impl Translator {
    /// Plans the tensors of a model.
    ///
    /// # Errors
    /// [`Error::Request`] for a batch of nothing, or longer than the model's positions.
    pub(super) fn plan(layout: &mut Layout, spec: &TranslatorSpec, method: &Method, decay: Decay) -> Result<Self> {
        let (c, b) = (&spec.config, spec.batch);
        if b.is_empty() || b.source == 0 || b.target == 0 || b.source.max(b.target) > c.max_positions {
            let most = c.max_positions;
            return Err(Error::Request(format!(
                "batches of {b:?}: at least one of each, and at most {most} tokens, the model's positions"
            )));
        }
        let tokens = layout.trained("model.shared.weight", (c.vocab, c.hidden), Group::Rest, decay.matrices);
        let bias = layout.beside("final_logits_bias", (1, c.vocab));
        let mut p = Planner { layout, method, decay, hidden: c.hidden };
        let encoder = (0..c.encoder_layers).map(|i| p.block(&format!("model.encoder.layers.{i}"), c.encoder_ffn, false)).collect();
        let decoder = (0..c.decoder_layers).map(|i| p.block(&format!("model.decoder.layers.{i}"), c.decoder_ffn, true)).collect();
        Ok(Self { config: c.clone(), batch: b, tokens, bias, encoder, decoder, method: *method })
    }

    pub(super) fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.encoder.iter().chain(&self.decoder).flat_map(|b| {
            let attention = std::iter::once(&b.own).chain(&b.other).flat_map(|a| &a.parts);
            attention.chain([&b.up, &b.down])
        })
    }

    fn linear(&self, tape: &mut Tape, slots: &Slots, l: &Linear, x: Var, residual: Option<Var>) -> Result<Var> {
        tape.linear(&l.name, x, &l.weight(slots, &self.method), l.bias(slots).as_ref(), residual)
    }

    fn norm(tape: &mut Tape, slots: &Slots, label: &str, n: &Norm, x: Var) -> Result<Var> {
        let parameters = NormParameters { gain: slots.parameter(n.gain), bias: Some(slots.parameter(n.bias)), rms: false, eps: 1e-5 };
        tape.norm(&format!("{label} norm"), x, &parameters)
    }

    /// Embedded tokens of `rows` positions a sentence, which begin at a word of the batch.
    fn embedded(&self, tape: &mut Tape, On { slots, inputs: i }: On<'_>, (at, rows): (usize, usize)) -> Result<Var> {
        let (all, d) = (self.batch.sentences * rows, self.config.hidden);
        let (ids, table) = (Ids::Buffer(i.words, at), slots.parameter(self.tokens));
        let mut x = tape.embed_but("tokens", &ids, &table, all, None, Some(self.config.pad))?;
        if self.config.scale_embedding {
            x = tape.scale_columns("embedding scale", x, i.factors[0], i.factors[1])?;
        }
        let table = Tensor { slot: i.positions, offset: 0, rows: self.batch.source.max(self.batch.target), cols: d, stride: d };
        let ids = Ids::Position { state: i.full, sequence_rows: rows, add: 0 };
        tape.embed("positions", &ids, &Parameter::frozen(table), all, Some(x))
    }

    /// `norm(x + dropout(linear(h)))`.
    #[expect(clippy::too_many_arguments, reason = "a branch's operands")]
    fn branch(&self, tape: &mut Tape, on: On<'_>, l: &Linear, h: Var, x: Var, n: &Norm, stream: u32) -> Result<Var> {
        let On { slots, inputs: i } = on;
        let y = if i.dropout == 0.0 || !tape.trains() {
            self.linear(tape, slots, l, h, Some(x))?
        } else {
            let y = self.linear(tape, slots, l, h, None)?;
            let y = tape.dropout(&l.name, y, i.dropout, i.progress, stream)?;
            tape.add(&l.name, x, y)?
        };
        Self::norm(tape, slots, &l.name, n, y)
    }

    #[expect(clippy::too_many_arguments, reason = "a branch's operands")]
    fn attend(&self, tape: &mut Tape, on: On<'_>, a: &Attending, x: Var, memory: Var, s: Seen, stream: u32) -> Result<Var> {
        let slots = on.slots;
        let q = self.linear(tape, slots, &a.parts[0], x, None)?;
        let k = self.linear(tape, slots, &a.parts[1], memory, None)?;
        let v = self.linear(tape, slots, &a.parts[2], memory, None)?;
        let head_dim = self.config.hidden / s.heads;
        let attention = Attention {
            state: s.state,
            causal: s.causal,
            cross: s.cross,
            sequences: self.batch.sentences,
            kv_heads: s.heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
        };
        let h = tape.attention(&format!("{} attention", a.parts[3].name), [q, k, v], &attention)?;
        self.branch(tape, on, &a.parts[3], h, x, &a.norm, stream)
    }

    fn block(&self, tape: &mut Tape, on: On<'_>, b: &Block, x: Var, memory: Option<Var>, stream: u32) -> Result<Var> {
        let On { slots, inputs: i } = on;
        let heads = if b.other.is_some() { self.config.decoder_heads } else { self.config.encoder_heads };
        let own = match b.other.is_some() {
            true => Seen { state: i.full, causal: true, cross: false, heads },
            false => Seen { state: i.words, causal: false, cross: false, heads },
        };
        let mut x = self.attend(tape, on, &b.own, x, x, own, stream)?;
        if let (Some(a), Some(memory)) = (&b.other, memory) {
            let seen = Seen { state: i.words, causal: false, cross: true, heads };
            x = self.attend(tape, on, a, x, memory, seen, stream + 1)?;
        }
        let act = match self.config.activation {
            Act::Relu => Activation::Relu,
            Act::Gelu => Activation::GeluErf,
            Act::GeluTanh => Activation::GeluTanh,
        };
        let u = self.linear(tape, slots, &b.up, x, None)?;
        let u = tape.activate(&format!("{} activation", b.up.name), act, u)?;
        self.branch(tape, on, &b.down, u, x, &b.norm, stream + 2)
    }

    pub(super) fn inputs(&self, feed: &FeedSlots, o: &Options, c: &ConstantSlots, smoothing: f32) -> Inputs {
        Inputs {
            words: feed.tokens,
            full: c.state,
            positions: c.angles,
            factors: c.metric,
            progress: feed.progress,
            dropout: o.dropout,
            smoothing,
        }
    }

    /// Appends the encoder: a row a source token.
    pub(super) fn encoded(&self, tape: &mut Tape, on: On<'_>) -> Result<Var> {
        let mut x = self.embedded(tape, on, (self.batch.sources(), self.batch.source))?;
        for (n, b) in self.encoder.iter().enumerate() {
            x = self.block(tape, on, b, x, None, 3 * n as u32)?;
        }
        Ok(x)
    }

    /// Appends the decoder over an encoder's output: a row a target token.
    pub(super) fn decoded(&self, tape: &mut Tape, on: On<'_>, memory: Var) -> Result<Var> {
        let mut x = self.embedded(tape, on, (self.batch.inputs(), self.batch.target))?;
        for (n, b) in self.decoder.iter().enumerate() {
            x = self.block(tape, on, b, x, Some(memory), 3 * (self.encoder.len() + n) as u32)?;
        }
        Ok(x)
    }

    /// Where a row's weight in the loss lies.
    pub(super) fn scale(&self, i: &Inputs) -> (SlotId, usize) {
        (i.words, self.batch.header())
    }

    /// Appends the losses of all target rows.
    pub(super) fn losses(&self, tape: &mut Tape, slots: &Slots, i: &Inputs) -> Result<Tensor> {
        let on = On { slots, inputs: i };
        let memory = self.encoded(tape, on)?;
        let x = self.decoded(tape, on, memory)?;
        let loss = Loss { targets: (i.words, self.batch.targets()), scale: self.scale(i), smoothing: i.smoothing };
        let bias = Parameter::frozen(slots.value(self.bias));
        tape.head_loss("head", x, &slots.parameter(self.tokens), Some(&bias), &loss)
    }

    /// Appends the logits of all target rows.
    pub(super) fn logits(&self, tape: &mut Tape, slots: &Slots, x: Var) -> Result<Tensor> {
        let (weight, bias) = (Weight::Dense(slots.parameter(self.tokens)), Parameter::frozen(slots.value(self.bias)));
        let y = tape.linear("head", x, &weight, Some(&bias), None)?;
        Ok(tape.tensor(y))
    }
}
