//! `train`: a decoder from plain text, by any of the methods; `--resume` goes on where a run was left.

pub(crate) mod compare;
pub(crate) mod memory;
pub(crate) mod merge;
pub(crate) mod options;
pub(crate) mod spectrum;

use crate::common::{self, Global, bar, open_device, print, print_json, read_text};
use anyhow::{Context as _, Result, bail};
use etalon::Context;
use etalon::format::{Checkpoint, Tokenizer};
use etalon::train::data::{Corpus, train_bpe};
use etalon::train::job::{Control, Event, Job, Outcome, Settings};
use etalon::train::{Initial, presets::preset};
use indicatif::ProgressBar;
use options::{MethodArgs, MethodName, RunArgs};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Go on with the run in this folder, from its newest checkpoint
    #[arg(long, value_name = "DIR", conflicts_with_all = ["text", "out"])]
    resume: Option<PathBuf>,
    #[command(flatten)]
    source: SourceArgs,
    /// How the linear layers are trained
    #[arg(long, value_enum, default_value = "sst")]
    method: MethodName,
    #[command(flatten)]
    of_method: MethodArgs,
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten)]
    watch: WatchArgs,
    /// Print the device time of every kind of dispatch of a step instead of training
    #[arg(long)]
    profile: bool,
    /// Folder of the run: log, checkpoints, and at the end the model
    #[arg(long, value_name = "DIR", required_unless_present = "resume")]
    out: Option<PathBuf>,
}

/// What is trained, on which text.
#[derive(clap::Args, Clone)]
pub(crate) struct SourceArgs {
    /// nano, small, opt-125m, opt-350m, opt-1.3b, llama-130m, llama-1.3b
    #[arg(long, default_value = "nano")]
    pub(crate) preset: String,
    /// A Hugging Face config.json instead of a preset
    #[arg(long, value_name = "FILE", conflicts_with = "preset")]
    pub(crate) config: Option<PathBuf>,
    /// Begin with the weights of this model, a folder; its configuration and tokenizer are taken too
    #[arg(long, value_name = "DIR", conflicts_with_all = ["preset", "config", "tokenizer"])]
    pub(crate) init: Option<PathBuf>,
    /// Plain text to train on
    #[arg(long, value_name = "FILE")]
    pub(crate) text: Option<PathBuf>,
    /// Text to evaluate on [default: the last 5 % of the tokens]
    #[arg(long, value_name = "FILE")]
    pub(crate) valid: Option<PathBuf>,
    /// A tokenizer.json [default: a byte-level BPE is trained on the text]
    #[arg(long, value_name = "FILE")]
    pub(crate) tokenizer: Option<PathBuf>,
    /// Tokens of a vocabulary that is trained
    #[arg(long, default_value_t = 2048)]
    pub(crate) vocabulary: usize,
}

/// When to look and to save.
#[derive(clap::Args, Clone)]
pub(crate) struct WatchArgs {
    /// Steps between evaluations; 0: only at the end
    #[arg(long, default_value_t = 200)]
    evaluate_every: usize,
    /// Batches of the validation text that count
    #[arg(long, default_value_t = 20)]
    evaluate_batches: usize,
    /// Steps between checkpoints; 0: none but at Ctrl-C
    #[arg(long, default_value_t = 200)]
    checkpoint_every: usize,
    /// Checkpoints that are kept
    #[arg(long, default_value_t = 2)]
    keep: usize,
}

impl WatchArgs {
    pub(crate) fn settings(&self, options: etalon::train::Options) -> Settings {
        Settings {
            options,
            evaluate_every: self.evaluate_every,
            evaluate_batches: self.evaluate_batches,
            checkpoint_every: self.checkpoint_every,
            keep: self.keep,
        }
    }
}

/// A configuration, a tokenizer's file and a text as tokens.
#[derive(Clone)]
pub(crate) struct Prepared {
    pub(crate) config: String,
    pub(crate) tokenizer: String,
    pub(crate) corpus: Corpus,
    /// Where the first weights come from, if they are not drawn.
    weights: Option<Arc<Checkpoint>>,
}

impl Prepared {
    /// A run that begins.
    pub(crate) fn begin(&self, context: &Context, folder: &Path, settings: &Settings) -> Result<Job> {
        let named = |name: &str, _: usize| self.weights.as_ref().map(|w| w.values(name)).transpose();
        let initial = if self.weights.is_some() { Initial::Named(&named) } else { Initial::Random };
        let create = Job::create(context, folder, settings, &self.config, Some(&self.tokenizer), &self.corpus, &initial);
        Ok(context.block_on(create)?)
    }
}

