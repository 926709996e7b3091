//! BERT: bidirectional, LayerNorm after each sublayer, learned positions and token types.

use super::activation;
use super::linears::{self, Parts};
use super::llama::stack;
use super::transformer::{Dimensions, Layer, Linear, Transformer};
use super::weights::{DeviceMatrix, DeviceNorm, Loader};
use crate::Result;
use crate::format::{BertConfig, BertHead};
use crate::gpu::Buffer;
use crate::kernel::linear::Activation;
use std::sync::Arc;

/// What stands on top of BERT, on the device.
#[derive(Debug)]
pub(crate) enum Head {
    None,
    /// `logits = norm(act(h T + t)) Eᵀ + b`, for every token.
    MaskedLm {
        transform: Linear,
        activation: Activation,
        norm: DeviceNorm,
        decoder: Option<DeviceMatrix>,
        bias: Arc<Buffer>,
    },
    /// `logits = tanh(h0 P + p) C + c`, from the first token.
    Classifier {
        pooler: Linear,
        classifier: Linear,
    },
}

pub(crate) fn load(l: &mut Loader<'_>, c: &BertConfig) -> Result<(Transformer, Head)> {
    let d = c.hidden;
    let act = activation(c.activation);
    let mut layers = Vec::with_capacity(c.layers);
    for i in 0..c.layers {
        let name = |part: &str| format!("encoder.layer.{i}.{part}");
        let [qkv, output, up, down] = linears::bert(c, i);
        layers.push(Layer {
            attention_norm: l.norm(&name("attention.output.LayerNorm"), d, false, c.eps)?,
            qkv: stack(l, &qkv, true)?,
            output: stack(l, &output, true)?,
            ffn_norm: l.norm(&name("output.LayerNorm"), d, false, c.eps)?,
            up: stack(l, &up, true)?,
            gated: false,
            activation: act,
            down: stack(l, &down, true)?,
        });
    }
    let transformer = Transformer {
        shape: Dimensions {
            hidden: d,
            heads: c.heads,
            kv_heads: c.heads,
            head_dim: d / c.heads,
            vocabulary: c.vocab,
            max_positions: c.max_positions,
        },
        tokens: l.matrix("embeddings.word_embeddings.weight", c.vocab, d)?,
        positions: Some((l.matrix("embeddings.position_embeddings.weight", c.max_positions, d)?, 0)),
        types: Some(l.matrix("embeddings.token_type_embeddings.weight", c.type_vocab, d)?),
        embedding_norm: Some(l.norm("embeddings.LayerNorm", d, false, c.eps)?),
        project_in: None,
        project_out: None,
        layers,
        pre_norm: false,
        final_norm: None,
        angles: None,
        bidirectional: true,
        head: None,
    };
    let own = |name: &str, rows| Parts { parts: vec![(name.into(), rows)], cols: d };
    let head = match &c.head {
        BertHead::None => Head::None,
        BertHead::MaskedLm => Head::MaskedLm {
            transform: stack(l, &own("cls.predictions.transform.dense", d), true)?,
            activation: act,
            norm: l.norm("cls.predictions.transform.LayerNorm", d, false, c.eps)?,
            decoder: match l.checkpoint.has("cls.predictions.decoder.weight") {
                true => Some(l.matrix("cls.predictions.decoder.weight", c.vocab, d)?),
                false => None,
            },
            bias: l.vector("cls.predictions.bias", c.vocab)?,
        },
        BertHead::Classifier { labels } => Head::Classifier {
            pooler: stack(l, &own("pooler.dense", d), true)?,
            classifier: stack(l, &own("classifier", labels.len()), true)?,
        },
    };
    Ok((transformer, head))
}
