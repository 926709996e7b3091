//! A training run: plans for a batch, an update, an evaluation and for what happens between steps, and the loop that replays them.

use super::batch::{Pass, Plans, Shape};
use super::feed::{Data, Feed};
use super::initial::Initial;
use super::layout::{Buffers, Layout, Slots};
use super::network::{Network, Spec};
use super::options::Options;
use super::restart::Restarts;
use super::schedule;
use super::spectrum::Spectra;
use super::thawed::samples;
use crate::gpu::{Buffer, Context, Facts};
use crate::kernel::adam::{Adam, Parameters, Rule, Segment, adam, chunks};
use crate::kernel::grad_norm::{Page, grad_norm};
use crate::kernel::lorentz_adam::lorentz_adam;
use crate::kernel::progress::{Progress, WORDS, end_step};
use crate::plan::{Bound, Builder, Plan, SlotId};
use crate::{Error, Result};
use std::sync::Arc;

/// Steps whose results wait on the device to be read.
const LOG_ROWS: usize = 256;
/// Bytes of their log.
pub(super) const LOG_BYTES: u64 = 16 * LOG_ROWS as u64;

/// What a step gave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// Its number, from 0.
    pub step: usize,
    /// Mean loss before its update.
    pub loss: f32,
    /// Norm of all gradients together.
    pub norm: f32,
}

/// How far a re-SVD moved a weight, by rounding, and by packing its factors.
#[derive(Debug, Clone, PartialEq)]
pub struct Drift {
    /// The step before which it happened.
    pub step: usize,
    /// The layer.
    pub layer: String,
    /// `||W' - W|| / ||W||`, Frobenius norms.
    pub relative: f64,
}

/// A run in progress.
#[derive(Debug)]
pub struct Trainer {
    pub(super) context: Context,
    pub(super) options: Options,
    pub(super) network: Network,
    pub(super) layout: Arc<Layout>,
    pub(super) buffers: Buffers,
    pub(super) feed: Feed,
    log: Arc<Buffer>,
    first: Plans,
    more: Option<Plans>,
    update: Bound,
    spectra: Option<Spectra>,
    restarts: Option<Restarts>,
    evaluation: Option<(Plans, Feed, usize)>,
    pub(super) scores: Option<super::score::Scores>,
    pub(super) step: usize,
    /// First step that was not reported yet.
    unread: usize,
    /// Re-SVDs done.
    pub(super) re_svds: usize,
    drifts: Vec<Drift>,
}

impl Trainer {
    /// Plans and allocates a run, and initialises its weights from `initial`.
    ///
    /// # Errors
    /// [`Error::Request`] for options or data that do not fit; [`Error::OutOfMemory`], [`Error::Limit`].
    pub async fn new(context: &Context, spec: &Spec, options: &Options, data: &Data, initial: &Initial<'_>) -> Result<Self> {
        options.check()?;
        let mut layout = Layout::new(context.facts().max_binding, options.frozen.packing());
        let network = Network::plan(&mut layout, spec, options)?;
        let layout = Arc::new(layout);
        let buffers = Buffers::new(context, &layout)?;
        let shapes = Shape::all(context, &network, options)?;
        let feed = Feed::new(context, data, &Shape::rows(&shapes), options.seed)?;
        let log = context.storage("progress", LOG_BYTES)?;
        let batch = |pass| Plans::new(context, &shapes, &layout, (&buffers, &feed), pass, &[]);
        let first = batch(Pass::First)?;
        let more = if options.batches > 1 { Some(batch(Pass::Further)?) } else { None };
        let update = UpdatePlan::new(context.facts(), &network, &layout, options)?.bind(context, &buffers, &feed, &log)?;
        initial.write(context, &network, (&layout, &buffers, &feed.progress), options).await?;
        let spectra = Spectra::new(context, options, &network, &layout, &buffers, &feed)?;
        let restarts = Restarts::new(context, options, &network, (&layout, &shapes), (&buffers, &feed))?;
        Ok(Self {
            context: context.clone(),
            options: options.clone(),
            network,
            layout,
            buffers,
            feed,
            log,
            first,
            more,
            update,
            spectra,
            restarts,
            evaluation: None,
            scores: None,
            step: 0,
            unread: 0,
            re_svds: 0,
            drifts: Vec::new(),
        })
    }

    /// The options.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The device.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Where its parameters lie.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Steps done.
    pub fn step(&self) -> usize {
        self.step
    }

    /// Re-SVDs done.
    pub fn re_svds(&self) -> usize {
        self.re_svds
    }

