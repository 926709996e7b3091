//! The searches: exact, along the convex hull, by the best next step, and by classes of a score.

use super::{Allocation, Choice, Unit, cheapest};
use crate::quant::kmeans;
use crate::{Error, Result};

/// Most states that the exact search keeps after a unit.
const STATES: usize = 20_000;

/// A partial sum over the units so far, and how it came about.
#[derive(Clone, Copy)]
struct State {
    cost: u64,
    loss: f64,
    parent: u32,
    choice: u32,
}

/// The least sum of losses within a budget of bits, by dynamic programming over all costs that occur: of two partial sums the one
/// that costs no less and loses no less is dropped. Above 20,000 of them evenly spaced ones go on, and the result is not marked as
/// exact. Equal inputs give equal results; of equal losses the cheaper one is taken.
///
/// # Errors
/// [`Error::Request`] where even the cheapest choices exceed the budget: it names what they take.
pub fn dp(units: &[Unit], budget: u64) -> Result<Allocation> {
    // What the units to come take at least.
    let mut rest = cheapest(units, budget)?;
    let mut layers: Vec<Vec<State>> = Vec::with_capacity(units.len());
    let mut states = vec![State { cost: 0, loss: 0.0, parent: 0, choice: 0 }];
    let mut exact = true;
    for u in units {
        rest -= u.choices()[0].cost;
        let mut next = Vec::with_capacity(states.len() * u.choices().len());
        for (choice, c) in u.choices().iter().enumerate() {
            for (parent, s) in states.iter().enumerate() {
                // Costs rise along the states.
                if s.cost + c.cost + rest > budget {
                    break;
                }
                next.push(State { cost: s.cost + c.cost, loss: s.loss + c.loss, parent: parent as u32, choice: choice as u32 });
            }
        }
        states = thinned(front(next), &mut exact);
        layers.push(states.clone());
    }
    // The last state loses least.
    let mut at = states.len().saturating_sub(1);
    let mut chosen = vec![0; units.len()];
    for (layer, chosen) in layers.iter().zip(&mut chosen).rev() {
        (*chosen, at) = (layer[at].choice as usize, layer[at].parent as usize);
    }
    Ok(Allocation::of(units, chosen, exact))
}

/// States by rising cost and strictly falling loss.
fn front(mut states: Vec<State>) -> Vec<State> {
    states.sort_by(|a, b| a.cost.cmp(&b.cost).then(a.loss.total_cmp(&b.loss)).then(a.choice.cmp(&b.choice)));
    let mut least = f64::INFINITY;
    states.retain(|s| {
        let better = s.loss < least;
        least = if better { s.loss } else { least };
        better
    });
    states
}

/// At most so many states that evenly spaced ones do, both ends among them.
fn thinned(states: Vec<State>, exact: &mut bool) -> Vec<State> {
    if states.len() <= STATES {
        return states;
    }
    *exact = false;
    let last = states.len() - 1;
    (0..STATES).map(|i| states[i * last / (STATES - 1)]).collect()
}

/// A step of a unit from one choice to a dearer one that loses less.
#[derive(Clone, Copy)]
struct Step {
    unit: usize,
    from: usize,
    to: usize,
    cost: u64,
    /// What is lost less for each bit.
    gain: f64,
}

impl Step {
    fn new(units: &[Unit], unit: usize, from: usize, to: usize) -> Self {
        let [a, b] = [from, to].map(|i| units[unit].choices()[i]);
        let cost = b.cost - a.cost;
        // Two choices of one cost: the better one is free.
        let gain = if cost == 0 { f64::INFINITY } else { (a.loss - b.loss) / cost as f64 };
        Self { unit, from, to, cost, gain }
    }
}