impl SourceArgs {
    pub(crate) fn prepare(&self, context: usize) -> Result<Prepared> {
        let path = self.text.as_ref().context("give --text FILE")?;
        let text = read_text(path)?;
        let valid = self.valid.as_ref().map(|p| read_text(p)).transpose()?;
        let of_init = |name: &str| self.init.as_ref().map(|folder| folder.join(name));
        let tokenizer = match self.tokenizer.clone().or_else(|| of_init("tokenizer.json")) {
            Some(p) => read_text(&p)?,
            None => train_bpe(&[&text], self.vocabulary).with_context(|| format!("a vocabulary from {}", path.display()))?,
        };
        let parsed = Tokenizer::from_json(tokenizer.as_bytes())?;
        let config = match self.config.clone().or_else(|| of_init("config.json")) {
            Some(p) => read_text(&p)?,
            None => preset(&self.preset, parsed.vocab_size(), context)?,
        };
        let corpus = Corpus::new(&parsed, &text, valid.as_deref(), context)?;
        let weights = self.init.as_ref().map(|p| Checkpoint::open(p)).transpose()?.map(Arc::new);
        Ok(Prepared { config, tokenizer, corpus, weights })
    }
}

pub(crate) fn run(g: &Global, args: &Args) -> Result<()> {
    let context = open_device(g)?;
    let mut job = match (&args.resume, &args.out) {
        (Some(folder), _) => context.block_on(Job::resume(&context, folder))?,
        (None, Some(out)) => {
            let options = args.run.options(args.of_method.method(args.method))?;
            let p = args.source.prepare(args.run.context())?;
            p.begin(&context, out, &args.watch.settings(options))?
        }
        (None, None) => bail!("give --out DIR, or --resume DIR"),
    };
    if args.profile {
        return profile(&context, &mut job);
    }
    let folder = args.resume.as_ref().or(args.out.as_ref()).context("no folder")?.clone();
    let outcome = watch(&context, &mut job)?;
    if let Err(e) = context.save_pipelines() {
        log::info!("compiled pipelines are not kept: {e}");
    }
    match outcome {
        Some(o) if g.json => print_json(&serde_json::to_value(&o)?),
        Some(o) => print(&summary(&o, &folder)),
        None => {
            let done = job.trainer().step();
            if g.json {
                print_json(&json!({ "interrupted_at": done }))?;
            }
            eprintln!("stopped after {done} steps: `etalon train --resume {}` goes on", folder.display());
            std::process::exit(i32::from(common::INTERRUPTED));
        }
    }
}

/// Times of one step by kernel and variant, the longest first.
fn profile(context: &Context, job: &mut Job) -> Result<()> {
    context.block_on(job.step())?;
    let mut all: std::collections::BTreeMap<String, (usize, f64, u64, u64)> = std::collections::BTreeMap::new();
    for plan in job.trainer().plans() {
        for t in context.block_on(plan.profile())? {
            let e = all.entry(t.variant).or_default();
            *e = (e.0 + 1, e.1 + t.us, e.2 + t.bytes, e.3 + t.flops);
        }
    }
    let mut rows: Vec<_> = all.into_iter().collect();
    rows.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
    let sum: f64 = rows.iter().map(|r| r.1.1).sum();
    let mut text = format!("{:>9} {:>5} {:>8} {:>8}  {:.1} ms in all\n", "ms", "calls", "GB/s", "GFLOP/s", sum / 1e3);
    for (variant, (calls, us, bytes, flops)) in rows {
        let rate = |n: u64| n as f64 / us / 1e3;
        text += &format!("{:9.3} {calls:5} {:8.2} {:8.2}  {variant}\n", us / 1e3, rate(bytes), rate(flops));
    }
    print(&text)
}

/// Runs a job under a progress bar, until it is done or Ctrl-C.
pub(crate) fn watch(context: &Context, job: &mut Job) -> Result<Option<Outcome>> {
    common::stop_gracefully();
    let options = job.settings().options.clone();
    let first = job.trainer().step();
    let bar: ProgressBar = bar(options.steps as u64, "training", "steps");
    bar.set_position(first as u64);
    let began = Instant::now();
    let mut valid = String::new();
    let mut see = |e: Event| {
        match e {
            Event::Steps { done, loss } => {
                let speed = (done - first) as f64 * options.tokens() as f64 / began.elapsed().as_secs_f64();
                bar.set_position(done as u64);
                bar.set_message(format!("loss {loss:.4}{valid} {speed:.0} tokens/s"));
            }
            Event::Evaluated { loss, .. } => valid = format!(" valid {loss:.4}"),
            Event::Saved { .. } => {}
        }
        if common::interrupted() { Control::Stop } else { Control::Continue }
    };
    let outcome = context.block_on(job.run(&mut see))?;
    bar.finish_and_clear();
    Ok(outcome)
}

fn summary(o: &Outcome, folder: &Path) -> String {
    let tokens = o.steps * o.settings.options.tokens();
    format!(
        "method       {} (rank {}), {} steps, {} tokens\ntrain loss   {:.4} nats (last tenth)\nvalid loss   {:.4} nats, perplexity {:.3}\n\
         trained      {} elements of {}\nre-SVDs      {}\ntime         {:.1} s in this sitting, {}\nwritten to   {}\n",
        o.method,
        o.settings.options.method.rank(),
        o.steps,
        tokens,
        o.train_loss,
        o.valid_loss,
        o.perplexity,
        o.trained,
        common::bytes(o.stored_bytes),
        o.re_svds,
        o.seconds,
        o.adapter,
        folder.display(),
    )
}
