//! How many bits each unit gets within a budget.

use super::round::Codes;
use super::score::{Scores, UnitScore, WIDTHS};
use super::subject::{Subject, Weights};
use super::{HALF, Unit, fingerprint, on_all, units};
use crate::format::{Checkpoint, Config};
use crate::model::Linear;
use crate::quant::allocate::{self, Allocation, Choice};
use crate::quant::round::{Granularity, Spec};
use crate::train::random::Random;
use crate::{Error, Result};
use std::collections::BTreeMap;

/// What a model may take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Budget {
    /// Bits per weight of linear layers: their codes, and with `metadata` their scales and zero points.
    Linears {
        /// Bits.
        bits: f64,
        /// Scales and zero points count.
        metadata: bool,
    },
    /// Bits per weight of the model as a whole: linear layers, and what is stored beside them.
    Model {
        /// Bits.
        bits: f64,
    },
    /// Bytes of the model's tensors.
    Bytes(u64),
    /// What linear layers take if all have one width.
    Uniform(u32),
}

/// How widths are found.
#[derive(Debug, Clone, PartialEq)]
pub enum Search {
    /// The least sum of losses ([`allocate::dp`]).
    Exact,
    /// Along the convex hull ([`allocate::lagrange`]).
    Lagrange,
    /// By the best next step ([`allocate::greedy`]).
    Greedy,
    /// Units by falling score in runs of falling widths, the best cut within the budget ([`allocate::clusters`]).
    Clusters(Vec<u32>),
    /// The paper's classes of scores, a width each, whatever they take ([`allocate::by_class`]).
    Classes(Vec<u32>),
    /// The largest width that all units can have.
    Uniform,
    /// The width below uniform's and the one above, in a random order: what a score must beat.
    Random(u64),
    /// The same from both ends of the model inwards.
    EndsFirst,
}

/// Which widths a unit may get: `allowed(unit, bits)`.
pub type Allowed<'a> = dyn Fn(&Unit, u32) -> bool + 'a;

/// A width for each unit.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    /// The units, in the order of the model's work.
    pub units: Vec<Unit>,
    /// A width each; [`HALF`] is not rounded.
    pub bits: Vec<u32>,
    /// Bits of all linear weights with their scales and zero points.
    pub cost: u64,
    /// The budget counts scales and zero points too.
    pub metadata: bool,
    /// Nothing better fits, if losses add up.
    pub exact: bool,
}

impl Chosen {
    /// Weights of all units.
    pub fn weights(&self) -> u64 {
        self.units.iter().map(Unit::weights).sum()
    }

    /// Bits per linear weight, with scales and zero points.
    pub fn bits_per_weight(&self) -> f64 {
        self.cost as f64 / self.weights().max(1) as f64
    }

    /// The width of each linear layer, by its tensor's name.
    pub fn by_name(&self) -> BTreeMap<String, u32> {
        self.members().map(|(l, bits)| (l.name.clone(), bits)).collect()
    }

    /// Linear layers and their widths.
    pub fn members(&self) -> impl Iterator<Item = (&Linear, u32)> {
        self.units.iter().zip(&self.bits).flat_map(|(u, bits)| u.linears.iter().map(move |l| (l, *bits)))
    }

    /// The sum of the losses that scores expect of it, unit by unit.
    ///
    /// # Errors
    /// [`Error::Request`] for scores of other units, or a width that losses are not known for.
    pub fn expected(&self, scores: &Scores) -> Result<f64> {
        let of = |((unit, bits), score): ((&Unit, &u32), &UnitScore)| match score.losses.get(bits) {
            _ if unit.name != score.unit => Err(Error::Request(format!("scores of `{}` where `{}` was chosen for", score.unit, unit.name))),
            _ if *bits == HALF => Ok(0.0),
            Some(loss) => Ok(*loss),
            None => Err(Error::Request(format!("`{}`: its loss at {bits} bits is not known", unit.name))),
        };
        self.units.iter().zip(&self.bits).zip(&scores.units).map(of).sum()
    }
}

