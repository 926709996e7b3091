//! Encoder-decoder transformers built like Marian's, and their hyperbolic twins (HyboNet, Chen et al. 2022), for training and for whole
//! sentences at once. A twin's values are points: each linear layer is followed by the rescaling of its output (of each head's apart), what a
//! residual or a position adds is added before it, attention is by Lorentz products and its sums become centroids, and there are no norms.
//!
//! A batch is one window of the data, for S sentences of at most L source and T target tokens (`SentenceBatch::words`): the sentences' states
//! with the number of source tokens of each, a header whose first word is what a row's loss counts, source tokens, decoder inputs,
//! targets.

use super::feed::FeedSlots;
use super::graph::Geometry;
use super::initial::Draw;
use super::layout::{Group, Id, Layout, Slots};
use super::method::{Decay, Linear, Method};
use super::network::ConstantSlots;
use super::options::Options;
use crate::autograd::{Attention, Loss, NormParameters, Parameter, Tape, Var, Weight};
use crate::format::{Activation as Act, MarianConfig};
use crate::kernel::cross_entropy::IGNORE;
use crate::kernel::embedding::Ids;
use crate::kernel::linear::Activation;
use crate::kernel::lorentz::Map;
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
    /// Where its values lie.
    pub geometry: Geometry,
    /// Shapes of its batches.
    pub batches: Vec<SentenceBatch>,
}

/// The shape of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SentenceBatch {
    /// Sentences (S).
    pub sentences: usize,
    /// Most source tokens of a sentence, the one that ends it included (L).
    pub source: usize,
    /// Most target tokens, the one that ends the sentence included (T).
    pub target: usize,
}

impl SentenceBatch {
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

/// A linear layer, and the logarithm of its points' scale (Lorentz).
#[derive(Debug, Clone)]
struct Layer {
    linear: Linear,
    scale: Option<Id>,
}

/// Queries, keys, values, output, and the norm after them.
#[derive(Debug, Clone)]
struct Attending {
    parts: [Layer; 4],
    norm: Option<Norm>,
}

#[derive(Debug, Clone)]
struct Block {
    own: Attending,
    /// Attention over the encoder's output, in a decoder.
    other: Option<Attending>,
    up: Layer,
    down: Layer,
    norm: Option<Norm>,
}

/// A translator's tensors, planned for one method.
#[derive(Debug, Clone)]
pub(super) struct Translator {
    pub(super) config: MarianConfig,
    /// The shape that plans are made for.
    pub(super) batch: SentenceBatch,
    pub(super) batches: Vec<SentenceBatch>,
    geometry: Geometry,
    tokens: Id,
    /// Lorentz: the layers that positions are added in, of the encoder and of the decoder.
    positions: Vec<Layer>,
    /// Lorentz: the words' points on the way out.
    classes: Option<Id>,
    /// Added to the logits; trained in the Lorentz model only.
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
    /// Numbers `0..width`; the factor of the embeddings in as many words, or the Lorentz metric's; the signs of heads' coordinates.
    pub(super) factors: [SlotId; 3],
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
    geometry: Geometry,
}

impl Planner<'_> {
    fn norm(&mut self, name: &str) -> Option<Norm> {
        if self.geometry == Geometry::Lorentz {
            return None;
        }
        let mut one = |part: &str| self.layout.trained(&format!("{name}.{part}"), (1, self.hidden), Group::Rest, self.decay.vectors);
        Some(Norm { gain: one("weight"), bias: one("bias") })
    }

