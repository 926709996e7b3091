//! OPT: LayerNorm before or (350M) after each sublayer, learned positions offset by 2, biases everywhere.

use super::activation;
use super::linears;
use super::llama::stack;
use super::transformer::{Dimensions, Layer, Transformer};
use super::weights::{Loader, unsupported};
use crate::Result;
use crate::format::OptConfig;

/// PyTorch's default, which OPT's configuration does not name.
const EPS: f32 = 1e-5;

pub(crate) fn load(l: &mut Loader<'_>, c: &OptConfig) -> Result<Transformer> {
    if !c.layer_norm_elementwise_affine {
        return Err(unsupported("an OPT without layer norm weights", "use a model with `layer_norm_elementwise_affine`"));
    }
    let d = c.hidden;
    let mut layers = Vec::with_capacity(c.layers);
    for i in 0..c.layers {
        let name = |part: &str| format!("model.decoder.layers.{i}.{part}");
        let [qkv, output, up, down] = linears::opt(c, i);
        layers.push(Layer {
            attention_norm: l.norm(&name("self_attn_layer_norm"), d, false, EPS)?,
            qkv: stack(l, &qkv, c.enable_bias)?,
            output: stack(l, &output, c.enable_bias)?,
            ffn_norm: l.norm(&name("final_layer_norm"), d, false, EPS)?,
            up: stack(l, &up, c.enable_bias)?,
            gated: false,
            activation: activation(c.activation),
            down: stack(l, &down, c.enable_bias)?,
        });
    }
    let width = c.word_embed_proj_dim;
    let projected = width != d;
    let has_head = l.checkpoint.has("lm_head.weight");
    Ok(Transformer {
        shape: Dimensions {
            hidden: d,
            heads: c.heads,
            kv_heads: c.heads,
            head_dim: d / c.heads,
            vocabulary: c.vocab,
            max_positions: c.max_positions,
        },
        tokens: l.matrix("model.decoder.embed_tokens.weight", c.vocab, width)?,
        positions: Some((l.matrix("model.decoder.embed_positions.weight", c.max_positions + 2, d)?, 2)),
        types: None,
        embedding_norm: None,
        project_in: if projected { Some(l.weight("model.decoder.project_in.weight", d, width)?) } else { None },
        project_out: if projected { Some(l.weight("model.decoder.project_out.weight", width, d)?) } else { None },
        layers,
        pre_norm: c.do_layer_norm_before,
        final_norm: if c.final_layer_norm() { Some(l.norm("model.decoder.final_layer_norm", d, false, EPS)?) } else { None },
        angles: None,
        bidirectional: false,
        head: if has_head && !c.tied { Some(l.matrix("lm_head.weight", c.vocab, width)?) } else { None },
    })
}