/// The largest group up to `wanted` (128, 64 or 32) that all linear layers' inputs are whole multiples of, as other programs want it.
///
/// # Errors
/// [`Error::Request`] where there is none.
pub fn group(config: &Config, wanted: u32) -> Result<u32> {
    let all = crate::model::linears(config);
    let fits = |g: &u32| *g <= wanted && all.iter().all(|l| l.cols.is_multiple_of(*g as usize));
    let none = || {
        Error::Request(format!("no group of {wanted} or fewer weights (128, 64, 32) divides the inputs of all layers: use a scale per row"))
    };
    [wanted, 128, 64, 32].into_iter().find(fits).ok_or_else(none)
}

/// Bits that a unit takes at a width.
fn cost(unit: &Unit, spec: &Spec, bits: u32, metadata: bool) -> u64 {
    match bits {
        HALF => 16 * unit.weights(),
        _ if !metadata => u64::from(bits) * unit.weights(),
        _ => unit.linears.iter().map(|l| Spec { bits, ..*spec }.stored_bits(l.rows, l.cols)).sum(),
    }
}

fn full_cost(units: &[Unit], bits: &[u32], spec: &Spec) -> u64 {
    units.iter().zip(bits).map(|(u, b)| cost(u, spec, *b, true)).sum()
}

