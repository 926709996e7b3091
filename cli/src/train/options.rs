//! Options of the commands that train.

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use etalon::autograd::{Gradient, Strategy};
use etalon::kernel::draw::Law;
use etalon::train::{Frozen, Method, Options, Round, Schedule, Scope, Sst};

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MethodName {
    /// Sparse Spectral Training
    Sst,
    /// Whole weights
    Full,
    /// Low-rank factors beside frozen weights
    Lora,
    /// The same, merged from time to time
    Relora,
    /// Projected gradients
    Galore,
}

#[derive(Clone, Copy, ValueEnum)]
enum ScheduleName {
    Cosine,
    Noam,
    Constant,
}

#[derive(Clone, Copy, ValueEnum)]
enum LawName {
    Mixture,
    Uniform,
    Sigma,
    Top,
    Sequential,
}

#[derive(Clone, Copy, ValueEnum)]
enum StrategyName {
    Auto,
    Factored,
    Dense,
}

/// How the linear layers are trained.
#[derive(Args, Clone)]
pub(crate) struct MethodArgs {
    /// Rank: pairs of singular vectors that are trained at a time, or rows of the low-rank factors
    #[arg(long, default_value_t = 8)]
    rank: usize,
    /// SST: steps of an iteration, from one sampling to the next (T3)
    #[arg(long, value_name = "STEPS", default_value_t = 200)]
    t3: usize,
    /// SST: iterations of a round, from one re-SVD to the next (T2); 0: width / rank
    #[arg(long, value_name = "N", default_value_t = 0)]
    t2: usize,
    /// SST: steps of the learning rate's rise at the start of an iteration
    #[arg(long, value_name = "STEPS", default_value_t = 20)]
    sst_warmup: usize,
    /// SST: what that rise scales
    #[arg(long, value_enum, default_value = "vectors")]
    sst_warmup_scope: ScopeName,
    /// SST: the law that pairs are drawn by
    #[arg(long, value_enum, default_value = "mixture")]
    law: LawName,
    /// SST: draw no pair twice in a round (not in the paper)
    #[arg(long)]
    without_repetition: bool,
    /// SST: the gradient with the factor sigma instead of the enhanced one
    #[arg(long)]
    default_gradient: bool,
    /// SST: how weights are multiplied
    #[arg(long, value_enum, default_value = "auto")]
    strategy: StrategyName,
    /// SST: no re-SVD
    #[arg(long)]
    no_re_svd: bool,
    /// SST: keep the moments of singular values at a re-SVD
    #[arg(long)]
    keep_sigma_moments: bool,
    /// SST: do not normalise active vectors
    #[arg(long)]
    no_normalise: bool,
    /// LoRA, ReLoRA: alpha / rank; GaLore: factor of the step [default: 1; GaLore 0.25]
    #[arg(long, value_name = "FACTOR")]
    scale: Option<f32>,
    /// ReLoRA: steps between merges; GaLore: between projections [default: 100; GaLore 200]
    #[arg(long, value_name = "STEPS")]
    every: Option<usize>,
    /// ReLoRA: steps of the learning rate's rise after a merge
    #[arg(long, value_name = "STEPS", default_value_t = 10)]
    relora_warmup: usize,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum ScopeName {
    Vectors,
    Spectral,
    All,
}

impl MethodName {
    /// The method at a rank, with the options that it has by default; SST's are given.
    pub(crate) fn of_rank(self, rank: usize, sst: Method) -> Method {
        match self {
            Self::Full => Method::Full,
            Self::Lora => Method::Lora { rank, scale: 1.0 },
            Self::Relora => Method::Relora { rank, scale: 1.0, every: 100, warmup: 10 },
            Self::Galore => Method::Galore { rank, every: 200, scale: 0.25 },
            Self::Sst => sst,
        }
    }
}

impl MethodArgs {
    pub(crate) fn method(&self, name: MethodName) -> Method {
        let (rank, every) = (self.rank, self.every);
        match name {
            MethodName::Full => Method::Full,
            MethodName::Lora => Method::Lora { rank, scale: self.scale.unwrap_or(1.0) },
            MethodName::Relora => {
                let warmup = self.relora_warmup;
                Method::Relora { rank, scale: self.scale.unwrap_or(1.0), every: every.unwrap_or(100), warmup }
            }
            MethodName::Galore => Method::Galore { rank, every: every.unwrap_or(200), scale: self.scale.unwrap_or(0.25) },
            MethodName::Sst => Method::Sst(Sst {
                rank,
                steps: self.t3,
                iterations: self.t2,
                warmup: self.sst_warmup,
                warmup_scope: match self.sst_warmup_scope {
                    ScopeName::Vectors => Scope::Vectors,
                    ScopeName::Spectral => Scope::Spectral,
                    ScopeName::All => Scope::All,
                },
                law: match self.law {
                    LawName::Mixture => Law::Mixture,
                    LawName::Uniform => Law::Uniform,
                    LawName::Sigma => Law::Sigma,
                    LawName::Top => Law::Top,
                    LawName::Sequential => Law::Sequential,
                },
                without_repetition: self.without_repetition,
                gradient: if self.default_gradient { Gradient::Default } else { Gradient::Enhanced },
                strategy: match self.strategy {
                    StrategyName::Auto => Strategy::Auto,
                    StrategyName::Factored => Strategy::Factored,
                    StrategyName::Dense => Strategy::Dense,
                },
                reset_sigma: !self.keep_sigma_moments,
                normalise: !self.no_normalise,
                re_svd: !self.no_re_svd,
                ..Sst::default()
            }),
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum FrozenName {
    F32,
    F16,
    Int8,
}

/// What a run computes, beside the method.
#[derive(Args, Clone)]
pub(crate) struct RunArgs {
    /// Optimiser steps
    #[arg(long, default_value_t = 1200)]
    steps: usize,
    /// Seed of initial weights, order of the data, samplings
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Highest learning rate of the linear layers
    #[arg(long, default_value_t = 5e-3)]
    lr: f64,
    /// Highest learning rate of embeddings, norms, biases and the head [default: that of the linear layers]
    #[arg(long)]
    lr_rest: Option<f64>,
    /// How learning rates change after their rise
    #[arg(long, value_enum, default_value = "cosine")]
    schedule: ScheduleName,
    /// Steps of their first rise
    #[arg(long, default_value_t = 50)]
    warmup: usize,
    /// Sequences of a batch
    #[arg(long, default_value_t = 16)]
    sequences: usize,
    /// Tokens of a sequence
    #[arg(long, default_value_t = 128)]
    context: usize,
    /// Batches of a step, whose gradients are added
    #[arg(long, default_value_t = 1)]
    batches: usize,
    /// Largest norm of all gradients together; 0: no limit
    #[arg(long, default_value_t = 1.0)]
    clip: f32,
    /// AdamW's weight decay
    #[arg(long, default_value_t = 0.0)]
    weight_decay: f32,
    /// Adam's decay of the second moment
    #[arg(long, default_value_t = 0.999)]
    beta2: f32,
    /// Plain gradient descent instead of Adam
    #[arg(long)]
    sgd: bool,
    /// Label smoothing
    #[arg(long, default_value_t = 0.0)]
    smoothing: f32,
    /// Probability of dropping elements of residual branches
    #[arg(long, default_value_t = 0.0)]
    dropout: f32,
    /// Make activations anew for the gradients instead of keeping them
    #[arg(long)]
    recompute: bool,
    /// SST, LoRA, ReLoRA: how weights that are not trained are stored (not in the paper)
    #[arg(long, value_enum, default_value = "f32")]
    frozen: FrozenName,
    /// They are rounded up or down at random instead of to the nearest
    #[arg(long)]
    stochastic_rounding: bool,
}

impl RunArgs {
    pub(crate) fn context(&self) -> usize {
        self.context
    }

    pub(crate) fn lr(&self) -> f64 {
        self.lr
    }

    pub(crate) fn lr_rest(&self) -> Option<f64> {
        self.lr_rest
    }

    pub(crate) fn options(&self, method: Method) -> Result<Options> {
        let o = Options {
            method,
            steps: self.steps,
            rate: self.lr,
            rate_rest: self.lr_rest,
            schedule: match self.schedule {
                ScheduleName::Cosine => Schedule::Cosine { floor: 0.1 },
                ScheduleName::Noam => Schedule::Noam,
                ScheduleName::Constant => Schedule::Constant,
            },
            warmup: self.warmup,
            beta2: self.beta2,
            weight_decay: self.weight_decay,
            clip: (self.clip > 0.0).then_some(self.clip),
            sgd: self.sgd,
            smoothing: self.smoothing,
            dropout: self.dropout,
            sequences: self.sequences,
            context: self.context,
            batches: self.batches,
            seed: self.seed,
            recompute: self.recompute,
            frozen: match self.frozen {
                FrozenName::F32 => Frozen::F32,
                FrozenName::F16 => Frozen::F16,
                FrozenName::Int8 => Frozen::Int8,
            },
            round: if self.stochastic_rounding { Round::Stochastic } else { Round::Nearest },
            ..Options::default()
        };
        if self.clip < 0.0 || !self.clip.is_finite() {
            bail!("--clip {}: must be a number of at least 0", self.clip);
        }
        o.check()?;
        Ok(o)
    }
}