/// Steps along the lower convex hull of a unit's costs and losses: each gains less for a bit than the one before.
fn hull(units: &[Unit], unit: usize) -> Vec<Step> {
    let choices = units[unit].choices();
    let mut steps: Vec<Step> = Vec::new();
    for to in 1..choices.len() {
        let mut from = steps.last().map_or(0, |s| s.to);
        while choices[to].loss < choices[from].loss {
            let step = Step::new(units, unit, from, to);
            match steps.last() {
                Some(last) if last.gain <= step.gain => {
                    from = last.from;
                    steps.pop();
                }
                _ => {
                    steps.push(step);
                    break;
                }
            }
        }
    }
    steps
}

/// Steps of all hulls, the best first; those of a unit in their order.
fn hulls(units: &[Unit]) -> Vec<Step> {
    let mut steps: Vec<Step> = (0..units.len()).flat_map(|u| hull(units, u)).collect();
    steps.sort_by(|a, b| b.gain.total_cmp(&a.gain).then(a.unit.cmp(&b.unit)).then(a.from.cmp(&b.from)));
    steps
}

/// Each unit takes the choice of least `loss + lambda cost`, lambda being the smallest that keeps within the budget; what is left is
/// filled by steps that fit, the best first. Reaches only choices on the convex hull before it fills.
///
/// # Errors
/// As [`dp`].
pub fn lagrange(units: &[Unit], budget: u64) -> Result<Allocation> {
    let mut cost = cheapest(units, budget)?;
    let mut chosen = vec![0; units.len()];
    for step in hulls(units) {
        if cost + step.cost > budget {
            break;
        }
        cost += step.cost;
        chosen[step.unit] = step.to;
    }
    fill(units, budget, cost, &mut chosen);
    Ok(Allocation::of(units, chosen, false))
}

/// From the cheapest choices on, takes the step of any unit that gains most for a bit and fits, until none does.
///
/// # Errors
/// As [`dp`].
pub fn greedy(units: &[Unit], budget: u64) -> Result<Allocation> {
    let cost = cheapest(units, budget)?;
    let mut chosen = vec![0; units.len()];
    fill(units, budget, cost, &mut chosen);
    Ok(Allocation::of(units, chosen, false))
}

fn fill(units: &[Unit], budget: u64, mut cost: u64, chosen: &mut [usize]) {
    let of_unit = |unit: usize, from: usize, room: u64| {
        let steps = (from + 1..units[unit].choices().len()).map(move |to| Step::new(units, unit, from, to));
        steps.filter(move |s| s.cost <= room && s.gain > 0.0)
    };
    loop {
        let steps = chosen.iter().enumerate().flat_map(|(unit, from)| of_unit(unit, *from, budget - cost));
        let Some(best) = steps.reduce(|a, b| if b.gain > a.gain { b } else { a }) else { return };
        cost += best.cost;
        chosen[best.unit] = best.to;
    }
}

/// A lower bound of the loss that any allocation within the budget has: the largest `sum min (loss + lambda cost) - lambda budget`,
/// which lies at the gain of the first step of the hulls that no longer fits.
///
/// # Errors
/// As [`dp`].
pub fn dual(units: &[Unit], budget: u64) -> Result<f64> {
    let mut cost = cheapest(units, budget)?;
    let mut loss: f64 = units.iter().map(|u| u.choices()[0].loss).sum();
    for step in hulls(units) {
        let [a, b] = [step.from, step.to].map(|i| units[step.unit].choices()[i].loss);
        if cost + step.cost > budget {
            return Ok(loss - step.gain * (budget - cost) as f64);
        }
        (cost, loss) = (cost + step.cost, loss - (a - b));
    }
    Ok(loss)
}

/// The paper's way: scores fall into as many classes as there are widths ([`kmeans`]), and the class of the largest gets the largest
/// width. Which budget comes out is left open. A unit with one choice keeps it.
///
/// # Errors
/// As [`clusters`], but that any cost fits.
pub fn by_class(units: &[Unit], scores: &[f64], widths: &[u32]) -> Result<Allocation> {
    check(units, scores, widths)?;
    let classes = kmeans(scores, widths.len())?;
    let top = classes.iter().max().copied().unwrap_or(0);
    let chosen = units.iter().zip(&classes).map(|(u, class)| place(u, widths[top - class])).collect::<Result<_>>()?;
    Ok(Allocation::of(units, chosen, false))
}