    fn linear(&mut self, name: &str, m: usize, n: usize) -> Layer {
        let linear = Linear::plan(self.layout, self.method, name, (m, n), true, self.decay);
        let points = self.geometry == Geometry::Lorentz;
        Layer { linear, scale: points.then(|| self.layout.trained(&format!("{name}.scale"), (1, 1), Group::Rest, 0.0)) }
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
        let c = &spec.config;
        let bad = |b: &SentenceBatch| b.is_empty() || b.source == 0 || b.target == 0 || b.source.max(b.target) > c.max_positions;
        let Some(batch) = spec.batches.first().copied() else { return Err(Error::Request("batches of no shape".into())) };
        if let Some(b) = spec.batches.iter().find(|b| bad(b)) {
            let most = c.max_positions;
            return Err(Error::Request(format!(
                "batches of {b:?}: at least one of each, and at most {most} tokens, the model's positions"
            )));
        }
        let (geometry, shape) = (spec.geometry, (c.vocab, c.hidden));
        if geometry == Geometry::Lorentz && (c.encoder_heads != c.decoder_heads || c.hidden < 2 * c.encoder_heads) {
            let heads = format!("{} and {} heads of {} coordinates", c.encoder_heads, c.decoder_heads, c.hidden);
            return Err(Error::Request(format!(
                "{heads}: in the Lorentz model encoder and decoder have as many, of 2 coordinates at least"
            )));
        }
        let (tokens, classes, bias) = match geometry {
            Geometry::Euclidean => {
                let tokens = layout.trained("model.shared.weight", shape, Group::Rest, decay.matrices);
                (tokens, None, layout.beside("final_logits_bias", (1, c.vocab)))
            }
            Geometry::Lorentz => {
                let tokens = layout.points("model.shared.points", shape);
                (tokens, Some(layout.points("classes.points", shape)), layout.trained("classes.bias", (1, c.vocab), Group::Rest, 0.0))
            }
        };
        let mut p = Planner { layout, method, decay, hidden: c.hidden, geometry };
        let named = ["encoder", "decoder"].into_iter().filter(|_| geometry == Geometry::Lorentz);
        let positions = named.map(|half| p.linear(&format!("model.{half}.positions"), c.hidden, c.hidden)).collect();
        let encoder = (0..c.encoder_layers).map(|i| p.block(&format!("model.encoder.layers.{i}"), c.encoder_ffn, false)).collect();
        let decoder = (0..c.decoder_layers).map(|i| p.block(&format!("model.decoder.layers.{i}"), c.decoder_ffn, true)).collect();
        let batches = spec.batches.clone();
        Ok(Self { config: c.clone(), batch, batches, geometry, tokens, positions, classes, bias, encoder, decoder, method: *method })
    }

    /// The same, for batches of another shape.
    pub(super) fn in_batches(&self, batch: SentenceBatch) -> Self {
        Self { batch, ..self.clone() }
    }

    pub(super) fn linears(&self) -> impl Iterator<Item = &Linear> {
        let blocks = self.encoder.iter().chain(&self.decoder).flat_map(|b| {
            let attention = std::iter::once(&b.own).chain(&b.other).flat_map(|a| &a.parts);
            attention.chain([&b.up, &b.down])
        });
        self.positions.iter().chain(blocks).map(|l| &l.linear)
    }

    /// How its initial weights are drawn.
    pub(super) fn draw(&self) -> Draw {
        match self.geometry {
            Geometry::Euclidean => Draw::Normal(self.config.init_std),
            Geometry::Lorentz => Draw::Lorentz(Some(0.02)),
        }
    }

    /// Factors of the coordinates: the embeddings', or the metric's, and signs of the coordinates of heads.
    pub(super) fn factors(&self) -> [Vec<f32>; 2] {
        let d = self.config.hidden;
        let head = d / self.config.encoder_heads;
        let signs = (0..d).map(|i| if i.is_multiple_of(head) { -1.0 } else { 1.0 }).collect();
        match self.geometry {
            Geometry::Euclidean => [vec![(d as f64).sqrt() as f32; d], signs],
            Geometry::Lorentz => [(0..d).map(|i| if i == 0 { -2.0 } else { 2.0 }).collect(), signs],
        }
    }

    /// `x Wᵀ + bias + residual`, as `heads` points where values are points.
    fn linear(&self, tape: &mut Tape, slots: &Slots, l: &Layer, x: Var, residual: Option<Var>, heads: usize) -> Result<Var> {
        let Layer { linear, scale } = l;
        let y = tape.linear(&linear.name, x, &linear.weight(slots, &self.method), linear.bias(slots).as_ref(), residual)?;
        Self::pointed(tape, slots, &linear.name, *scale, y, heads)
    }

    fn pointed(tape: &mut Tape, slots: &Slots, name: &str, scale: Option<Id>, y: Var, heads: usize) -> Result<Var> {
        let Some(scale) = scale else { return Ok(y) };
        let Parameter { value, gradient } = slots.parameter(scale);
        tape.lorentz(&format!("{name} points"), Map::Rescale { scale: (value.slot, value.offset) }, heads, y, gradient)
    }

    fn norm(tape: &mut Tape, slots: &Slots, label: &str, n: Option<&Norm>, x: Var) -> Result<Var> {
        let Some(n) = n else { return Ok(x) };
        let parameters = NormParameters { gain: slots.parameter(n.gain), bias: Some(slots.parameter(n.bias)), rms: false, eps: 1e-5 };
        tape.norm(&format!("{label} norm"), x, &parameters)
    }

