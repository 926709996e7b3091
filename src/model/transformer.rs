//! One description for Llama, OPT and BERT on the device, and the plans that run it.

use super::linears::Site;
use super::weights::{Band, DeviceMatrix, DeviceNorm, Graph, Weight};
use crate::gpu::Buffer;
use crate::kernel::activate::activate;
use crate::kernel::attention::{Keys, attention};
use crate::kernel::embedding::{Ids, embedding};
use crate::kernel::gate::gate;
use crate::kernel::linear::{Activation, Fused, Residual, fuses_gate, fuses_norm, linear};
use crate::kernel::norm::{Rows, norm};
use crate::kernel::rope::{Angles, Cache, Pairing, Qkv, rope};
use crate::plan::SlotId;
use crate::tensor::Tensor;
use crate::{Error, Result};
use std::sync::Arc;

/// A transformer's weights on the device.
#[derive(Debug)]
pub(crate) struct Transformer {
    pub(crate) shape: Dimensions,
    pub(crate) tokens: DeviceMatrix,
    /// Learned positions, and what is added to a position before it is looked up.
    pub(crate) positions: Option<(DeviceMatrix, usize)>,
    pub(crate) types: Option<DeviceMatrix>,
    /// After the embeddings (BERT).
    pub(crate) embedding_norm: Option<DeviceNorm>,
    /// From the width of the embeddings to that of the layers, and back (OPT-350M).
    pub(crate) project_in: Option<Weight>,
    pub(crate) project_out: Option<Weight>,
    pub(crate) layers: Vec<Layer>,
    /// Norms stand before each sublayer, not after its residual.
    pub(crate) pre_norm: bool,
    pub(crate) final_norm: Option<DeviceNorm>,
    /// `(cos, sin)` of each position and pair, as f32, and how pairs are formed.
    pub(crate) angles: Option<(Arc<Buffer>, Pairing)>,
    /// Every valid token sees every other (BERT).
    pub(crate) bidirectional: bool,
    /// Vocabulary logits; `None` where they come from `tokens`.
    pub(crate) head: Option<DeviceMatrix>,
}

/// Sizes of a transformer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dimensions {
    /// Width of the layers.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Tokens known.
    pub vocabulary: usize,
    /// Longest sequence.
    pub max_positions: usize,
}

/// A matrix with an optional bias.
#[derive(Debug)]
pub(crate) struct Linear {
    /// More than one: the parts did not share a format and could not be stacked.
    pub(crate) parts: Vec<Weight>,
    pub(crate) bias: Option<Arc<Buffer>>,
}

#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) attention_norm: DeviceNorm,
    /// Queries, keys, values.
    pub(crate) qkv: Linear,
    pub(crate) output: Linear,
    pub(crate) ffn_norm: DeviceNorm,
    /// With `gated`: gate and value.
    pub(crate) up: Linear,
    pub(crate) gated: bool,
    pub(crate) activation: Activation,
    pub(crate) down: Linear,
}

/// Where a run's new tokens see keys.
pub(crate) enum Context<'a> {
    /// In caches, one a layer, after appending to them.
    Cached(&'a [(Arc<Buffer>, Arc<Buffer>)], usize),
    /// Among themselves.
    Alone,
}

/// What a run starts from.
pub(crate) struct Inputs<'a> {
    pub(crate) tokens: SlotId,
    /// Only for models with token types.
    pub(crate) types: Option<SlotId>,
    /// Only for models with learned positions whose rows are not consecutive from the state's length on.
    pub(crate) positions: Option<SlotId>,
    pub(crate) state: SlotId,
    pub(crate) sequences: usize,
    /// Rows of each sequence.
    pub(crate) rows: usize,
    pub(crate) context: Context<'a>,
    /// Hidden states to keep, by their number (0: embeddings): external tensors.
    pub(crate) taps: &'a [(usize, Tensor)],
}

