//! The methods that are compared, and the parameters that they give a linear layer.

use super::layout::{Group, Id, Layout, Slots};
use crate::autograd::{Gradient, Parameter, Spectral, SpectralGradients, Strategy, Weight};
use crate::kernel::draw::Law;
use serde::{Deserialize, Serialize};

/// Options of Sparse Spectral Training. What the paper leaves open is an option here.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sst {
    /// Pairs of singular vectors that are trained at a time (r).
    pub rank: usize,
    /// Steps of an iteration: from one sampling to the next (T3; 200 in the paper's language models).
    pub steps: usize,
    /// Iterations of a round: from one re-SVD to the next (T2); 0: width / rank.
    pub iterations: usize,
    /// Steps over which the learning rate rises at the start of an iteration (20 in the paper's language models).
    pub warmup: usize,
    /// What the warm-up scales. The paper does not say; the vectors alone lose least.
    pub warmup_scope: Scope,
    /// By which law the pairs are drawn; the paper's is [`Law::Mixture`].
    pub law: Law,
    /// No pair is drawn twice in a round (not in the paper).
    pub without_repetition: bool,
    /// Which gradient the vectors get.
    pub gradient: Gradient,
    /// How weights are multiplied.
    pub strategy: Strategy,
    /// The moments of the singular values begin anew at a re-SVD, as their numbers then mean other triplets.
    pub reset_sigma: bool,
    /// Active vectors are divided by their norm after each step.
    pub normalise: bool,
    /// Rounds end in a re-SVD.
    pub re_svd: bool,
    /// Only the singular values of the active pairs are trained, instead of all: to show what the others are worth.
    pub sampled_sigma: bool,
    /// Where the first singular vectors and values come from.
    pub basis: Basis,
}

/// First singular vectors and values of a spectral weight. What the paper's ablation puts in their place is not known; all but the
/// first are to show what a decomposition of the weight itself is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// Those of the initial weight.
    #[default]
    Svd,
    /// Its values, with the vectors of another random matrix.
    Random,
    /// Its vectors, with values of 0: the layer begins as 0.
    Zero,
}

/// What a warm-up scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The singular vectors.
    Vectors,
    /// Singular vectors and values.
    Spectral,
    /// Every parameter.
    All,
}

impl Default for Sst {
    fn default() -> Self {
        Self {
            rank: 8,
            steps: 200,
            iterations: 0,
            warmup: 20,
            warmup_scope: Scope::Vectors,
            law: Law::Mixture,
            without_repetition: false,
            gradient: Gradient::Enhanced,
            strategy: Strategy::Auto,
            reset_sigma: true,
            normalise: true,
            re_svd: true,
            sampled_sigma: false,
            basis: Basis::Svd,
        }
    }
}

/// How the linear layers are trained. Embeddings, norms, biases and the head are trained alike in all.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Whole weights.
    Full,
    /// `W + alpha / r B A` with W frozen (LoRA).
    Lora {
        /// r.
        rank: usize,
        /// Alpha / r.
        scale: f32,
    },
    /// The same, merged into W and begun anew from time to time, from the first step on (ReLoRA without a full-rank start).
    Relora {
        /// r.
        rank: usize,
        /// Alpha / r.
        scale: f32,
        /// Steps between merges.
        every: usize,
        /// Steps over which the learning rate rises after a merge.
        warmup: usize,
    },
    /// Gradients projected onto their leading singular vectors (GaLore).
    Galore {
        /// r.
        rank: usize,
        /// Steps between new projections.
        every: usize,
        /// Factor of the step.
        scale: f32,
    },
    /// Sparse Spectral Training.
    Sst(Sst),
}

impl Method {
    /// Its name on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Lora { .. } => "lora",
            Self::Relora { .. } => "relora",
            Self::Galore { .. } => "galore",
            Self::Sst(_) => "sst",
        }
    }

    /// Its rank; 0 for full rank.
    pub fn rank(&self) -> usize {
        match self {
            Self::Full => 0,
            Self::Lora { rank, .. } | Self::Relora { rank, .. } | Self::Galore { rank, .. } => *rank,
            Self::Sst(s) => s.rank,
        }
    }
}

/// Decoupled weight decay.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Decay {
    /// Of matrices, or of their singular values.
    pub matrices: f32,
    /// Of gains and biases.
    pub vectors: f32,
}

/// A linear layer's tensors.
#[derive(Debug, Clone)]
pub struct Linear {
    /// The weight's name, without `.weight`.
    pub name: String,
    /// Outputs.
    pub m: usize,
    /// Inputs.
    pub n: usize,
    /// The weight.
    pub weight: Stand,
    /// `1 x m`.
    pub bias: Option<Id>,
}

