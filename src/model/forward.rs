//! Whole sequences at once, without a cache: logits, hidden states, likelihoods, embeddings.

use super::Model;
use super::bert::Head;
use super::transformer::{Context as Seen, Inputs, project};
use super::weights::Graph;
use crate::gpu::Buffer;
use crate::kernel::embedding::{Ids, embedding};
use crate::kernel::kl::kl;
use crate::kernel::linear::{Activation, Fused, linear};
use crate::kernel::nll::nll;
use crate::kernel::norm::{Rows, norm};
use crate::kernel::state::{State, WORDS};
use crate::plan::{Bound, Builder};
use crate::tensor::{Format, Matrix, Segment, Tensor};
use crate::{Error, Result};
use std::sync::Arc;

/// Rows of logits that are made at a time: 49,152 tokens of vocabulary take 25 MB.
pub(crate) const HEAD_ROWS: usize = 128;

/// Tokens of one sequence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sequence {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// False for padding, which no token sees and which has no outputs; empty: no padding.
    pub mask: Vec<bool>,
    /// Token types (BERT); empty: all 0.
    pub types: Vec<u32>,
}

impl From<Vec<u32>> for Sequence {
    fn from(tokens: Vec<u32>) -> Self {
        Self { tokens, ..Self::default() }
    }
}

/// What a run gave, for each sequence its unmasked rows one after another.
#[derive(Debug, Clone, Default)]
pub struct Outputs {
    /// `(rows, vocabulary)` of each sequence; a classifier's one row.
    pub logits: Vec<Vec<f32>>,
    /// For each wanted layer, `(rows, hidden)` of each sequence.
    pub hidden: Vec<Vec<Vec<f32>>>,
}

/// A plan for some shape of input, with its buffers.
#[derive(Debug)]
pub(crate) struct Runner {
    body: Bound,
    rows: usize,
    tokens: Arc<Buffer>,
    types: Option<Arc<Buffer>>,
    positions: Option<Arc<Buffer>>,
    state: Arc<Buffer>,
    taps: Vec<(usize, usize, Arc<Buffer>)>,
    head: Bound,
    head_rows: usize,
    picked: Arc<Buffer>,
    targets: Arc<Buffer>,
    logits: Arc<Buffer>,
    logit_cols: usize,
    losses: Option<Arc<Buffer>>,
}

/// The smallest bucket that holds `n`: powers of two, then multiples of 64.
pub(crate) fn bucket(n: usize) -> usize {
    if n <= 64 { n.next_power_of_two() } else { n.next_multiple_of(64) }
}

/// One sequence without its padding.
#[derive(Debug, Clone)]
pub(crate) struct Packed {
    pub(crate) tokens: Vec<u32>,
    pub(crate) types: Vec<u32>,
    pub(crate) positions: Vec<u32>,
}

impl Model {
    /// Logits of every unmasked token: for a decoder of the next token, for a masked-LM head of the token itself; a classifier
    /// gives one row a sequence.
    ///
    /// # Errors
    /// [`Error::Request`] for a token or length that the model has not.
    pub async fn logits(&self, sequences: &[Sequence]) -> Result<Vec<Vec<f32>>> {
        Ok(self.run(sequences, &[], true).await?.logits)
    }

    /// Hidden states by number: 0 are the embeddings, the last is after the final norm; for each, `(rows, width)` of each
    /// sequence's unmasked tokens.
    ///
    /// # Errors
    /// As [`Model::logits`].
    pub async fn hidden(&self, sequences: &[Sequence], layers: &[usize]) -> Result<Vec<Vec<Vec<f32>>>> {
        Ok(self.run(sequences, layers, false).await?.hidden)
    }

    /// Negative log-likelihood, in nats, of each token of a sequence but the first, given those before it.
    ///
    /// # Errors
    /// As [`Model::logits`]; [`Error::Request`] for a model that does not generate.
    pub async fn nll(&self, tokens: &[u32]) -> Result<Vec<f32>> {
        if !self.is_decoder() || tokens.len() < 2 {
            return Err(Error::Request("likelihoods need a decoder and at least two tokens".into()));
        }
        let (runner, packed) = self.start(&[tokens.to_vec().into()], &[])?;
        let losses = runner.losses.as_ref().ok_or_else(|| Error::Request("this model has no likelihoods".into()))?;
        runner.body.run(1)?;
        let mut out = Vec::with_capacity(tokens.len() - 1);
        let tokens = &packed[0].tokens;
        for at in (0..tokens.len() - 1).step_by(runner.head_rows) {
            let end = (at + runner.head_rows).min(tokens.len() - 1);
            let picked: Vec<u32> = (at..end).map(|r| r as u32).collect();
            self.context.write(&runner.picked, 0, &picked)?;
            self.context.write(&runner.targets, 0, &tokens[at + 1..end + 1])?;
            runner.head.run(1)?;
            let words = self.context.read_ranges(&[(losses, 0..4 * (end - at) as u64)])?.words().await?;
            out.extend(words[0].iter().map(|w| f32::from_bits(*w)));
        }
        Ok(out)
    }