    /// Embedded tokens of `rows` positions a sentence, which begin at a word of the batch.
    fn embedded(&self, tape: &mut Tape, On { slots, inputs: i }: On<'_>, (at, rows): (usize, usize)) -> Result<Var> {
        let (all, d) = (self.batch.sentences * rows, self.config.hidden);
        let (ids, table) = (Ids::Buffer(i.words, at), slots.parameter(self.tokens));
        let fixed = (self.geometry == Geometry::Euclidean).then_some(self.config.pad);
        let mut x = tape.embed_but("tokens", &ids, &table, all, None, fixed)?;
        if self.config.scale_embedding && self.geometry == Geometry::Euclidean {
            x = tape.scale_columns("embedding scale", x, i.factors[0], i.factors[1])?;
        }
        let table = Tensor { slot: i.positions, offset: 0, rows: self.batch.source.max(self.batch.target), cols: d, stride: d };
        let ids = Ids::Position { state: i.full, sequence_rows: rows, add: 0 };
        let Some(l) = self.positions.get(usize::from(at != self.batch.sources())) else {
            return tape.embed("positions", &ids, &Parameter::frozen(table), all, Some(x));
        };
        let position = tape.embed("positions", &ids, &Parameter::frozen(table), all, None)?;
        tape.stop(position);
        self.linear(tape, slots, l, x, Some(position), 1)
    }

    /// `norm(x + dropout(linear(h)))`, or the point of that sum.
    #[expect(clippy::too_many_arguments, reason = "a branch's operands")]
    fn branch(&self, tape: &mut Tape, on: On<'_>, l: &Layer, h: Var, x: Var, n: Option<&Norm>, stream: u32) -> Result<Var> {
        let On { slots, inputs: i } = on;
        let y = if i.dropout == 0.0 || !tape.trains() {
            self.linear(tape, slots, l, h, Some(x), 1)?
        } else {
            let (name, plain) = (&l.linear.name, Layer { scale: None, ..l.clone() });
            let y = self.linear(tape, slots, &plain, h, None, 1)?;
            let y = tape.dropout(name, y, i.dropout, i.progress, stream)?;
            let y = tape.add(name, x, y)?;
            Self::pointed(tape, slots, name, l.scale, y, 1)?
        };
        Self::norm(tape, slots, &l.linear.name, n, y)
    }

    #[expect(clippy::too_many_arguments, reason = "a branch's operands")]
    fn attend(&self, tape: &mut Tape, on: On<'_>, a: &Attending, x: Var, memory: Var, s: Seen, stream: u32) -> Result<Var> {
        let slots = on.slots;
        let points = self.geometry == Geometry::Lorentz;
        let label = format!("{} attention", a.parts[3].linear.name);
        let mut q = self.linear(tape, slots, &a.parts[0], x, None, s.heads)?;
        let k = self.linear(tape, slots, &a.parts[1], memory, None, s.heads)?;
        let v = self.linear(tape, slots, &a.parts[2], memory, None, s.heads)?;
        if points {
            q = tape.scale_columns(&format!("{label} metric"), q, on.inputs.factors[0], on.inputs.factors[2])?;
        }
        let head_dim = self.config.hidden / s.heads;
        let attention = Attention {
            state: s.state,
            causal: s.causal,
            cross: s.cross,
            sequences: self.batch.sentences,
            kv_heads: s.heads,
            head_dim,
            // HyboNet's score is (2 + 2 <q, k>) over a scale; what is the same for all keys is nothing to a softmax.
            scale: if points { 2.0 } else { 1.0 } / (head_dim as f32).sqrt(),
        };
        let mut h = tape.attention(&label, [q, k, v], &attention)?;
        if points {
            h = tape.lorentz(&format!("{label} centroids"), Map::Centroid, s.heads, h, None)?;
        }
        self.branch(tape, on, &a.parts[3], h, x, a.norm.as_ref(), stream)
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
        let u = self.linear(tape, slots, &b.up, x, None, 1)?;
        let u = tape.activate(&format!("{} activation", b.up.linear.name), act, u)?;
        self.branch(tape, on, &b.down, u, x, b.norm.as_ref(), stream + 2)
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
        let (x, weight, bias) = self.head(tape, on, x)?;
        tape.head_loss("head", x, &weight, Some(&bias), &loss)
    }

    /// What the output layer multiplies, its weight, and its bias: `2 <h, c>` is a product once h has the metric's factors.
    fn head(&self, tape: &mut Tape, On { slots, inputs: i }: On<'_>, x: Var) -> Result<(Var, Parameter, Parameter)> {
        match self.classes {
            None => Ok((x, slots.parameter(self.tokens), Parameter::frozen(slots.value(self.bias)))),
            Some(c) => Ok((tape.scale_columns("metric", x, i.factors[0], i.factors[1])?, slots.parameter(c), slots.parameter(self.bias))),
        }
    }

    /// Appends the logits of rows of the decoder's output.
    pub(super) fn logits(&self, tape: &mut Tape, on: On<'_>, x: Var) -> Result<Tensor> {
        let (x, weight, bias) = self.head(tape, on, x)?;
        let y = tape.linear("head", x, &Weight::Dense(weight), Some(&bias), None)?;
        Ok(tape.tensor(y))
    }
}
