//! `memory`: what a run would take, by purpose. Its plans are made, nothing is allocated.

use super::options::{MethodArgs, MethodName, RunArgs};
use crate::common::{self, Global, open_untested, print, print_json, read_text};
use anyhow::Result;
use etalon::format::Config;
use etalon::train::memory::{DataSize, memory};
use etalon::train::{Spec, presets::preset};
use serde_json::json;
use std::path::PathBuf;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// nano, small, opt-125m, opt-350m, opt-1.3b, llama-130m, llama-1.3b
    #[arg(long, default_value = "nano")]
    preset: String,
    /// A Hugging Face config.json instead of a preset
    #[arg(long, value_name = "FILE", conflicts_with = "preset")]
    config: Option<PathBuf>,
    /// Tokens of the vocabulary; 0: the preset's own
    #[arg(long, default_value_t = 0)]
    vocabulary: usize,
    /// How the linear layers are trained
    #[arg(long, value_enum, default_value = "sst")]
    method: MethodName,
    #[command(flatten)]
    of_method: MethodArgs,
    #[command(flatten)]
    run: RunArgs,
    /// Tokens of the text
    #[arg(long, default_value_t = 1_000_000)]
    tokens: usize,
}

pub(crate) fn run(g: &Global, args: &Args) -> Result<()> {
    let options = args.run.options(args.of_method.method(args.method))?;
    let config = match &args.config {
        Some(p) => read_text(p)?,
        None => preset(&args.preset, args.vocabulary, args.run.context())?,
    };
    let spec = Spec::Decoder(Config::from_json("config.json", config.as_bytes())?);
    let windows = options.steps * options.sequences * options.batches;
    let context = open_untested(g)?;
    let m = memory(context.facts(), &spec, &options, DataSize { tokens: args.tokens, windows })?;
    if g.json {
        return print_json(&json!({ "parts": m.parts, "state": m.state(), "total": m.total() }));
    }
    let mut text = String::new();
    for (label, bytes) in &m.parts {
        text += &format!("{label:20} {:>12}  {:8.3} GiB\n", common::bytes(*bytes), *bytes as f64 / f64::from(1 << 30));
    }
    for (label, bytes) in [("state of training", m.state()), ("in all", m.total())] {
        text += &format!("{label:20} {:>12}  {:8.3} GiB\n", common::bytes(bytes), bytes as f64 / f64::from(1 << 30));
    }
    print(&text)
}
