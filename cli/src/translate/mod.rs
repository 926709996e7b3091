//! `translate`: train translators by several methods, translate with one, score translations.

mod report;
pub(crate) mod train;

use crate::common::{Global, open_device, print, print_json, read_text};
use anyhow::{Result, bail};
use clap::Subcommand;
use etalon::format::Checkpoint;
use etalon::translation::{Bleu, Pair, Search, bleu, config, load, translate};
use serde_json::json;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train translators by several methods on the same pairs of sentences, and score them
    Train(Box<train::Args>),
    /// Translate the lines of a text
    Run(RunArgs),
    /// Score translations against references
    Bleu(BleuArgs),
}

#[derive(clap::Args)]
struct RunArgs {
    /// Folder of a model of type marian, with a tokenizer.json
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Text, a sentence a line [default: standard input]
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Prefixes that are kept; 1: greedy
    #[arg(long, default_value_t = 4)]
    beams: usize,
    /// A translation of n tokens is worth its log-probability over n to this power
    #[arg(long, default_value_t = 1.0)]
    length_penalty: f32,
    /// Longest sentence, in tokens
    #[arg(long, default_value_t = 64)]
    longest: usize,
    /// Prefixes that are lengthened together
    #[arg(long, default_value_t = 32)]
    lanes: usize,
}

#[derive(clap::Args)]
struct BleuArgs {
    /// Translations, a sentence a line
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// References, as many lines
    #[arg(long, value_name = "FILE")]
    reference: PathBuf,
}

pub(crate) fn run(g: &Global, args: &Args) -> Result<()> {
    match &args.command {
        Command::Train(a) => train::run(g, a),
        Command::Run(a) => translate_lines(g, a),
        Command::Bleu(a) => score(g, a),
    }
}

fn score(g: &Global, a: &BleuArgs) -> Result<()> {
    let lines = |p: &Path| Ok::<_, anyhow::Error>(read_text(p)?.lines().map(str::to_owned).collect::<Vec<_>>());
    let (texts, references) = (lines(&a.text)?, lines(&a.reference)?);
    if texts.len() != references.len() {
        bail!("{} has {} lines, {} has {}", a.text.display(), texts.len(), a.reference.display(), references.len());
    }
    let b = bleu(&texts, &references);
    if g.json { print_json(&json!(b)) } else { print(&format!("{}\n", told(&b))) }
}

fn told(b: &Bleu) -> String {
    let p: Vec<String> = b.precisions.iter().map(|p| format!("{p:.1}")).collect();
    format!("BLEU {:.2} ({}, brevity {:.3}, {} words for {})", b.score, p.join("/"), b.brevity, b.words, b.reference_words)
}

fn translate_lines(g: &Global, a: &RunArgs) -> Result<()> {
    let checkpoint = Checkpoint::open(&a.model)?;
    let (config, _) = config(&checkpoint)?;
    let tokenizer = checkpoint.tokenizer()?;
    let text = match &a.text {
        Some(p) => read_text(p)?,
        None => std::io::read_to_string(std::io::stdin())?,
    };
    if a.beams == 0 || a.lanes < a.beams {
        bail!("--beams {} of --lanes {}: at least 1, and no more than lanes", a.beams, a.lanes);
    }
    let longest = a.longest.min(config.max_positions);
    let sources = text.lines().map(|l| Ok([tokenizer.encode(l.trim(), false)?, vec![config.eos]].concat())).collect::<Result<Vec<_>>>()?;
    if let Some((i, s)) = sources.iter().enumerate().find(|(_, s)| s.len() > longest) {
        bail!("line {}: {} tokens, --longest is {longest}", i + 1, s.len());
    }
    let context = open_device(g)?;
    let one: Vec<Pair> = vec![(vec![config.eos], vec![config.eos])];
    let trainer = context.block_on(load(&context, &checkpoint, &one, (1, longest)))?;
    let mut translating = trainer.translating(a.lanes)?;
    let search = Search { beams: a.beams, length_penalty: a.length_penalty };
    let tokens = context.block_on(translate(&mut translating, &sources, &search))?;
    let texts = tokens.iter().map(|ids| Ok(tokenizer.decode(ids, true)?.trim().to_owned())).collect::<Result<Vec<_>>>()?;
    if g.json { print_json(&json!(texts)) } else { print(&(texts.join("\n") + "\n")) }
}