    /// Kullback-Leibler divergence, in nats, of another model's predictions from this one's after each token: `sum_i P[i] log(P[i] / Q[i])`,
    /// P being this model's and Q the other's; not a number where a logit is none. It tells what compression changed with far less noise than the likelihoods of a text.
    ///
    /// # Errors
    /// As [`Model::logits`]; [`Error::Request`] for a classifier, models of different vocabularies, or on different devices.
    pub async fn divergence(&self, other: &Self, tokens: &[u32]) -> Result<Vec<f32>> {
        let [mine, theirs] = [self, other].map(|m| m.transformer.shape.vocabulary);
        if mine != theirs || self.context.device() != other.context.device() {
            return Err(Error::Request(format!("models of {mine} and {theirs} tokens, on one device or two: they cannot be compared")));
        }
        if [self, other].iter().any(|m| matches!(m.head, Head::Classifier { .. })) {
            return Err(Error::Request("a classifier predicts no tokens".into()));
        }
        let runners = [self, other].map(|m| m.start(&[tokens.to_vec().into()], &[]).map(|(runner, _)| runner));
        let [mine, theirs] = runners;
        let (mine, theirs) = (mine?, theirs?);
        let rows = mine.head_rows.min(theirs.head_rows);
        let mut b = Builder::new("divergence", self.context.facts());
        let [p, q] = ["p", "q"].map(|label| b.external_tensor(label, rows, mine.logit_cols));
        let y = b.external_tensor("divergences", 1, rows);
        let found = self.context.storage("outputs", 4 * rows as u64)?;
        kl(&mut b, "divergence", &p, &q, &y)?;
        let bound = [(p.slot, mine.logits.clone()), (q.slot, theirs.logits.clone()), (y.slot, found.clone())];
        let compare = Arc::new(b.finish()?).bind(&self.context, &bound)?;
        // One after the other: two models of one context may share a workspace.
        mine.body.run(1)?;
        theirs.body.run(1)?;
        let mut out = Vec::with_capacity(tokens.len());
        for at in (0..tokens.len()).step_by(rows) {
            let picked: Vec<u32> = (at..(at + rows).min(tokens.len())).map(|r| r as u32).collect();
            for runner in [&mine, &theirs] {
                self.context.write(&runner.picked, 0, &picked)?;
                runner.head.run(1)?;
            }
            compare.run(1)?;
            let words = self.context.read_ranges(&[(&*found, 0..4 * picked.len() as u64)])?.words().await?;
            out.extend(words[0].iter().map(|w| f32::from_bits(*w)));
        }
        Ok(out)
    }

    /// Runs the layers and the head over some tokens, every dispatch against its CPU twin.
    ///
    /// # Errors
    /// [`Error::Mismatch`] for the first dispatch that differs; as [`Model::logits`].
    pub async fn verify(&self, tokens: &[u32]) -> Result<Vec<crate::plan::Verified>> {
        let (runner, _) = self.start(&[tokens.to_vec().into()], &[])?;
        let mut done = runner.body.verify().await?;
        let picked: Vec<u32> = (0..runner.head_rows.min(tokens.len()) as u32).collect();
        self.context.write(&runner.picked, 0, &picked)?;
        done.extend(runner.head.verify().await?);
        Ok(done)
    }

    /// Device time of every dispatch of a forward pass over some tokens (without the head).
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the device has no timestamps; as [`Model::logits`].
    pub async fn profile(&self, tokens: &[u32]) -> Result<Vec<crate::plan::OpTime>> {
        let (runner, _) = self.start(&[tokens.to_vec().into()], &[])?;
        runner.body.run(1)?;
        runner.body.profile().await
    }