impl Transformer {
    /// Appends everything up to the last layer's output (before the final norm).
    pub(crate) fn body(&self, g: &mut Graph, inputs: &Inputs<'_>) -> Result<Tensor> {
        let mut x = self.embed(g, inputs)?;
        for i in 0..self.layers.len() {
            x = self.layer(g, inputs, i, x)?;
        }
        Ok(x)
    }

    /// Appends layer `i` over rows of hidden states; before its norms (not after them), it may be made in the place of `x`.
    pub(crate) fn layer(&self, g: &mut Graph, inputs: &Inputs<'_>, i: usize, x: Tensor) -> Result<Tensor> {
        let angles = self
            .angles
            .as_ref()
            .map(|(buffer, pairing)| (Angles { slot: g.slot("angles", buffer), positions: self.shape.max_positions }, *pairing));
        let rotary = angles.as_ref().map(|(a, pairing)| (a, *pairing));
        let (layer, label) = (&self.layers[i], |part: &str| format!("layer {i} {part}"));
        if self.pre_norm {
            self.pre_norm_layer(g, inputs, i, layer, rotary, x, &label)
        } else {
            self.post_norm_layer(g, inputs, i, layer, rotary, x, &label)
        }
    }

    pub(crate) fn embed(&self, g: &mut Graph, inputs: &Inputs<'_>) -> Result<Tensor> {
        let rows = inputs.sequences * inputs.rows;
        let hidden = self.shape.hidden;
        // The last of the steps below writes the tensor that is tapped.
        let target = |g: &mut Graph, last: bool, cols: usize| match inputs.taps.iter().find(|t| last && t.0 == 0) {
            Some((_, t)) => *t,
            None => g.b.transient("embedded", rows, cols),
        };
        let table = g.matrix(&self.tokens);
        let mut x = target(g, self.project_in.is_none() && self.embedding_norm.is_none(), table.cols);
        embedding(&mut g.b, "embed tokens", &Ids::Buffer(inputs.tokens, 0), &table, &x, false)?;
        if let Some(project) = &self.project_in {
            let y = target(g, self.embedding_norm.is_none(), hidden);
            product(g, "project in", &x, project, &y, Fused::default())?;
            x = y;
        }
        if let Some((table, add)) = &self.positions {
            let table = g.matrix(table);
            let ids = match inputs.positions {
                Some(slot) => Ids::Buffer(slot, 0),
                None => Ids::Position { state: inputs.state, sequence_rows: inputs.rows, add: *add },
            };
            embedding(&mut g.b, "embed positions", &ids, &table, &x, true)?;
        }
        if let (Some(table), Some(slot)) = (&self.types, inputs.types) {
            let table = g.matrix(table);
            embedding(&mut g.b, "embed types", &Ids::Buffer(slot, 0), &table, &x, true)?;
        }
        if let Some(n) = &self.embedding_norm {
            let n = g.norm(n);
            let y = target(g, true, hidden);
            norm(&mut g.b, "embedding norm", &x, &y, &n, Rows::All)?;
            x = y;
        }
        Ok(x)
    }

    #[expect(clippy::too_many_arguments, reason = "one layer's surroundings")]
    fn pre_norm_layer(
        &self,
        g: &mut Graph,
        inputs: &Inputs<'_>,
        i: usize,
        layer: &Layer,
        rotary: Option<(&Angles, Pairing)>,
        x: Tensor,
        label: &dyn Fn(&str) -> String,
    ) -> Result<Tensor> {
        let (h, fused) = normed(g, &label("attention norm"), &layer.attention_norm, &x)?;
        let a = self.attend(g, inputs, i, layer, rotary, (&h, fused), label)?;
        // The residual stream is updated in place, unless a hidden state of it is kept.
        let tapped = |n: usize| inputs.taps.iter().find(|t| t.0 == n).map(|t| t.1);
        let (x1, residual) = match tapped(i) {
            Some(_) => (g.b.transient("residual", x.rows, x.cols), Residual::Add(x)),
            None => (x, Residual::InPlace),
        };
        let a = g.input(Site::Output, &a)?;
        project(g, &label("attention output"), &layer.output, &a, &x1, Fused { residual, ..Default::default() })?;
        let (h, fused) = normed(g, &label("ffn norm"), &layer.ffn_norm, &x1)?;
        let f = self.feed_forward(g, layer, (&h, fused), label)?;
        // The last hidden state is the one after the final norm, which is not made here.
        let (x2, residual) = match tapped(i + 1).filter(|_| i + 1 < self.layers.len() || self.final_norm.is_none()) {
            Some(t) => (t, Residual::Add(x1)),
            None => (x1, Residual::InPlace),
        };
        let f = g.input(Site::Down, &f)?;
        project(g, &label("ffn down"), &layer.down, &f, &x2, Fused { residual, ..Default::default() })?;
        Ok(x2)
    }

