//! What is trained: a decoder, a classifier, a graph network, or a translator.

use super::decoder::{Decoder, Inputs};
use super::feed::FeedSlots;
use super::graph::{Geometry, GraphNet, GraphNetwork, Step};
use super::initial::Draw;
use super::layout::{Layout, Slots};
use super::method::{Decay, Linear};
use super::mlp::Mlp;
use super::options::Options;
use super::translator::{self, SentenceBatch, Translator, TranslatorSpec};
use crate::autograd::{Loss, Tape};
use crate::format::Config;
use crate::gpu::{Buffer, Context};
use crate::kernel::rope::Angles;
use crate::kernel::state::{State, WORDS};
use crate::plan::SlotId;
use crate::tensor::Tensor;
use crate::{Error, Result};
use std::sync::Arc;

/// The network that is to be trained.
#[derive(Debug, Clone, PartialEq)]
pub enum Spec {
    /// An OPT- or Llama-style decoder.
    Decoder(Config),
    /// Linear layers of these widths with ReLU between them: inputs first, classes last.
    Mlp(Vec<usize>),
    /// A graph network.
    Graph(GraphNet),
    /// An encoder-decoder transformer.
    Translator(TranslatorSpec),
}

/// Its tensors.
#[derive(Debug, Clone)]
pub(super) enum Network {
    Decoder(Arc<Decoder>),
    Mlp(Mlp),
    Graph(Arc<GraphNetwork>),
    Translator(Arc<Translator>),
}

/// Constants on the device.
#[derive(Debug)]
pub(super) struct Constants {
    /// Weight of a row's loss.
    scale: Arc<Buffer>,
    /// States of full sequences.
    state: Arc<Buffer>,
    angles: Arc<Buffer>,
    /// Numbers of coordinates, their factors, and signs.
    metric: [Arc<Buffer>; 3],
}

/// Their slots in a plan.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConstantSlots {
    pub(super) scale: SlotId,
    pub(super) state: SlotId,
    pub(super) angles: SlotId,
    pub(super) metric: [SlotId; 3],
}

impl ConstantSlots {
    pub(super) fn bindings(&self, c: &Constants) -> [(SlotId, Arc<Buffer>); 6] {
        let metric = |i: usize| (self.metric[i], c.metric[i].clone());
        [(self.scale, c.scale.clone()), (self.state, c.state.clone()), (self.angles, c.angles.clone()), metric(0), metric(1), metric(2)]
    }
}

impl Network {
    pub(super) fn plan(layout: &mut Layout, spec: &Spec, o: &Options) -> Result<Self> {
        let decay = Decay { matrices: o.weight_decay, vectors: if o.decay_all { o.weight_decay } else { 0.0 } };
        match spec {
            Spec::Decoder(config) => {
                let d = Decoder::plan(layout, config, &o.method, decay)?;
                if d.shape.positions < o.context {
                    return Err(Error::Request(format!("context {}: the model has {} positions", o.context, d.shape.positions)));
                }
                Ok(Self::Decoder(Arc::new(d)))
            }
            Spec::Graph(net) => Ok(Self::Graph(Arc::new(GraphNetwork::plan(layout, net, &o.method, decay)?))),
            Spec::Translator(t) => Ok(Self::Translator(Arc::new(Translator::plan(layout, t, &o.method, decay)?))),
            Spec::Mlp(widths) if widths.len() > 1 && !widths.contains(&0) => Ok(Self::Mlp(Mlp::plan(layout, widths, &o.method, decay))),
            Spec::Mlp(widths) => Err(Error::Request(format!("a classifier of widths {widths:?}: inputs and classes at least, none empty"))),
        }
    }

    /// Every adapted layer.
    pub(super) fn linears(&self) -> Vec<&Linear> {
        match self {
            Self::Decoder(d) => d.linears().collect(),
            Self::Mlp(m) => m.linears().collect(),
            Self::Graph(g) => g.linears().collect(),
            Self::Translator(t) => t.linears().collect(),
        }
    }

    /// The width that a round of re-SVD follows: of the embeddings, or the widest smaller side of a layer.
    pub(super) fn width(&self) -> usize {
        match self {
            Self::Decoder(d) => d.shape.hidden,
            Self::Mlp(m) => m.linears().map(|l| l.m.min(l.n)).max().unwrap_or(1),
            Self::Graph(g) => g.net.width,
            Self::Translator(t) => t.config.hidden,
        }
    }

    /// The network and the options in each shape of its batches.
    pub(super) fn shapes(&self, o: &Options) -> Vec<(Self, Options)> {
        let Self::Translator(t) = self else { return vec![(self.clone(), o.clone())] };
        let of = |batch: &SentenceBatch| {
            let options = Options { sequences: 1, context: batch.len(), ..o.clone() };
            (Self::Translator(Arc::new(t.in_batches(*batch))), options)
        };
        t.batches.iter().map(of).collect()
    }

    /// How its initial weights are drawn.
    pub(super) fn draw(&self) -> Draw {
        match self {
            Self::Decoder(d) => Draw::Normal(d.shape.init_std),
            Self::Translator(t) => t.draw(),
            Self::Graph(g) if g.net.geometry == Geometry::Lorentz => Draw::Lorentz(None),
            Self::Mlp(_) | Self::Graph(_) => Draw::Kaiming,
        }
    }

    /// Coordinates of a point, where there are some.
    fn coordinates(&self) -> usize {
        match self {
            Self::Graph(g) => g.net.width,
            Self::Translator(t) => t.config.hidden,
            _ => 1,
        }
    }

    /// Factors of the coordinates, and signs of heads' coordinates: see [`Translator::factors`].
    fn factors(&self) -> [Vec<f32>; 2] {
        match self {
            Self::Translator(t) => t.factors(),
            _ => [(0..self.coordinates()).map(|i| if i == 0 { -2.0 } else { 2.0 }).collect(), vec![1.0; self.coordinates()]],
        }
    }

