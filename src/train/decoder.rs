//! OPT- and Llama-style decoders for training: the same architecture as [`crate::model`] runs, under the same names, recorded on a
//! tape instead of fused for inference.

use super::layout::{Group, Id, Layout, Slots};
use super::method::{Decay, Linear, Method};
use crate::autograd::{Attention, Loss, NormParameters, Parameter, Tape, Var};
use crate::format::{Activation as Act, Config, LlamaConfig, OptConfig};
use crate::kernel::embedding::Ids;
use crate::kernel::linear::Activation;
use crate::kernel::rope::Angles;
use crate::plan::SlotId;
use crate::tensor::Tensor;
use crate::{Error, Result};
use std::sync::Arc;

/// A norm's tensors.
#[derive(Debug, Clone)]
struct Norm {
    gain: Id,
    bias: Option<Id>,
    eps: f32,
}

/// A block's tensors.
#[derive(Debug, Clone)]
struct Block {
    norm1: Norm,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    norm2: Norm,
    /// Llama only.
    gate: Option<Linear>,
    up: Linear,
    down: Linear,
}

/// A decoder's tensors, planned for one method.
#[derive(Debug, Clone)]
pub(super) struct Decoder {
    tokens: Id,
    positions: Option<Id>,
    project_in: Option<Linear>,
    project_out: Option<Linear>,
    blocks: Vec<Block>,
    final_norm: Option<Norm>,
    /// `None`: the embedding.
    head: Option<Id>,
    /// Sizes.
    pub(super) shape: Shape,
    method: Method,
}

/// Sizes of a decoder.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Shape {
    /// Width of the residual stream.
    pub(super) hidden: usize,
    /// Width of the embeddings.
    pub(super) embedded: usize,
    /// Width inside of the feed-forward layers.
    pub(super) inner: usize,
    /// Query heads.
    pub(super) heads: usize,
    /// Key heads.
    pub(super) kv_heads: usize,
    /// Elements of a head.
    pub(super) head_dim: usize,
    /// Size of the vocabulary.
    pub(super) vocabulary: usize,
    /// Longest context.
    pub(super) positions: usize,
    /// Norms stand before attention and feed-forward layers, else after.
    norm_before: bool,
    activation: Activation,
    /// Base of the rotary frequencies; `None`: learned positions.
    pub(super) rope_theta: Option<f64>,
    /// Deviation of initial weights.
    pub(super) init_std: f64,
}

/// What a step's plan gives a decoder.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inputs {
    /// Token ids, a word a row.
    pub(super) tokens: SlotId,
    /// The sequences' states, all of full length.
    pub(super) state: SlotId,
    /// Rotary angles, for Llama.
    pub(super) angles: Option<Angles>,
    /// Number of sequences.
    pub(super) sequences: usize,
    /// Rows of each.
    pub(super) rows: usize,
    /// Targets and their weight.
    pub(super) loss: Loss,
    /// The run's progress, for dropout.
    pub(super) progress: SlotId,
    /// Probability of dropping an element of a residual branch.
    pub(super) dropout: f32,
    /// Blocks are run once more for their gradients instead of keeping what they save.
    pub(super) recompute: bool,
}

/// Plans tensors under one prefix.
struct Planner<'a> {
    layout: &'a mut Layout,
    method: &'a Method,
    decay: Decay,
}

impl Planner<'_> {
    fn norm(&mut self, name: &str, cols: usize, bias: bool, eps: f32) -> Norm {
        let mut one = |part: &str| self.layout.trained(&format!("{name}.{part}"), (1, cols), Group::Rest, self.decay.vectors);
        Norm { gain: one("weight"), bias: bias.then(|| one("bias")), eps }
    }

    fn linear(&mut self, name: &str, m: usize, n: usize, bias: bool) -> Linear {
        Linear::plan(self.layout, self.method, name, (m, n), bias, self.decay)
    }

    fn table(&mut self, name: &str, rows: usize, cols: usize) -> Id {
        self.layout.trained(name, (rows, cols), Group::Rest, self.decay.matrices)
    }
}

impl Decoder {
    /// Plans the tensors of a model.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an encoder, and for options of a configuration that cannot be trained.
    pub(super) fn plan(layout: &mut Layout, config: &Config, method: &Method, decay: Decay) -> Result<Self> {
        let mut p = Planner { layout, method, decay };
        match config {
            Config::Opt(c) => opt(&mut p, c),
            Config::Llama(c) => llama(&mut p, c),
            Config::Bert(_) | Config::Translator { .. } => {
                Err(Error::Unsupported { what: "training an encoder".into(), advice: "train a model of type opt or llama".into() })
            }
        }
    }

    /// Every adapted layer.
    pub(super) fn linears(&self) -> impl Iterator<Item = &Linear> {
        let ends = self.project_in.iter().chain(&self.project_out);
        self.blocks.iter().flat_map(|b| [&b.q, &b.k, &b.v, &b.o].into_iter().chain(&b.gate).chain([&b.up, &b.down])).chain(ends)
    }

