//! Magnitude pruning: what CPTQuant's PMPQ disturbs a tensor by.

use crate::{Error, Result};

/// Sets a part `sparsity` of the weights to 0, those of least magnitude: all at or below the magnitude that the part ends at, so that ties
/// go together. Returns the part that is 0 then.
///
/// # Errors
/// [`Error::Request`] for a part outside of 0 to 1; [`Error::Shape`] for a weight that is not finite.
pub fn prune(weights: &mut [f32], sparsity: f64) -> Result<f64> {
    if !(0.0..=1.0).contains(&sparsity) {
        return Err(Error::Request(format!("a sparsity of {sparsity}: give a part from 0 to 1")));
    }
    let mut magnitudes = magnitudes(weights)?;
    let count = (sparsity * magnitudes.len() as f64).round() as usize;
    if count > 0 {
        let (_, threshold, _) = magnitudes.select_nth_unstable_by(count - 1, f32::total_cmp);
        let threshold = *threshold;
        weights.iter_mut().filter(|w| w.abs() <= threshold).for_each(|w| *w = 0.0);
    }
    Ok(weights.iter().filter(|w| **w == 0.0).count() as f64 / weights.len().max(1) as f64)
}

/// The sparsity at which [`prune`] removes the sum of squares `energy`: the noise of a rounding, say. The nearest there is; 1 for more than
/// all of it.
///
/// # Errors
/// [`Error::Request`] for an energy that is negative or not a number; [`Error::Shape`] for a weight that is not finite.
pub fn matched_sparsity(weights: &[f32], energy: f64) -> Result<f64> {
    if energy.is_nan() || energy < 0.0 {
        return Err(Error::Request(format!("a noise of {energy}: give a sum of squares from 0 on")));
    }
    let mut magnitudes = magnitudes(weights)?;
    magnitudes.sort_unstable_by(f32::total_cmp);
    let mut removed = 0.0;
    let square = |w: &f32| f64::from(*w) * f64::from(*w);
    // One that would take it farther beyond than it falls short is left.
    let count = magnitudes.iter().map(square).take_while(|s| {
        removed += s;
        removed - s / 2.0 <= energy
    });
    Ok(count.count() as f64 / magnitudes.len().max(1) as f64)
}

fn magnitudes(weights: &[f32]) -> Result<Vec<f32>> {
    match weights.iter().position(|w| !w.is_finite()) {
        Some(at) => Err(Error::shape("prune", format!("weight {at} is not finite"))),
        None => Ok(weights.iter().map(|w| w.abs()).collect()),
    }
}
