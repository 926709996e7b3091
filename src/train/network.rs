//! What is trained: a decoder or a classifier.

use super::decoder::{Decoder, Inputs};
use super::feed::FeedSlots;
use super::layout::{Layout, Slots};
use super::method::{Decay, Linear};
use super::mlp::Mlp;
use super::options::Options;
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
}

/// Its tensors.
#[derive(Debug, Clone)]
pub(super) enum Network {
    Decoder(Arc<Decoder>),
    Mlp(Mlp),
}

/// Constants on the device.
#[derive(Debug)]
pub(super) struct Constants {
    /// Weight of a row's loss.
    scale: Arc<Buffer>,
    /// States of full sequences.
    state: Arc<Buffer>,
    angles: Arc<Buffer>,
}

/// Their slots in a plan.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConstantSlots {
    pub(super) scale: SlotId,
    state: SlotId,
    angles: SlotId,
}

impl ConstantSlots {
    pub(super) fn bindings(&self, c: &Constants) -> [(SlotId, Arc<Buffer>); 3] {
        [(self.scale, c.scale.clone()), (self.state, c.state.clone()), (self.angles, c.angles.clone())]
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
            Spec::Mlp(widths) if widths.len() > 1 && !widths.contains(&0) => Ok(Self::Mlp(Mlp::plan(layout, widths, &o.method, decay))),
            Spec::Mlp(widths) => Err(Error::Request(format!("a classifier of widths {widths:?}: inputs and classes at least, none empty"))),
        }
    }

    /// Every adapted layer.
    pub(super) fn linears(&self) -> Vec<&Linear> {
        match self {
            Self::Decoder(d) => d.linears().collect(),
            Self::Mlp(m) => m.linears().collect(),
        }
    }

    /// The width that a round of re-SVD follows: of the embeddings, or the widest smaller side of a layer.
    pub(super) fn width(&self) -> usize {
        match self {
            Self::Decoder(d) => d.shape.hidden,
            Self::Mlp(m) => m.linears().map(|l| l.m.min(l.n)).max().unwrap_or(1),
        }
    }

    /// Deviation of normally distributed initial weights, where the network's family says one.
    pub(super) fn init_std(&self) -> Option<f64> {
        match self {
            Self::Decoder(d) => Some(d.shape.init_std),
            Self::Mlp(_) => None,
        }
    }

    pub(super) fn constants(&self, context: &Context, o: &Options) -> Result<Constants> {
        let rows = o.sequences * o.context;
        let states = State { count: o.context as u32, ..State::default() }.words().repeat(o.sequences);
        let angles = match self {
            Self::Decoder(d) => d.shape.rope_theta.map(|theta| angles(o.context, d.shape.head_dim, theta)),
            Self::Mlp(_) => None,
        };
        Ok(Constants {
            scale: context.upload("constants", &[(1.0 / (rows * o.batches) as f32).to_bits()])?,
            state: context.upload("constants", &states)?,
            angles: context.upload("constants", bytemuck::cast_slice(&angles.unwrap_or(vec![0.0])))?,
        })
    }

    /// Bytes of the constants.
    pub(super) fn constant_bytes(&self, o: &Options) -> [u64; 3] {
        [1, o.sequences * WORDS, self.angle_words(o)].map(|words| 4 * words as u64)
    }

    fn angle_words(&self, o: &Options) -> usize {
        match self {
            Self::Decoder(d) if d.shape.rope_theta.is_some() => o.context * d.shape.head_dim,
            _ => 1,
        }
    }

    /// Appends the losses of a batch.
    pub(super) fn losses(&self, tape: &mut Tape, slots: &Arc<Slots>, feed: &FeedSlots, o: &Options) -> Result<(Tensor, ConstantSlots)> {
        let angle_words = self.angle_words(o);
        let b = &mut tape.builder;
        let constants = ConstantSlots {
            scale: b.external("loss scale", 1),
            state: b.external("states", o.sequences * WORDS),
            angles: b.external("angles", angle_words),
        };
        let smoothing = if tape.trains() { o.smoothing } else { 0.0 };
        let loss = Loss { targets: feed.targets, scale: (constants.scale, 0), smoothing };
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
            Self::Mlp(m) => {
                let none = || Error::Request("a classifier needs examples".into());
                let examples = feed.examples.as_ref().ok_or_else(none)?;
                m.losses(tape, slots, feed.tokens, examples, o.sequences * o.context, &loss)?
            }
        };
        Ok((losses, constants))
    }
}

/// Cosine and sine of each position and pair, by f64.
fn angles(positions: usize, head_dim: usize, theta: f64) -> Vec<f32> {
    let half = head_dim / 2;
    let angle = |p: usize, i: usize| p as f64 * theta.powf(-2.0 * i as f64 / head_dim as f64);
    (0..positions).flat_map(|p| (0..half).map(move |i| angle(p, i))).flat_map(|a| [a.cos() as f32, a.sin() as f32]).collect()
}