    /// Appends the forward pass and the losses of all rows: a row of one value each. On a recording tape, call
    /// [`Tape::backward`] afterwards.
    ///
    /// # Errors
    /// What the kernels return.
    pub(super) fn losses(self: &Arc<Self>, tape: &mut Tape, slots: &Arc<Slots>, i: &Inputs) -> Result<Tensor> {
        let rows = i.sequences * i.rows;
        let tokens = slots.parameter(self.tokens);
        let mut x = tape.embed("tokens", &Ids::Buffer(i.tokens, 0), &tokens, rows, None)?;
        if let Some(l) = &self.project_in {
            x = self.linear(tape, slots, l, x, None)?;
        }
        if let Some(p) = self.positions {
            let ids = Ids::Position { state: i.state, sequence_rows: i.rows, add: 2 };
            x = tape.embed("positions", &ids, &slots.parameter(p), rows, Some(x))?;
        }
        for index in 0..self.blocks.len() {
            let (me, slots, inputs) = (self.clone(), slots.clone(), *i);
            let block = move |tape: &mut Tape, x: Var| me.block(tape, &slots, &inputs, index, x);
            x = if i.recompute { tape.recomputed(x, block)? } else { block(tape, x)? };
        }
        if let Some(n) = &self.final_norm {
            x = tape.norm("final norm", x, &n.parameters(slots))?;
        }
        if let Some(l) = &self.project_out {
            x = self.linear(tape, slots, l, x, None)?;
        }
        let head = self.head.map_or(tokens, |h| slots.parameter(h));
        tape.head_loss("head", x, &head, None, &i.loss)
    }

    fn linear(&self, tape: &mut Tape, slots: &Slots, l: &Linear, x: Var, residual: Option<Var>) -> Result<Var> {
        tape.linear(&l.name, x, &l.weight(slots, &self.method), l.bias(slots).as_ref(), residual)
    }

    fn block(&self, tape: &mut Tape, slots: &Slots, i: &Inputs, index: usize, x: Var) -> Result<Var> {
        let (b, s) = (&self.blocks[index], &self.shape);
        let at = |part: &str| format!("layer {index} {part}");
        let h = if s.norm_before { tape.norm(&at("norm 1"), x, &b.norm1.parameters(slots))? } else { x };
        let mut q = self.linear(tape, slots, &b.q, h, None)?;
        let mut k = self.linear(tape, slots, &b.k, h, None)?;
        let v = self.linear(tape, slots, &b.v, h, None)?;
        if let Some(angles) = &i.angles {
            q = tape.turn(&at("turn q"), q, angles, s.head_dim, i.rows)?;
            k = tape.turn(&at("turn k"), k, angles, s.head_dim, i.rows)?;
        }
        let attention = Attention {
            state: i.state,
            causal: true,
            cross: false,
            sequences: i.sequences,
            kv_heads: s.kv_heads,
            head_dim: s.head_dim,
            scale: 1.0 / (s.head_dim as f32).sqrt(),
        };
        let a = tape.attention(&at("attention"), [q, k, v], &attention)?;
        let mut x = self.branch(tape, slots, i, &b.o, a, x, 2 * index as u32)?;
        if !s.norm_before {
            x = tape.norm(&at("norm 1"), x, &b.norm1.parameters(slots))?;
        }
        let h = if s.norm_before { tape.norm(&at("norm 2"), x, &b.norm2.parameters(slots))? } else { x };
        let mut u = self.linear(tape, slots, &b.up, h, None)?;
        u = match &b.gate {
            Some(g) => {
                let g = self.linear(tape, slots, g, h, None)?;
                tape.gate(&at("gate"), s.activation, g, u)?
            }
            None => tape.activate(&at("activation"), s.activation, u)?,
        };
        x = self.branch(tape, slots, i, &b.down, u, x, 2 * index as u32 + 1)?;
        if !s.norm_before {
            x = tape.norm(&at("norm 2"), x, &b.norm2.parameters(slots))?;
        }
        Ok(x)
    }

    /// `x + dropout(linear(h))`.
    #[expect(clippy::too_many_arguments, reason = "a branch's operands")]
    fn branch(&self, tape: &mut Tape, slots: &Slots, i: &Inputs, l: &Linear, h: Var, x: Var, stream: u32) -> Result<Var> {
        if i.dropout == 0.0 || !tape.trains() {
            return self.linear(tape, slots, l, h, Some(x));
        }
        let y = self.linear(tape, slots, l, h, None)?;
        let y = tape.dropout(&l.name, y, i.dropout, i.progress, stream)?;
        tape.add(&l.name, x, y)
    }
}

impl Norm {
    fn parameters(&self, slots: &Slots) -> NormParameters {
        let of = |id: Id| -> Parameter { slots.parameter(id) };
        NormParameters { gain: of(self.gain), bias: self.bias.map(of), rms: self.bias.is_none(), eps: self.eps }
    }
}