    /// One vector a sequence: the mean of the last hidden states of its unmasked tokens, or the first token's; with `normalise`
    /// scaled to length 1.
    ///
    /// # Errors
    /// As [`Model::logits`].
    pub async fn embed(&self, sequences: &[Sequence], mean: bool, normalise: bool) -> Result<Vec<Vec<f32>>> {
        let last = self.transformer.layers.len();
        let hidden = self.hidden(sequences, &[last]).await?.remove(0);
        let width = self.transformer.shape.hidden;
        let pool = |rows: Vec<f32>| {
            let n = if mean { (rows.len() / width).max(1) } else { 1 };
            let mut v: Vec<f64> = (0..width).map(|i| (0..n).map(|r| f64::from(rows[r * width + i])).sum::<f64>() / n as f64).collect();
            let length = v.iter().map(|x| x * x).sum::<f64>().sqrt();
            if normalise && length > 0.0 {
                v.iter_mut().for_each(|x| *x /= length);
            }
            v.into_iter().map(|x| x as f32).collect()
        };
        Ok(hidden.into_iter().map(pool).collect())
    }

    async fn run(&self, sequences: &[Sequence], layers: &[usize], want_logits: bool) -> Result<Outputs> {
        let (runner, packed) = self.start(sequences, layers)?;
        runner.body.run(1)?;
        let mut out = Outputs::default();
        for (layer, width, buffer) in &runner.taps {
            debug_assert!(layers.contains(layer));
            let ranges: Vec<_> = packed
                .iter()
                .enumerate()
                .map(|(q, p)| (&**buffer, (4 * q * runner.rows * width) as u64..(4 * (q * runner.rows + p.tokens.len()) * width) as u64))
                .collect();
            let words = self.context.read_ranges(&ranges)?.words().await?;
            out.hidden.push(words.into_iter().map(bytemuck::cast_vec).collect());
        }
        if want_logits {
            for (q, p) in packed.iter().enumerate() {
                let count = if matches!(self.head, Head::Classifier { .. }) { 1 } else { p.tokens.len() };
                out.logits.push(self.rows_of_logits(&runner, q, count).await?);
            }
        }
        Ok(out)
    }

    async fn rows_of_logits(&self, runner: &Runner, sequence: usize, count: usize) -> Result<Vec<f32>> {
        let mut out = Vec::with_capacity(count * runner.logit_cols);
        for at in (0..count).step_by(runner.head_rows) {
            let n = runner.head_rows.min(count - at);
            let picked: Vec<u32> = (at..at + n).map(|r| (sequence * runner.rows + r) as u32).collect();
            self.context.write(&runner.picked, 0, &picked)?;
            runner.head.run(1)?;
            let bytes = 4 * (n * runner.logit_cols) as u64;
            let words = self.context.read_ranges(&[(&runner.logits, 0..bytes)])?.words().await?.remove(0);
            out.extend(words.into_iter().map(f32::from_bits));
        }
        Ok(out)
    }

    /// A plan for these sequences, with their tokens and states written.
    fn start(&self, sequences: &[Sequence], layers: &[usize]) -> Result<(Arc<Runner>, Vec<Packed>)> {
        let packed = sequences.iter().map(|s| self.pack(s)).collect::<Result<Vec<_>>>()?;
        let longest = packed.iter().map(|p| p.tokens.len()).max().unwrap_or(0);
        if longest == 0 {
            return Err(Error::Request("no tokens".into()));
        }
        let rows = bucket(longest).min(self.transformer.shape.max_positions.max(longest));
        let runner = self.runner(packed.len(), rows, layers)?;
        let padded = |f: &dyn Fn(&Packed) -> &[u32]| -> Vec<u32> {
            packed.iter().flat_map(|p| f(p).iter().copied().chain(std::iter::repeat(0)).take(rows)).collect()
        };
        self.context.write(&runner.tokens, 0, &padded(&|p| &p.tokens))?;
        if let Some(b) = &runner.types {
            self.context.write(b, 0, &padded(&|p| &p.types))?;
        }
        if let Some(b) = &runner.positions {
            self.context.write(b, 0, &padded(&|p| &p.positions))?;
        }
        let states = packed.iter().flat_map(|p| State { count: p.tokens.len() as u32, ..State::default() }.words());
        self.context.write(&runner.state, 0, &states.collect::<Vec<_>>())?;
        Ok((runner, packed))
    }

