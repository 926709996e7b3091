//! Options of a run.

use super::method::Method;
use super::schedule::Schedule;
use crate::tensor::Packing;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// How weights that are not trained are stored (not in the paper): all singular vectors, beside f32 copies of the active ones, or
/// LoRA's and ReLoRA's W.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Frozen {
    /// 4 bytes an element.
    #[default]
    F32,
    /// Halves, 2 bytes an element: each is off by at most 2^-11 of itself.
    F16,
    /// 8-bit codes, a byte an element and 4 bytes a row: each is off by at most 1/254 of the largest in its row.
    Int8,
}

impl Frozen {
    /// How rows are packed; `None`: not at all.
    pub fn packing(self) -> Option<Packing> {
        match self {
            Self::F32 => None,
            Self::F16 => Some(Packing::F16),
            Self::Int8 => Some(Packing::Int8),
        }
    }
}

/// How values are rounded when they are frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Round {
    /// To the nearest.
    #[default]
    Nearest,
    /// Up or down at random, so that what is lost is nothing in the mean.
    Stochastic,
}

/// Everything that decides what a run computes: two runs of equal options, data and adapter give equal bits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// How linear layers are trained.
    pub method: Method,
    /// Optimiser steps.
    pub steps: usize,
    /// Highest learning rate of the linear layers.
    pub rate: f64,
    /// Highest learning rate of everything else; `None`: the same.
    pub rate_rest: Option<f64>,
    /// How they change.
    pub schedule: Schedule,
    /// Steps of the first rise.
    pub warmup: usize,
    /// Adam's decay of the first moment.
    pub beta1: f32,
    /// Adam's decay of the second moment.
    pub beta2: f32,
    /// Adam's epsilon.
    pub epsilon: f32,
    /// AdamW's decay of weights; of the singular values only, in a spectral layer.
    pub weight_decay: f32,
    /// Gains and biases decay too.
    pub decay_all: bool,
    /// Largest norm of all gradients together.
    pub clip: Option<f32>,
    /// Plain gradient descent instead of Adam.
    pub sgd: bool,
    /// Label smoothing.
    pub smoothing: f32,
    /// Probability of dropping elements of residual branches.
    pub dropout: f32,
    /// Sequences (or examples) of a batch.
    pub sequences: usize,
    /// Tokens of a sequence.
    pub context: usize,
    /// Batches of a step, whose gradients are added.
    pub batches: usize,
    /// Seed of everything random.
    pub seed: u64,
    /// Saved activations of one block instead of all, for one more forward pass.
    pub recompute: bool,
    /// How weights that are not trained are stored.
    #[serde(default)]
    pub frozen: Frozen,
    /// How they are rounded.
    #[serde(default)]
    pub round: Round,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            method: Method::Full,
            steps: 1200,
            rate: 1e-3,
            rate_rest: None,
            schedule: Schedule::Cosine { floor: 0.1 },
            warmup: 50,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            decay_all: false,
            clip: Some(1.0),
            sgd: false,
            smoothing: 0.0,
            dropout: 0.0,
            sequences: 16,
            context: 128,
            batches: 1,
            seed: 0,
            recompute: false,
            frozen: Frozen::F32,
            round: Round::Nearest,
        }
    }
}

impl Options {
    /// Highest learning rate of embeddings, norms, biases and the head.
    pub fn rest_rate(&self) -> f64 {
        self.rate_rest.unwrap_or(self.rate)
    }

    /// Tokens of a step.
    pub fn tokens(&self) -> usize {
        self.sequences * self.context * self.batches
    }

    /// Refuses what cannot be run, by the option's name.
    ///
    /// # Errors
    /// [`Error::Request`].
    pub fn check(&self) -> Result<()> {
        let positive = [("steps", self.steps), ("sequences", self.sequences), ("context", self.context), ("batches", self.batches)];
        if let Some((name, _)) = positive.iter().find(|(_, n)| *n == 0) {
            return Err(Error::Request(format!("{name} 0: must be at least 1")));
        }
        let rates = [("rate", self.rate), ("rate of the rest", self.rest_rate())];
        if let Some((name, v)) = rates.iter().find(|(_, v)| !v.is_finite() || *v < 0.0) {
            return Err(Error::Request(format!("{name} {v}: must be a number of at least 0")));
        }
        let fractions = [("dropout", self.dropout), ("smoothing", self.smoothing), ("beta1", self.beta1), ("beta2", self.beta2)];
        if let Some((name, v)) = fractions.iter().find(|(_, v)| !(0.0..1.0).contains(v)) {
            return Err(Error::Request(format!("{name} {v}: must be at least 0 and less than 1")));
        }
        if self.method != Method::Full && self.method.rank() == 0 {
            return Err(Error::Request(format!("rank 0: {} needs a rank of at least 1", self.method.name())));
        }
        if matches!(self.method, Method::Galore { .. }) && self.frozen != Frozen::F32 {
            let why = "GaLore changes all of W at every step, by less than what rounding would take away: store it in f32";
            return Err(Error::Request(format!("frozen {:?}: {why}", self.frozen)));
        }
        Ok(())
    }
}
