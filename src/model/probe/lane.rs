//! Buffers and plans for batches of one shape.

use crate::gpu::{Buffer, Context};
use crate::kernel::kl::kl;
use crate::kernel::norm::Rows;
use crate::kernel::state::{State, WORDS};
use crate::model::Model;
use crate::model::bert::Head;
use crate::model::forward::{HEAD_ROWS, HeadPlan, Packed};
use crate::model::linears::{Site, linears};
use crate::model::probe::Keep;
use crate::model::session::cache;
use crate::model::transformer::{Context as Seen, Inputs, Transformer};
use crate::model::weights::{Graph, Hook};
use crate::plan::{Bound, Builder, Plan, SlotId};
use crate::tensor::Tensor;
use crate::{Error, Result};
use std::ops::Range;
use std::sync::Arc;

/// A site, its width, and where the sums of its outer products lie.
type Moments = (Site, usize, Arc<Buffer>);

/// Keys and values.
type Cache = (Arc<Buffer>, Arc<Buffer>);

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) sequences: usize,
    pub(super) rows: usize,
    /// Hidden states, changed by each layer in turn.
    pub(super) stream: Arc<Buffer>,
    pub(super) embed: Bound,
    pub(super) layers: Vec<Bound>,
    top: Option<Top>,
    buffers: Buffers,
}

/// What the plans of the layers read beside hidden states.
#[derive(Debug)]
struct Buffers {
    tokens: Arc<Buffer>,
    types: Option<Arc<Buffer>>,
    positions: Option<Arc<Buffer>>,
    state: Arc<Buffer>,
    /// Factors of the rows in sums over them: 0 for padding.
    mask: Arc<Buffer>,
    /// One for each layer, all of them the same: layers follow each other.
    caches: Vec<Cache>,
}

/// From the last layer to what the model says.
#[derive(Debug)]
struct Top {
    /// From the stream to `last`; nothing where a model ends with its last layer.
    finish: Option<Bound>,
    last: Arc<Buffer>,
    cols: usize,
    /// Nothing for an encoder without a head.
    compared: Option<Compared>,
}

/// The head, and the plan that compares two runs of it.
#[derive(Debug)]
struct Compared {
    head: HeadPlan,
    /// Rows at a time.
    picks: usize,
    plan: Arc<Plan>,
    /// Logits before and after, and divergences.
    slots: [SlotId; 3],
}

/// Rows of logits, as many as the head makes at a time.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) picked: Vec<u32>,
    /// The tokens that follow; 0 where none does.
    targets: Vec<u32>,
    /// Rows that have one that follows.
    pub(super) followed: Vec<bool>,
    /// Of the first run.
    logits: Arc<Buffer>,
    pub(super) found: Arc<Buffer>,
    pub(super) losses: Option<Arc<Buffer>>,
    compare: Bound,
}

pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// What the layers of a site read: so many numbers a row.
fn width(model: &Model, block: usize, site: Site) -> usize {
    linears(model.config()).iter().find(|l| (l.block, l.site) == (block, site)).map_or(0, |l| l.cols)
}

/// Copies as much as both buffers hold.
pub(super) fn copy(context: &Context, from: &Buffer, to: &Buffer) {
    let mut encoder = context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("keep") });
    encoder.copy_buffer_to_buffer(from.raw(), 0, to.raw(), 0, from.size().min(to.size()));
    context.queue().submit([encoder.finish()]);
}

impl Buffers {
    fn new(c: &Context, t: &Transformer, sequences: usize, rows: usize) -> Result<Self> {
        let words = |n: usize| c.storage("probe", 4 * n as u64);
        let optional = |wanted: bool| wanted.then(|| words(sequences * rows)).transpose();
        let one = t.angles.is_some().then(|| cache(c, t, sequences, rows.next_multiple_of(64))).transpose()?;
        Ok(Self {
            tokens: words(sequences * rows)?,
            types: optional(t.types.is_some())?,
            positions: optional(t.bidirectional)?,
            state: words(sequences * WORDS)?,
            mask: words(sequences * rows)?,
            caches: one.iter().cycle().take(if one.is_some() { t.layers.len() } else { 0 }).cloned().collect(),
        })
    }