    /// Leaves padding out. OPT and Llama count positions without it; BERT's positions are those in the padded row.
    pub(crate) fn pack(&self, s: &Sequence) -> Result<Packed> {
        let shape = &self.transformer.shape;
        let n = s.tokens.len();
        if (!s.mask.is_empty() && s.mask.len() != n) || (!s.types.is_empty() && s.types.len() != n) {
            return Err(Error::Request(format!("{n} tokens, {} mask values, {} token types", s.mask.len(), s.types.len())));
        }
        if n > shape.max_positions {
            return Err(Error::Request(format!("{n} tokens, the model takes {}: cut the text or use a window", shape.max_positions)));
        }
        self.check_tokens(&s.tokens)?;
        let types = self.transformer.types.as_ref().map_or(1, |t| t.rows);
        if let Some(t) = s.types.iter().find(|t| **t as usize >= types) {
            return Err(Error::Request(format!("token type {t}, the model has {types}")));
        }
        let keep: Vec<usize> = (0..n).filter(|i| s.mask.get(*i).copied().unwrap_or(true)).collect();
        Ok(Packed {
            tokens: keep.iter().map(|i| s.tokens[*i]).collect(),
            types: keep.iter().map(|i| s.types.get(*i).copied().unwrap_or(0)).collect(),
            positions: keep.iter().map(|i| *i as u32).collect(),
        })
    }

    /// An error for an id that the vocabulary has not.
    pub(crate) fn check_tokens(&self, tokens: &[u32]) -> Result<()> {
        let vocabulary = self.transformer.shape.vocabulary;
        match tokens.iter().find(|t| **t as usize >= vocabulary) {
            Some(t) => Err(Error::Request(format!("token {t}, the vocabulary has {vocabulary}"))),
            None => Ok(()),
        }
    }

    fn runner(&self, sequences: usize, rows: usize, layers: &[usize]) -> Result<Arc<Runner>> {
        let key = format!("{sequences}x{rows} {layers:?}");
        if let Some(r) = crate::gpu::lock(&self.plans).get(&key) {
            return Ok(r.clone());
        }
        let runner = Arc::new(self.build_runner(sequences, rows, layers)?);
        let mut plans = crate::gpu::lock(&self.plans);
        // Long texts of many lengths must not fill the memory with buffers for each.
        if plans.len() >= 8 {
            plans.clear();
        }
        plans.insert(key, runner.clone());
        Ok(runner)
    }

    fn build_runner(&self, sequences: usize, rows: usize, layers: &[usize]) -> Result<Runner> {
        let (c, t) = (&self.context, &self.transformer);
        let count = sequences * rows;
        let words = |label: &str, n: usize| c.storage(label, 4 * n as u64);
        let mut g = Graph::new(format!("forward {sequences} x {rows}"), c);
        let (tokens, state) = (words("inputs", count)?, words("inputs", sequences * WORDS)?);
        let types = if t.types.is_some() { Some(words("inputs", count)?) } else { None };
        let positions = if t.bidirectional { Some(words("inputs", count)?) } else { None };
        let out_cols = t.project_out.as_ref().map_or(t.shape.hidden, |p| p.rows());
        let last_layer = t.layers.len();
        let mut all = layers.to_vec();
        all.push(last_layer);
        let mut taps = Vec::new();
        let mut tap_tensors: Vec<(usize, Tensor)> = Vec::new();
        for layer in all {
            if layer > last_layer {
                return Err(Error::Request(format!("hidden state {layer}, the model has 0 to {last_layer}")));
            }
            if let Some((_, _, b)) = taps.iter().find(|(l, _, _)| *l == layer) {
                let known: Arc<Buffer> = Arc::clone(b);
                taps.push((layer, if layer == last_layer { out_cols } else { t.shape.hidden }, known));
                continue;
            }
            let cols = if layer == last_layer { out_cols } else { t.shape.hidden };
            let buffer = words("outputs", count * cols)?;
            let slot = g.slot("hidden state", &buffer);
            tap_tensors.push((layer, Tensor { slot, offset: 0, rows: count, cols, stride: cols }));
            taps.push((layer, cols, buffer));
        }
        let last = taps.pop().map(|t| t.2).ok_or_else(|| Error::Request("no outputs".into()))?;
        let inputs = Inputs {
            tokens: g.slot("tokens", &tokens),
            types: types.as_ref().map(|b| g.slot("types", b)),
            positions: positions.as_ref().map(|b| g.slot("positions", b)),
            state: g.slot("state", &state),
            sequences,
            rows,
            context: Seen::Alone,
            taps: &tap_tensors,
        };
        // RoPE is applied on the way into a cache; without one, Llama's keys get a cache of their own for the run.
        let caches = if t.angles.is_some() { Some(super::session::caches(c, t, sequences, rows.next_multiple_of(64))?) } else { None };
        let inputs = match &caches {
            Some(caches) => Inputs { context: Seen::Cached(caches, rows.next_multiple_of(64)), ..inputs },
            None => inputs,
        };
        let x = t.body(&mut g, &inputs)?;
        t.finish(&mut g, &inputs, x, Rows::All)?;
        let body = Arc::new(g.b.finish()?).bind(c, &g.bound)?;
        let picks = if matches!(self.head, Head::Classifier { .. }) { 1 } else { HEAD_ROWS.min(count) };
        let head = self.build_head(&last, count, out_cols, picks)?;
        Ok(Runner {
            body,
            rows,
            tokens,
            types,
            positions,
            state,
            taps,
            head: head.bound,
            head_rows: picks,
            picked: head.picked,
            targets: head.targets,
            logits: head.logits,
            logit_cols: head.cols,
            losses: head.losses,
        })
    }

