//! A model run over fixed texts again and again, with other weights each time: what a change of a layer does to the outputs.

mod lane;

use super::Model;
use super::forward::{Packed, Sequence, bucket};
use super::linears::Site;
use crate::gpu::Buffer;
use crate::quant::round::Hessian;
use crate::{Error, Result};
use lane::{Chunk, Lane, copy, dot};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Rows of hidden states that are run together, at least: long products use a device better.
const ROWS: usize = 512;
/// Fewest rows of a run: with fewer, norms are fused into products, and what those read is not to be had.
const FEWEST: usize = 16;

/// What is kept of the run before changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// What each layer read, and what the model said: for [`Probe::measure`].
    All,
    /// What one layer read, the one that the probe stands before: for [`Probe::advance`] from layer to layer in little memory.
    Current,
}

/// How far a model is from what it said before its weights were changed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Loss {
    /// For a model of logits the mean over tokens of the divergence `sum_i P[i] log(P[i] / Q[i])` in nats, P before and Q after the
    /// change; for an encoder without a head the mean over texts of 1 - the cosine of its mean-pooled embeddings before and after.
    pub change: f64,
    /// For a decoder the mean negative log-likelihood of the texts' tokens but each one's first, in nats.
    pub nll: Option<f64>,
}

/// A model run over fixed texts again and again, with other weights each time ([`Model::set_weight`]).
///
/// What every transformer layer read is kept, so that a run begins at the first layer whose weights differ; so is what the model said
/// before anything was changed.
#[derive(Debug)]
pub struct Probe {
    model: Arc<Model>,
    lanes: Vec<Lane>,
    batches: Vec<Batch>,
    keep: Keep,
    /// The layer that the kept inputs are those of, with [`Keep::Current`].
    at: usize,
}

#[derive(Debug)]
struct Batch {
    lane: usize,
    texts: Vec<Packed>,
    /// What each layer read, or the current one.
    inputs: Vec<Arc<Buffer>>,
    reference: Reference,
}

#[derive(Debug)]
enum Reference {
    None,
    Logits(Vec<Chunk>),
    Embeddings(Vec<Vec<f64>>),
}