    /// Does what is due before the next step, and submits it.
    ///
    /// # Errors
    /// [`Error::Request`] after the last step, and where a decomposition fails, the factors being as before.
    pub async fn submit_step(&mut self) -> Result<()> {
        if self.step >= self.options.steps {
            return Err(Error::Request(format!("the run ends after {} steps", self.options.steps)));
        }
        let events = self.options.method.events(self.step, self.network.width());
        if events.re_svd {
            let drift = self.re_svd().await?;
            self.drifts.extend(drift);
            self.re_svds += 1;
        }
        if let (Some(s), true) = (&self.spectra, events.draw) {
            s.draw()?;
        }
        if let (Some(r), true) = (&self.restarts, events.restart) {
            r.run(&self.context, self.step, &self.options, &self.feed).await?;
        }
        let mut encoder = self.context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("step") });
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: Some("step"), timestamp_writes: None });
        let batch = self.step * self.options.batches;
        self.first.of(&self.feed, batch).encode(&mut pass)?;
        for (i, more) in self.more.iter().cycle().take(self.options.batches - 1).enumerate() {
            more.of(&self.feed, batch + 1 + i).encode(&mut pass)?;
        }
        self.update.encode(&mut pass)?;
        drop(pass);
        self.context.queue().submit([encoder.finish()]);
        self.step += 1;
        Ok(())
    }

    /// Decomposes every layer anew. Returns what moved most of the first layers of each shape: whole weights are made of these only.
    async fn re_svd(&self) -> Result<Option<Drift>> {
        let Some(s) = &self.spectra else { return Ok(None) };
        let mut before = Vec::new();
        for l in samples(&self.network) {
            before.push((l, self.merged(l).await?));
        }
        s.re_svd().await?;
        let mut worst: Option<Drift> = None;
        for (l, w) in before {
            let now = self.merged(l).await?;
            let square = |d: f64| d * d;
            let moved: f64 = w.iter().zip(&now).map(|(a, b)| square(f64::from(*b) - f64::from(*a))).sum();
            let norm: f64 = w.iter().map(|a| square(f64::from(*a))).sum();
            let relative = (moved / norm.max(f64::MIN_POSITIVE)).sqrt();
            if worst.as_ref().is_none_or(|d| relative > d.relative) {
                worst = Some(Drift { step: self.step, layer: l.name.clone(), relative });
            }
        }
        Ok(worst)
    }

    /// The largest drifts of the re-SVDs since the last call, one each.
    pub fn drifts(&mut self) -> Vec<Drift> {
        std::mem::take(&mut self.drifts)
    }

    /// Reads what the steps since the last call gave. At most 256 may have been submitted meanwhile.
    ///
    /// # Errors
    /// [`Error::Diverged`] where a loss or a gradient was not a number; nothing has been updated since.
    pub async fn reports(&mut self) -> Result<Vec<StepReport>> {
        let ranges = [(&*self.log, 0..self.log.size()), (&*self.feed.progress, 0..4 * WORDS as u64)];
        let mut words = self.context.read_ranges(&ranges)?.words().await?;
        let progress = Progress::from_words(&words.remove(1));
        let log = words.remove(0);
        let done = (progress.step as usize).min(self.step);
        let row = |step: usize| &log[4 * (step % LOG_ROWS)..][..4];
        let report = |step: usize| StepReport { step, loss: f32::from_bits(row(step)[0]), norm: f32::from_bits(row(step)[1]) };
        let reports = (self.unread..done).map(report).collect();
        self.unread = done;
        if progress.fault != 0 || progress.bad_loss {
            return Err(self.diverged(&progress));
        }
        Ok(reports)
    }

    fn diverged(&self, p: &Progress) -> Error {
        let segments = (0..self.layout.pages().len()).flat_map(|page| self.layout.segments(page));
        let named = segments.into_iter().nth((p.fault as usize).wrapping_sub(1)).map(|s| format!("the gradient of `{}`", s.label));
        Error::Diverged { step: p.step as usize, what: named.unwrap_or_else(|| "the loss".into()) }
    }

    /// Prepares evaluation on other data: `batches` of them count.
    ///
    /// # Errors
    /// As [`Trainer::new`].
    pub fn evaluate_on(&mut self, data: &Data, batches: usize) -> Result<()> {
        let o = Options { batches: batches.max(1), ..self.options.clone() };
        let shapes = Shape::all(&self.context, &self.network, &o)?;
        let feed = Feed::new(&self.context, data, &Shape::rows(&shapes), 0)?;
        let plans = Plans::new(&self.context, &shapes, &self.layout, (&self.buffers, &feed), Pass::Evaluation, &[])?;
        self.evaluation = Some((plans, feed, o.batches));
        Ok(())
    }

    /// Mean loss over the evaluation data.
    ///
    /// # Errors
    /// [`Error::Request`] without [`Trainer::evaluate_on`].
    pub async fn evaluate(&self) -> Result<f32> {
        let Some((plans, feed, batches)) = &self.evaluation else {
            return Err(Error::Request("no evaluation data".into()));
        };
        self.context.write(&feed.progress, 0, &Progress::default().words())?;
        for batch in 0..*batches {
            plans.of(feed, batch).run(1)?;
        }
        let words = self.context.read_ranges(&[(&*feed.progress, 0..4 * WORDS as u64)])?.words().await?;
        Ok(Progress::from_words(&words[0]).loss)
    }

    /// Goes on after so many steps, whose state has been written to the device.
    pub(super) fn resumed(&mut self, step: usize, re_svds: usize) {
        (self.step, self.unread, self.re_svds) = (step, step, re_svds);
    }

    /// Which pairs have been drawn this round, where that matters.
    pub(super) fn drawn(&self) -> &[Arc<Buffer>] {
        self.spectra.as_ref().map_or(&[], Spectra::drawn)
    }

    /// The plans of a step, for printing and for counting memory: a batch and the update.
    pub fn plans(&self) -> [&Bound; 2] {
        [self.first.first(), &self.update]
    }
}

