//! `compare`: several methods on the same text, seeds and budget. Every finished run is kept, so that it can be interrupted at any
//! time and goes on where it was.

mod ablation;
mod report;

pub(crate) use report::closure;

use super::options::{MethodArgs, MethodName, RunArgs};
use super::{Prepared, SourceArgs, WatchArgs, watch};
use crate::common::{Global, open_device, print, print_json};
use anyhow::{Context as _, Result, bail};
use etalon::Context;
use etalon::format::write_atomically;
use etalon::train::job::{Job, Outcome, Settings};
use etalon::train::random::hash;
use etalon::train::{Method, Options};
use report::{Found, Swept};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    other: Option<Other>,
    #[command(flatten)]
    source: SourceArgs,
    /// Methods, separated by commas. Full rank comes first where it is among them: the best rate found for its embeddings, norms and
    /// biases is that of all others, unless --lr-rest says otherwise
    #[arg(long, value_delimiter = ',', default_value = "full,lora,relora,galore,sst")]
    methods: Vec<MethodName>,
    /// Learning rates that each method is tried with at the first seed; a best one at the grid's edge extends the grid
    #[arg(long, value_delimiter = ',', default_value = "2.5e-3,5e-3,1e-2,2e-2")]
    rates: Vec<f64>,
    /// Rates of embeddings, norms and biases that full rank is tried with, at each of --rates; the best one is that of all methods
    /// [default: the rate itself]
    #[arg(long, value_delimiter = ',', conflicts_with = "lr_rest")]
    rests: Vec<f64>,
    /// Factors alpha / rank that LoRA and ReLoRA are tried with; where LoRA comes before ReLoRA, its best one serves both
    #[arg(long, value_delimiter = ',', default_value = "1")]
    scales: Vec<f32>,
    /// Factors of the step that GaLore is tried with
    #[arg(long, value_delimiter = ',', default_value = "0.25")]
    galore_scales: Vec<f32>,
    /// Steps between merges that ReLoRA is tried with
    #[arg(long, value_delimiter = ',', default_value = "100")]
    merges: Vec<usize>,
    /// Seeds: the first for the rates, the others at the best rate
    #[arg(long, value_delimiter = ',', default_value = "0")]
    seeds: Vec<u64>,
    /// Take rates, factors and intervals from the comparison in this folder instead of trying them; all seeds count then
    #[arg(long, value_name = "DIR", conflicts_with = "ablate")]
    like: Option<PathBuf>,
    /// Instead of methods, compare SST with itself short of a part, at --lr
    #[arg(long)]
    ablate: bool,
    #[command(flatten)]
    of_method: MethodArgs,
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten)]
    watch: WatchArgs,
    /// Most times that the grid of rates is extended
    #[arg(long, default_value_t = 2)]
    extend: usize,
    /// Folder of the comparison: `results/` holds a JSON file for each finished run
    #[arg(long, value_name = "DIR", required = true)]
    out: Option<PathBuf>,
}

/// What is compared on other data than text.
#[derive(clap::Subcommand)]
enum Other {
    /// Networks for the nodes or links of a graph, as `etalon graph` does
    Graph(Box<crate::graph::Args>),
    /// Translators, as `etalon translate train` does
    Translate(Box<crate::translate::train::Args>),
}

/// One way of training: a method with its own options, without a rate.
#[derive(Clone)]
struct Way {
    name: String,
    method: Method,
    /// Learning rate of what every method trains alike; `None`: that of the run.
    rest: Option<f64>,
    /// Plain gradient descent.
    sgd: bool,
}

impl Way {
    fn new(name: impl Into<String>, method: Method, rest: Option<f64>) -> Self {
        Self { name: name.into(), method, rest, sgd: false }
    }
}

struct Comparison<'a> {
    context: Context,
    args: &'a Args,
    out: &'a Path,
    prepared: Prepared,
}

pub(crate) fn run(g: &Global, args: &Args) -> Result<()> {
    match (&args.other, &args.out) {
        (Some(Other::Graph(a)), _) => crate::graph::run(g, a),
        (Some(Other::Translate(a)), _) => crate::translate::train::run(g, a),
        (None, Some(out)) => on_text(g, args, out),
        (None, None) => bail!("--out: a folder for the comparison"),
    }
}

