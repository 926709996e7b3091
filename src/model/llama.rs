//! Llama: RMSNorm, rotary positions, grouped heads, SiLU gate.

use super::linears::{self, Parts};
use super::transformer::{Dimensions, Layer, Linear, Transformer};
use super::weights::Loader;
use crate::Result;
use crate::format::{LlamaConfig, RopePairing, RopeScaling};
use crate::kernel::linear::Activation;
use crate::kernel::rope::Pairing;

pub(crate) fn load(l: &mut Loader<'_>, c: &LlamaConfig) -> Result<Transformer> {
    let mut layers = Vec::with_capacity(c.layers);
    for i in 0..c.layers {
        let name = |part: &str| format!("model.layers.{i}.{part}");
        let [qkv, output, up, down] = linears::llama(c, i);
        layers.push(Layer {
            attention_norm: l.norm(&name("input_layernorm"), c.hidden, true, c.rms_eps)?,
            qkv: stack(l, &qkv, c.attention_bias)?,
            output: stack(l, &output, c.attention_bias)?,
            ffn_norm: l.norm(&name("post_attention_layernorm"), c.hidden, true, c.rms_eps)?,
            up: stack(l, &up, c.mlp_bias)?,
            gated: true,
            activation: Activation::Silu,
            down: stack(l, &down, c.mlp_bias)?,
        });
    }
    let factors =
        if l.checkpoint.has("rope_freqs.weight") { Some(l.checkpoint.vector("rope_freqs.weight", c.head_dim / 2)?) } else { None };
    let angles = angles(c, factors.as_deref());
    let pairing = match l.checkpoint.rope {
        RopePairing::Half => Pairing::Half,
        RopePairing::Interleaved => Pairing::Interleaved,
    };
    let has_head = l.checkpoint.has("lm_head.weight");
    Ok(Transformer {
        shape: Dimensions {
            hidden: c.hidden,
            heads: c.heads,
            kv_heads: c.kv_heads,
            head_dim: c.head_dim,
            vocabulary: c.vocab,
            max_positions: c.max_positions,
        },
        tokens: l.matrix("model.embed_tokens.weight", c.vocab, c.hidden)?,
        positions: None,
        types: None,
        embedding_norm: None,
        project_in: None,
        project_out: None,
        layers,
        pre_norm: true,
        final_norm: Some(l.norm("model.norm", c.hidden, true, c.rms_eps)?),
        angles: Some((l.context.upload("angles", &angles)?, pairing)),
        bidirectional: false,
        head: if has_head && !c.tied { Some(l.matrix("lm_head.weight", c.vocab, c.hidden)?) } else { None },
    })
}

/// Matrices `NAME.weight`, stacked where they share a format, with the biases `NAME.bias` end to end.
pub(crate) fn stack(l: &mut Loader<'_>, Parts { parts, cols }: &Parts, bias: bool) -> Result<Linear> {
    let named = |suffix: &str| parts.iter().map(|(p, r)| (format!("{p}.{suffix}"), *r)).collect::<Vec<_>>();
    let weights = l.stacked(&named("weight"), *cols)?;
    let bias = if bias { l.vectors(&named("bias"))? } else { None };
    Ok(Linear { parts: weights, bias })
}

/// `(cos, sin)` of `position * frequency` for every position and pair, in f64 and then rounded: `theta^(-2 i / d)`, scaled as the
/// configuration or the file's factors say.
fn angles(c: &LlamaConfig, factors: Option<&[f32]>) -> Vec<u32> {
    let half = c.head_dim / 2;
    let frequencies: Vec<f64> = (0..half)
        .map(|i| {
            // Hugging Face and GGML keep the frequency itself in f32; at 8,192 positions the f64 value would differ by 2e-4 rad.
            let f = f64::from(c.rope_theta.powf(-2.0 * i as f64 / c.head_dim as f64) as f32);
            match (factors, &c.rope_scaling) {
                (Some(by), _) => f / f64::from(by[i]),
                (None, Some(s)) => scaled(f, s),
                (None, None) => f,
            }
        })
        .collect();
    let mut words = Vec::with_capacity(2 * half * c.max_positions);
    for position in 0..c.max_positions {
        for f in &frequencies {
            let (sin, cos) = (position as f64 * f).sin_cos();
            words.extend([(cos as f32).to_bits(), (sin as f32).to_bits()]);
        }
    }
    words
}

/// Llama 3.1's rule: long wavelengths are divided by the factor, short ones kept, those between interpolated.
fn scaled(f: f64, s: &RopeScaling) -> f64 {
    match *s {
        RopeScaling::Linear { factor } => f / factor,
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position } => {
            let turns = original_max_position as f64 * f / std::f64::consts::TAU;
            let smooth = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
            (1.0 - smooth) * f / factor + smooth * f
        }
    }
}