    #[expect(clippy::too_many_arguments, reason = "one layer's surroundings")]
    fn post_norm_layer(
        &self,
        g: &mut Graph,
        inputs: &Inputs<'_>,
        i: usize,
        layer: &Layer,
        rotary: Option<(&Angles, Pairing)>,
        x: Tensor,
        label: &dyn Fn(&str) -> String,
    ) -> Result<Tensor> {
        let a = self.attend(g, inputs, i, layer, rotary, (&x, None), label)?;
        let sum = g.b.transient("residual", x.rows, x.cols);
        let a = g.input(Site::Output, &a)?;
        project(g, &label("attention output"), &layer.output, &a, &sum, Fused { residual: Residual::Add(x), ..Default::default() })?;
        let n = g.norm(&layer.attention_norm);
        let x1 = g.b.transient("normed", x.rows, x.cols);
        norm(&mut g.b, &label("attention norm"), &sum, &x1, &n, Rows::All)?;
        let f = self.feed_forward(g, layer, (&x1, None), label)?;
        let sum = g.b.transient("residual", x.rows, x.cols);
        let f = g.input(Site::Down, &f)?;
        project(g, &label("ffn down"), &layer.down, &f, &sum, Fused { residual: Residual::Add(x1), ..Default::default() })?;
        let n = g.norm(&layer.ffn_norm);
        // The last hidden state of a model that projects back is the projected one, of another width.
        let x2 = match inputs.taps.iter().find(|t| t.0 == i + 1 && t.1.cols == x.cols) {
            Some((_, t)) => *t,
            None => g.b.transient("normed", x.rows, x.cols),
        };
        norm(&mut g.b, &label("ffn norm"), &sum, &x2, &n, Rows::All)?;
        Ok(x2)
    }

    /// Queries, keys and values of `h`, attention; returns the heads side by side.
    #[expect(clippy::too_many_arguments, reason = "one layer's surroundings")]
    fn attend(
        &self,
        g: &mut Graph,
        inputs: &Inputs<'_>,
        i: usize,
        layer: &Layer,
        rotary: Option<(&Angles, Pairing)>,
        (h, norm): (&Tensor, FusedNorm),
        label: &dyn Fn(&str) -> String,
    ) -> Result<Tensor> {
        let s = &self.shape;
        let (q_cols, kv_cols) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
        let h = &g.input(Site::Qkv, h)?;
        let x = if layer.qkv.parts.len() == 1 {
            let qkv = g.b.transient("qkv", h.rows, q_cols + 2 * kv_cols);
            project(g, &label("qkv"), &layer.qkv, h, &qkv, Fused { norm, ..Default::default() })?;
            Qkv::stacked(&qkv, q_cols, kv_cols)
        } else {
            let q = g.b.transient("q", h.rows, q_cols);
            let (k, v) = (g.b.transient("k", h.rows, kv_cols), g.b.transient("v", h.rows, kv_cols));
            project_parts(g, &label("qkv"), &layer.qkv, h, norm, &[q, k, v])?;
            Qkv { q, k, v }
        };
        let o = g.b.transient("heads", h.rows, q_cols);
        let keys = match &inputs.context {
            Context::Cached(caches, capacity) => {
                let (k, v) = &caches[i];
                let (k, v) = (g.slot("k cache", k), g.slot("v cache", v));
                let cache = Cache { k, v, capacity: *capacity, sequences: inputs.sequences, kv_heads: s.kv_heads, head_dim: s.head_dim };
                let (angles, pairing) = rotary.map_or((None, Pairing::None), |(a, p)| (Some(a), p));
                rope(&mut g.b, &label("rope and append"), inputs.state, &x, &cache, pairing, angles)?;
                Keys::Cache(cache)
            }
            Context::Alone => Keys::Activations { causal: !self.bidirectional, sequences: inputs.sequences, kv_heads: s.kv_heads },
        };
        let scale = 1.0 / (s.head_dim as f32).sqrt();
        attention(&mut g.b, &label("attention"), inputs.state, &x, &keys, s.head_dim, scale, &o)?;
        Ok(o)
    }