/// What stands for a weight.
#[derive(Debug, Clone)]
pub enum Stand {
    /// Itself.
    Dense(Id),
    /// LoRA: the frozen weight and its two factors.
    LowRank {
        /// `m x n`
        w: Id,
        /// `r x n`
        a: Id,
        /// `m x r`
        b: Id,
        /// Alpha / r.
        scale: f32,
    },
    /// GaLore: the weight, the projector, and the step in the projected space.
    Projected {
        /// `m x n`
        w: Id,
        /// `r x min(m, n)`
        projector: Id,
        /// `r x max(m, n)`
        step: Id,
    },
    /// SST.
    Spectral {
        /// `k x m`
        ut: Id,
        /// `1 x k`
        sigma: Id,
        /// `k x n`
        vt: Id,
        /// First word of the active indices.
        active: usize,
        /// Their number.
        r: usize,
    },
}

impl Linear {
    /// Plans a layer's tensors for a method.
    pub fn plan(layout: &mut Layout, method: &Method, name: &str, (m, n): (usize, usize), bias: bool, decay: Decay) -> Self {
        let at = |part: &str| format!("{name}.{part}");
        let Decay { matrices: decay, vectors } = decay;
        let k = m.min(n);
        let weight = match *method {
            Method::Full => Stand::Dense(layout.trained(&at("weight"), (m, n), Group::Adapted, decay)),
            Method::Lora { rank, scale } | Method::Relora { rank, scale, .. } => {
                let r = rank.min(k);
                let a = layout.trained(&at("lora_a"), (r, n), Group::Adapted, decay);
                let b = layout.trained(&at("lora_b"), (m, r), Group::Adapted, decay);
                Stand::LowRank { w: layout.frozen(&at("weight"), (m, n)), a, b, scale }
            }
            Method::Galore { rank, .. } => {
                let r = rank.min(k);
                let step = layout.step(&at("step"), (r, m.max(n)));
                let projector = layout.beside(&at("projector"), (r, k));
                Stand::Projected { w: layout.frozen(&at("weight"), (m, n)), projector, step }
            }
            Method::Sst(s) => {
                let r = s.rank.min(k);
                let active = layout.indices(r);
                let ut = layout.vectors(&at("u"), (k, m), r, active, s.normalise);
                let sigma = match s.sampled_sigma {
                    true => layout.sampled_sigma(&at("sigma"), k, r, active),
                    false => layout.sigma(&at("sigma"), k, decay),
                };
                let vt = layout.vectors(&at("v"), (k, n), r, active, s.normalise);
                Stand::Spectral { ut, sigma, vt, active, r }
            }
        };
        let bias = bias.then(|| layout.trained(&at("bias"), (1, m), Group::Rest, vectors));
        Self { name: name.into(), m, n, weight, bias }
    }

    /// The weight in a plan. `method` decides how a spectral weight is multiplied and which gradient it gets.
    pub fn weight(&self, slots: &Slots, method: &Method) -> Weight {
        match self.weight {
            Stand::Dense(id) => Weight::Dense(slots.parameter(id)),
            Stand::LowRank { w, a, b, scale } => {
                Weight::LowRank { w: slots.source(w), a: slots.parameter(a), b: slots.parameter(b), scale }
            }
            Stand::Projected { w, projector, step } => Weight::Projected {
                w: slots.value(w),
                projector: slots.value(projector),
                gradient: slots.parameter(step).gradient,
                whole: slots.whole(step),
            },
            Stand::Spectral { ut, sigma, vt, active, .. } => {
                let [u, s, v] = [ut, sigma, vt].map(|id| slots.gradient(id));
                let (strategy, kind, sampled_sigma) = match method {
                    Method::Sst(o) => (o.strategy, o.gradient, o.sampled_sigma),
                    _ => Default::default(),
                };
                let gradients = match (u, s, v) {
                    (Some(ut), Some(sigma), Some(vt)) => {
                        Some(SpectralGradients { ut, sigma, sampled_sigma, vt, active: (slots.indices, active), kind })
                    }
                    _ => None,
                };
                Weight::Spectral(Spectral { ut: slots.source(ut), sigma: slots.value(sigma), vt: slots.source(vt), gradients, strategy })
            }
        }
    }

    /// The bias in a plan.
    pub fn bias(&self, slots: &Slots) -> Option<Parameter> {
        self.bias.map(|id| slots.parameter(id))
    }
}