    fn inputs<'a>(&'a self, g: &mut Graph, sequences: usize, rows: usize, taps: &'a [(usize, Tensor)]) -> Inputs<'a> {
        Inputs {
            tokens: g.slot("tokens", &self.tokens),
            types: self.types.as_ref().map(|b| g.slot("types", b)),
            positions: self.positions.as_ref().map(|b| g.slot("positions", b)),
            state: g.slot("state", &self.state),
            sequences,
            rows,
            context: if self.caches.is_empty() { Seen::Alone } else { Seen::Cached(&self.caches, rows.next_multiple_of(64)) },
            taps,
        }
    }
}

impl Lane {
    pub(super) fn new(model: &Model, sequences: usize, rows: usize, keep: Keep) -> Result<Self> {
        let (c, t) = (model.context(), &model.transformer);
        let stream = c.storage("probe", 4 * (sequences * rows * t.shape.hidden) as u64)?;
        let buffers = Buffers::new(c, t, sequences, rows)?;
        let mut g = Graph::new("probe: embed", c);
        let slot = g.slot("stream", &stream);
        let x = Tensor { slot, offset: 0, rows: sequences * rows, cols: t.shape.hidden, stride: t.shape.hidden };
        let taps = [(0, x)];
        let inputs = buffers.inputs(&mut g, sequences, rows, &taps);
        t.embed(&mut g, &inputs)?;
        let embed = Arc::new(g.b.finish()?).bind(c, &g.bound)?;
        let mut lane = Self { sequences, rows, stream, embed, layers: Vec::new(), top: None, buffers };
        for i in 0..t.layers.len() {
            let plan = lane.layer(model, i, &|_| Hook::Nothing)?;
            lane.layers.push(plan);
        }
        if keep == Keep::All {
            lane.top = Some(lane.top(model)?);
        }
        Ok(lane)
    }

    /// The final norm and projection, and the head.
    fn top(&self, model: &Model) -> Result<Top> {
        let (c, t, count) = (model.context(), &model.transformer, self.sequences * self.rows);
        let cols = t.project_out.as_ref().map_or(t.shape.hidden, |p| p.rows());
        let (mut finish, mut last) = (None, self.stream.clone());
        if t.final_norm.is_some() || t.project_out.is_some() {
            last = c.storage("probe", 4 * (count * cols) as u64)?;
            let mut g = Graph::new("probe: finish", c);
            let x = self.stream_tensor(&mut g, t.shape.hidden);
            let slot = g.slot("last", &last);
            let taps = [(t.layers.len(), Tensor { slot, offset: 0, rows: count, cols, stride: cols })];
            let inputs = self.buffers.inputs(&mut g, self.sequences, self.rows, &taps);
            t.finish(&mut g, &inputs, x, Rows::All)?;
            finish = Some(Arc::new(g.b.finish()?).bind(c, &g.bound)?);
        }
        if matches!(model.head, Head::None) && t.bidirectional {
            return Ok(Top { finish, last, cols, compared: None });
        }
        let picks = if matches!(model.head, Head::Classifier { .. }) { 1 } else { HEAD_ROWS.min(count) };
        let head = model.build_head(&last, count, cols, picks)?;
        let mut b = Builder::new("probe: compare", c.facts());
        let [p, q] = ["before", "after"].map(|label| b.external_tensor(label, picks, head.cols));
        let y = b.external_tensor("divergences", 1, picks);
        kl(&mut b, "divergence", &p, &q, &y)?;
        let compared = Compared { head, picks, plan: Arc::new(b.finish()?), slots: [p.slot, q.slot, y.slot] };
        Ok(Top { finish, last, cols, compared: Some(compared) })
    }

    fn stream_tensor(&self, g: &mut Graph, hidden: usize) -> Tensor {
        let slot = g.slot("stream", &self.stream);
        Tensor { slot, offset: 0, rows: self.sequences * self.rows, cols: hidden, stride: hidden }
    }

