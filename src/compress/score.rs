//! Scores: how much of what a model says is expected to be lost where a part of it is rounded, and how that is found.

use super::{Unit, UnitKind, fingerprint, units};
use crate::format::Checkpoint;
use crate::model::Sequence;
use crate::quant::round::Spec;
use crate::quant::similarity::{Scope, Similarity};
use crate::train::random::hash;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How a unit is scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Score {
    /// The loss with this unit alone rounded, for each width: what the others estimate.
    Measured,
    /// PMPQ: the loss with the unit's weights of least magnitude set to 0. It is taken to grow with the sum of squares of what changes in
    /// the weights; without a sparsity, as much is pruned for each width as rounding to it changes.
    Pruning {
        /// The part that is pruned: 0.3 in the paper.
        sparsity: Option<f64>,
    },
    /// TDMPQ on weights: the mean loss under normal noise on the unit's weights and its negative, as large as that of rounding to `bits`.
    /// Terms of odd order cancel; what is left is half the trace of the Hessian times the noise. Grows as with pruning.
    WeightNoise {
        /// Pairs of a noise and its negative.
        pairs: usize,
        /// The width whose noise is matched.
        bits: u32,
    },
    /// TDMPQ on inputs: the same with noise on what the unit's layers read, `epsilon` of its root mean square. The loss is taken to grow with
    /// the sum of squares of what changes in the outputs, `tr(D H Dᵀ)`.
    InputNoise {
        /// Pairs of a noise and its negative.
        pairs: usize,
        /// Deviation of the noise as a part of the inputs' root mean square.
        epsilon: f64,
    },
    /// TDMPQ by gradients: `sum F_i D_i^2 / 2`, F being the diagonal of the Fisher information ([`fisher`](super::gradient::fisher)) and D what rounding changes: the
    /// second-order term of the divergence, in nats a token, without what weights do together. Decoders only.
    Gradient,
    /// CMPQ: 1 - the similarity of a transformer layer's output to that of others, over tokens. It has no unit of loss; it scales the part of
    /// the outputs' sum of squares that rounding changes.
    Correlation {
        /// The measure.
        measure: Similarity,
        /// Which layers each is compared with.
        scope: Scope,
        /// Principal components of each layer that are compared, at most; those of 99 % of the variance.
        components: usize,
        /// Less what is to be had by chance.
        corrected: bool,
    },
}

/// What counts as loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Metric {
    /// [`Loss::change`](crate::model::Loss::change): the divergence from what the model said before, or the distance of its embeddings.
    Change,
    /// The rise of the negative log-likelihood of the calibration texts, in nats: decoders only.
    Likelihood,
}

/// What is measured, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// The score.
    pub score: Score,
    /// What counts as loss.
    pub metric: Metric,
    /// What gets one width.
    pub unit: UnitKind,
    /// How weights are rounded, but for the width: the group that a scale is for, and so on.
    pub spec: Spec,
    /// Tokens that codes are fitted to ([`Codes::Fitted`](super::round::Codes::Fitted)); 0: the nearest ones.
    pub fitted_to: usize,
    /// Widths that losses are wanted for.
    pub widths: Vec<u32>,
    /// Of noises.
    pub seed: u64,
}

/// Widths that codes can have.
pub const WIDTHS: [u32; 6] = [2, 3, 4, 5, 6, 8];

impl Default for Options {
    /// TDMPQ on weights, one width a site.
    fn default() -> Self {
        let score = Score::WeightNoise { pairs: 2, bits: 3 };
        Self { score, metric: Metric::Change, unit: UnitKind::Site, spec: Spec::default(), fitted_to: 0, widths: WIDTHS.to_vec(), seed: 0 }
    }
}

/// What was found for a unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnitScore {
    /// The unit's name.
    pub unit: String,
    /// The score itself: a loss, or for CMPQ the dissimilarity of its layer.
    pub score: f64,
    /// The loss that is expected of the unit at each width, never rising with it.
    pub losses: BTreeMap<u32, f64>,
}

