//! Which choice each unit of a model gets, so that the sum of their losses is least within a budget: the multiple-choice knapsack.
//!
//! A unit is a tensor, or several that must have one width; a choice is a way to store it, with its bits and the loss it costs.
//! Losses are taken to add up, which they do the less the fewer bits there are: below 4 bits, measure what was chosen.

mod search;

pub use search::{by_class, clusters, dp, dual, greedy, lagrange};

use crate::{Error, Result};

/// A way to store a unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// Bits of a code; 16 for halves that pass through.
    pub bits: u32,
    /// Bits of the whole unit, with what the budget counts of its scales and zero points.
    pub cost: u64,
    /// What the model loses if this unit alone is stored so, in any unit that adds up (nats of KL divergence, say).
    pub loss: f64,
}

/// Weights that are stored one way.
#[derive(Debug, Clone, PartialEq)]
pub struct Unit {
    name: String,
    weights: u64,
    choices: Vec<Choice>,
}

impl Unit {
    /// A unit of so many weights. Choices are kept by rising cost; a measured loss below 0 is noise and counts as 0.
    ///
    /// # Errors
    /// [`Error::Request`] without a choice, for two of the same bits, or where a loss is infinite or not a number.
    pub fn new(name: impl Into<String>, weights: u64, mut choices: Vec<Choice>) -> Result<Self> {
        let name = name.into();
        if choices.is_empty() {
            return Err(Error::Request(format!("`{name}`: there is no width to choose")));
        }
        if let Some(c) = choices.iter().find(|c| !c.loss.is_finite()) {
            return Err(Error::Request(format!("`{name}`: its loss at {} bits is {}", c.bits, c.loss)));
        }
        choices.iter_mut().for_each(|c| c.loss = c.loss.max(0.0));
        choices.sort_by_key(|c| (c.cost, c.bits));
        let mut bits: Vec<u32> = choices.iter().map(|c| c.bits).collect();
        bits.sort_unstable();
        if bits.windows(2).any(|w| w[0] == w[1]) {
            return Err(Error::Request(format!("`{name}`: a width is given twice")));
        }
        Ok(Self { name, weights, choices })
    }

    /// Units that must have one width, as q, k and v where they share a product: costs and losses are sums, and the widths those
    /// that all of them have.
    ///
    /// # Errors
    /// [`Error::Request`] where no width is common to them.
    pub fn tied(name: impl Into<String>, members: &[Self]) -> Result<Self> {
        let name = name.into();
        let sum = |bits: u32| {
            let own = members.iter().map(|m| m.choices.iter().find(|c| c.bits == bits)).collect::<Option<Vec<_>>>()?;
            Some(Choice { bits, cost: own.iter().map(|c| c.cost).sum(), loss: own.iter().map(|c| c.loss).sum() })
        };
        let choices = members.first().map_or_else(Vec::new, |m| m.choices.iter().filter_map(|c| sum(c.bits)).collect());
        Self::new(name, members.iter().map(|m| m.weights).sum(), choices)
    }

    /// The same unit with the widths only that `keep` names: a pin keeps one, a floor those from it on.
    ///
    /// # Errors
    /// [`Error::Request`] where that leaves none.
    pub fn restricted(&self, keep: impl Fn(u32) -> bool) -> Result<Self> {
        let choices: Vec<Choice> = self.choices.iter().copied().filter(|c| keep(c.bits)).collect();
        if choices.is_empty() {
            let has: Vec<String> = self.choices.iter().map(|c| c.bits.to_string()).collect();
            return Err(Error::Request(format!("`{}`: the wanted width is none of {}", self.name, has.join(", "))));
        }
        Ok(Self { choices, ..self.clone() })
    }

    /// The same unit with a loss that is larger by so much at all widths but one: a change must promise that at least.
    ///
    /// # Errors
    /// As [`Unit::new`].
    pub fn dearer_but(&self, bits: u32, by: f64) -> Result<Self> {
        let dearer = |c: &Choice| Choice { loss: if c.bits == bits { c.loss } else { c.loss + by }, ..*c };
        Self::new(self.name.clone(), self.weights, self.choices.iter().map(dearer).collect())
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Weights that it has.
    pub fn weights(&self) -> u64 {
        self.weights
    }

    /// Its choices by rising cost.
    pub fn choices(&self) -> &[Choice] {
        &self.choices
    }
}

/// A choice for every unit.
#[derive(Debug, Clone, PartialEq)]
pub struct Allocation {
    /// Place of each unit's choice in [`Unit::choices`].
    pub chosen: Vec<usize>,
    /// Sum of their costs in bits.
    pub cost: u64,
    /// Sum of their losses.
    pub loss: f64,
    /// Nothing better fits, if losses add up. False too where the search had to drop states.
    pub exact: bool,
}

impl Allocation {
    /// Adds up what was chosen.
    fn of(units: &[Unit], chosen: Vec<usize>, exact: bool) -> Self {
        let all = || units.iter().zip(&chosen).map(|(u, c)| &u.choices[*c]);
        let (cost, loss) = (all().map(|c| c.cost).sum(), all().map(|c| c.loss).sum());
        Self { chosen, cost, loss, exact }
    }

    /// Bits of each unit's codes.
    pub fn bits(&self, units: &[Unit]) -> Vec<u32> {
        units.iter().zip(&self.chosen).map(|(u, c)| u.choices[*c].bits).collect()
    }
}

/// Bits per weight that a cost is.
pub fn bits_per_weight(units: &[Unit], cost: u64) -> f64 {
    cost as f64 / units.iter().map(|u| u.weights).sum::<u64>().max(1) as f64
}

/// The cost that so many bits per weight allow, rounded down.
///
/// # Errors
/// [`Error::Request`] for a number of bits that is negative, infinite or not a number.
pub fn budget(units: &[Unit], bits_per_weight: f64) -> Result<u64> {
    if !(bits_per_weight.is_finite() && bits_per_weight >= 0.0) {
        return Err(Error::Request(format!("{bits_per_weight} bits per weight: give a number from 0 on")));
    }
    // A budget that was computed as cost / weights must allow that cost again.
    Ok((bits_per_weight * units.iter().map(|u| u.weights).sum::<u64>() as f64 * (1.0 + 1e-12)).floor() as u64)
}

/// Refuses a budget below the cheapest choices, which are returned otherwise.
fn cheapest(units: &[Unit], budget: u64) -> Result<u64> {
    let least: u64 = units.iter().map(|u| u.choices[0].cost).sum();
    if least > budget {
        let [wanted, needed] = [budget, least].map(|c| bits_per_weight(units, c));
        return Err(Error::Request(format!(
            "a budget of {budget} bits ({wanted:.4} per weight) is too small: the cheapest choices take {least} ({needed:.4} per weight)"
        )));
    }
    Ok(least)
}