    /// A plan of layer `i` from the stream to the stream.
    fn layer(&self, model: &Model, i: usize, hook: &dyn Fn(&mut Graph) -> Hook) -> Result<Bound> {
        let (c, t) = (model.context(), &model.transformer);
        let mut g = Graph::new(format!("probe: layer {i}"), c);
        g.hook = hook(&mut g);
        let x = self.stream_tensor(&mut g, t.shape.hidden);
        // Norms after a layer write where they are told to; without them the stream is changed in its place.
        let taps = if t.pre_norm { Vec::new() } else { vec![(i + 1, x)] };
        let inputs = self.buffers.inputs(&mut g, self.sequences, self.rows, &taps);
        let y = t.layer(&mut g, &inputs, i, x)?;
        debug_assert_eq!(x, y, "a layer changes the stream");
        Arc::new(g.b.finish()?).bind(c, &g.bound)
    }

    /// A plan of layer `i` that sums the outer products of what each site reads too; site, width and buffer of each.
    pub(super) fn moments(&self, model: &Model, i: usize) -> Result<(Bound, Vec<Moments>)> {
        let mut out = Vec::new();
        for site in Site::ALL {
            let cols = width(model, i, site);
            out.push((site, cols, model.context().storage("probe", 4 * (cols * cols) as u64)?));
        }
        let hook = |g: &mut Graph| {
            let tensor = |g: &mut Graph, cols: usize, b| Tensor { slot: g.slot("moments", b), offset: 0, rows: cols, cols, stride: cols };
            Hook::Moments(g.slot("mask", &self.buffers.mask), out.iter().map(|(site, cols, b)| (*site, tensor(g, *cols, b))).collect())
        };
        Ok((self.layer(model, i, &hook)?, out))
    }

    /// A plan of layer `i` with noise on what a site reads, the buffer of the noise and its width.
    pub(super) fn disturbed(&self, model: &Model, i: usize, site: Site) -> Result<(Bound, Arc<Buffer>, usize)> {
        let (rows, cols) = (self.sequences * self.rows, width(model, i, site));
        let noise = model.context().storage("probe", 4 * (rows * cols) as u64)?;
        let hook = |g: &mut Graph| Hook::Noise(site, Tensor { slot: g.slot("noise", &noise), offset: 0, rows, cols, stride: cols });
        Ok((self.layer(model, i, &hook)?, noise, cols))
    }

    /// Writes what a batch's runs need beside hidden states.
    pub(super) fn begin(&self, c: &Context, texts: &[Packed]) -> Result<()> {
        let padded = |f: &dyn Fn(&Packed) -> &[u32]| -> Vec<u32> {
            let of_all = texts.iter().map(f).chain(std::iter::repeat(&[] as &[u32])).take(self.sequences);
            of_all.flat_map(|own| own.iter().copied().chain(std::iter::repeat(0)).take(self.rows)).collect()
        };
        let b = &self.buffers;
        c.write(&b.tokens, 0, &padded(&|p| &p.tokens))?;
        if let Some(types) = &b.types {
            c.write(types, 0, &padded(&|p| &p.types))?;
        }
        if let Some(positions) = &b.positions {
            c.write(positions, 0, &padded(&|p| &p.positions))?;
        }
        let counts = || texts.iter().map(|p| p.tokens.len()).chain(std::iter::repeat(0)).take(self.sequences);
        let states: Vec<u32> = counts().flat_map(|n| State { count: n as u32, ..State::default() }.words()).collect();
        c.write(&b.state, 0, &states)?;
        let mask: Vec<u32> = counts().flat_map(|n| (0..self.rows).map(move |r| f32::from(u8::from(r < n)).to_bits())).collect();
        c.write(&b.mask, 0, &mask)
    }

    /// A copy of the stream as it is now.
    pub(super) fn kept(&self, c: &Context) -> Result<Arc<Buffer>> {
        let copied = c.storage("probe", self.stream.size())?;
        copy(c, &self.stream, &copied);
        Ok(copied)
    }