/// The plan of an update, not bound to buffers yet: gradient norm, optimiser, projected steps, and the end of the step.
pub(super) struct UpdatePlan {
    pub(super) plan: Arc<Plan>,
    slots: Slots,
    progress: SlotId,
    log: SlotId,
    /// Constant tables, and their contents.
    pub(super) tables: Vec<(SlotId, Vec<u32>)>,
}

impl UpdatePlan {
    pub(super) fn new(facts: &Facts, network: &Network, layout: &Arc<Layout>, o: &Options) -> Result<Self> {
        let mut b = Builder::new("update", facts);
        let slots = Slots::new(&mut b, layout);
        let progress = b.external("progress", WORDS);
        let log = b.external("log", 4 * LOG_ROWS);
        let mut tables = Vec::new();
        let mut table = |b: &mut Builder, label: &str, words: Vec<u32>| {
            let slot = b.external(label, words.len());
            tables.push((slot, words));
            slot
        };
        let schedule = table(&mut b, "schedule", bytemuck::cast_vec(schedule::table(o, network.width())));
        let mut pages: Vec<(Parameters, Vec<Segment>, SlotId)> = Vec::new();
        for (page, [values, gradients, first, second]) in slots.pages.iter().copied().enumerate() {
            let segments = layout.segments(page);
            let chunks = table(&mut b, "chunks", chunks(&segments));
            let (indices, steps) = (slots.indices, o.steps);
            let p = Parameters { values, gradients, first, second, indices, schedule, progress, steps };
            pages.push((p, segments, chunks));
        }
        let parts: Vec<_> = pages.iter().map(|(p, segments, table)| Page { gradients: p.gradients, segments, table: *table }).collect();
        grad_norm(&mut b, "gradient norm", &parts, progress, o.clip)?;
        let rule = match o.sgd {
            true => Rule::Sgd,
            false => Rule::AdamW(Adam { beta1: o.beta1, beta2: o.beta2, epsilon: o.epsilon }),
        };
        for (p, segments, table) in &pages {
            adam(&mut b, "optimiser", p, segments, *table, &rule)?;
            lorentz_adam(&mut b, "optimiser", p, segments, &Adam { beta1: o.beta1, beta2: o.beta2, epsilon: o.epsilon })?;
        }
        super::restart::append_steps(&mut b, &slots, network, &o.method)?;
        end_step(&mut b, "end of step", progress, log, LOG_ROWS)?;
        Ok(Self { plan: Arc::new(b.finish()?), slots, progress, log, tables })
    }

    fn bind(&self, context: &Context, buffers: &Buffers, feed: &Feed, log: &Arc<Buffer>) -> Result<Bound> {
        let mut bound = self.slots.bindings(buffers);
        bound.extend([(self.progress, feed.progress.clone()), (self.log, log.clone())]);
        for (slot, words) in &self.tables {
            bound.push((*slot, context.upload("schedule", words)?));
        }
        self.plan.bind(context, &bound)
    }
}
