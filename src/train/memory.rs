//! What a run needs in memory, from its real plans: planned, not allocated.

use super::batch::{BatchPlan, Pass};
use super::export::append_merge;
use super::feed::Extent;
use super::layout::{Layout, Slots};
use super::method::{Linear, Method, Sst};
use super::network::{Network, Spec};
use super::options::Options;
use super::run::UpdatePlan;
use super::spectrum::{self, DrawPlan};
use super::thawed::samples;
use crate::Result;
use crate::gpu::Facts;
use crate::plan::{Builder, Plan};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of a run by purpose, under the labels of [`crate::gpu::MemoryReport`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// By label: `weights`, `gradients`, `optimiser`, `workspace` (activations and whatever else lives only within a plan),
    /// `svd scratch`, `data`, `schedule`, `parameters` (of dispatches), `constants`, `progress`.
    pub parts: BTreeMap<String, u64>,
}

impl Memory {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.parts.values().sum()
    }

    /// Weights, gradients and the optimiser's moments.
    pub fn state(&self) -> u64 {
        ["weights", "gradients", "optimiser"].iter().filter_map(|l| self.parts.get(*l)).sum()
    }

    fn add(&mut self, label: &str, bytes: u64) {
        *self.parts.entry(label.into()).or_default() += bytes.max(1).next_multiple_of(256);
    }
}

/// Sizes of a run's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataSize {
    /// Tokens of the corpus.
    pub tokens: usize,
    /// Windows in all.
    pub windows: usize,
}

/// What a decoder's run needs on such an adapter, the validation aside. Nothing is allocated, and no device is needed but its facts.
///
/// # Errors
/// As [`super::Trainer::new`].
pub fn memory(facts: &Facts, spec: &Spec, o: &Options, data: DataSize) -> Result<Memory> {
    o.check()?;
    let mut layout = Layout::new(facts.max_binding, o.frozen.packing());
    let network = Network::plan(&mut layout, spec, o)?;
    let layout = Arc::new(layout);
    let extent = Extent { tokens: data.tokens, starts: data.windows, examples: None, graph: None };
    let mut m = Memory::default();
    for (label, bytes) in layout.buffers() {
        m.add(label, bytes);
    }
    let mut plans: Vec<Arc<Plan>> = vec![BatchPlan::new(facts, &network, &layout, &extent, o, Pass::First)?.plan];
    if o.batches > 1 {
        plans.push(BatchPlan::new(facts, &network, &layout, &extent, o, Pass::Further)?.plan);
    }
    let update = UpdatePlan::new(facts, &network, &layout, o)?;
    update.tables.iter().for_each(|(_, words)| m.add("schedule", 4 * words.len() as u64));
    plans.push(update.plan);
    m.add("data", 4 * data.tokens as u64);
    m.add("data", 4 * data.windows as u64);
    network.constant_bytes(o).into_iter().for_each(|bytes| m.add("constants", bytes));
    m.add("progress", 4 * crate::kernel::progress::WORDS as u64);
    m.add("progress", super::run::LOG_BYTES);
    if let Some(d) = DrawPlan::new(facts, o, &network, &layout)? {
        d.tables.iter().for_each(|(_, words)| m.add("schedule", 4 * words.len() as u64));
        d.bitmaps.iter().for_each(|(_, words)| m.add("schedule", 4 * *words as u64));
        plans.push(d.plan);
        *m.parts.entry("svd scratch".into()).or_default() += spectrum::scratch_bytes(o, &network);
    }
    plans.extend(super::restart::plan(facts, o, &network, &layout)?.map(|(plan, ..)| plan));
    plans.iter().for_each(|p| m.add("parameters", p.parameter_bytes()));
    plans.extend(merges(facts, o, &network, &layout)?);
    let mut workspace: Vec<u64> = Vec::new();
    for p in &plans {
        for (i, bytes) in p.memory().workspace.iter().enumerate() {
            workspace.resize(workspace.len().max(i + 1), 0);
            workspace[i] = workspace[i].max(*bytes);
        }
    }
    workspace.into_iter().for_each(|bytes| m.add("workspace", bytes));
    Ok(m)
}

/// Plans that make whole weights at a re-SVD, to tell how far it moved them; they are bound only then.
fn merges(facts: &Facts, o: &Options, network: &Network, layout: &Arc<Layout>) -> Result<Vec<Arc<Plan>>> {
    let Method::Sst(Sst { re_svd: true, .. }) = o.method else { return Ok(Vec::new()) };
    let of = |l: &Linear| {
        let mut b = Builder::new("merge", facts);
        let slots = Slots::new(&mut b, layout);
        let out = b.external_tensor("merged", l.m, l.n);
        append_merge(&mut b, &slots, l, &out)?;
        b.finish().map(Arc::new)
    };
    samples(network).into_iter().map(of).collect()
}