fn check(units: &[Unit], scores: &[f64], widths: &[u32]) -> Result<()> {
    if scores.len() != units.len() || scores.iter().any(|s| !s.is_finite()) {
        return Err(Error::Request(format!("{} scores for {} units, or one that is not finite", scores.len(), units.len())));
    }
    if widths.is_empty() || widths.len() > 5 || widths.windows(2).any(|w| w[0] <= w[1]) {
        return Err(Error::Request(format!("classes of {widths:?} bits: give up to five widths that fall")));
    }
    Ok(())
}

/// The paper's classes within a budget: units by falling score are cut into as many runs as there are widths, which fall from run to
/// run (a run may be empty); of all cuts that fit, the one of least loss. A unit with one choice keeps it.
///
/// # Errors
/// As [`dp`]; [`Error::Request`] where there is not a score for each unit, where one is not finite, where widths do not fall or
/// are more than five, where a unit lacks one of them, or where no cut fits.
pub fn clusters(units: &[Unit], scores: &[f64], widths: &[u32], budget: u64) -> Result<Allocation> {
    cheapest(units, budget)?;
    check(units, scores, widths)?;
    let mut order: Vec<usize> = (0..units.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
    let places = widths.iter().map(|w| order.iter().map(|u| place(&units[*u], *w)).collect::<Result<Vec<_>>>());
    let places = places.collect::<Result<Vec<_>>>()?;
    // Costs and losses of the first units of the order at each width.
    let sums: Vec<Vec<(u64, f64)>> = places.iter().map(|p| prefix(order.iter().zip(p).map(|(u, c)| units[*u].choices()[*c]))).collect();
    let mut best: Option<(f64, Vec<usize>)> = None;
    cuts(&sums, (budget, 0.0), &mut vec![0], &mut best);
    let Some((_, cut)) = best else {
        return Err(Error::Request(format!("no classes of {widths:?} bits take {budget} bits or fewer: give a smaller last width")));
    };
    let mut chosen = vec![0; units.len()];
    for (class, ends) in cut.windows(2).enumerate() {
        for i in ends[0]..ends[1] {
            chosen[order[i]] = places[class][i];
        }
    }
    Ok(Allocation::of(units, chosen, false))
}

/// Where a unit has a width.
fn place(unit: &Unit, bits: u32) -> Result<usize> {
    match unit.choices() {
        [_] => Ok(0),
        all => {
            all.iter().position(|c| c.bits == bits).ok_or_else(|| Error::Request(format!("`{}` has no choice of {bits} bits", unit.name())))
        }
    }
}

fn prefix(choices: impl Iterator<Item = Choice>) -> Vec<(u64, f64)> {
    let sums = choices.scan((0, 0.0), |s, c| {
        *s = (s.0 + c.cost, s.1 + c.loss);
        Some(*s)
    });
    [(0, 0.0)].into_iter().chain(sums).collect()
}

/// Tries every end of the runs; `cut` holds the ends so far, `left` and `loss` what they leave of the budget and lose.
fn cuts(sums: &[Vec<(u64, f64)>], (left, loss): (u64, f64), cut: &mut Vec<usize>, best: &mut Option<(f64, Vec<usize>)>) {
    let (class, start) = (cut.len() - 1, cut.last().copied().unwrap_or(0));
    let of_class = &sums[class];
    let ends = if class + 1 == sums.len() { of_class.len() - 1..of_class.len() } else { start..of_class.len() };
    for end in ends {
        let (cost, more) = (of_class[end].0 - of_class[start].0, of_class[end].1 - of_class[start].1);
        if cost > left {
            return;
        }
        cut.push(end);
        if class + 1 < sums.len() {
            cuts(sums, (left - cost, loss + more), cut, best);
        } else if best.as_ref().is_none_or(|(b, _)| loss + more < *b) {
            *best = Some((loss + more, cut.clone()));
        }
        cut.pop();
    }
}