fn on_text(g: &Global, args: &Args, out: &Path) -> Result<()> {
    let like = args.like.as_ref().map(|folder| chosen(folder)).transpose()?;
    let context = open_device(g)?;
    let prepared = args.source.prepare(args.run.context())?;
    for folder in ["runs", "results"] {
        let path = out.join(folder);
        std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
    }
    same_data(&prepared, out)?;
    let c = Comparison { context, args, out, prepared };
    let mut found = Vec::new();
    match like {
        Some(chosen) => {
            for (way, rate) in chosen {
                found.push(c.seeds(&way, rate, Vec::new())?);
                report::write(out, &found)?;
            }
        }
        None if args.ablate => {
            for way in ablation::ways(&args.of_method, args.run.lr_rest()) {
                found.push(c.ablated(&way)?);
                report::write(out, &found)?;
            }
        }
        None => c.methods(&mut found)?,
    }
    let text = report::write(out, &found)?;
    if g.json { print_json(&report::json(&found)) } else { print(&text) }
}

/// Refuses a folder whose runs were made with another text, tokenizer or model.
fn same_data(p: &Prepared, out: &Path) -> Result<()> {
    let tokens: Vec<u8> = p.corpus.train.iter().chain(&p.corpus.valid).flat_map(|t| t.to_le_bytes()).collect();
    let hash = hash([p.config.as_bytes(), p.tokenizer.as_bytes(), &tokens].into_iter().flatten().copied());
    let (train, valid) = (p.corpus.train.len(), p.corpus.valid.len());
    let now = json!({ "train_tokens": train, "valid_tokens": valid, "model_tokenizer_and_text": format!("{hash:016x}") });
    let path = out.join("data.json");
    if !path.exists() {
        return Ok(write_atomically(&path, serde_json::to_string_pretty(&now)?.as_bytes())?);
    }
    let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
    match serde_json::from_slice::<Value>(&text) {
        Ok(before) if before == now => Ok(()),
        _ => bail!("{}: the runs here were made with another text or model: choose another --out", out.display()),
    }
}

/// What a finished comparison chose: ways and their rates.
fn chosen(folder: &Path) -> Result<Vec<(Way, f64)>> {
    let path = folder.join("comparison.json");
    let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
    let found: Vec<Found> = report::parse(&text).with_context(|| path.display().to_string())?;
    let of = |f: Found| {
        let o = f.runs.into_iter().next()?.settings.options;
        Some((Way { name: f.way, method: o.method, rest: Some(o.rest_rate()), sgd: o.sgd }, f.rate))
    };
    Ok(found.into_iter().filter_map(of).collect())
}

