//! Training data on the device: which windows make up which batch is decided ahead, so that steps need nothing from the host.

use super::graph::{GraphData, GraphExtent, GraphSlots};
use crate::gpu::{Buffer, Context};
use crate::kernel::batch::{Batch, batch};
use crate::kernel::progress::{Progress, WORDS};
use crate::plan::{Builder, SlotId};
use crate::tensor::Tensor;
use crate::{Error, Result};
use std::sync::Arc;

/// Data of a run: batch j of sequences takes windows `starts[j sequences ..]` of the tokens.
#[derive(Debug, Clone, Default)]
pub struct Data {
    /// Tokens one after another; for a classifier, pairs of an example's number and its class; for a graph, [`super::GraphRows`].
    pub tokens: Vec<u32>,
    /// First token of each window.
    pub starts: Vec<u32>,
    /// Which of the network's shapes of batches each window has; empty: all the first.
    pub shapes: Vec<u32>,
    /// Rows, columns and values of a classifier's examples.
    pub examples: Option<(usize, usize, Vec<f32>)>,
    /// A graph network's graph.
    pub graph: Option<GraphData>,
}

/// How much data there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) tokens: usize,
    pub(super) starts: usize,
    /// Rows and columns of the examples.
    pub(super) examples: Option<(usize, usize)>,
    pub(super) graph: Option<GraphExtent>,
}

/// Its buffers, and the progress of whoever reads them.
#[derive(Debug)]
pub(super) struct Feed {
    tokens: Arc<Buffer>,
    starts: Arc<Buffer>,
    pub(super) progress: Arc<Buffer>,
    examples: Option<Arc<Buffer>>,
    graph: Vec<Arc<Buffer>>,
    shapes: Vec<u32>,
    pub(super) extent: Extent,
}

/// Slots of a feed in a plan.
#[derive(Debug)]
pub(super) struct FeedSlots {
    corpus: SlotId,
    starts: SlotId,
    pub(super) progress: SlotId,
    pub(super) examples: Option<Tensor>,
    pub(super) graph: Option<GraphSlots>,
    /// Inputs of a batch, a word a row.
    pub(super) tokens: SlotId,
    pub(super) targets: SlotId,
}

impl FeedSlots {
    /// Declares the slots and appends what takes the next batch.
    pub(super) fn append(b: &mut Builder, e: &Extent, (sequences, rows, batches): (usize, usize, usize)) -> Result<Self> {
        let corpus = b.external("corpus", e.tokens);
        let starts = b.external("windows", e.starts);
        let progress = b.external("progress", WORDS);
        let examples = e.examples.map(|(r, c)| b.external_tensor("examples", r, c));
        let graph = e.graph.as_ref().map(|g| GraphSlots::external(b, g));
        let [tokens, targets] = ["tokens", "targets"].map(|l| b.transient(l, 1, sequences * rows).slot);
        let what = Batch { corpus, corpus_len: e.tokens, starts, starts_len: e.starts, progress, sequences, rows, micros: batches };
        batch(b, "batch", &what, tokens, targets)?;
        Ok(Self { corpus, starts, progress, examples, graph, tokens, targets })
    }

    /// The buffers that go with them.
    pub(super) fn bindings(&self, f: &Feed) -> Vec<(SlotId, Arc<Buffer>)> {
        let mut bound = vec![(self.corpus, f.tokens.clone()), (self.starts, f.starts.clone()), (self.progress, f.progress.clone())];
        bound.extend(self.examples.as_ref().zip(f.examples.as_ref()).map(|(t, b)| (t.slot, b.clone())));
        bound.extend(self.graph.iter().flat_map(|g| g.all.iter().copied()).zip(f.graph.iter().cloned()));
        bound
    }
}

impl Data {
    fn extent(&self, graph: Option<GraphExtent>) -> Extent {
        let examples = self.examples.as_ref().map(|(r, c, _)| (*r, *c));
        Extent { tokens: self.tokens.len(), starts: self.starts.len(), examples, graph }
    }
}

impl Feed {
    /// `rows`: of a window of each shape.
    pub(super) fn new(context: &Context, data: &Data, rows: &[usize], seed: u64) -> Result<Self> {
        let n = data.tokens.len();
        if data.starts.is_empty() || n <= rows.iter().copied().min().unwrap_or(0) {
            let least = rows.iter().min().unwrap_or(&0);
            return Err(Error::Request(format!("{n} tokens are too few for one window of {least} and the token after it: give more text")));
        }
        if !data.shapes.is_empty() && data.shapes.len() != data.starts.len() {
            return Err(Error::Request(format!("shapes of {} windows where there are {}", data.shapes.len(), data.starts.len())));
        }
        for (i, s) in data.starts.iter().enumerate() {
            let shape = data.shapes.get(i).map_or(0, |s| *s as usize);
            let Some(rows) = rows.get(shape) else {
                return Err(Error::Request(format!("window {i} has shape {shape} of {}", rows.len())));
            };
            if *s as usize + rows >= n {
                return Err(Error::Request(format!("a window at token {s} of {n} reaches past the end")));
            }
        }
        let examples = match &data.examples {
            Some((_, _, values)) => Some(context.upload("data", bytemuck::cast_slice(values))?),
            None => None,
        };
        let graph = data.graph.as_ref().map(|g| g.words(&data.tokens)).transpose()?;
        Ok(Self {
            graph: graph.as_ref().map_or(Ok(Vec::new()), |g| g.upload(context))?,
            tokens: context.upload("data", &data.tokens)?,
            starts: context.upload("data", &data.starts)?,
            progress: context.upload("progress", &Progress { seed, ..Progress::default() }.words())?,
            examples,
            shapes: data.shapes.clone(),
            extent: data.extent(graph.map(|g| g.extent)),
        })
    }

    /// Whether a window has that shape.
    pub(super) fn has(&self, shape: usize) -> bool {
        if self.shapes.is_empty() { shape == 0 } else { self.shapes.contains(&(shape as u32)) }
    }

    /// The shape of a window of the run, counted from 0.
    pub(super) fn shape(&self, window: usize) -> usize {
        self.shapes.get(window % self.extent.starts.max(1)).map_or(0, |s| *s as usize)
    }
}
