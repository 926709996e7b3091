//! Packed weights between steps: trained rows going back to their place, others coming, and whole factors in f32 for a decomposition.

use super::initial::Store;
use super::layout::{Id, Slots};
use super::method::{Linear, Stand};
use super::network::Network;
use super::options::{Options, Round};
use crate::Result;
use crate::gpu::{Buffer, Context};
use crate::kernel::freeze::{Dither, freeze};
use crate::kernel::progress::WORDS;
use crate::kernel::thaw::{Rows, thaw};
use crate::linalg::{Factors, Place};
use crate::plan::{Bound, Builder, SlotId};
use crate::tensor::Tensor;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most bytes of factors in f32 at a time, unless those of one layer are more: a few layers keep a large device busy.
const MOST: usize = 256 << 20;

/// How a plan freezes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Freezer {
    progress: SlotId,
    round: Round,
}

impl Freezer {
    /// Declares the run's progress, to be bound by the caller.
    pub(super) fn new(b: &mut Builder, o: &Options) -> Self {
        Self::with(b.external("progress", WORDS), o)
    }

    pub(super) fn with(progress: SlotId, o: &Options) -> Self {
        Self { progress, round: o.round }
    }

    pub(super) fn bindings(&self, progress: &Arc<Buffer>) -> [(SlotId, Arc<Buffer>); 1] {
        [(self.progress, progress.clone())]
    }

    /// Appends the freezing of all rows of a tensor, or of those listed.
    pub(super) fn freeze(&self, b: &mut Builder, s: &Slots, id: Id, from: &Tensor, listed: Option<(SlotId, usize)>) -> Result<()> {
        let Some(rows) = s.packed(id) else { return Ok(()) };
        let dither = (self.round == Round::Stochastic).then_some(Dither { progress: self.progress, stream: id.number() });
        freeze(b, &format!("{} freeze", s.layout().get(id).name), from, &rows, listed, dither)
    }

    /// Appends trained rows going back to where they were taken from.
    pub(super) fn put_back(&self, b: &mut Builder, s: &Slots, layers: &[&Linear]) -> Result<()> {
        for id in layers.iter().flat_map(|l| vectors(l)) {
            if let Some((active, indices)) = s.active(id) {
                self.freeze(b, s, id, &active, Some(indices))?;
            }
        }
        Ok(())
    }
}

/// The singular vectors of a layer, if it is spectral.
fn vectors(l: &Linear) -> Vec<Id> {
    if let Stand::Spectral { ut, vt, .. } = l.weight { vec![ut, vt] } else { Vec::new() }
}

/// Appends the rows with the numbers that stand in the indices coming to be trained.
pub(super) fn take(b: &mut Builder, s: &Slots, layers: &[&Linear]) -> Result<()> {
    for id in layers.iter().flat_map(|l| vectors(l)) {
        if let (Some(rows), Some((active, (slot, at)))) = (s.packed(id), s.active(id)) {
            thaw(b, &format!("{} take", s.layout().get(id).name), &rows, &Rows::Listed(slot, at), &active)?;
        }
    }
    Ok(())
}

/// Words of the factors of one layer, and of its Uᵀ.
fn words((m, n): (usize, usize)) -> [usize; 2] {
    let [u, v] = [m, n].map(|cols| (m.min(n) * cols).next_multiple_of(64));
    [u + v, u]
}

/// Spectral layers that are decomposed together: those of one shape, or some of them where their factors are packed.
pub(super) fn groups(network: &Network, packed: bool) -> Vec<Vec<&Linear>> {
    let mut shapes: BTreeMap<(usize, usize), Vec<&Linear>> = BTreeMap::new();
    let spectral = network.linears().into_iter().filter(|l| matches!(l.weight, Stand::Spectral { .. }));
    spectral.for_each(|l| shapes.entry((l.m, l.n)).or_default().push(l));
    let most = |l: &Linear| if packed { (MOST / 4 / words((l.m, l.n))[0]).max(1) } else { usize::MAX };
    shapes.into_values().flat_map(|s| s.chunks(most(s[0])).map(<[_]>::to_vec).collect::<Vec<_>>()).collect()
}

/// The first spectral layer of each shape.
pub(super) fn samples(network: &Network) -> Vec<&Linear> {
    groups(network, false).into_iter().filter_map(|g| g.first().copied()).collect()
}

/// Bytes of the scratch memory that factors of these groups take turns in.
pub(super) fn scratch_bytes(groups: &[Vec<&Linear>]) -> u64 {
    groups.iter().map(|g| 4 * (g.len() * words((g[0].m, g[0].n))[0]) as u64).max().unwrap_or(0)
}

/// Factors of some packed layers of one shape in scratch memory.
#[derive(Debug)]
pub(super) struct Thawed {
    /// Where they lie; singular values where they always do.
    pub(super) factors: Vec<Factors>,
    /// Brings them there, with what has been trained.
    pub(super) thaw: Bound,
    /// Packs them, and takes the active rows from what was packed.
    pub(super) freeze: Bound,
}

impl Thawed {
    pub(super) fn new(
        context: &Context,
        o: &Options,
        layers: &[&Linear],
        (layout, buffers, progress): Store<'_>,
        scratch: &Arc<Buffer>,
    ) -> Result<Self> {
        let draft = |label: &str| {
            let mut b = Builder::new(label, context.facts());
            let slots = Slots::new(&mut b, layout);
            let slot = b.external("factors", (scratch_bytes(&[layers.to_vec()]) / 4) as usize);
            let freezer = Freezer::new(&mut b, o);
            let mut bound = slots.bindings(buffers);
            bound.push((slot, scratch.clone()));
            bound.extend(freezer.bindings(progress));
            (b, slots, slot, freezer, bound)
        };
        let (mut to, to_slots, to_slot, _, to_bound) = draft("thaw factors");
        let (mut back, slots, slot, freezer, bound) = draft("freeze factors");
        let mut factors = Vec::new();
        for (i, l) in layers.iter().enumerate() {
            let Stand::Spectral { ut, sigma, vt, .. } = l.weight else { continue };
            let [step, of_u] = words((l.m, l.n));
            let (buffer, offset) = buffers.place(layout, sigma);
            let place = |offset| Place { buffer: scratch.clone(), offset };
            let sigma = Place { buffer: buffer.clone(), offset };
            factors.push(Factors { name: l.name.clone(), ut: place(i * step), sigma, vt: place(i * step + of_u) });
            for (id, offset, cols) in [(ut, i * step, l.m), (vt, i * step + of_u, l.n)] {
                let at = |slot| Tensor { slot, offset, rows: l.m.min(l.n), cols, stride: cols };
                to_slots.source(id).copy_to(&mut to, &l.name, &at(to_slot))?;
                freezer.freeze(&mut back, &slots, id, &at(slot), None)?;
            }
        }
        take(&mut back, &slots, layers)?;
        let (thaw, freeze) = (Arc::new(to.finish()?), Arc::new(back.finish()?));
        Ok(Self { factors, thaw: thaw.bind(context, &to_bound)?, freeze: freeze.bind(context, &bound)? })
    }
}
