//! Measuring scores, unit by unit, on a model that is run again with other weights.

use super::gradient::fisher;
use super::round::Codes;
use super::score::{Metric, Options, Score, Scores, UnitScore};
use super::subject::Subject;
use super::{Unit, UnitKind, on_all, units, weights};
use crate::format::Checkpoint;
use crate::model::{Loss, Probe, Site};
use crate::quant::round::Hessian;
use crate::quant::similarity::{Samples, Similarity, cmpq, null};
use crate::quant::{matched_sparsity, prune};
use crate::train::random::Random;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Measures the units that `scores` has not yet. After each one `tell` is called, to save what there is or show it; false stops.
///
/// # Errors
/// As [`Subject::measure`]; [`Error::Request`] for a score that looks into layers where the subject has no [`Subject::probe`]; what `tell` fails with. The model's weights are as they were, but for a device that was lost.
pub async fn measure(
    (subject, checkpoint, codes): (&impl Subject, &Checkpoint, &Codes),
    scores: &mut Scores,
    tell: &mut dyn FnMut(&Scores) -> Result<bool>,
) -> Result<()> {
    if *codes.spec() != scores.options.spec || matches!(codes, Codes::Nearest(_)) != (scores.options.fitted_to == 0) {
        return Err(Error::Request("the codes are rounded in another way than the scores are for".into()));
    }
    let base = match scores.options.metric {
        Metric::Change => 0.0,
        Metric::Likelihood => likelihood(&subject.measure(0).await?)?,
    };
    let units = units(&checkpoint.config, scores.options.unit);
    let mut job = Job {
        subject,
        checkpoint,
        codes,
        options: scores.options.clone(),
        base,
        moments: None,
        blocks: Vec::new(),
        fisher: BTreeMap::new(),
    };
    if scores.options.score == Score::Gradient {
        let texts: Vec<&[u32]> = job.probe()?.texts().collect();
        job.fisher = fisher(job.probe()?.model().context(), checkpoint, &texts).await?;
    }
    if let Score::Correlation { .. } = scores.options.score {
        let (blocks, chance) = job.correlations().await?;
        (job.blocks, scores.chance) = (blocks, Some(chance));
    }
    for (i, unit) in units.iter().enumerate().skip(scores.units.len()) {
        let mut found = job.unit(unit, i as u64).await?;
        // More bits are never worse; where they were measured so, it was noise.
        let mut least = f64::INFINITY;
        for loss in found.losses.values_mut() {
            least = least.min(loss.max(0.0));
            *loss = least;
        }
        scores.units.push(found);
        if !tell(scores)? {
            return Ok(());
        }
    }
    Ok(())
}

fn likelihood(loss: &Loss) -> Result<f64> {
    loss.nll.ok_or_else(|| Error::Request("likelihoods need a decoder and texts of two tokens or more".into()))
}

struct Job<'a, S> {
    subject: &'a S,
    checkpoint: &'a Checkpoint,
    codes: &'a Codes,
    options: Options,
    /// The metric before any change.
    base: f64,
    /// Those of a block.
    moments: Option<(usize, Arc<BTreeMap<Site, Hessian>>)>,
    /// CMPQ's score of each block.
    blocks: Vec<f64>,
    /// Of each tensor's weights.
    fisher: BTreeMap<String, Vec<f32>>,
}

