//! `compare`: several methods on the same text, seeds and budget. Every finished run is kept, so that it can be interrupted at any
//! time and goes on where it was.

use super::options::{MethodArgs, MethodName, RunArgs};
use super::{Prepared, SourceArgs, WatchArgs, watch};
use crate::common::{Global, open_device, print, print_json};
use crate::plot;
use anyhow::{Context as _, Result, bail};
use clap::ValueEnum as _;
use etalon::Context;
use etalon::format::write_atomically;
use etalon::train::job::{Job, Outcome};
use etalon::train::{Initial, Method, Options};
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    source: SourceArgs,
    /// Methods, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "full,lora,relora,galore,sst")]
    methods: Vec<String>,
    /// Learning rates that each method is tried with at the first seed; a best one at the grid's edge extends the grid
    #[arg(long, value_delimiter = ',', default_value = "2.5e-3,5e-3,1e-2,2e-2")]
    rates: Vec<f64>,
    /// Factors alpha / rank that LoRA and ReLoRA are tried with
    #[arg(long, value_delimiter = ',', default_value = "1")]
    scales: Vec<f32>,
    /// Steps between merges that ReLoRA is tried with
    #[arg(long, value_delimiter = ',', default_value = "100")]
    merges: Vec<usize>,
    /// Seeds: the first for the rates, the others at the best rate
    #[arg(long, value_delimiter = ',', default_value = "0")]
    seeds: Vec<u64>,
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
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// One way of training: a method with its own options, without a rate.
struct Way {
    name: String,
    method: Method,
}

/// What a sweep found.
struct Sweep {
    /// The best rate.
    rate: f64,
    /// Its outcome.
    outcome: Outcome,
    /// Rates and perplexities.
    all: Vec<(f64, f64)>,
}

struct Comparison<'a> {
    context: Context,
    args: &'a Args,
    prepared: Prepared,
}

pub(crate) fn run(g: &Global, args: &Args) -> Result<()> {
    let ways = ways(args)?;
    let context = open_device(g)?;
    let prepared = args.source.prepare(args.run.context())?;
    for folder in ["runs", "results"] {
        let path = args.out.join(folder);
        std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
    }
    let c = Comparison { context, args, prepared };
    let mut best: Vec<(Way, f64, Vec<Outcome>)> = Vec::new();
    let mut swept: Vec<(String, f64, f64)> = Vec::new();
    for way in ways {
        let Sweep { rate, outcome, all } = c.sweep(&way)?;
        swept.extend(all.into_iter().map(|(rate, perplexity)| (way.name.clone(), rate, perplexity)));
        let mut outcomes = vec![outcome];
        for seed in args.seeds.iter().skip(1) {
            outcomes.push(c.one(&way, rate, *seed)?);
        }
        best.push((way, rate, outcomes));
        report(args, &best, &swept)?;
    }
    let text = report(args, &best, &swept)?;
    match g.json {
        true => print_json(&json!(best.iter().map(|(w, rate, o)| json!({ "way": w.name, "rate": rate, "runs": o })).collect::<Vec<_>>())),
        false => print(&text),
    }
}

fn ways(args: &Args) -> Result<Vec<Way>> {
    let mut out = Vec::new();
    for name in &args.methods {
        let Ok(named) = MethodName::from_str(name, true) else { bail!("--methods {name}: sst, full, lora, relora or galore") };
        match args.of_method.method(named) {
            Method::Lora { rank, .. } => {
                out.extend(args.scales.iter().map(|s| Way { name: format!("lora x{s}"), method: Method::Lora { rank, scale: *s } }));
            }
            Method::Relora { rank, warmup, .. } => {
                for scale in &args.scales {
                    let of = |every: &usize| Method::Relora { rank, scale: *scale, every: *every, warmup };
                    out.extend(args.merges.iter().map(|every| Way { name: format!("relora x{scale} every {every}"), method: of(every) }));
                }
            }
            method => out.push(Way { name: method.name().into(), method }),
        }
    }
    Ok(out)
}