impl Comparison<'_> {
    /// Tries every method, and keeps the best way of each.
    fn methods(&self, found: &mut Vec<Found>) -> Result<()> {
        let mut rest = self.args.run.lr_rest();
        let mut names = self.args.methods.clone();
        names.sort_by_key(|n| *n != MethodName::Full);
        let mut scales = self.args.scales.clone();
        for name in names {
            let (mut best, mut swept): (Option<(Way, f64, Outcome)>, Vec<Swept>) = (None, Vec::new());
            for way in self.ways(name, &scales, rest) {
                let (rate, outcome) = self.sweep(&way, &self.args.rates, &mut swept)?;
                if best.as_ref().is_none_or(|(_, _, b)| score(&outcome) < score(b)) {
                    best = Some((way, rate, outcome));
                }
            }
            let (way, rate, first) = best.context("--scales and --merges: one at least")?;
            match way.method {
                Method::Full => rest = way.rest.or(Some(rate)),
                Method::Lora { scale, .. } => scales = vec![scale],
                _ => {}
            }
            let mut f = self.seeds(&way, rate, vec![first])?;
            f.swept = swept;
            found.push(f);
            report::write(self.out, found)?;
        }
        Ok(())
    }

    /// The ways of a method that are to be tried.
    fn ways(&self, name: MethodName, scales: &[f32], rest: Option<f64>) -> Vec<Way> {
        let way = |name: String, method| Way::new(name, method, rest);
        match self.args.of_method.method(name) {
            Method::Lora { rank, .. } => scales.iter().map(|s| way(format!("lora x{s}"), Method::Lora { rank, scale: *s })).collect(),
            Method::Relora { rank, warmup, .. } => {
                let pairs = scales.iter().flat_map(|s| self.args.merges.iter().map(move |every| (*s, *every)));
                let of = |(scale, every)| way(format!("relora x{scale} every {every}"), Method::Relora { rank, scale, every, warmup });
                pairs.map(of).collect()
            }
            Method::Galore { rank, every, .. } => {
                let of = |s: &f32| way(format!("galore x{s}"), Method::Galore { rank, every, scale: *s });
                self.args.galore_scales.iter().map(of).collect()
            }
            Method::Full if !self.args.rests.is_empty() => {
                let of = |r: &f64| Way::new(format!("full rest {r}"), Method::Full, Some(*r));
                self.args.rests.iter().map(of).collect()
            }
            method => vec![way(method.name().into(), method)],
        }
    }

    /// Runs all rates at the first seed; returns the best one and its outcome.
    fn sweep(&self, way: &Way, rates: &[f64], swept: &mut Vec<Swept>) -> Result<(f64, Outcome)> {
        let seed = *self.args.seeds.first().context("--seeds: one at least")?;
        let mut rates = rates.to_vec();
        rates.sort_by(f64::total_cmp);
        let mut done: Vec<(f64, Outcome)> = Vec::new();
        for extended in 0.. {
            for rate in &rates {
                if !done.iter().any(|(r, _)| r == rate) {
                    done.push((*rate, self.one(way, *rate, seed)?));
                }
            }
            done.sort_by(|a, b| a.0.total_cmp(&b.0));
            let best = (0..done.len()).min_by(|a, b| score(&done[*a].1).total_cmp(&score(&done[*b].1))).context("--rates: one at least")?;
            let edge = rates.len() > 1 && extended < self.args.extend;
            match done[best].0 {
                first if edge && best == 0 => rates.push(first / 2.0),
                last if edge && best + 1 == done.len() => rates.push(last * 2.0),
                _ => {
                    swept.extend(done.iter().map(|(rate, o)| Swept {
                        way: way.name.clone(),
                        rate: *rate,
                        perplexity: o.perplexity.is_finite().then_some(o.perplexity),
                    }));
                    return Ok(done.swap_remove(best));
                }
            }
        }
        bail!("--extend: too large")
    }

    /// The runs at one rate: those of the first seeds are there already.
    fn seeds(&self, way: &Way, rate: f64, mut runs: Vec<Outcome>) -> Result<Found> {
        for seed in &self.args.seeds[runs.len().min(self.args.seeds.len())..] {
            runs.push(self.one(way, rate, *seed)?);
        }
        let tuned = self.args.like.is_none() && !self.args.ablate;
        Ok(Found { way: way.name.clone(), rate, tuned, runs, swept: Vec::new() })
    }

    /// A part of an ablation: plain gradient descent wants rates of its own, the rest go by --lr.
    fn ablated(&self, way: &Way) -> Result<Found> {
        if !way.sgd {
            return self.seeds(way, self.args.run.lr(), Vec::new());
        }
        let mut swept = Vec::new();
        let (rate, first) = self.sweep(way, &ablation::SGD_RATES, &mut swept)?;
        Ok(Found { swept, ..self.seeds(way, rate, vec![first])? })
    }

    /// A run, or what it gave when it was done before.
    fn one(&self, way: &Way, rate: f64, seed: u64) -> Result<Outcome> {
        let name = format!("{} rate {rate} seed {seed}", way.name).replace(' ', "-");
        let kept = self.out.join("results").join(format!("{name}.json"));
        let folder = self.out.join("runs").join(&name);
        let options = Options { rate, rate_rest: way.rest, seed, sgd: way.sgd, ..self.args.run.options(way.method)? };
        let settings = self.args.watch.settings(options);
        if kept.exists() {
            let text = std::fs::read(&kept).with_context(|| kept.display().to_string())?;
            let o: Outcome = serde_json::from_slice(&text).with_context(|| kept.display().to_string())?;
            if !same(&o.settings, &settings) {
                bail!("{}: made with other options: move it away, or choose another --out", kept.display());
            }
            return Ok(o);
        }
        eprintln!("{name}");
        let p = &self.prepared;
        let begun = folder.join("job.json").exists();
        let mut job =
            if begun { self.context.block_on(Job::resume(&self.context, &folder))? } else { p.begin(&self.context, &folder, &settings)? };
        let done = match watch(&self.context, &mut job) {
            Err(e) if e.downcast_ref::<etalon::Error>().is_some_and(|e| matches!(e, etalon::Error::Diverged { .. })) => {
                log::warn!("{name}: {e}");
                Some(job.diverged())
            }
            done => done?,
        };
        let Some(o) = done else {
            eprintln!("stopped: the same command goes on");
            std::process::exit(i32::from(crate::common::INTERRUPTED));
        };
        write_atomically(&kept, serde_json::to_string(&o)?.as_bytes())?;
        // The outcome holds what is compared; checkpoints of dozens of runs would fill a disk.
        std::fs::remove_dir_all(folder.join("checkpoints")).with_context(|| folder.display().to_string())?;
        Ok(o)
    }
}

/// Whether two runs are the same: a rate of the rest that equals the rate may be said or not.
fn same(a: &Settings, b: &Settings) -> bool {
    let plain = |s: &Settings| {
        let rate_rest = Some(s.options.rest_rate());
        Settings { options: Options { rate_rest, ..s.options.clone() }, ..s.clone() }
    };
    plain(a) == plain(b)
}

/// What is minimised: a run that diverged is the worst.
fn score(o: &Outcome) -> f64 {
    if o.valid_loss.is_finite() { o.valid_loss } else { f64::INFINITY }
}