impl<S: Subject> Job<'_, S> {
    fn probe(&self) -> Result<&Probe> {
        let advice = "take `kl`, `pmpq` or `tdmpq`";
        self.subject
            .probe()
            .ok_or_else(|| Error::Request(format!("this score looks into layers, which a translator does not show: {advice}")))
    }

    async fn unit(&mut self, unit: &Unit, number: u64) -> Result<UnitScore> {
        let before = unit.linears.iter().map(|l| weights(self.checkpoint, l)).collect::<Result<Vec<_>>>()?;
        let (score, losses) = match self.options.score.clone() {
            Score::Measured => {
                let mut losses = BTreeMap::new();
                for bits in self.options.widths.clone() {
                    losses.insert(bits, self.with(unit, &before, &self.rounded(unit, bits)?).await?);
                }
                // The 3-bit loss, or that of the smallest width.
                (losses.get(&3).or(losses.values().next()).copied().unwrap_or(0.0), losses)
            }
            Score::Pruning { sparsity: Some(part) } => {
                let (after, removed) = pruned(&before, &vec![part; before.len()])?;
                let loss = self.with(unit, &before, &after).await?;
                (loss, self.by_weights(unit, &before, loss / removed.max(f64::MIN_POSITIVE))?)
            }
            Score::Pruning { sparsity: None } => {
                let mut losses = BTreeMap::new();
                for bits in self.options.widths.clone() {
                    let rounded = self.rounded(unit, bits)?;
                    let parts = before.iter().zip(&rounded).map(|(w, r)| matched_sparsity(w, energy(w, r))).collect::<Result<Vec<_>>>()?;
                    losses.insert(bits, self.with(unit, &before, &pruned(&before, &parts)?.0).await?);
                }
                (losses.get(&3).or(losses.values().next()).copied().unwrap_or(0.0), losses)
            }
            Score::WeightNoise { pairs, bits } => {
                let (loss, noise) = self.weight_noise(unit, &before, (number, pairs, bits)).await?;
                (loss, self.by_weights(unit, &before, loss / noise.max(f64::MIN_POSITIVE))?)
            }
            Score::InputNoise { pairs, epsilon } => self.input_noise(unit, &before, (number, pairs, epsilon)).await?,
            Score::Gradient => {
                let losses = self.by_fisher(unit, &before)?;
                (losses.get(&3).or(losses.values().next()).copied().unwrap_or(0.0), losses)
            }
            Score::Correlation { .. } => {
                let (score, (whole, changes)) = (self.blocks[unit.block], self.by_outputs(unit, &before).await?);
                (score, changes.into_iter().map(|(bits, change)| (bits, score * change / whole.max(f64::MIN_POSITIVE))).collect())
            }
        };
        Ok(UnitScore { unit: unit.name.clone(), score, losses })
    }

    fn rounded(&self, unit: &Unit, bits: u32) -> Result<Vec<Vec<f32>>> {
        on_all(&unit.linears, |l| self.codes.values(self.checkpoint, l, bits))
    }

    /// The loss with other weights in the unit, which has its own again afterwards.
    async fn with(&self, unit: &Unit, before: &[Vec<f32>], after: &[Vec<f32>]) -> Result<f64> {
        let set = |values: &[Vec<f32>]| unit.linears.iter().zip(values).try_for_each(|(l, w)| self.subject.set_weight(&l.name, w));
        let found = match set(after) {
            Ok(()) => self.subject.measure(unit.block).await,
            Err(e) => Err(e),
        };
        set(before)?;
        self.metric(&found?)
    }

    fn metric(&self, loss: &Loss) -> Result<f64> {
        Ok(match self.options.metric {
            Metric::Change => loss.change,
            Metric::Likelihood => likelihood(loss)? - self.base,
        })
    }

    /// Losses at all widths, if each change of a weight costs `slope` times its square.
    fn by_weights(&self, unit: &Unit, before: &[Vec<f32>], slope: f64) -> Result<BTreeMap<u32, f64>> {
        let of_width = |bits: &u32| {
            let rounded = self.rounded(unit, *bits)?;
            Ok((*bits, slope * before.iter().zip(&rounded).map(|(w, r)| energy(w, r)).sum::<f64>()))
        };
        self.options.widths.iter().map(of_width).collect()
    }

    /// The second-order loss at all widths.
    fn by_fisher(&self, unit: &Unit, before: &[Vec<f32>]) -> Result<BTreeMap<u32, f64>> {
        let of = |f: &[f32], w: &[f32], r: &[f32]| -> f64 {
            w.iter().zip(r).zip(f).map(|((a, b), f)| 0.5 * f64::from(*f) * (f64::from(*a) - f64::from(*b)).powi(2)).sum()
        };
        let of_width = |bits: &u32| {
            let rounded = self.rounded(unit, *bits)?;
            Ok((*bits, unit.linears.iter().zip(before).zip(&rounded).map(|((l, w), r)| of(&self.fisher[&l.name], w, r)).sum()))
        };
        self.options.widths.iter().map(of_width).collect()
    }

    /// The sum of squares of the outputs, and for all widths that of what rounding changes in them.
    async fn by_outputs(&mut self, unit: &Unit, before: &[Vec<f32>]) -> Result<(f64, BTreeMap<u32, f64>)> {
        let moments = self.moments(unit.block).await?;
        let of = |l: &crate::model::Linear, d: &[f32]| moments[&l.site].error(d);
        let members: Vec<_> = unit.linears.iter().zip(before).collect();
        let whole: f64 = on_all(&members, |(l, w)| of(l, w))?.iter().sum();
        let mut out = BTreeMap::new();
        for bits in &self.options.widths {
            let rounded = self.rounded(unit, *bits)?;
            let changes: Vec<_> = members.iter().zip(&rounded).map(|((l, w), r)| (*l, difference(w, r))).collect();
            out.insert(*bits, on_all(&changes, |(l, d)| of(l, d))?.iter().sum());
        }
        Ok((whole, out))
    }

    async fn moments(&mut self, block: usize) -> Result<Arc<BTreeMap<Site, Hessian>>> {
        if let Some((_, known)) = self.moments.as_ref().filter(|(of, _)| *of == block) {
            return Ok(known.clone());
        }
        let found = Arc::new(self.probe()?.hessians(block).await?);
        self.moments = Some((block, found.clone()));
        Ok(found)
    }

    /// Mean loss under noises on the weights and their negatives, each tensor's as large as that of its rounding; and the sum of squares
    /// of such a noise.
    async fn weight_noise(&self, unit: &Unit, before: &[Vec<f32>], (number, pairs, bits): (u64, usize, u32)) -> Result<(f64, f64)> {
        let noise: Vec<f64> = before.iter().zip(&self.rounded(unit, bits)?).map(|(w, r)| energy(w, r)).collect();
        let mut losses = Vec::new();
        for pair in 0..pairs {
            let noises: Vec<Vec<f64>> = before
                .iter()
                .zip(&noise)
                .enumerate()
                .map(|(i, (w, energy))| {
                    let deviation = (energy / w.len().max(1) as f64).sqrt();
                    let mut random = Random::new(self.options.seed, (number << 32) + ((pair as u64) << 8) + i as u64);
                    w.iter().map(|_| deviation * random.normal()).collect()
                })
                .collect();
            for sign in [1.0, -1.0] {
                let disturb = |(w, n): (&Vec<f32>, &Vec<f64>)| w.iter().zip(n).map(|(w, n)| (f64::from(*w) + sign * n) as f32).collect();
                let after: Vec<Vec<f32>> = before.iter().zip(&noises).map(disturb).collect();
                losses.push(self.with(unit, before, &after).await?);
            }
        }
        Ok((even_part(&losses), noise.iter().sum()))
    }

    /// Mean loss under noises on the inputs and their negatives, and what it says of rounding.
    async fn input_noise(
        &mut self,
        unit: &Unit,
        before: &[Vec<f32>],
        (number, pairs, epsilon): (u64, usize, f64),
    ) -> Result<(f64, BTreeMap<u32, f64>)> {
        let (mut score, mut losses) = (0.0, BTreeMap::new());
        for site in unit.sites() {
            let part = Unit { linears: unit.linears.iter().filter(|l| l.site == site).cloned().collect(), ..unit.clone() };
            let of_part: Vec<Vec<f32>> = unit.linears.iter().zip(before).filter(|(l, _)| l.site == site).map(|(_, w)| w.clone()).collect();
            let (rms, tokens) = {
                let all = self.moments(unit.block).await?;
                let moments = &all[&site];
                let trace: f64 = moments.diagonal().iter().sum();
                ((trace / (moments.rows() as f64 * moments.cols() as f64)).sqrt(), moments.rows() as f64)
            };
            let squares: f64 = of_part.iter().flatten().map(|w| f64::from(*w) * f64::from(*w)).sum();
            let (loss, epsilon) = self.regular(unit.block, site, rms, (number, pairs, epsilon)).await?;
            // Noise of deviation e r on the inputs is noise of e^2 r^2 |W|^2 on the outputs of a token.
            let slope = loss / (tokens * (epsilon * rms).powi(2) * squares).max(f64::MIN_POSITIVE);
            score += loss;
            for (bits, change) in self.by_outputs(&part, &of_part).await?.1 {
                *losses.entry(bits).or_insert(0.0) += slope * change;
            }
        }
        Ok((score, losses))
    }

    /// The loss under noise, and the noise: halved while twice as much does not cost about four times as much.
    async fn regular(&self, block: usize, site: Site, rms: f64, (number, pairs, epsilon): (u64, usize, f64)) -> Result<(f64, f64)> {
        const HALVINGS: i32 = 4;
        let mut last = (Vec::new(), epsilon);
        for halving in 0..=HALVINGS {
            let epsilon = epsilon * 0.5f64.powi(halving);
            let twice = even_part(&self.noisy(block, site, 2.0 * epsilon * rms, (number, 0..1)).await?);
            let losses = self.noisy(block, site, epsilon * rms, (number, 0..1)).await?;
            let once = even_part(&losses);
            last = (losses, epsilon);
            // Where nothing comes of it, less noise will not help.
            if (2.5..=6.0).contains(&(twice / once)) || once <= 0.0 {
                break;
            }
        }
        let (mut losses, epsilon) = last;
        losses.extend(self.noisy(block, site, epsilon * rms, (number, 1..pairs)).await?);
        Ok((even_part(&losses), epsilon))
    }

    /// Losses under some pairs of noises.
    async fn noisy(&self, block: usize, site: Site, deviation: f64, (number, pairs): (u64, Range<usize>)) -> Result<Vec<f64>> {
        let mut losses = Vec::new();
        for pair in pairs {
            for sign in [1.0, -1.0] {
                let noise = |batch: usize, row: usize, cols: usize| -> Vec<f32> {
                    let stream = (number << 40) + ((pair as u64) << 32) + ((batch as u64) << 16) + row as u64;
                    let mut random = Random::new(self.options.seed, stream);
                    (0..cols).map(|_| (sign * deviation * random.normal()) as f32).collect()
                };
                losses.push(self.metric(&self.probe()?.disturbed(block, site, &noise).await?)?);
            }
        }
        Ok(losses)
    }

    /// CMPQ's score of each block, and the measure's value by chance.
    async fn correlations(&self) -> Result<(Vec<f64>, f64)> {
        let Score::Correlation { measure, scope, components, corrected } = self.options.score else { return Ok((Vec::new(), 0.0)) };
        let blocks = units(&self.checkpoint.config, UnitKind::Block).len();
        let width = self.probe()?.model().dimensions().hidden;
        let mut layers = Vec::new();
        for i in 0..=blocks {
            let all = Samples::new(&self.probe()?.hidden(i, true).await?, width)?;
            // The released code compares whole layers by the first correlation.
            layers.push(if measure == Similarity::First { all } else { all.principal(components, 0.99) });
        }
        let chance = layers.get(1).map_or(0.0, |l| null(measure, l.rows(), l.cols(), layers[0].cols()));
        Ok((cmpq(&layers, measure, scope, corrected)?, chance))
    }
}

