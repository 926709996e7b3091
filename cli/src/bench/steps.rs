//! Training steps of several methods in turn, on one adapter: what a step of each takes beside one of full rank, which part of it the
//! update is, and how long decompositions take.

use crate::common::{self, Global, print, print_json};
use anyhow::{Context as _, Result};
use etalon::Context;
use etalon::format::Config;
use etalon::train::random::Random;
use etalon::train::{Data, Initial, Method, Options, Spec, Sst, Trainer, presets::preset};
use serde_json::{Value, json};
use std::time::Instant;

const VOCABULARY: usize = 2048;
const CONTEXT: usize = 512;
/// Steps from one decomposition to the next in the run that measures them.
const ROUND: usize = 10;

/// What is measured.
pub(super) struct What<'a> {
    pub(super) preset: &'a str,
    /// Blocks; the preset's where it is not said.
    pub(super) layers: Option<usize>,
    pub(super) rank: usize,
    pub(super) tokens: usize,
    /// Steps of each method.
    pub(super) steps: usize,
}

struct Row {
    name: &'static str,
    ms: f64,
    /// Part of the device's time that gradient norm, optimiser and normalisation take.
    update: f64,
}

pub(super) fn run(g: &Global, context: &Context, what: &What<'_>) -> Result<()> {
    let spec = spec(what)?;
    let methods = [
        Method::Full,
        Method::Lora { rank: what.rank, scale: 1.0 },
        Method::Sst(Sst { rank: what.rank, steps: usize::MAX, ..Sst::default() }),
    ];
    let mut runs = Vec::new();
    for method in methods {
        runs.push((method.name(), trainer(context, &spec, what, method, 1e-4)?, Vec::new()));
    }
    let bar = common::bar(what.steps as u64 + 1, "training steps", "steps");
    for round in 0..=what.steps {
        for (_, t, ms) in &mut runs {
            let took = step(context, t)?;
            // The first step compiles and draws.
            if round > 0 {
                ms.push(took);
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let mut rows = Vec::new();
    for (name, t, ms) in runs {
        rows.push(Row { name, ms: median(ms), update: update_part(context, &t)? });
    }
    let re_svd = re_svd(context, &spec, what)?;
    report(g, context, what, &rows, re_svd)
}

fn spec(what: &What<'_>) -> Result<Spec> {
    let mut config: Value = serde_json::from_str(&preset(what.preset, VOCABULARY, CONTEXT)?)?;
    if let Some(n) = what.layers {
        config["num_hidden_layers"] = n.into();
    }
    Ok(Spec::Decoder(Config::from_json("config.json", config.to_string().as_bytes())?))
}

fn trainer(context: &Context, spec: &Spec, what: &What<'_>, method: Method, rate: f64) -> Result<Trainer> {
    let rows = CONTEXT.min(what.tokens);
    let o =
        Options { method, steps: what.steps.max(3 * ROUND) + 2, rate, sequences: what.tokens / rows, context: rows, ..Options::default() };
    let mut random = Random::new(0, 0);
    let tokens = (0..8 * rows + 1).map(|_| (random.uniform() * VOCABULARY as f64) as u32).collect();
    let starts = (0..o.steps * o.sequences).map(|i| (i % 7 * rows) as u32).collect();
    let data = Data { tokens, starts, ..Data::default() };
    Ok(context.block_on(Trainer::new(context, spec, &o, &data, &Initial::Random))?)
}

/// Milliseconds from the host's call to the device's end.
fn step(context: &Context, t: &mut Trainer) -> Result<f64> {
    let began = Instant::now();
    context.block_on(t.submit_step())?;
    context.block_on(t.reports())?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn update_part(context: &Context, t: &Trainer) -> Result<f64> {
    let [batch, update] = t.plans();
    let sum = |plan: &etalon::plan::Bound| -> Result<f64> { Ok(context.block_on(plan.profile())?.iter().map(|t| t.us).sum()) };
    let (batch, update) = (sum(batch)?, sum(update)?);
    Ok(update / (batch + update))
}

/// Seconds of a decomposition of all layers, after ten steps at a rate at which the active vectors turn by some tenths of a radian.
fn re_svd(context: &Context, spec: &Spec, what: &What<'_>) -> Result<f64> {
    let method = Method::Sst(Sst { rank: what.rank, steps: ROUND, iterations: 1, ..Sst::default() });
    let mut t = trainer(context, spec, what, method, 1e-3)?;
    let ms = (0..=2 * ROUND).map(|_| step(context, &mut t)).collect::<Result<Vec<f64>>>()?;
    let with = ms[ROUND].min(ms[2 * ROUND]);
    Ok((with - median(ms)) / 1e3)
}

fn report(g: &Global, context: &Context, what: &What<'_>, rows: &[Row], re_svd: f64) -> Result<()> {
    let full = rows.first().context("no method")?.ms;
    let sst = rows.last().context("no method")?.ms;
    // A round of the paper: 200 steps, width / rank times.
    let width = match spec(what)? {
        Spec::Decoder(Config::Opt(c)) => c.hidden,
        Spec::Decoder(Config::Llama(c)) => c.hidden,
        _ => what.rank,
    };
    let round = 200 * width.div_ceil(what.rank);
    let part = re_svd / (re_svd + round as f64 * sst / 1e3);
    if g.json {
        let rows: Vec<Value> =
            rows.iter().map(|r| json!({ "method": r.name, "ms": r.ms, "of_full": r.ms / full, "update": r.update })).collect();
        return print_json(&json!({
            "adapter": context.facts().summary(), "preset": what.preset, "layers": what.layers, "rank": what.rank, "tokens": what.tokens,
            "methods": rows, "re_svd_s": re_svd, "round": round, "re_svd_part": part,
        }));
    }
    let mut text = format!(
        "{}\n{}, {} blocks, rank {}, {} tokens a step, medians of {} steps in turn\n\nmethod     ms a step  of full  update\n",
        context.facts().summary(),
        what.preset,
        what.layers.map_or_else(|| "all".into(), |n| n.to_string()),
        what.rank,
        what.tokens,
        what.steps
    );
    for r in rows {
        text += &format!("{:8} {:>11.1} {:>8.3} {:>6.1} %\n", r.name, r.ms, r.ms / full, 100.0 * r.update);
    }
    text += &format!("\nre-SVD of all layers {re_svd:.2} s: {:.2} % of a round of {round} steps\n", 100.0 * part);
    print(&text)
}