impl Probe {
    /// Runs a model that came from [`Model::load_open`] over texts, in batches of texts of about one length.
    ///
    /// # Errors
    /// [`Error::Request`] without texts; as [`Model::logits`].
    pub async fn new(model: &Arc<Model>, texts: &[Sequence], keep: Keep) -> Result<Self> {
        let mut packed = texts.iter().map(|t| model.pack(t)).collect::<Result<Vec<_>>>()?;
        packed.retain(|p| !p.tokens.is_empty());
        if packed.is_empty() {
            return Err(Error::Request("a probe needs texts, and they have no tokens".into()));
        }
        packed.sort_by_key(|p| bucket(p.tokens.len()));
        let mut probe = Self { model: model.clone(), lanes: Vec::new(), batches: Vec::new(), keep, at: 0 };
        let mut rest = packed.as_slice();
        while let Some(first) = rest.first() {
            // Few shapes, so that few plans are made: lengths up to twice a shape's share it.
            let rows = bucket(first.tokens.len()).next_power_of_two().max(FEWEST).min(model.dimensions().max_positions.max(FEWEST));
            let fit = rest.iter().take_while(|p| p.tokens.len() <= rows).count().max(1);
            let sequences = (ROWS / rows).max(1);
            let taken = fit.min(sequences);
            let lane = probe.lane(sequences, rows)?;
            let (own, left) = rest.split_at(taken);
            probe.batches.push(Batch { lane, texts: own.to_vec(), inputs: Vec::new(), reference: Reference::None });
            rest = left;
        }
        for b in 0..probe.batches.len() {
            probe.first_run(b).await?;
        }
        Ok(probe)
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The texts, by length.
    pub fn texts(&self) -> impl Iterator<Item = &[u32]> {
        self.batches.iter().flat_map(|b| &b.texts).map(|t| t.tokens.as_slice())
    }

    /// Tokens of all texts.
    pub fn tokens(&self) -> usize {
        self.texts().map(<[u32]>::len).sum()
    }

    fn lane(&mut self, sequences: usize, rows: usize) -> Result<usize> {
        if let Some(at) = self.lanes.iter().position(|l| (l.sequences, l.rows) == (sequences, rows)) {
            return Ok(at);
        }
        self.lanes.push(Lane::new(&self.model, sequences, rows, self.keep)?);
        Ok(self.lanes.len() - 1)
    }

    /// The run before anything is changed.
    async fn first_run(&mut self, b: usize) -> Result<()> {
        let lane = &self.lanes[self.batches[b].lane];
        let (context, layers) = (self.model.context(), lane.layers.len());
        let texts = &self.batches[b].texts;
        lane.begin(context, texts)?;
        lane.embed.run(1)?;
        let mut inputs = vec![lane.kept(context)?];
        let mut reference = Reference::None;
        if self.keep == Keep::All {
            for (i, layer) in lane.layers.iter().enumerate() {
                layer.run(1)?;
                if i + 1 < layers {
                    inputs.push(lane.kept(context)?);
                }
            }
            lane.finish()?;
            reference = match lane.chunks(&self.model, texts)? {
                Some(chunks) => {
                    chunks.iter().try_for_each(|c| lane.keep_logits(context, c))?;
                    Reference::Logits(chunks)
                }
                None => Reference::Embeddings(lane.embeddings(context, texts).await?),
            };
        }
        self.batches[b].reference = reference;
        self.batches[b].inputs = inputs;
        Ok(())
    }

    /// How far the model is from what it said at first, if all layers before `first` are as they were.
    ///
    /// # Errors
    /// [`Error::Request`] with [`Keep::Current`], where there is no such layer, or where an output is not finite.
    pub async fn measure(&self, first: usize) -> Result<Loss> {
        if self.keep != Keep::All || first >= self.layers() {
            return Err(Error::Request(format!("a probe of {} layers cannot measure from layer {first} on", self.layers())));
        }
        let (mut change, mut nll) = (Mean::default(), Mean::default());
        for batch in &self.batches {
            let (lane, context) = (&self.lanes[batch.lane], self.model.context());
            lane.begin(context, &batch.texts)?;
            copy(context, &batch.inputs[first], &lane.stream);
            lane.run_from(context, first)?;
            self.compare(batch, &mut change, &mut nll).await?;
        }
        loss(&change, &nll)
    }

    /// Compares what the layers of a batch made with what they made at first.
    async fn compare(&self, batch: &Batch, change: &mut Mean, nll: &mut Mean) -> Result<()> {
        let (lane, context) = (&self.lanes[batch.lane], self.model.context());
        lane.finish()?;
        let chunks = match &batch.reference {
            Reference::None => return Err(Error::Request("the probe has kept nothing to compare with".into())),
            Reference::Embeddings(before) => {
                let after = lane.embeddings(context, &batch.texts).await?;
                before.iter().zip(&after).for_each(|(a, b)| change.add(1.0 - dot(a, b)));
                return Ok(());
            }
            Reference::Logits(chunks) => chunks,
        };
        chunks.iter().try_for_each(|c| lane.compare(context, c))?;
        for c in chunks {
            let bytes = 4 * c.picked.len() as u64;
            let mut ranges = vec![(&*c.found, 0..bytes)];
            ranges.extend(c.losses.as_ref().map(|l| (&**l, 0..bytes)));
            let words = context.read_ranges(&ranges)?.words().await?;
            words[0].iter().for_each(|w| change.add(f64::from(f32::from_bits(*w))));
            if let Some(losses) = words.get(1) {
                let followed = losses.iter().zip(&c.followed).filter(|(_, f)| **f);
                followed.for_each(|(w, _)| nll.add(f64::from(f32::from_bits(*w))));
            }
        }
        Ok(())
    }

    /// Runs layer `i` with its weights as they are now; what it makes is what the next one is taken to read from now on.
    ///
    /// # Errors
    /// [`Error::Request`] for a layer that there is not, or with [`Keep::Current`] for one that is not the current one.
    pub fn advance(&mut self, i: usize) -> Result<()> {
        self.check(i)?;
        let last = i + 1 == self.layers();
        for batch in &self.batches {
            let lane = &self.lanes[batch.lane];
            let context = self.model.context();
            lane.begin(context, &batch.texts)?;
            copy(context, &batch.inputs[self.place(i)], &lane.stream);
            lane.layers[i].run(1)?;
            if !last {
                copy(context, &lane.stream, &batch.inputs[self.place(i + 1)]);
            }
        }
        self.at = i + 1;
        Ok(())
    }

    fn layers(&self) -> usize {
        self.model.transformer.layers.len()
    }

    fn place(&self, layer: usize) -> usize {
        if self.keep == Keep::All { layer } else { 0 }
    }

    fn check(&self, i: usize) -> Result<()> {
        let missing = i >= self.layers();
        if missing || (self.keep == Keep::Current && i != self.at) {
            let why =
                if missing { format!("the model has {}", self.layers()) } else { format!("the probe stands before layer {}", self.at) };
            return Err(Error::Request(format!("layer {i}: {why}")));
        }
        Ok(())
    }

    /// What the linear layers of layer `i` read, as sums over all tokens: `H = Xᵀ X` for each site. Batches are summed on the device in
    /// f32, over batches in f64.
    ///
    /// # Errors
    /// As [`Probe::advance`]; [`Error::Shape`] for inputs that are not finite.
    pub async fn hessians(&self, i: usize) -> Result<BTreeMap<Site, Hessian>> {
        self.check(i)?;
        let context = self.model.context();
        let mut out = BTreeMap::new();
        for (l, lane) in self.lanes.iter().enumerate() {
            let (bound, products) = lane.moments(&self.model, i)?;
            for batch in self.batches.iter().filter(|b| b.lane == l) {
                lane.begin(context, &batch.texts)?;
                copy(context, &batch.inputs[self.place(i)], &lane.stream);
                bound.run(1)?;
                let ranges: Vec<(&Buffer, Range<u64>)> = products.iter().map(|p| (&*p.2, 0..4 * (p.1 * p.1) as u64)).collect();
                let words = context.read_ranges(&ranges)?.words().await?;
                let tokens = batch.texts.iter().map(|t| t.tokens.len() as u64).sum();
                for ((site, cols, _), words) in products.iter().zip(&words) {
                    let sum = out.entry(*site).or_insert_with(|| Hessian::new(*cols));
                    sum.add_product(bytemuck::cast_slice(words), tokens)?;
                }
            }
        }
        Ok(out)
    }

    /// How far the model is from what it said, if what the layers of a site of layer `i` read (and nothing else) is disturbed:
    /// `noise(batch, row, cols)` is added to its rows, the texts of a batch one under the other, each with its padding.
    ///
    /// # Errors
    /// As [`Probe::measure`].
    pub async fn disturbed(&self, i: usize, site: Site, noise: &dyn Fn(usize, usize, usize) -> Vec<f32>) -> Result<Loss> {
        self.check(i)?;
        let mut lanes = Vec::new();
        for lane in &self.lanes {
            lanes.push(lane.disturbed(&self.model, i, site)?);
        }
        let (mut change, mut nll) = (Mean::default(), Mean::default());
        let context = self.model.context();
        for (b, batch) in self.batches.iter().enumerate() {
            let (lane, (bound, buffer, cols)) = (&self.lanes[batch.lane], &lanes[batch.lane]);
            let values: Vec<f32> = (0..lane.sequences * lane.rows).flat_map(|row| noise(b, row, *cols)).collect();
            if values.len() != lane.sequences * lane.rows * cols {
                return Err(Error::shape("noise", format!("{} values where rows of {cols} are wanted", values.len())));
            }
            context.write(buffer, 0, bytemuck::cast_slice(&values))?;
            lane.begin(context, &batch.texts)?;
            copy(context, &batch.inputs[self.place(i)], &lane.stream);
            bound.run(1)?;
            lane.run_from(context, i + 1)?;
            self.compare(batch, &mut change, &mut nll).await?;
        }
        loss(&change, &nll)
    }

    /// What layer `i` reads, `(tokens, width)`; after the last layer what it makes. First tokens of texts are left out with
    /// `without_first`: they draw so much attention in many models that they hide the rest.
    ///
    /// # Errors
    /// [`Error::Request`] with [`Keep::Current`], or for a layer that there is not.
    pub async fn hidden(&self, i: usize, without_first: bool) -> Result<Vec<f32>> {
        if self.keep != Keep::All || i > self.layers() {
            return Err(Error::Request(format!("hidden state {i}: the probe keeps 0 to {}", self.layers())));
        }
        let (width, context) = (self.model.dimensions().hidden, self.model.context());
        let mut out = Vec::new();
        for batch in &self.batches {
            let lane = &self.lanes[batch.lane];
            let buffer = match batch.inputs.get(i) {
                Some(kept) => kept,
                None => {
                    lane.begin(context, &batch.texts)?;
                    copy(context, &batch.inputs[i - 1], &lane.stream);
                    lane.run_from(context, i - 1)?;
                    &lane.stream
                }
            };
            let skip = usize::from(without_first);
            let ranges: Vec<(&Buffer, Range<u64>)> = batch
                .texts
                .iter()
                .enumerate()
                .filter(|(_, t)| t.tokens.len() > skip)
                .map(|(q, t)| (&**buffer, lane.bytes(q, skip..t.tokens.len(), width)))
                .collect();
            if !ranges.is_empty() {
                out.extend(context.read_ranges(&ranges)?.words().await?.into_iter().flatten().map(f32::from_bits));
            }
        }
        Ok(out)
    }
}

fn loss(change: &Mean, nll: &Mean) -> Result<Loss> {
    let loss = Loss { change: change.value(), nll: (nll.count > 0).then(|| nll.value()) };
    // Noise must not count as no change.
    if !(loss.change.is_finite() && loss.nll.is_none_or(f64::is_finite)) {
        return Err(Error::Request("the outputs of the changed model are not finite: its weights, or the noise, are too large".into()));
    }
    Ok(loss)
}

/// A running mean.
#[derive(Default)]
struct Mean {
    sum: f64,
    count: usize,
}

impl Mean {
    fn add(&mut self, v: f64) {
        self.sum += v;
        self.count += 1;
    }

    fn value(&self) -> f64 {
        self.sum / self.count.max(1) as f64
    }
}