impl Comparison<'_> {
    /// Runs all rates at the first seed.
    fn sweep(&self, way: &Way) -> Result<Sweep> {
        let seed = *self.args.seeds.first().context("--seeds: one at least")?;
        let mut rates = self.args.rates.clone();
        rates.sort_by(f64::total_cmp);
        let mut done: BTreeMap<usize, Outcome> = BTreeMap::new();
        let mut extended = 0;
        loop {
            for (i, rate) in rates.iter().enumerate() {
                if let std::collections::btree_map::Entry::Vacant(e) = done.entry(i) {
                    e.insert(self.one(way, *rate, seed)?);
                }
            }
            let score = |o: &Outcome| if o.valid_loss.is_finite() { o.valid_loss } else { f64::INFINITY };
            let best = done.iter().min_by(|a, b| score(a.1).total_cmp(&score(b.1))).map(|(i, _)| *i).context("--rates: one at least")?;
            let edge = rates.len() > 1 && extended < self.args.extend && (best == 0 || best + 1 == rates.len());
            if !edge {
                let all = rates.iter().zip(done.values()).map(|(r, o)| (*r, o.perplexity)).collect();
                let outcome = done.remove(&best).context("a run is missing")?;
                return Ok(Sweep { rate: rates[best], outcome, all });
            }
            extended += 1;
            if best == 0 {
                rates.insert(0, rates[0] / 2.0);
                done = done.into_iter().map(|(i, o)| (i + 1, o)).collect();
            } else {
                rates.push(rates[best] * 2.0);
            }
        }
    }

    /// A run, or what it gave when it was done before.
    fn one(&self, way: &Way, rate: f64, seed: u64) -> Result<Outcome> {
        let name = format!("{} rate {rate} seed {seed}", way.name).replace(' ', "-");
        let kept = self.args.out.join("results").join(format!("{name}.json"));
        let folder = self.args.out.join("runs").join(&name);
        let options = Options { rate, seed, ..self.args.run.options(way.method)? };
        let settings = self.args.watch.settings(options);
        if kept.exists() {
            let text = std::fs::read(&kept).with_context(|| kept.display().to_string())?;
            let o: Outcome = serde_json::from_slice(&text).with_context(|| kept.display().to_string())?;
            if o.settings != settings {
                bail!("{}: made with other options: move it away, or choose another --out", kept.display());
            }
            return Ok(o);
        }
        eprintln!("{name}");
        let p = &self.prepared;
        let begun = folder.join("job.json").exists();
        let mut job = if begun {
            self.context.block_on(Job::resume(&self.context, &folder))?
        } else {
            let create = Job::create(&self.context, &folder, &settings, &p.config, Some(&p.tokenizer), &p.corpus, &Initial::Random);
            self.context.block_on(create)?
        };
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
        write_atomically(&kept, serde_json::to_string_pretty(&o)?.as_bytes())?;
        Ok(o)
    }
}

/// Mean and standard deviation.
fn spread(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / (n - 1.0).max(1.0);
    (mean, variance.sqrt())
}

/// The part of the gap between the better of LoRA and ReLoRA and full rank that SST closes, at most 1; `None` without a gap.
fn closure(full: f64, low: f64, sst: f64) -> Option<f64> {
    (low > full).then(|| ((low - sst) / (low - full)).min(1.0))
}

/// Writes the table and the curves; returns the table.
fn report(args: &Args, best: &[(Way, f64, Vec<Outcome>)], swept: &[(String, f64, f64)]) -> Result<String> {
    let mut text =
        String::from("| method | rate | perplexity | spread | train loss | trained | re-SVDs | s |\n|---|---|---|---|---|---|---|---|\n");
    // The first seed chose the rate: where there are others, they alone count.
    let counted = |o: &[Outcome]| -> Vec<f64> { o[usize::from(o.len() > 1)..].iter().map(|o| o.perplexity).collect() };
    for (way, rate, outcomes) in best {
        let (mean, deviation) = spread(&counted(outcomes));
        let first = &outcomes[outcomes.len() - 1];
        let seconds = outcomes.iter().map(|o| o.seconds).sum::<f64>() / outcomes.len() as f64;
        let (trained, re_svds) = (first.trained, first.re_svds);
        writeln!(
            text,
            "| {} | {rate} | {mean:.2} | {deviation:.2} | {:.4} | {trained} | {re_svds} | {seconds:.0} |",
            way.name, first.train_loss
        )?;
    }
    let of =
        |prefix: &str| best.iter().filter(|(w, _, _)| w.name.starts_with(prefix)).map(|(_, _, o)| spread(&counted(o)).0).reduce(f64::min);
    if let (Some(full), Some(sst), Some(low)) = (of("full"), of("sst"), [of("lora"), of("relora")].into_iter().flatten().reduce(f64::min)) {
        let gap = 100.0 * (low - full) / low;
        match closure(full, low, sst) {
            Some(c) => writeln!(
                text,
                "\nSST closes {:.1} % of the gap between full rank and the better low-rank method (a gap of {gap:.1} %).",
                100.0 * c
            )?,
            None => writeln!(text, "\nThere is no gap between full rank and the low-rank methods.")?,
        }
    }
    text += "\n| method | rate | perplexity (first seed) |\n|---|---|---|\n";
    for (name, rate, perplexity) in swept {
        writeln!(text, "| {name} | {rate} | {perplexity:.2} |")?;
    }
    write_atomically(&args.out.join("table.md"), text.as_bytes())?;
    let series: Vec<(String, Vec<(f64, f64)>)> = best
        .iter()
        .map(|(w, _, o)| (w.name.clone(), o[o.len() - 1].evaluations.iter().map(|(step, loss)| (*step as f64, *loss)).collect()))
        .collect();
    plot::lines(&args.out.join("curves.svg"), "validation loss", "step", "nats a token", false, &series)?;
    let all = json!({ "best": best.iter().map(|(w, rate, o)| json!({ "way": w.name, "rate": rate, "runs": o })).collect::<Vec<_>>(), "swept": swept });
    write_atomically(&args.out.join("comparison.json"), serde_json::to_string_pretty(&all)?.as_bytes())?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closure_counts_at_most_one() {
        assert_eq!(closure(70.0, 80.0, 75.0), Some(0.5));
        assert_eq!(closure(70.0, 80.0, 65.0), Some(1.0));
        assert_eq!(closure(80.0, 80.0, 75.0), None);
    }

    #[test]
    fn the_spread_of_one_value_is_zero() {
        assert_eq!(spread(&[3.0]), (3.0, 0.0));
        assert!((spread(&[1.0, 3.0]).1 - 2f64.sqrt()).abs() < 1e-12);
    }
}
