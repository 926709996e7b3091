//! Hyper-parameters out of GGUF metadata.

use super::config::{LlamaConfig, RopeScaling};
use super::gguf::Gguf;
use crate::error::{Error, Result};

/// A Llama's hyper-parameters.
pub(super) fn llama(gguf: &Gguf) -> Result<LlamaConfig> {
    let file = gguf.source.name();
    let unsupported = |what: String, advice: &str| Err(Error::Unsupported { what: format!("{file}: {what}"), advice: advice.into() });
    let key = |name: &str| format!("llama.{name}");
    let size = |name: &str| gguf.u32(&key(name)).map(|n| n as usize);
    let size_or = |name: &str, default: usize| if gguf.has(&key(name)) { size(name) } else { Ok(default) };
    if size_or("expert_count", 0)? > 0 {
        return unsupported("a mixture of experts".into(), "dense models can be read");
    }
    let hidden = size("embedding_length")?;
    let heads = size("attention.head_count")?;
    let head_dim = size_or("attention.key_length", hidden.checked_div(heads).unwrap_or(0))?;
    if !gguf.has(&key("attention.key_length")) && heads > 0 && !hidden.is_multiple_of(heads) {
        return Err(Error::format(file, key("attention.head_count"), format!("{heads} heads do not divide {hidden}")));
    }
    if size_or("attention.value_length", head_dim)? != head_dim || size_or("rope.dimension_count", head_dim)? != head_dim {
        return unsupported("a head whose keys, values and rotated part differ in size".into(), "they must be equal");
    }
    let vocab = match size_or("vocab_size", 0)? {
        0 => gguf.strings("tokenizer.ggml.tokens")?.len(),
        n => n,
    };
    let token = |name: &str| {
        let key = format!("tokenizer.ggml.{name}_token_id");
        if gguf.has(&key) { gguf.u32(&key).map(Some) } else { Ok(None) }
    };
    let mut eos = Vec::new();
    for name in ["eos", "eot"] {
        eos.extend(token(name)?.filter(|id| !eos.contains(id)));
    }
    LlamaConfig {
        hidden,
        intermediate: size("feed_forward_length")?,
        layers: size("block_count")?,
        heads,
        kv_heads: size_or("attention.head_count_kv", heads)?,
        head_dim,
        vocab,
        rope_theta: if gguf.has(&key("rope.freq_base")) { f64::from(gguf.f32(&key("rope.freq_base"))?) } else { 10000.0 },
        rope_scaling: rope_scaling(gguf)?,
        rms_eps: gguf.f32(&key("attention.layer_norm_rms_epsilon"))?,
        max_positions: size("context_length")?,
        tied: !gguf.tensors.contains_key("output.weight"),
        attention_bias: gguf.tensors.contains_key("blk.0.attn_q.bias"),
        mlp_bias: gguf.tensors.contains_key("blk.0.ffn_gate.bias"),
        init_std: 0.02,
        bos: token("bos")?,
        eos,
    }
    .check(file)
}

fn rope_scaling(gguf: &Gguf) -> Result<Option<RopeScaling>> {
    const TYPE: &str = "llama.rope.scaling.type";
    // Before there was a type, this key alone meant linear scaling.
    const OLD: &str = "llama.rope.scale_linear";
    let kind = if gguf.has(TYPE) { gguf.str(TYPE)? } else { "none" };
    match kind {
        "none" if gguf.has(OLD) => Ok(Some(RopeScaling::Linear { factor: f64::from(gguf.f32(OLD)?) })),
        "none" => Ok(None),
        "linear" => Ok(Some(RopeScaling::Linear { factor: f64::from(gguf.f32("llama.rope.scaling.factor")?) })),
        other => Err(Error::Unsupported { what: format!("{}: {TYPE} `{other}`", gguf.source.name()), advice: "linear is known".into() }),
    }
}
