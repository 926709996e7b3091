//! Plans of one batch of data, in each of the shapes that batches have.

use super::feed::{Extent, Feed, FeedSlots};
use super::layout::{Buffers, Layout, Slots};
use super::method::Stand;
use super::network::{ConstantSlots, Constants, Network};
use super::options::Options;
use crate::Result;
use crate::autograd::Tape;
use crate::gpu::{Buffer, Context, Facts};
use crate::kernel::add::copy;
use crate::kernel::progress::count_loss;
use crate::plan::{Bound, Builder, Plan, SlotId};
use std::sync::Arc;

/// A shape of batches: the network as its plans are made for it, with the options that go with it.
#[derive(Debug)]
pub(super) struct Shape {
    network: Network,
    options: Options,
    constants: Constants,
}

impl Shape {
    /// Every shape that a network's batches have.
    pub(super) fn all(context: &Context, network: &Network, o: &Options) -> Result<Vec<Self>> {
        let of = |(network, options): (Network, Options)| {
            let constants = network.constants(context, &options)?;
            Ok(Self { network, options, constants })
        };
        network.shapes(o).into_iter().map(of).collect()
    }

    /// Rows of each, a window's.
    pub(super) fn rows(all: &[Self]) -> Vec<usize> {
        all.iter().map(|s| s.options.context).collect()
    }
}

/// The plans of one pass, one for each shape that the data have.
#[derive(Debug)]
pub(super) struct Plans {
    /// A shape's number, and its plan; one at least.
    bound: Vec<(usize, Bound)>,
    sequences: usize,
}

impl Plans {
    /// `wholes`: as in [`BatchPlan::bind`].
    pub(super) fn new(
        context: &Context,
        shapes: &[Shape],
        layout: &Arc<Layout>,
        (buffers, feed): (&Buffers, &Feed),
        pass: Pass,
        wholes: &[Arc<Buffer>],
    ) -> Result<Self> {
        let one = |(i, s): (usize, &Shape)| {
            let plan = BatchPlan::new(context.facts(), &s.network, layout, &feed.extent, &s.options, pass)?;
            Ok((i, plan.bind(context, buffers, feed, &s.constants, wholes)?))
        };
        let bound = shapes.iter().enumerate().filter(|(i, _)| feed.has(*i)).map(one).collect::<Result<Vec<_>>>()?;
        Ok(Self { bound, sequences: shapes.first().map_or(1, |s| s.options.sequences) })
    }

    /// The plan for the run's batch of that number: after a fault the device repeats a batch, perhaps in another's shape, but then no
    /// update happens any more.
    pub(super) fn of(&self, feed: &Feed, batch: usize) -> &Bound {
        let shape = feed.shape(batch * self.sequences);
        self.bound.iter().find(|(i, _)| *i == shape).map_or(self.first(), |(_, bound)| bound)
    }

    /// The first of these shapes'.
    pub(super) fn first(&self) -> &Bound {
        &self.bound[0].1
    }
}

/// A plan of one batch, not bound to buffers yet.
pub(super) struct BatchPlan {
    pub(super) plan: Arc<Plan>,
    slots: Arc<Slots>,
    feed: FeedSlots,
    constants: ConstantSlots,
    /// Whole gradients of the adapted layers, or scores.
    wholes: Vec<SlotId>,
    score_words: usize,
}

/// What a batch's plan does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    /// Losses and gradients, which overwrite.
    First,
    /// The same, which add.
    Further,
    /// Losses only.
    Evaluation,
    /// Gradients, those of projected weights whole, and nothing is counted.
    Whole,
    /// Scores only, of graph networks.
    Scores,
}

impl BatchPlan {
    /// Plans a batch; allocates nothing.
    pub(super) fn new(facts: &Facts, network: &Network, layout: &Arc<Layout>, extent: &Extent, o: &Options, pass: Pass) -> Result<Self> {
        let mut b = Builder::new(format!("{pass:?} batch").to_lowercase(), facts);
        let mut slots = Slots::new(&mut b, layout);
        let (mut wholes, mut score_words) = (Vec::new(), 0);
        for l in network.linears().into_iter().filter(|_| pass == Pass::Whole) {
            if let Stand::Projected { step, .. } = l.weight {
                let to = b.external_tensor(format!("{} whole gradient", l.name), l.m, l.n);
                slots.want_whole(step, to);
                wholes.push(to.slot);
            }
        }
        let slots = Arc::new(slots);
        let feed = FeedSlots::append(&mut b, extent, (o.sequences, o.context, o.batches))?;
        let mut tape = match pass {
            Pass::Evaluation | Pass::Scores => Tape::forward_only(b),
            _ => Tape::new(b, pass == Pass::Further),
        };
        let constants = if pass == Pass::Scores {
            let (scores, constants) = network.scores(&mut tape, &slots, &feed, o)?;
            let to = tape.builder.external_tensor("scores", scores.rows, scores.cols);
            copy(&mut tape.builder, "scores", &scores, &to)?;
            wholes.push(to.slot);
            score_words = scores.rows * scores.cols;
            constants
        } else {
            let l = network.losses(&mut tape, &slots, &feed, o)?;
            tape.backward()?;
            if pass != Pass::Whole {
                count_loss(&mut tape.builder, "count loss", &l.losses, l.scale, feed.progress)?;
            }
            l.constants
        };
        Ok(Self { plan: Arc::new(tape.builder.finish()?), slots, feed, constants, wholes, score_words })
    }

    /// Words of the scores of [`Pass::Scores`].
    pub(super) fn score_words(&self) -> usize {
        self.score_words
    }

    /// `wholes`: buffers for the scores, or the whole gradients of the adapted layers, in their order.
    pub(super) fn bind(
        &self,
        context: &Context,
        buffers: &Buffers,
        feed: &Feed,
        constants: &Constants,
        wholes: &[Arc<Buffer>],
    ) -> Result<Bound> {
        let mut bound = self.slots.bindings(buffers);
        bound.extend(self.wholes.iter().copied().zip(wholes.iter().cloned()));
        bound.extend(self.feed.bindings(feed));
        bound.extend(self.constants.bindings(constants));
        self.plan.bind(context, &bound)
    }
}
