//! What the compared methods do between steps: ReLoRA's merges, GaLore's projections.

use super::batch::{Pass, Plans, Shape};
use super::feed::Feed;
use super::initial::{kaiming, write};
use super::layout::{Buffers, Id, Layout, Slots};
use super::method::{Method, Stand};
use super::network::Network;
use super::options::Options;
use super::thawed::Freezer;
use crate::Result;
use crate::gpu::{Context, Facts};
use crate::kernel::add::copy;
use crate::kernel::matmul::{Operand, Product, matmul};
use crate::linalg::{Factors, Place, Svd};
use crate::plan::{Bound, Builder, Plan};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Plans for what happens at a restart.
#[derive(Debug)]
pub(super) enum Restarts {
    /// Merges B A into W; then A is drawn anew and B zeroed.
    Merge { merge: Bound, layout: Arc<Layout>, buffers: Buffers, factors: Vec<(String, Id, Id)> },
    /// Takes the leading singular vectors of the gradient of one batch as projectors.
    Project { gradients: Plans, svds: Vec<Svd>, copy: Bound },
}

impl Restarts {
    /// `None` for a method that has none.
    pub(super) fn new(
        context: &Context,
        o: &Options,
        network: &Network,
        (layout, shapes): (&Arc<Layout>, &[Shape]),
        (buffers, feed): (&Buffers, &Feed),
    ) -> Result<Option<Self>> {
        if let Method::Galore { .. } = o.method {
            return project(context, network, (layout, shapes), (buffers, feed)).map(Some);
        }
        let Some((plan, slots, freezer)) = plan(context.facts(), o, network, layout)? else { return Ok(None) };
        let mut bound = slots.bindings(buffers);
        bound.extend(freezer.bindings(&feed.progress));
        let merge = plan.bind(context, &bound)?;
        let factors = network.linears().into_iter().filter_map(|l| match l.weight {
            Stand::LowRank { a, b, .. } => Some((l.name.clone(), a, b)),
            _ => None,
        });
        let factors = factors.collect();
        Ok(Some(Self::Merge { merge, layout: layout.clone(), buffers: buffers.clone(), factors }))
    }

    pub(super) async fn run(&self, context: &Context, step: usize, o: &Options, feed: &Feed) -> Result<()> {
        match self {
            Self::Merge { merge, layout, buffers, factors } => {
                merge.run(1)?;
                for (name, a, b) in factors {
                    let (at, bt) = (layout.get(*a), layout.get(*b));
                    write(context, layout, buffers, *a, &kaiming(o.seed, &format!("{name}.lora_a at step {step}"), at.rows, at.cols))?;
                    write(context, layout, buffers, *b, &vec![0.0; bt.rows * bt.cols])?;
                }
                Ok(())
            }
            Self::Project { gradients, svds, copy } => {
                gradients.of(feed, step * o.batches).run(1)?;
                for svd in svds {
                    svd.run().await?;
                }
                copy.run(1).map(|_| ())
            }
        }
    }
}

/// Plans new projectors: `r` leading left singular vectors of each layer's gradient, or right ones where it is tall.
fn project(
    context: &Context,
    network: &Network,
    (layout, shapes): (&Arc<Layout>, &[Shape]),
    (buffers, feed): (&Buffers, &Feed),
) -> Result<Restarts> {
    let linears = network.linears();
    let store = |words: usize| context.storage("projection scratch", 4 * words as u64);
    let wholes = linears.iter().map(|l| store(l.m * l.n)).collect::<Result<Vec<_>>>()?;
    let gradients = Plans::new(context, shapes, layout, (buffers, feed), Pass::Whole, &wholes)?;
    let mut b = Builder::new("projectors", context.facts());
    let slots = Slots::new(&mut b, layout);
    let mut bound = slots.bindings(buffers);
    let mut shapes: BTreeMap<(usize, usize), (Vec<Place>, Vec<Factors>)> = BTreeMap::new();
    for (l, whole) in linears.iter().zip(&wholes) {
        let Stand::Projected { projector, .. } = l.weight else { continue };
        let k = l.m.min(l.n);
        let place = |words: usize| Ok::<_, crate::Error>(Place { buffer: store(words)?, offset: 0 });
        let f = Factors { name: l.name.clone(), ut: place(k * l.m)?, sigma: place(k)?, vt: place(k * l.n)? };
        let to = slots.value(projector);
        // The square side: `r x k` either way.
        let from = b.external_tensor("singular vectors", k, k);
        bound.push((from.slot, if l.m <= l.n { f.ut.buffer.clone() } else { f.vt.buffer.clone() }));
        copy(&mut b, &format!("{} projector", l.name), &from.slice_rows(0..to.rows), &to)?;
        let of_shape = shapes.entry((l.m, l.n)).or_default();
        of_shape.0.push(Place { buffer: whole.clone(), offset: 0 });
        of_shape.1.push(f);
    }
    let mut svds = Vec::new();
    for ((m, n), (matrices, factors)) in &shapes {
        svds.push(Svd::of_matrices(context, matrices, (*m, *n), factors, &Default::default(), None)?);
    }
    Ok(Restarts::Project { gradients, svds, copy: Arc::new(b.finish()?).bind(context, &bound)? })
}

/// The plan of a merge, for a method that has one: `W += scale B A`.
pub(super) fn plan(facts: &Facts, o: &Options, network: &Network, layout: &Arc<Layout>) -> Result<Option<(Arc<Plan>, Slots, Freezer)>> {
    let Method::Relora { .. } = o.method else { return Ok(None) };
    let mut b = Builder::new("merge", facts);
    let slots = Slots::new(&mut b, layout);
    let freezer = Freezer::new(&mut b, o);
    for l in network.linears() {
        if let Stand::LowRank { w, a, b: up, scale } = l.weight {
            let p = Product { alpha: scale, accumulate: true, ..Product::default() };
            let values = slots.source(w).values(&mut b, &l.name)?;
            let [at, bt] = [a, up].map(|id| Operand::from(slots.value(id)));
            matmul(&mut b, &format!("{} merge", l.name), &bt, &at, &values.into(), &p)?;
            freezer.freeze(&mut b, &slots, w, &values, None)?;
        }
    }
    Ok(Some((Arc::new(b.finish()?), slots, freezer)))
}

/// Appends the steps that the optimiser left in projected spaces: `W -= scale Pᵀ S`, or `W -= scale Sᵀ P` for tall weights.
pub(super) fn append_steps(b: &mut Builder, slots: &Slots, network: &Network, method: &Method) -> Result<()> {
    let Method::Galore { scale, .. } = *method else { return Ok(()) };
    for l in network.linears() {
        if let Stand::Projected { w, projector, step } = l.weight {
            let [w, p, s] = [w, projector, step].map(|id| Operand::from(slots.value(id)));
            let (x, y) = if l.m <= l.n { (p, s) } else { (s, p) };
            let back = Product { a_t: true, alpha: -scale, accumulate: true, ..Product::default() };
            matmul(b, &format!("{} step", l.name), &x, &y, &w, &back)?;
        }
    }
    Ok(())
}