    /// The inner activations of the feed-forward layer.
    fn feed_forward(
        &self,
        g: &mut Graph,
        layer: &Layer,
        (h, norm): (&Tensor, FusedNorm),
        label: &dyn Fn(&str) -> String,
    ) -> Result<Tensor> {
        let h = &g.input(Site::Up, h)?;
        let rows: usize = layer.up.parts.iter().map(Weight::rows).sum();
        let inner = g.b.transient("inner", h.rows, if layer.gated { rows / 2 } else { rows });
        if !layer.gated {
            let fused = Fused { norm, activation: layer.activation, ..Default::default() };
            project(g, &label("ffn up"), &layer.up, h, &inner, fused)?;
            return Ok(inner);
        }
        if let [stacked] = layer.up.parts.as_slice() {
            let single = matches!(stacked, Weight::Whole(m) if m.is_one_segment());
            if single && layer.up.bias.is_none() && fuses_gate(g.b.facts(), h.rows) {
                product(g, &label("ffn gate up"), h, stacked, &inner, Fused { norm, gate: true, ..Default::default() })?;
                return Ok(inner);
            }
            let both = g.b.transient("gate up", h.rows, rows);
            project(g, &label("ffn gate up"), &layer.up, h, &both, Fused { norm, ..Default::default() })?;
            gate(&mut g.b, &label("ffn gate"), layer.activation, &both.slice_cols(0..rows / 2), &both.slice_cols(rows / 2..rows), &inner)?;
        } else {
            let (a, u) = (g.b.transient("gate", h.rows, rows / 2), g.b.transient("up", h.rows, rows / 2));
            project_parts(g, &label("ffn gate up"), &layer.up, h, norm, &[a, u])?;
            gate(&mut g.b, &label("ffn gate"), layer.activation, &a, &u, &inner)?;
        }
        Ok(inner)
    }

    /// Appends the final norm of the rows that are wanted, and the projection back to the embeddings' width.
    pub(crate) fn finish(&self, g: &mut Graph, inputs: &Inputs<'_>, x: Tensor, rows: Rows) -> Result<Tensor> {
        let count = match rows {
            Rows::All => x.rows,
            Rows::LastOf { .. } => inputs.sequences,
        };
        let last = inputs.taps.iter().find(|t| t.0 == self.layers.len()).map(|t| t.1);
        let mut x = x;
        if let Some(n) = &self.final_norm {
            let y = match last.filter(|_| matches!(rows, Rows::All) && self.project_out.is_none()) {
                Some(t) => t,
                None => g.b.transient("final", count, n.cols()),
            };
            let n = g.norm(n);
            norm(&mut g.b, "final norm", &x, &y, &n, rows)?;
            x = y;
        } else if let Rows::LastOf { state, sequence_rows } = rows {
            let y = g.b.transient("last", count, x.cols);
            crate::kernel::rows::last_rows(&mut g.b, "last rows", &x, &y, state, sequence_rows)?;
            x = y;
        }
        if let Some(project_out) = &self.project_out {
            let y = match last.filter(|t| matches!(rows, Rows::All) && t.cols == project_out.rows()) {
                Some(t) => t,
                None => g.b.transient("projected", count, project_out.rows()),
            };
            product(g, "project out", &x, project_out, &y, Fused::default())?;
            x = y;
        }
        Ok(x)
    }

