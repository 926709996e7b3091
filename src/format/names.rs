//! Tensor names: every file's names are brought into one convention, Hugging Face's.

use super::config::Config;

/// Hugging Face's name of a tensor of a GGUF Llama; other names stay.
pub(crate) fn from_gguf(name: &str) -> String {
    let (stem, suffix) = match name.rsplit_once('.') {
        Some((stem, suffix @ ("weight" | "bias"))) => (stem, suffix),
        _ => return name.into(),
    };
    let whole = match stem {
        "token_embd" => Some("model.embed_tokens"),
        "output_norm" => Some("model.norm"),
        "output" => Some("lm_head"),
        _ => None,
    };
    if let Some(whole) = whole {
        return format!("{whole}.{suffix}");
    }
    let Some((block, part)) = stem.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else {
        return name.into();
    };
    let part = match part {
        "attn_norm" => "input_layernorm",
        "ffn_norm" => "post_attention_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        _ => return name.into(),
    };
    format!("model.layers.{block}.{part}.{suffix}")
}

/// The name with the prefix that the whole model (head included) gives it, whichever part of the model was saved.
pub(super) fn normalise(config: &Config, name: &str) -> String {
    match config {
        Config::Llama(_) => {
            if name.starts_with("model.") || name.starts_with("lm_head.") {
                name.into()
            } else {
                format!("model.{name}")
            }
        }
        Config::Opt(_) => {
            if name.starts_with("lm_head.") {
                return name.into();
            }
            let name = name.strip_prefix("model.").unwrap_or(name);
            format!("model.decoder.{}", name.strip_prefix("decoder.").unwrap_or(name))
        }
        Config::Translator { .. } => name.into(),
        Config::Bert(_) => {
            let name = name.strip_prefix("bert.").unwrap_or(name);
            // Files converted from TensorFlow have these names.
            match name.rsplit_once("LayerNorm.") {
                Some((stem, "gamma")) => format!("{stem}LayerNorm.weight"),
                Some((stem, "beta")) => format!("{stem}LayerNorm.bias"),
                _ => name.into(),
            }
        }
    }
}

/// Up to three of `names` that are most like `wanted`.
pub(super) fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let parts: Vec<&str> = wanted.split('.').collect();
    let score = |name: &str| {
        let shared = name.split('.').filter(|part| parts.contains(part)).count();
        let prefix = name.bytes().zip(wanted.bytes()).take_while(|(a, b)| a == b).count();
        (shared, prefix)
    };
    let mut scored: Vec<_> = names.map(|name| (score(name), name)).filter(|((shared, _), _)| *shared > 0).collect();
    scored.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
    scored.into_iter().take(3).map(|(_, name)| name).collect()
}