    /// A plan that takes `picks` rows of the last hidden states and makes their logits (and losses).
    pub(crate) fn build_head(&self, last: &Arc<Buffer>, rows: usize, cols: usize, picks: usize) -> Result<HeadPlan> {
        let (c, t) = (&self.context, &self.transformer);
        let mut g = Graph::new(format!("head of {picks} rows"), c);
        let (picked, targets) = (c.storage("inputs", 4 * picks as u64)?, c.storage("inputs", 4 * picks as u64)?);
        let table = Matrix {
            rows,
            cols,
            format: Format::F32,
            segments: g.b.row_chunks(rows, cols)?.into_iter().map(|r| (r, g.slot("hidden", last))).map(segment).collect(),
        };
        let x = g.b.transient("picked", picks, cols);
        let ids = g.slot("picked rows", &picked);
        if table.segments.len() > 1 {
            return Err(Error::Limit {
                what: "hidden states of a forward pass".into(),
                limit: "max_storage_buffer_binding_size",
                needed: 4 * (rows * cols) as u64,
                allowed: c.facts().max_binding,
                advice: "use shorter or fewer sequences at a time",
            });
        }
        embedding(&mut g.b, "pick rows", &Ids::Buffer(ids, 0), &table, &x, false)?;
        let width = match &self.head {
            Head::Classifier { classifier, .. } => classifier.parts[0].rows(),
            _ => t.shape.vocabulary,
        };
        let logits = c.storage("outputs", 4 * (picks * width) as u64)?;
        let y = Tensor { slot: g.slot("logits", &logits), offset: 0, rows: picks, cols: width, stride: width };
        let mut losses = None;
        match &self.head {
            Head::None if t.bidirectional => {
                // Hidden states are all that it gives; the tied embeddings stand in so that `logits` has a meaning.
                t.logits(&mut g, &x, &y)?;
            }
            Head::None => {
                t.logits(&mut g, &x, &y)?;
                let buffer = c.storage("outputs", 4 * picks as u64)?;
                let slot = g.slot("losses", &buffer);
                let targets = g.slot("targets", &targets);
                nll(&mut g.b, "losses", &y, targets, &Tensor { slot, offset: 0, rows: 1, cols: picks, stride: picks })?;
                losses = Some(buffer);
            }
            Head::MaskedLm { transform, activation, norm: n, decoder, bias } => {
                let h = g.b.transient("transformed", picks, cols);
                project(&mut g, "transform", transform, &x, &h, Fused { activation: *activation, ..Default::default() })?;
                let n = g.norm(n);
                let normed = g.b.transient("normed", picks, cols);
                norm(&mut g.b, "transform norm", &h, &normed, &n, Rows::All)?;
                let w = g.matrix(decoder.as_ref().unwrap_or(&t.tokens));
                let bias = Some((g.slot("bias", bias), 0));
                linear(&mut g.b, "decoder", &normed, &w, &y, &Fused { bias, ..Default::default() })?;
            }
            Head::Classifier { pooler, classifier } => {
                let pooled = g.b.transient("pooled", picks, cols);
                project(&mut g, "pooler", pooler, &x, &pooled, Fused { activation: Activation::Tanh, ..Default::default() })?;
                project(&mut g, "classifier", classifier, &pooled, &y, Fused::default())?;
            }
        }
        let bound = Arc::new(g.b.finish()?).bind(c, &g.bound)?;
        Ok(HeadPlan { bound, picked, targets, logits, cols: width, losses })
    }
}

fn segment((rows, data): (std::ops::Range<usize>, crate::plan::SlotId)) -> Segment {
    Segment { rows, data, offset: 0, scales: None }
}

#[derive(Debug)]
pub(crate) struct HeadPlan {
    pub(crate) bound: Bound,
    pub(crate) picked: Arc<Buffer>,
    pub(crate) targets: Arc<Buffer>,
    pub(crate) logits: Arc<Buffer>,
    pub(crate) cols: usize,
    pub(crate) losses: Option<Arc<Buffer>>,
}
