//! Model shapes to train from nothing, as the `config.json` that a trained model is written with.

use serde_json::{Value as Json, json};

use super::data::{END, PAD};
use crate::error::{Error, Result};
use crate::format::Config;

/// What a preset is called, and what it is.
pub const PRESETS: [(&str, &str); 7] = [
    ("nano", "OPT, 0.45 M parameters without embeddings: for trying things out"),
    ("small", "OPT, 25 M parameters without embeddings"),
    ("opt-125m", "OPT-125M"),
    ("opt-350m", "OPT-350M: norms after the layers, embeddings of width 512"),
    ("opt-1.3b", "OPT-1.3B"),
    ("llama-130m", "Llama of 130 M parameters, as GaLore has it"),
    ("llama-1.3b", "Llama of 1.3 G parameters, as GaLore has it"),
];

/// The numbers in which models of one family differ.
struct Shape {
    hidden: usize,
    inner: usize,
    layers: usize,
    heads: usize,
}

/// The text of a Hugging Face `config.json` for one of [`PRESETS`]. A `vocabulary` of 0 means the published one (50,272 tokens for
/// OPT, 32,000 for Llama), a `context` of 0 the published one (2,048 tokens; 256 for nano, 512 for small, 1,024 for llama-130m).
/// There is no dropout. OPT's output layer is its embedding, Llama has one of its own. Special tokens are numbered as in OPT
/// (`</s>`, which begins and ends texts, is 2, padding is 1), but for Llama with its published vocabulary (`<s>` 1, `</s>` 2).
///
/// # Errors
/// [`Error::Request`] for a name that is none of [`PRESETS`] or a vocabulary without room for the special tokens;
/// [`Error::Format`] for sizes that no model can have.
pub fn preset(name: &str, vocabulary: usize, context: usize) -> Result<String> {
    let or = |given: usize, published: usize| if given == 0 { published } else { given };
    let shape = |hidden, inner, layers, heads| Shape { hidden, inner, layers, heads };
    let opt = |s: Shape, context: usize| opt(&s, or(vocabulary, 50_272), context);
    let config = match name {
        "nano" => opt(shape(96, 384, 4, 4), or(context, 256)),
        "small" => opt(shape(512, 2048, 8, 8), or(context, 512)),
        "opt-125m" => opt(shape(768, 3072, 12, 12), or(context, 2048)),
        "opt-350m" => {
            let mut config = opt(shape(1024, 4096, 24, 16), or(context, 2048));
            config["do_layer_norm_before"] = false.into();
            config["word_embed_proj_dim"] = 512.into();
            config
        }
        "opt-1.3b" => opt(shape(2048, 8192, 24, 32), or(context, 2048)),
        "llama-130m" => llama(&shape(768, 2048, 12, 12), vocabulary, or(context, 1024)),
        "llama-1.3b" => llama(&shape(2048, 5461, 24, 32), vocabulary, or(context, 2048)),
        _ => {
            let names: Vec<&str> = PRESETS.iter().map(|p| p.0).collect();
            return Err(Error::Request(format!("no preset is called `{name}`; there are {}", names.join(", "))));
        }
    };
    if vocabulary != 0 && vocabulary <= END as usize {
        return Err(Error::Request(format!("a vocabulary of {vocabulary} has no token {END}, which ends a text")));
    }
    let text = format!("{config:#}\n");
    Config::from_json(&format!("preset {name}"), text.as_bytes())?;
    Ok(text)
}

fn opt(s: &Shape, vocabulary: usize, context: usize) -> Json {
    json!({
        "model_type": "opt",
        "architectures": ["OPTForCausalLM"],
        "vocab_size": vocabulary,
        "hidden_size": s.hidden,
        "word_embed_proj_dim": s.hidden,
        "ffn_dim": s.inner,
        "num_hidden_layers": s.layers,
        "num_attention_heads": s.heads,
        "max_position_embeddings": context,
        "activation_function": "relu",
        "do_layer_norm_before": true,
        "_remove_final_layer_norm": false,
        "layer_norm_elementwise_affine": true,
        "enable_bias": true,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "layerdrop": 0.0,
        "init_std": 0.02,
        "bos_token_id": END,
        "eos_token_id": END,
        "pad_token_id": PAD,
        "tie_word_embeddings": true,
        "torch_dtype": "float32",
        "use_cache": true,
    })
}

fn llama(s: &Shape, vocabulary: usize, context: usize) -> Json {
    let (vocabulary, bos, pad) = if vocabulary == 0 { (32_000, 1, Json::Null) } else { (vocabulary, END, PAD.into()) };
    json!({
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": vocabulary,
        "hidden_size": s.hidden,
        "intermediate_size": s.inner,
        "num_hidden_layers": s.layers,
        "num_attention_heads": s.heads,
        "num_key_value_heads": s.heads,
        "max_position_embeddings": context,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "attention_bias": false,
        "attention_dropout": 0.0,
        "mlp_bias": false,
        "initializer_range": 0.02,
        "bos_token_id": bos,
        "eos_token_id": END,
        "pad_token_id": pad,
        "tie_word_embeddings": false,
        "torch_dtype": "float32",
        "use_cache": true,
    })
}
