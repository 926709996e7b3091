//! What happens to spectral layers between steps: sampling at the start of an iteration, re-SVD at the end of a round.

use super::feed::Feed;
use super::initial::factors;
use super::layout::{Buffers, Layout, Slots};
use super::method::{Linear, Method, Sst, Stand};
use super::network::Network;
use super::options::{Frozen, Options};
use super::thawed::{self, Freezer, Thawed};
use crate::gpu::{Buffer, Context, Facts};
use crate::kernel::draw::{Draw, Layer, bitmap_words, draw_layers, draw_table};
use crate::kernel::progress::WORDS;
use crate::kernel::svd::Size;
use crate::linalg::{Report, Scratch, Svd};
use crate::plan::{Bound, Builder, Plan, SlotId};
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Plans for spectral layers.
#[derive(Debug)]
pub(super) struct Spectra {
    draw: Bound,
    /// Decompositions, and the scratch memory of their factors where these are packed.
    re_svds: Vec<(Svd, Option<Thawed>)>,
    drawn: Vec<Arc<Buffer>>,
}

/// The plan of a sampling, not bound to buffers yet.
pub(super) struct DrawPlan {
    pub(super) plan: Arc<Plan>,
    slots: Slots,
    progress: SlotId,
    /// Constant tables, and their contents.
    pub(super) tables: Vec<(SlotId, Vec<u32>)>,
    /// Bitmaps of what has been drawn, and their words.
    pub(super) bitmaps: Vec<(SlotId, usize)>,
}

impl DrawPlan {
    /// `None` for a method without spectral layers.
    pub(super) fn new(facts: &Facts, o: &Options, network: &Network, layout: &Arc<Layout>) -> Result<Option<Self>> {
        let Method::Sst(s) = o.method else { return Ok(None) };
        let mut b = Builder::new("draw", facts);
        let slots = Slots::new(&mut b, layout);
        let progress = b.external("progress", WORDS);
        let linears = network.linears();
        Freezer::with(progress, o).put_back(&mut b, &slots, &linears)?;
        let (mut tables, mut bitmaps) = (Vec::new(), Vec::new());
        let mut pages: BTreeMap<SlotId, Vec<Layer>> = BTreeMap::new();
        for l in &linears {
            if let Stand::Spectral { sigma, active, r, .. } = l.weight {
                let t = slots.value(sigma);
                pages.entry(t.slot).or_default().push(Layer { sigma: t.offset, k: t.cols, r, indices: active });
            }
        }
        if s.without_repetition && pages.len() > 1 {
            let advice = "leave it out, or use a device whose bindings hold the whole model".into();
            return Err(Error::Unsupported { what: "drawing without repetition over several buffers".into(), advice });
        }
        for (values, layers) in pages {
            let words = draw_table(&layers);
            let table = b.external("layers", words.len());
            tables.push((table, words));
            let round = s.without_repetition.then(|| {
                let words = bitmap_words(&layers);
                let slot = b.external("drawn this round", words);
                bitmaps.push((slot, words));
                (slot, s.round(network.width()))
            });
            let what = Draw { values, indices: slots.indices, table, progress, law: s.law, round };
            draw_layers(&mut b, "draw", &layers, &what)?;
        }
        thawed::take(&mut b, &slots, &linears)?;
        Ok(Some(Self { plan: Arc::new(b.finish()?), slots, progress, tables, bitmaps }))
    }
}

fn sizes(groups: &[Vec<&Linear>]) -> Vec<Size> {
    groups.iter().map(|g| Size::new(g.len(), g[0].m, g[0].n)).collect()
}

/// Bytes of the scratch of re-SVDs.
pub(super) fn scratch_bytes(o: &Options, network: &Network) -> u64 {
    let packed = o.frozen != Frozen::F32;
    let groups = thawed::groups(network, packed);
    let own = if packed { thawed::scratch_bytes(&groups).next_multiple_of(256) } else { 0 };
    match o.method {
        Method::Sst(Sst { re_svd: true, .. }) => Scratch::bytes(&sizes(&groups)) + own,
        _ => 0,
    }
}

impl Spectra {
    /// `None` for a method without spectral layers.
    pub(super) fn new(
        context: &Context,
        o: &Options,
        network: &Network,
        layout: &Arc<Layout>,
        buffers: &Buffers,
        feed: &Feed,
    ) -> Result<Option<Self>> {
        let Method::Sst(s) = o.method else { return Ok(None) };
        let Some(plan) = DrawPlan::new(context.facts(), o, network, layout)? else { return Ok(None) };
        let mut bound = plan.slots.bindings(buffers);
        bound.push((plan.progress, feed.progress.clone()));
        for (slot, words) in &plan.tables {
            bound.push((*slot, context.upload("schedule", words)?));
        }
        let mut drawn = Vec::new();
        for (slot, words) in &plan.bitmaps {
            let buffer = context.storage("schedule", 4 * *words as u64)?;
            drawn.push(buffer.clone());
            bound.push((*slot, buffer));
        }
        let draw = plan.plan.bind(context, &bound)?;
        let mut re_svds = Vec::new();
        if s.re_svd {
            let packed = o.frozen != Frozen::F32;
            let groups = thawed::groups(network, packed);
            let scratch = Scratch::new(context, &sizes(&groups))?;
            let of_factors = packed.then(|| context.storage("svd scratch", thawed::scratch_bytes(&groups))).transpose()?;
            for layers in &groups {
                let thaw = |scratch| Thawed::new(context, o, layers, (layout, buffers, &feed.progress), scratch);
                let thawed = of_factors.as_ref().map(thaw).transpose()?;
                let in_place = || layers.iter().filter_map(|l| factors(layout, buffers, l)).collect();
                let all = thawed.as_ref().map_or_else(in_place, |t| t.factors.clone());
                let (m, n) = (layers[0].m, layers[0].n);
                re_svds.push((Svd::of_factors(context, &all, m, n, &Default::default(), Some(&scratch))?, thawed));
            }
        }
        Ok(Some(Self { draw, re_svds, drawn }))
    }

    /// Bitmaps of what has been drawn this round.
    pub(super) fn drawn(&self) -> &[Arc<Buffer>] {
        &self.drawn
    }

    /// Draws the active pairs of all layers.
    pub(super) fn draw(&self) -> Result<()> {
        self.draw.run(1).map(|_| ())
    }

    /// Decomposes every layer anew. Where one of them fails, its factors and those after it are as they were.
    pub(super) async fn re_svd(&self) -> Result<Vec<Report>> {
        let mut reports = Vec::with_capacity(self.re_svds.len());
        for (svd, thawed) in &self.re_svds {
            if let Some(t) = thawed {
                t.thaw.run(1)?;
            }
            reports.push(svd.run().await?);
            if let Some(t) = thawed {
                t.freeze.run(1)?;
            }
        }
        Ok(reports)
    }
}