    /// Appends the vocabulary logits of normed rows.
    pub(crate) fn logits(&self, g: &mut Graph, x: &Tensor, y: &Tensor) -> Result<()> {
        let w = g.matrix(self.head.as_ref().unwrap_or(&self.tokens));
        linear(&mut g.b, "head", x, &w, y, &Fused::default())
    }
}

/// An RMSNorm that the products which read its result make themselves.
type FusedNorm = Option<(SlotId, f32)>;

/// The normed rows of x; or x itself and the norm, where products can fuse it: a dispatch less.
fn normed(g: &mut Graph, label: &str, n: &DeviceNorm, x: &Tensor) -> Result<(Tensor, FusedNorm)> {
    let n = g.norm(n);
    if n.rms && n.bias.is_none() && fuses_norm(g.b.facts(), x.rows) {
        return Ok((*x, Some((n.gain.0, n.eps))));
    }
    let h = g.b.transient("normed", x.rows, x.cols);
    norm(&mut g.b, label, x, &h, &n, Rows::All)?;
    Ok((h, None))
}

/// `y = x Wᵀ + bias` and what is fused with it.
pub(crate) fn project(g: &mut Graph, label: &str, l: &Linear, x: &Tensor, y: &Tensor, fused: Fused) -> Result<()> {
    let bias = l.bias.as_ref().map(|b| (g.slot("bias", b), 0));
    product(g, label, x, &l.parts[0], y, Fused { bias, ..fused })
}

/// `y = x Wᵀ` and what is fused with it; through factors as `(x V) (U diag(sigma))ᵀ`.
fn product(g: &mut Graph, label: &str, x: &Tensor, w: &Weight, y: &Tensor, fused: Fused) -> Result<()> {
    match w {
        Weight::Whole(m) => {
            let w = g.matrix(m);
            linear(&mut g.b, label, x, &w, y, &fused)
        }
        Weight::Factors(bands) => through(g, label, x, bands, y, fused),
    }
}

/// `y = sum over bands of (x downᵀ) upᵀ` and what is fused with it. All of `x downᵀ` is needed for any of y, so there are two products a
/// band; codes are decoded in both.
fn through(g: &mut Graph, label: &str, x: &Tensor, bands: &[Band], y: &Tensor, fused: Fused) -> Result<()> {
    // An activation is of the whole sum.
    let late = bands.len() > 1 && fused.activation != Activation::None;
    if late && !matches!(fused.residual, Residual::None) {
        return Err(Error::shape("linear", format!("{label}: an activation before a residual, of factors in {} widths", bands.len())));
    }
    let sum = if late { g.b.transient("sum", y.rows, y.cols) } else { *y };
    for (i, Band { down, up }) in bands.iter().enumerate() {
        let z = g.b.transient("x V", x.rows, down.rows);
        let (down, up) = (g.matrix(down), g.matrix(up));
        linear(&mut g.b, &format!("{label} V"), x, &down, &z, &Fused { norm: fused.norm, ..Default::default() })?;
        let with = match i {
            0 if late => Fused { norm: None, activation: Activation::None, ..fused },
            0 => Fused { norm: None, ..fused },
            _ => Fused { residual: Residual::InPlace, ..Default::default() },
        };
        linear(&mut g.b, &format!("{label} U"), &z, &up, &sum, &with)?;
    }
    if late { activate(&mut g.b, label, fused.activation, &sum, y) } else { Ok(()) }
}

/// Each part into an output of its own; the biases lie end to end.
fn project_parts(g: &mut Graph, label: &str, l: &Linear, x: &Tensor, norm: FusedNorm, outputs: &[Tensor]) -> Result<()> {
    let mut at = 0;
    for (part, y) in l.parts.iter().zip(outputs) {
        let bias = l.bias.as_ref().map(|b| (g.slot("bias", b), at));
        product(g, label, x, part, y, Fused { bias, norm, ..Default::default() })?;
        at += part.rows();
    }
    Ok(())
}