fn activation(a: Act) -> Activation {
    match a {
        Act::Relu => Activation::Relu,
        Act::Gelu => Activation::GeluErf,
        Act::GeluTanh => Activation::GeluTanh,
    }
}

fn opt(p: &mut Planner<'_>, c: &OptConfig) -> Result<Decoder> {
    if !c.layer_norm_elementwise_affine {
        return Err(Error::Unsupported { what: "training without gains".into(), advice: "set layer_norm_elementwise_affine".into() });
    }
    let root = "model.decoder";
    let (d, e) = (c.hidden, c.word_embed_proj_dim);
    let tokens = p.table(&format!("{root}.embed_tokens.weight"), c.vocab, e);
    let positions = p.table(&format!("{root}.embed_positions.weight"), c.max_positions + 2, d);
    let project_in = (e != d).then(|| p.linear(&format!("{root}.project_in"), d, e, false));
    let mut blocks = Vec::new();
    for i in 0..c.layers {
        let at = |part: &str| format!("{root}.layers.{i}.{part}");
        let mut attention = |part: &str| p.linear(&at(&format!("self_attn.{part}")), d, d, c.enable_bias);
        let [q, k, v, o] = ["q_proj", "k_proj", "v_proj", "out_proj"].map(&mut attention);
        blocks.push(Block {
            norm1: p.norm(&at("self_attn_layer_norm"), d, true, 1e-5),
            q,
            k,
            v,
            o,
            norm2: p.norm(&at("final_layer_norm"), d, true, 1e-5),
            gate: None,
            up: p.linear(&at("fc1"), c.ffn, d, c.enable_bias),
            down: p.linear(&at("fc2"), d, c.ffn, c.enable_bias),
        });
    }
    let final_norm = c.final_layer_norm().then(|| p.norm(&format!("{root}.final_layer_norm"), d, true, 1e-5));
    let project_out = (e != d).then(|| p.linear(&format!("{root}.project_out"), e, d, false));
    let shape = Shape {
        hidden: d,
        embedded: e,
        inner: c.ffn,
        heads: c.heads,
        kv_heads: c.heads,
        head_dim: d / c.heads,
        vocabulary: c.vocab,
        positions: c.max_positions,
        norm_before: c.do_layer_norm_before,
        activation: activation(c.activation),
        rope_theta: None,
        init_std: c.init_std,
    };
    let head = (!c.tied).then(|| p.table("lm_head.weight", c.vocab, e));
    let (method, positions) = (*p.method, Some(positions));
    Ok(Decoder { tokens, positions, project_in, project_out, blocks, final_norm, head, shape, method })
}

fn llama(p: &mut Planner<'_>, c: &LlamaConfig) -> Result<Decoder> {
    if c.rope_scaling.is_some() {
        let advice = "train with plain rotary embeddings: remove rope_scaling".into();
        return Err(Error::Unsupported { what: "training with scaled rotary embeddings".into(), advice });
    }
    let (d, q_cols, kv_cols) = (c.hidden, c.heads * c.head_dim, c.kv_heads * c.head_dim);
    let tokens = p.table("model.embed_tokens.weight", c.vocab, d);
    let mut blocks = Vec::new();
    for i in 0..c.layers {
        let at = |part: &str| format!("model.layers.{i}.{part}");
        let mut attention = |part: &str, m, n| p.linear(&at(&format!("self_attn.{part}")), m, n, c.attention_bias);
        let (q, k, v) = (attention("q_proj", q_cols, d), attention("k_proj", kv_cols, d), attention("v_proj", kv_cols, d));
        let o = attention("o_proj", d, q_cols);
        blocks.push(Block {
            norm1: p.norm(&at("input_layernorm"), d, false, c.rms_eps),
            q,
            k,
            v,
            o,
            norm2: p.norm(&at("post_attention_layernorm"), d, false, c.rms_eps),
            gate: Some(p.linear(&at("mlp.gate_proj"), c.intermediate, d, c.mlp_bias)),
            up: p.linear(&at("mlp.up_proj"), c.intermediate, d, c.mlp_bias),
            down: p.linear(&at("mlp.down_proj"), d, c.intermediate, c.mlp_bias),
        });
    }
    let shape = Shape {
        hidden: d,
        embedded: d,
        inner: c.intermediate,
        heads: c.heads,
        kv_heads: c.kv_heads,
        head_dim: c.head_dim,
        vocabulary: c.vocab,
        positions: c.max_positions,
        norm_before: true,
        activation: Activation::Silu,
        rope_theta: Some(c.rope_theta),
        init_std: c.init_std,
    };
    let final_norm = Some(p.norm("model.norm", d, false, c.rms_eps));
    let head = (!c.tied).then(|| p.table("lm_head.weight", c.vocab, d));
    Ok(Decoder { tokens, positions: None, project_in: None, project_out: None, blocks, final_norm, head, shape, method: *p.method })
}
