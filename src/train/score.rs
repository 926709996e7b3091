//! Scores of a graph network being trained: of its classes at given nodes, or of pairs.

use super::batch::{BatchPlan, Pass};
use super::feed::{Data, Feed};
use super::options::Options;
use super::run::Trainer;
use crate::gpu::Buffer;
use crate::plan::Bound;
use crate::{Error, Result};
use std::sync::Arc;

/// A plan of scores, and where they go.
#[derive(Debug)]
pub(super) struct Scores {
    bound: Bound,
    /// What the plan reads stays alive with it.
    _feed: Feed,
    to: Arc<Buffer>,
    words: usize,
}

impl Trainer {
    /// Prepares scores of the data's pairs: [`super::GraphRows::Nodes`], a score for each class, or [`super::GraphRows::Pairs`], one each.
    ///
    /// # Errors
    /// As [`Trainer::new`].
    pub fn score_on(&mut self, data: &Data) -> Result<()> {
        let o = Options { sequences: data.starts.len(), context: 1, batches: 1, ..self.options.clone() };
        let feed = Feed::new(&self.context, data, &[1], 0)?;
        let constants = self.network.constants(&self.context, &o)?;
        let plan = BatchPlan::new(self.context.facts(), &self.network, &self.layout, &feed.extent, &o, Pass::Scores)?;
        let words = plan.score_words();
        let to = self.context.storage("scores", 4 * words as u64)?;
        let bound = plan.bind(&self.context, &self.buffers, &feed, &constants, std::slice::from_ref(&to))?;
        self.scores = Some(Scores { bound, _feed: feed, to, words });
        Ok(())
    }

    /// The scores, row by row, with the weights as they are now.
    ///
    /// # Errors
    /// [`Error::Request`] without [`Trainer::score_on`].
    pub async fn scores(&self) -> Result<Vec<f32>> {
        let Some(s) = &self.scores else { return Err(Error::Request("no data to be scored".into())) };
        s.bound.run(1)?;
        let words = self.context.read_ranges(&[(&*s.to, 0..4 * s.words as u64)])?.words().await?.remove(0);
        Ok(bytemuck::cast_vec(words))
    }
}