/// Chooses a width of `widths` (and [`HALF`] among them, if wanted) for each unit. `beside`: bits of tensors that are stored beside linear
/// weights, and their number of elements.
///
/// # Errors
/// [`Error::Request`] where the scores are incomplete, lack a width, or belong to another model; where `keep` leaves a unit nothing; where
/// the budget is too small, with what is needed.
pub fn choose(
    checkpoint: &Checkpoint,
    scores: &Scores,
    (widths, keep): (&[u32], &Allowed<'_>),
    (budget, beside): (Budget, (u64, u64)),
    search: &Search,
) -> Result<Chosen> {
    let units = units(&checkpoint.config, scores.options.unit);
    let names = units.iter().map(|u| &u.name).eq(scores.units.iter().map(|s| &s.unit));
    if !names {
        return Err(Error::Request(format!("{} of {} units have scores: measure the rest first", scores.units.len(), units.len())));
    }
    if scores.weights != fingerprint(checkpoint)? {
        return Err(Error::Request("the scores are those of another model's weights: measure anew".into()));
    }
    let metadata = !matches!(budget, Budget::Linears { metadata: false, .. });
    let spec = &scores.options.spec;
    let choices = |(unit, score): (&Unit, &UnitScore)| {
        let of = |bits: &u32| {
            let loss = match *bits {
                HALF => 0.0,
                bits => *score
                    .losses
                    .get(&bits)
                    .ok_or_else(|| Error::Request(format!("the scores have no losses at {bits} bits: {WIDTHS:?} can be measured")))?,
            };
            Ok(Choice { bits: *bits, cost: cost(unit, spec, *bits, metadata), loss })
        };
        let all = widths.iter().map(of).collect::<Result<Vec<_>>>()?;
        allocate::Unit::new(unit.name.clone(), unit.weights(), all)?.restricted(|bits| keep(unit, bits))
    };
    let items = units.iter().zip(&scores.units).map(choices).collect::<Result<Vec<_>>>()?;
    let room = room(&units, spec, budget, beside)?;
    let by_score: Vec<f64> = scores.units.iter().map(|u| u.score).collect();
    let found = match search {
        Search::Exact => allocate::dp(&items, room)?,
        Search::Lagrange => allocate::lagrange(&items, room)?,
        Search::Greedy => allocate::greedy(&items, room)?,
        Search::Clusters(widths) => allocate::clusters(&items, &by_score, widths, room)?,
        Search::Classes(widths) => allocate::by_class(&items, &by_score, widths)?,
        Search::Uniform => {
            let (widths, at) = uniform(&items, room)?;
            at_width(&items, widths[at])
        }
        Search::Random(seed) => {
            let mut order: Vec<usize> = (0..items.len()).collect();
            Random::new(*seed, 0).shuffle(&mut order);
            in_order(&items, &order, room)?
        }
        Search::EndsFirst => {
            let last = units.last().map_or(0, |u| u.block);
            let mut order: Vec<usize> = (0..items.len()).collect();
            order.sort_by_key(|i| (units[*i].block.min(last - units[*i].block), *i));
            in_order(&items, &order, room)?
        }
    };
    let bits = found.bits(&items);
    Ok(Chosen { cost: full_cost(&units, &bits, spec), units, bits, metadata, exact: found.exact })
}

/// The bits that a budget leaves for linear weights.
fn room(units: &[Unit], spec: &Spec, budget: Budget, (beside, elements): (u64, u64)) -> Result<u64> {
    let weights: u64 = units.iter().map(Unit::weights).sum();
    let of = |bits: f64, n: u64| {
        if !(bits.is_finite() && bits >= 0.0) {
            return Err(Error::Request(format!("{bits} bits per weight: give a number from 0 on")));
        }
        // A budget that was computed as cost / weights must allow that cost again.
        Ok((bits * n as f64 * (1.0 + 1e-12)).floor() as u64)
    };
    let less = |all: u64| {
        all.checked_sub(beside).ok_or_else(|| {
            let [all, beside] = [all, beside].map(|b| b.div_ceil(8));
            Error::Request(format!("a budget of {all} bytes: what is stored beside linear weights takes {beside} alone"))
        })
    };
    match budget {
        Budget::Linears { bits, .. } => of(bits, weights),
        Budget::Model { bits } => less(of(bits, weights + elements)?),
        Budget::Bytes(bytes) => less(bytes.saturating_mul(8)),
        Budget::Uniform(bits) if WIDTHS.contains(&bits) || bits == HALF => Ok(units.iter().map(|u| cost(u, spec, bits, true)).sum()),
        Budget::Uniform(bits) => Err(Error::Request(format!("uniform:{bits}: widths are {WIDTHS:?} and {HALF}"))),
    }
}

/// The place of a width in a unit's choices, or of the next one that it has.
fn place(u: &allocate::Unit, bits: u32) -> usize {
    u.choices().iter().position(|c| c.bits >= bits).unwrap_or(u.choices().len() - 1)
}

fn of_places(items: &[allocate::Unit], chosen: Vec<usize>) -> Allocation {
    let all = || items.iter().zip(&chosen).map(|(u, c)| &u.choices()[*c]);
    let (cost, loss) = (all().map(|c| c.cost).sum(), all().map(|c| c.loss).sum());
    Allocation { chosen, cost, loss, exact: false }
}

fn at_width(items: &[allocate::Unit], bits: u32) -> Allocation {
    of_places(items, items.iter().map(|u| place(u, bits)).collect())
}

/// All widths, and the place of the largest that all units can have within the budget.
fn uniform(items: &[allocate::Unit], room: u64) -> Result<(Vec<u32>, usize)> {
    let mut widths: Vec<u32> = items.iter().flat_map(|u| u.choices().iter().map(|c| c.bits)).collect();
    widths.sort_unstable();
    widths.dedup();
    // Refuses what the cheapest choices exceed, and names what they take.
    allocate::greedy(items, room)?;
    let fits = widths.iter().rposition(|w| at_width(items, *w).cost <= room);
    Ok((widths, fits.ok_or_else(|| Error::Request("no one width fits the budget: give a smaller one to choose from".into()))?))
}

/// For units in their order the width above the uniform one, as far as the budget goes, and for the rest the one below; where uniform leaves
/// room for a step, the rest keeps that width itself.
fn in_order(items: &[allocate::Unit], order: &[usize], room: u64) -> Result<Allocation> {
    let (widths, at) = uniform(items, room)?;
    let upper = widths[(at + 1).min(widths.len() - 1)];
    let cost = |i: usize, bits: u32| items[i].choices()[place(&items[i], bits)].cost;
    let step = (0..items.len()).map(|i| cost(i, upper) - cost(i, widths[at])).filter(|c| *c > 0).min().unwrap_or(0);
    let left = room - at_width(items, widths[at]).cost;
    let lower = if left < step { widths[at.saturating_sub(1)] } else { widths[at] };
    let Allocation { mut chosen, cost: mut taken, .. } = at_width(items, lower);
    for i in order {
        let after = taken - cost(*i, lower) + cost(*i, upper);
        if after <= room {
            (taken, chosen[*i]) = (after, place(&items[*i], upper));
        }
    }
    Ok(of_places(items, chosen))
}

/// Overwrites linear weights on the device by the values of their codes; [`restore`] takes it back.
fn set(model: &impl Weights, checkpoint: &Checkpoint, codes: &Codes, members: &[(&Linear, u32)]) -> Result<()> {
    // Some at a time, so that a large model is not in memory twice.
    for part in members.chunks(16) {
        let values = on_all(part, |(l, bits)| codes.values(checkpoint, l, *bits))?;
        part.iter().zip(&values).try_for_each(|((l, _), w)| model.set_weight(&l.name, w))?;
    }
    Ok(())
}

/// Gives a model its own weights again.
///
/// # Errors
/// What the device reports.
pub fn restore(model: &impl Weights, checkpoint: &Checkpoint) -> Result<()> {
    let all = crate::model::linears(&checkpoint.config);
    set(model, checkpoint, &Codes::Nearest(Spec::default()), &all.iter().map(|l| (l, HALF)).collect::<Vec<_>>())
}

/// The loss of a choice as a whole, measured; the model has its own weights again afterwards.
///
/// # Errors
/// As [`Subject::measure`].
pub async fn joint(subject: &impl Subject, checkpoint: &Checkpoint, codes: &Codes, chosen: &Chosen) -> Result<crate::model::Loss> {
    set(subject, checkpoint, codes, &chosen.members().collect::<Vec<_>>())?;
    let loss = subject.measure(0).await;
    restore(subject, checkpoint)?;
    loss
}

/// What [`refine`] did.
#[derive(Debug, Clone, PartialEq)]
pub struct Refined {
    /// The choice that loses least of those measured.
    pub chosen: Chosen,
    /// Its loss.
    pub loss: f64,
    /// The losses of the choices that it began with.
    pub before: Vec<f64>,
    /// Runs of the model.
    pub measured: usize,
}

/// What a change of width must promise, as a part of the loss: with more to ask for, fewer units change at once.
const PROMISES: [f64; 6] = [0.0, 0.005, 0.01, 0.02, 0.04, 0.08];

/// Improves the best of some choices by measuring it as a whole, within the bits of the largest, as their budget counts them: losses of single units do not add up below
/// 4 bits. In each round, each unit's next widths are tried with all others as they are; the search goes on from these losses, with few
/// changes at once or many, and what really loses least is taken.
///
/// # Errors
/// As [`choose`] and [`joint`]; [`Error::Request`] without a choice to begin with.
pub async fn refine(
    subject: &impl Subject,
    checkpoint: &Checkpoint,
    codes: &Codes,
    starts: &[Chosen],
    (widths, keep, rounds): (&[u32], &Allowed<'_>, usize),
) -> Result<Refined> {
    let search = Refinement { subject, checkpoint, codes, widths, keep };
    let found = search.run(starts, rounds).await;
    restore(subject, checkpoint)?;
    found
}

struct Refinement<'a, S> {
    subject: &'a S,
    checkpoint: &'a Checkpoint,
    codes: &'a Codes,
    widths: &'a [u32],
    keep: &'a Allowed<'a>,
}

impl<S: Subject> Refinement<'_, S> {
    async fn run(&self, starts: &[Chosen], rounds: usize) -> Result<Refined> {
        let (mut before, mut best) = (Vec::new(), None);
        for start in starts {
            let loss = self.loss(start).await?;
            before.push(loss);
            if best.as_ref().is_none_or(|(_, least)| loss < *least) {
                best = Some((start.clone(), loss));
            }
        }
        let (mut chosen, mut loss) = best.ok_or_else(|| Error::Request("there is no choice to improve".into()))?;
        let counted = |c: &Chosen| c.units.iter().zip(&c.bits).map(|(u, b)| cost(u, self.codes.spec(), *b, c.metadata)).sum::<u64>();
        let (room, mut measured) = (starts.iter().map(counted).max().unwrap_or(0), before.len());
        for _ in 0..rounds {
            set(self.subject, self.checkpoint, self.codes, &chosen.members().collect::<Vec<_>>())?;
            let (items, runs) = self.neighbours(&chosen, loss).await?;
            measured += runs;
            let mut tried = vec![chosen.bits.clone()];
            let mut next: Option<(Chosen, f64)> = None;
            for promise in PROMISES {
                let dearer =
                    items.iter().zip(&chosen.bits).map(|(u, own)| u.dearer_but(*own, promise * loss)).collect::<Result<Vec<_>>>()?;
                let found = allocate::dp(&dearer, room)?;
                let bits = found.bits(&dearer);
                let step = Chosen { cost: full_cost(&chosen.units, &bits, self.codes.spec()), bits, exact: false, ..chosen.clone() };
                if tried.contains(&step.bits) {
                    continue;
                }
                tried.push(step.bits.clone());
                let after = self.loss(&step).await?;
                measured += 1;
                if after < next.as_ref().map_or(loss, |(_, least)| *least) {
                    next = Some((step, after));
                }
            }
            match next {
                Some(better) => (chosen, loss) = better,
                None => break,
            }
        }
        Ok(Refined { chosen, loss, before, measured })
    }

    /// Of a choice as a whole, which the model then has.
    async fn loss(&self, chosen: &Chosen) -> Result<f64> {
        set(self.subject, self.checkpoint, self.codes, &chosen.members().collect::<Vec<_>>())?;
        Ok(self.subject.measure(0).await?.change)
    }

    /// For each unit its width and the next ones, with what the model loses then; and the runs that took.
    async fn neighbours(&self, chosen: &Chosen, loss: f64) -> Result<(Vec<allocate::Unit>, usize)> {
        let (mut items, mut runs) = (Vec::new(), 0);
        for (u, bits) in chosen.units.iter().zip(&chosen.bits) {
            let mut allowed: Vec<u32> = self.widths.iter().copied().filter(|w| (self.keep)(u, *w)).collect();
            allowed.sort_unstable();
            let at = allowed.iter().position(|w| w == bits).unwrap_or(0);
            let mut choices = Vec::new();
            for w in allowed.iter().take(at + 2).skip(at.saturating_sub(1)) {
                let mut found = loss;
                if w != bits {
                    let members = |w: u32| u.linears.iter().map(|l| (l, w)).collect::<Vec<_>>();
                    set(self.subject, self.checkpoint, self.codes, &members(*w))?;
                    found = self.subject.measure(0).await?.change;
                    set(self.subject, self.checkpoint, self.codes, &members(*bits))?;
                    runs += 1;
                }
                choices.push(Choice { bits: *w, cost: cost(u, self.codes.spec(), *w, chosen.metadata), loss: found });
            }
            // Only differences count; losses must not be below 0.
            let least = choices.iter().map(|c| c.loss).fold(f64::INFINITY, f64::min);
            choices.iter_mut().for_each(|c| c.loss -= least);
            items.push(allocate::Unit::new(u.name.clone(), u.weights(), choices)?);
        }
        Ok((items, runs))
    }
}

/// The default group of a model: 128 where it fits, else the largest that does, else a scale per row.
pub fn granularity(config: &Config) -> Granularity {
    group(config, 128).map_or(Granularity::Row, Granularity::Group)
}