/// The mean of losses under noises and their negatives, less what they are without: terms of odd order cancel, so that of a quadratic loss
/// `g d + dᵀ H d / 2` exactly the mean of `dᵀ H d / 2` is left.
fn even_part(rises: &[f64]) -> f64 {
    rises.iter().sum::<f64>() / rises.len().max(1) as f64
}

/// Sum of squares of what changed.
fn energy(before: &[f32], after: &[f32]) -> f64 {
    before.iter().zip(after).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
}

fn difference(before: &[f32], after: &[f32]) -> Vec<f32> {
    before.iter().zip(after).map(|(a, b)| a - b).collect()
}

/// Tensors with a part of each pruned, and the sum of squares that went.
fn pruned(before: &[Vec<f32>], parts: &[f64]) -> Result<(Vec<Vec<f32>>, f64)> {
    let mut after = before.to_vec();
    for (w, part) in after.iter_mut().zip(parts) {
        prune(w, *part)?;
    }
    let removed = before.iter().zip(&after).map(|(w, p)| energy(w, p)).sum();
    Ok((after, removed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_and_its_negative_leave_the_curvature() {
        let (g, h) = ([3.0, -2.0], [[2.0, 0.5], [0.5, 1.0]]);
        let quadratic = |d: [f64; 2]| (0..2).map(|i| g[i] * d[i] + 0.5 * (0..2).map(|j| d[i] * h[i][j] * d[j]).sum::<f64>()).sum::<f64>();
        let d = [0.7, -0.3];
        let curvature = quadratic(d) - g[0] * d[0] - g[1] * d[1];
        assert!((even_part(&[quadratic(d), quadratic(d.map(|x| -x))]) - curvature).abs() < 1e-15);
    }
}