    /// Sequences, and rows of each, whose states are full.
    fn full(&self, o: &Options) -> (usize, usize) {
        if let Self::Translator(t) = self { (t.batch.sentences, t.batch.target) } else { (o.sequences, o.context) }
    }

    pub(super) fn constants(&self, context: &Context, o: &Options) -> Result<Constants> {
        let rows = o.sequences * o.context;
        let (sequences, count) = self.full(o);
        let states = State { count: count as u32, ..State::default() }.words().repeat(sequences);
        let angles = match self {
            Self::Decoder(d) => d.shape.rope_theta.map(|theta| angles(o.context, d.shape.head_dim, theta)),
            Self::Translator(t) => Some(translator::positions(t.batch.source.max(t.batch.target), t.config.hidden)),
            Self::Mlp(_) | Self::Graph(_) => None,
        };
        let (coordinates, [factors, signs]) = (self.coordinates() as u32, self.factors());
        Ok(Constants {
            scale: context.upload("constants", &[(1.0 / (rows * o.batches) as f32).to_bits()])?,
            state: context.upload("constants", &states)?,
            angles: context.upload("constants", bytemuck::cast_slice(&angles.unwrap_or(vec![0.0])))?,
            metric: [
                context.upload("constants", &(0..coordinates).collect::<Vec<_>>())?,
                context.upload("constants", bytemuck::cast_slice(&factors))?,
                context.upload("constants", bytemuck::cast_slice(&signs))?,
            ],
        })
    }

    /// Bytes of the constants.
    pub(super) fn constant_bytes(&self, o: &Options) -> [u64; 6] {
        [1, self.full(o).0 * WORDS, self.angle_words(o), self.coordinates(), self.coordinates(), self.coordinates()]
            .map(|words| 4 * words as u64)
    }

    fn angle_words(&self, o: &Options) -> usize {
        match self {
            Self::Decoder(d) if d.shape.rope_theta.is_some() => o.context * d.shape.head_dim,
            Self::Translator(t) => t.batch.source.max(t.batch.target) * t.config.hidden,
            _ => 1,
        }
    }

    /// Declares the constants.
    pub(super) fn constant_slots(&self, tape: &mut Tape, o: &Options) -> ConstantSlots {
        let (angle_words, coordinates) = (self.angle_words(o), self.coordinates());
        let b = &mut tape.builder;
        ConstantSlots {
            scale: b.external("loss scale", 1),
            state: b.external("states", self.full(o).0 * WORDS),
            angles: b.external("angles", angle_words),
            metric: ["coordinates", "factors", "signs"].map(|l| b.external(l, coordinates)),
        }
    }

    /// Appends a graph network's scores of a batch.
    pub(super) fn scores(&self, tape: &mut Tape, slots: &Arc<Slots>, feed: &FeedSlots, o: &Options) -> Result<(Tensor, ConstantSlots)> {
        let Self::Graph(g) = self else { return Err(Error::Request("only graph networks have scores".into())) };
        let constants = self.constant_slots(tape, o);
        let loss = Loss { targets: (feed.targets, 0), scale: (constants.scale, 0), smoothing: 0.0 };
        Ok((g.scores(tape, slots, feed, &Step::new(&loss, feed, o, &constants))?, constants))
    }

    /// Appends the losses of a batch.
    pub(super) fn losses(&self, tape: &mut Tape, slots: &Arc<Slots>, feed: &FeedSlots, o: &Options) -> Result<Losses> {
        let constants = self.constant_slots(tape, o);
        let smoothing = if tape.trains() { o.smoothing } else { 0.0 };
        let loss = Loss { targets: (feed.targets, 0), scale: (constants.scale, 0), smoothing };
        let losses = match self {
            Self::Decoder(d) => {
                let angles = d.shape.rope_theta.map(|_| Angles { slot: constants.angles, positions: o.context });
                let inputs = Inputs {
                    tokens: feed.tokens,
                    state: constants.state,
                    angles,
                    sequences: o.sequences,
                    rows: o.context,
                    loss,
                    progress: feed.progress,
                    dropout: o.dropout,
                    recompute: o.recompute,
                };
                d.losses(tape, slots, &inputs)?
            }
            Self::Graph(g) => g.losses(tape, slots, feed, &Step::new(&loss, feed, o, &constants))?,
            Self::Translator(t) => {
                let inputs = t.inputs(feed, o, &constants, smoothing);
                let losses = t.losses(tape, slots, &inputs)?;
                return Ok(Losses { losses, scale: t.scale(&inputs), constants });
            }
            Self::Mlp(m) => {
                let none = || Error::Request("a classifier needs examples".into());
                let examples = feed.examples.as_ref().ok_or_else(none)?;
                m.losses(tape, slots, feed.tokens, examples, o.sequences * o.context, &loss)?
            }
        };
        Ok(Losses { losses, scale: (constants.scale, 0), constants })
    }
}

/// Losses of a batch.
pub(super) struct Losses {
    /// One value a row.
    pub(super) losses: Tensor,
    /// A word: what each counts.
    pub(super) scale: (SlotId, usize),
    pub(super) constants: ConstantSlots,
}

/// Cosine and sine of each position and pair, by f64.
fn angles(positions: usize, head_dim: usize, theta: f64) -> Vec<f32> {
    let half = head_dim / 2;
    let angle = |p: usize, i: usize| p as f64 * theta.powf(-2.0 * i as f64 / head_dim as f64);
    (0..positions).flat_map(|p| (0..half).map(move |i| angle(p, i))).flat_map(|a| [a.cos() as f32, a.sin() as f32]).collect()
}