    /// Layers from `first` on, in one submission.
    pub(super) fn run_from(&self, c: &Context, first: usize) -> Result<()> {
        let mut encoder = c.device().create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("probe") });
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: Some("probe"), timestamp_writes: None });
        self.layers[first..].iter().try_for_each(|layer| layer.encode(&mut pass))?;
        drop(pass);
        c.queue().submit([encoder.finish()]);
        Ok(())
    }

    /// From the last layer to the last hidden states.
    pub(super) fn finish(&self) -> Result<()> {
        match self.top.as_ref().and_then(|t| t.finish.as_ref()) {
            Some(finish) => finish.run(1).map(|_| ()),
            None => Ok(()),
        }
    }

    fn compared(&self) -> Option<&Compared> {
        self.top.as_ref()?.compared.as_ref()
    }

    fn head_run(&self, c: &Context, chunk: &Chunk) -> Result<&HeadPlan> {
        let none = || Error::Request("the probe's model has no head".into());
        let head = &self.compared().ok_or_else(none)?.head;
        c.write(&head.picked, 0, &chunk.picked)?;
        if head.losses.is_some() {
            c.write(&head.targets, 0, &chunk.targets)?;
        }
        head.bound.run(1)?;
        Ok(head)
    }

    /// Makes logits of the first run.
    pub(super) fn keep_logits(&self, c: &Context, chunk: &Chunk) -> Result<()> {
        let head = self.head_run(c, chunk)?;
        copy(c, &head.logits, &chunk.logits);
        Ok(())
    }

    /// Makes logits and compares them with those of the first run.
    pub(super) fn compare(&self, c: &Context, chunk: &Chunk) -> Result<()> {
        let head = self.head_run(c, chunk)?;
        chunk.compare.run(1)?;
        if let (Some(from), Some(to)) = (&head.losses, &chunk.losses) {
            copy(c, from, to);
        }
        Ok(())
    }

    /// Pieces of the rows that have logits; `None` for an encoder without a head.
    pub(super) fn chunks(&self, model: &Model, texts: &[Packed]) -> Result<Option<Vec<Chunk>>> {
        let Some(Compared { head, picks, plan, slots }) = self.compared() else { return Ok(None) };
        let (c, classifier) = (model.context(), matches!(model.head, Head::Classifier { .. }));
        let rows = texts.iter().enumerate().flat_map(|(q, t)| {
            let n = if classifier { 1 } else { t.tokens.len() };
            (0..n).map(move |r| ((q * self.rows + r) as u32, t.tokens.get(r + 1).copied()))
        });
        let rows: Vec<(u32, Option<u32>)> = rows.collect();
        let chunk = |rows: &[(u32, Option<u32>)]| -> Result<Chunk> {
            let logits = c.storage("reference", 4 * (picks * head.cols) as u64)?;
            let found = c.storage("probe", 4 * *picks as u64)?;
            let buffers = [logits.clone(), head.logits.clone(), found.clone()];
            let bound: Vec<_> = slots.iter().copied().zip(buffers).collect();
            Ok(Chunk {
                picked: rows.iter().map(|r| r.0).collect(),
                targets: rows.iter().map(|r| r.1.unwrap_or(0)).collect(),
                followed: rows.iter().map(|r| r.1.is_some()).collect(),
                losses: head.losses.as_ref().map(|_| c.storage("probe", 4 * *picks as u64)).transpose()?,
                compare: plan.bind(c, &bound)?,
                logits,
                found,
            })
        };
        rows.chunks(*picks).map(chunk).collect::<Result<_>>().map(Some)
    }

    /// Mean-pooled last hidden states of length 1.
    pub(super) async fn embeddings(&self, c: &Context, texts: &[Packed]) -> Result<Vec<Vec<f64>>> {
        let Some(top) = &self.top else { return Ok(Vec::new()) };
        let ranges: Vec<(&Buffer, Range<u64>)> =
            texts.iter().enumerate().map(|(q, t)| (&*top.last, self.bytes(q, 0..t.tokens.len(), top.cols))).collect();
        let words = c.read_ranges(&ranges)?.words().await?;
        let pool = |rows: Vec<u32>| {
            let mut mean = vec![0.0; top.cols];
            rows.chunks_exact(top.cols).for_each(|row| mean.iter_mut().zip(row).for_each(|(m, w)| *m += f64::from(f32::from_bits(*w))));
            let length = dot(&mean, &mean).sqrt().max(f64::MIN_POSITIVE);
            mean.iter().map(|m| m / length).collect()
        };
        Ok(words.into_iter().map(pool).collect())
    }

    /// Where rows of a text lie in a buffer of hidden states.
    pub(super) fn bytes(&self, sequence: usize, rows: Range<usize>, width: usize) -> Range<u64> {
        let at = |r: usize| 4 * ((sequence * self.rows + r) * width) as u64;
        at(rows.start)..at(rows.end)
    }
}
