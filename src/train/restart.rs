//! What the compared methods do between steps: ReLoRA's merges, GaLore's projections.

use super::initial::{kaiming, write};
use super::layout::{Buffers, Id, Layout, Slots};
use super::method::{Method, Stand};
use super::network::Network;
use super::options::Options;
use crate::Result;
use crate::gpu::{Context, Facts};
use crate::kernel::matmul::{Operand, Product, matmul};
use crate::plan::{Bound, Builder, Plan};
use std::sync::Arc;

/// Plans for what happens at a restart.
#[derive(Debug)]
pub(super) enum Restarts {
    /// Merges B A into W; then A is drawn anew and B zeroed.
    Merge { merge: Bound, layout: Arc<Layout>, buffers: Buffers, factors: Vec<(String, Id, Id)> },
}

impl Restarts {
    /// `None` for a method that has none.
    pub(super) fn new(context: &Context, o: &Options, network: &Network, layout: &Arc<Layout>, buffers: &Buffers) -> Result<Option<Self>> {
        let Some((plan, slots)) = plan(context.facts(), o, network, layout)? else { return Ok(None) };
        let merge = plan.bind(context, &slots.bindings(buffers))?;
        let factors = network.linears().into_iter().filter_map(|l| match l.weight {
            Stand::LowRank { a, b, .. } => Some((l.name.clone(), a, b)),
            _ => None,
        });
        let factors = factors.collect();
        Ok(Some(Self::Merge { merge, layout: layout.clone(), buffers: buffers.clone(), factors }))
    }

    pub(super) async fn run(&self, context: &Context, step: usize, o: &Options) -> Result<()> {
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
        }
    }
}

/// The plan of a merge, for a method that has one: `W += scale B A`.
pub(super) fn plan(facts: &Facts, o: &Options, network: &Network, layout: &Arc<Layout>) -> Result<Option<(Arc<Plan>, Slots)>> {
    let Method::Relora { .. } = o.method else { return Ok(None) };
    let mut b = Builder::new("merge", facts);
    let slots = Slots::new(&mut b, layout);
    for l in network.linears() {
        if let Stand::LowRank { w, a, b: up, scale } = l.weight {
            let p = Product { alpha: scale, accumulate: true, ..Product::default() };
            let [w, at, bt] = [w, a, up].map(|id| Operand::from(slots.value(id)));
            matmul(&mut b, &format!("{} merge", l.name), &bt, &at, &w, &p)?;
        }
    }
    Ok(Some((Arc::new(b.finish()?), slots)))
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
