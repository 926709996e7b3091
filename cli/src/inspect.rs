//! `inspect`: what is in a model's files.

use crate::common::{Global, bytes, open_checkpoint, print, print_json};
use anyhow::Result;
use etalon::format::{Checkpoint, Config, Encoding, TensorEntry};
use serde_json::{Value, json};
use std::collections::BTreeMap;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A folder, a file, or a Hugging Face repository id
    #[arg(value_name = "FILE|FOLDER")]
    model: String,
    /// Leave the list of tensors out
    #[arg(long)]
    summary: bool,
}

/// Tensors of one type together.
#[derive(Default)]
struct Total {
    tensors: usize,
    weights: u64,
    bytes: u64,
}

pub(crate) fn run(g: &Global, args: &Args) -> Result<()> {
    let c = open_checkpoint(&args.model)?;
    let mut types: BTreeMap<&'static str, Total> = BTreeMap::new();
    let mut all = Total::default();
    for t in c.tensors() {
        for total in [types.entry(type_name(t)).or_default(), &mut all] {
            total.tensors += 1;
            total.weights += t.elements();
            total.bytes += t.file_bytes();
        }
    }
    if g.json { as_json(&c, args, &types, &all) } else { as_text(&c, args, &types, &all) }
}

fn bits(t: &Total) -> f64 {
    8.0 * t.bytes as f64 / t.weights.max(1) as f64
}

fn type_name(t: &TensorEntry) -> &'static str {
    match t.encoding {
        Encoding::F32 => "F32",
        Encoding::F16 => "F16",
        Encoding::Bf16 => "BF16",
        Encoding::Ggml(ty) => ty.name(),
        Encoding::Other(name) => name,
    }
}

fn format(c: &Checkpoint) -> &'static str {
    // Only GGUF orders rotary pairs so.
    match c.rope {
        etalon::format::RopePairing::Interleaved => "GGUF",
        etalon::format::RopePairing::Half => "safetensors",
    }
}

fn as_text(c: &Checkpoint, args: &Args, types: &BTreeMap<&str, Total>, all: &Total) -> Result<()> {
    let mut out = format!("{}: {}\n\n", c.name, format(c));
    for (k, v) in config(&c.config) {
        let v = v.as_str().map_or_else(|| v.to_string(), str::to_owned);
        out += &format!("{k:20} {v}\n");
    }
    let tokenizer = match c.tokenizer() {
        Ok(t) => format!("{} tokens, BOS {}, EOS {:?}", t.vocab_size(), t.bos.map_or("none".into(), |b| b.to_string()), t.eos),
        Err(e) => format!("none ({e})"),
    };
    out += &format!("{:20} {tokenizer}\n", "tokenizer");
    out += &format!("{:20} {}\n\n", "chat template", if c.chat_template().is_some() { "yes" } else { "no" });
    if !args.summary {
        for t in c.tensors() {
            let shape = t.shape.iter().map(usize::to_string).collect::<Vec<_>>().join(" x ");
            out += &format!("{:60} {:8} {shape:>16} {:>12}\n", t.name, type_name(t), bytes(t.file_bytes()));
        }
        out.push('\n');
    }
    out += &format!("{:10} {:>8} {:>14} {:>12} {:>16}\n", "type", "tensors", "weights", "bytes", "bits per weight");
    for (name, t) in types.iter().map(|(n, t)| (*n, t)).chain([("all", all)]) {
        out += &format!("{name:10} {:>8} {:>14} {:>12} {:>16.3}\n", t.tensors, t.weights, bytes(t.bytes), bits(t));
    }
    print(&out)
}

fn as_json(c: &Checkpoint, args: &Args, types: &BTreeMap<&str, Total>, all: &Total) -> Result<()> {
    let total = |t: &Total| json!({ "tensors": t.tensors, "weights": t.weights, "bytes": t.bytes, "bits_per_weight": bits(t) });
    let tensors: Vec<Value> = c
        .tensors()
        .filter(|_| !args.summary)
        .map(|t| json!({ "name": t.name, "type": type_name(t), "shape": t.shape, "bytes": t.file_bytes() }))
        .collect();
    let tokenizer = match c.tokenizer() {
        Ok(t) => json!({ "tokens": t.vocab_size(), "bos": t.bos, "eos": t.eos }),
        Err(_) => Value::Null,
    };
    print_json(&json!({
        "name": c.name,
        "format": format(c),
        "config": config(&c.config).into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<serde_json::Map<_, _>>(),
        "tokenizer": tokenizer,
        "chat_template": c.chat_template().is_some(),
        "types": types.iter().map(|(n, t)| ((*n).to_owned(), total(t))).collect::<serde_json::Map<_, _>>(),
        "total": total(all),
        "tensors": tensors,
    }))
}

fn config(c: &Config) -> Vec<(&'static str, Value)> {
    match c {
        Config::Llama(c) => vec![
            ("family", json!("Llama")),
            ("layers", json!(c.layers)),
            ("hidden", json!(c.hidden)),
            ("intermediate", json!(c.intermediate)),
            ("heads", json!(c.heads)),
            ("key heads", json!(c.kv_heads)),
            ("head width", json!(c.head_dim)),
            ("vocabulary", json!(c.vocab)),
            ("positions", json!(c.max_positions)),
            ("tied embeddings", json!(c.tied)),
            ("rope theta", json!(c.rope_theta)),
            ("rope scaling", json!(c.rope_scaling.map_or("none".into(), |s| format!("{s:?}")))),
        ],
        Config::Opt(c) => vec![
            ("family", json!("OPT")),
            ("layers", json!(c.layers)),
            ("hidden", json!(c.hidden)),
            ("intermediate", json!(c.ffn)),
            ("heads", json!(c.heads)),
            ("embedding width", json!(c.word_embed_proj_dim)),
            ("vocabulary", json!(c.vocab)),
            ("positions", json!(c.max_positions)),
            ("tied embeddings", json!(c.tied)),
            ("norm", json!(if c.do_layer_norm_before { "before" } else { "after" })),
        ],
        Config::Bert(c) => vec![
            ("family", json!("BERT")),
            ("layers", json!(c.layers)),
            ("hidden", json!(c.hidden)),
            ("intermediate", json!(c.intermediate)),
            ("heads", json!(c.heads)),
            ("vocabulary", json!(c.vocab)),
            ("positions", json!(c.max_positions)),
            ("token types", json!(c.type_vocab)),
            ("head", json!(format!("{:?}", c.head))),
        ],
        Config::Translator { config: c, hyperbolic } => vec![
            ("family", json!(if *hyperbolic { "hyperbolic translator" } else { "Marian" })),
            ("layers", json!(format!("{} + {}", c.encoder_layers, c.decoder_layers))),
            ("hidden", json!(c.hidden)),
            ("intermediate", json!(format!("{}, {}", c.encoder_ffn, c.decoder_ffn))),
            ("heads", json!(format!("{}, {}", c.encoder_heads, c.decoder_heads))),
            ("vocabulary", json!(c.vocab)),
            ("positions", json!(c.max_positions)),
        ],
    }
}