/// Scores of a model's units, as many as have been measured; kept as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Of this form.
    pub version: u32,
    /// [`fingerprint`] of the weights.
    pub weights: u64,
    /// A hash of the calibration's tokens.
    pub texts: u64,
    /// Tokens of the calibration.
    pub tokens: usize,
    /// How they were measured.
    pub options: Options,
    /// What CMPQ's measure gives for layers that have nothing in common, over as many tokens.
    pub chance: Option<f64>,
    /// The units so far, in the order of the model's work.
    pub units: Vec<UnitScore>,
}

impl Scores {
    /// Of nothing yet.
    ///
    /// # Errors
    /// As [`fingerprint`]; [`Error::Request`] for options that make no sense.
    pub fn new(checkpoint: &Checkpoint, texts: &[Sequence], options: Options) -> Result<Self> {
        check(&options)?;
        let bytes: Vec<u8> = texts.iter().flat_map(|t| t.tokens.iter().chain(&[u32::MAX])).flat_map(|t| t.to_le_bytes()).collect();
        let tokens = texts.iter().map(|t| t.tokens.len()).sum();
        let weights = fingerprint(checkpoint)?;
        Ok(Self { version: 1, weights, texts: hash(bytes), tokens, options, chance: None, units: Vec::new() })
    }

    /// Scores of 0 for every unit, for searches that need none.
    ///
    /// # Errors
    /// As [`Scores::new`].
    pub fn none(checkpoint: &Checkpoint, options: Options) -> Result<Self> {
        let mut scores = Self::new(checkpoint, &[], options)?;
        let losses: BTreeMap<u32, f64> = scores.options.widths.iter().map(|w| (*w, 0.0)).collect();
        let of = |u: Unit| UnitScore { unit: u.name, score: 0.0, losses: losses.clone() };
        scores.units = units(&checkpoint.config, scores.options.unit).into_iter().map(of).collect();
        Ok(scores)
    }

    /// Takes over what was measured before, if it was of the same weights, texts and options.
    ///
    /// # Errors
    /// [`Error::Request`] that names what differs.
    pub fn resume(&mut self, before: Self) -> Result<()> {
        let differs = [
            ("version of this program", before.version != self.version),
            ("model", before.weights != self.weights),
            ("calibration", before.texts != self.texts),
            ("score or its options", before.options != self.options),
        ];
        match differs.iter().find(|(_, d)| *d) {
            Some((what, _)) => Err(Error::Request(format!("scores of another {what}: measure anew, in another file"))),
            None => {
                *self = before;
                Ok(())
            }
        }
    }

    /// True once every unit has been measured.
    pub fn complete(&self, checkpoint: &Checkpoint) -> bool {
        self.units.len() == units(&checkpoint.config, self.options.unit).len()
    }
}

fn check(o: &Options) -> Result<()> {
    let fault = match &o.score {
        _ if o.widths.is_empty() || o.widths.iter().any(|w| !WIDTHS.contains(w)) => {
            format!("widths {:?}: give some of {WIDTHS:?}", o.widths)
        }
        Score::Pruning { sparsity: Some(s) } if !(*s > 0.0 && *s < 1.0) => format!("a sparsity of {s}: give a part between 0 and 1"),
        Score::WeightNoise { pairs: 0, .. } | Score::InputNoise { pairs: 0, .. } => "no pairs of noises: give one at least".into(),
        Score::WeightNoise { bits, .. } if !WIDTHS.contains(bits) => format!("noise of {bits} bits: give one of {WIDTHS:?}"),
        Score::InputNoise { epsilon, .. } if !(*epsilon > 0.0 && *epsilon < 1.0) => {
            format!("noise of {epsilon} times the inputs: give a part between 0 and 1")
        }
        Score::Correlation { components: 0, .. } => "no components to compare: give one at least".into(),
        _ => return Ok(()),
    };
    Err(Error::Request(fault))
}
