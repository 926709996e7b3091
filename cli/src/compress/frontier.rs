//! `frontier`: size against loss, for several ways of choosing widths and of rounding.

use super::options::{RoundingName, ScoreArgs, ScoreName};
use super::{Subject, scores, texts};
use crate::common::{self, Global, bar, print, print_json, read_text};
use crate::plot;
use anyhow::{Context as _, Result, bail};
use etalon::compress::choose::{Budget, Chosen, Search, choose, refine, restore};
use etalon::compress::fingerprint;
use etalon::compress::round::{Codes, by_outputs, to_nearest};
use etalon::compress::score::{Options, Scores, WIDTHS};
use etalon::format::write_atomically;
use etalon::model::{Keep, Loss, Probe, Sequence};
use etalon::quant::round::{Gptq, Spec};
use etalon::quant::similarity::spearman;
use etalon::train::random::hash;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A folder, a file, or a Hugging Face repository id
    #[arg(long)]
    model: String,
    #[command(flatten)]
    score: ScoreArgs,
    /// Bits per linear weight, scales and zero points counted
    #[arg(long, value_name = "BITS", value_delimiter = ',', required = true)]
    budgets: Vec<f64>,
    /// Ways of choosing: uniform, random:SEED, ends-first; cmpq, pmpq, tdmpq, tdmpq-input, tdmpq-gradient, kl (each searched exactly); refined
    #[arg(long, value_name = "WAY", value_delimiter = ',', value_parser = way,
        default_value = "uniform,random:1,random:2,random:3,ends-first,cmpq,pmpq,tdmpq,kl,refined")]
    ways: Vec<Way>,
    /// Ways of rounding
    #[arg(long, value_enum, value_delimiter = ',', default_value = "nearest,gptq")]
    roundings: Vec<RoundingName>,
    /// Rounds of `refined`
    #[arg(long, value_name = "N", default_value_t = 2)]
    refine: usize,
    /// Text to judge by
    #[arg(long, value_name = "FILE")]
    check: PathBuf,
    /// Tokens of it
    #[arg(long, value_name = "N", default_value_t = 4096)]
    check_tokens: usize,
    /// Folder of the results; what was finished is kept, and a run that was stopped goes on there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Bits of a quarter of half precision.
const QUARTER: f64 = 4.0;

/// How widths are chosen.
#[derive(Clone, Debug, PartialEq)]
enum Way {
    Blind(Search),
    Scored(&'static str),
    Refined,
}

const SCORES: [(&str, ScoreName); 6] = [
    ("cmpq", ScoreName::Cmpq),
    ("pmpq", ScoreName::Pmpq),
    ("tdmpq", ScoreName::Tdmpq),
    ("tdmpq-input", ScoreName::TdmpqInput),
    ("tdmpq-gradient", ScoreName::TdmpqGradient),
    ("kl", ScoreName::Kl),
];

fn way(text: &str) -> Result<Way, String> {
    if text == "refined" {
        return Ok(Way::Refined);
    }
    if let Some((name, _)) = SCORES.iter().find(|s| s.0 == text) {
        return Ok(Way::Scored(name));
    }
    match super::options::search(text)? {
        found @ (Search::Uniform | Search::Random(_) | Search::EndsFirst) => Ok(Way::Blind(found)),
        _ => Err("there are uniform, random:SEED, ends-first, cmpq, pmpq, tdmpq, tdmpq-input, tdmpq-gradient, kl and refined".into()),
    }
}

impl Way {
    fn name(&self) -> String {
        match self {
            Self::Blind(Search::Random(seed)) => format!("random {seed}"),
            Self::Blind(Search::EndsFirst) => "ends first".into(),
            Self::Blind(_) => "uniform".into(),
            Self::Scored(name) => (*name).into(),
            Self::Refined => "refined".into(),
        }
    }

    fn score(&self) -> Option<&'static str> {
        match self {
            Self::Blind(_) => None,
            Self::Scored(name) => Some(name),
            Self::Refined => Some("kl"),
        }
    }
}

/// One choice, rounded and judged.
#[derive(Clone, Serialize, Deserialize)]
struct Cell {
    way: String,
    rounding: String,
    budget: f64,
    bits_per_weight: f64,
    /// Divergence, or distance of embeddings.
    loss: f64,
    nll: Option<f64>,
    /// One width for all lost less on the calibration text and was taken.
    fell_back: bool,
    bits: Vec<u32>,
}

/// Everything that the cells need.
struct Bench<'a> {
    args: &'a Args,
    subject: &'a Subject,
    options: Options,
    /// By the score's name and, where what is measured hangs on it, the rounding's.
    scores: BTreeMap<(&'static str, &'static str), Scores>,
    /// Codes by GPTQ, once they are needed.
    fitted: OnceCell<Codes>,
    /// On the calibration text.
    probe: Probe,
    /// On the text to judge by.
    judge: Probe,
    fit: Vec<Sequence>,
}

pub(crate) fn run(g: &Global, args: &Args) -> Result<()> {
    let subject = Subject::open(g, &args.model)?;
    let calibration = args.score.calibration.as_ref().context("give --calibration, another text than --check")?;
    let of = |file: &Path, tokens| texts(&subject.model, file, tokens, args.score.window);
    let scored = of(calibration, args.score.score_tokens)?;
    let judged = of(&args.check, args.check_tokens)?;
    if judged.iter().any(|t| scored.contains(t)) {
        bail!("{} and {} share text: what is judged must not be calibrated on", calibration.display(), args.check.display());
    }
    std::fs::create_dir_all(args.out.join("cells")).with_context(|| args.out.display().to_string())?;
    let options = args.score.options(&subject.checkpoint.config)?;
    let fit = of(calibration, args.score.tokens)?;
    same_setup(args, &subject, &options, [&scored, &fit, &judged])?;
    let probe = subject.probe(&scored, Keep::All)?;
    let fitted = OnceCell::new();
    let mut known = BTreeMap::new();
    for (name, which) in SCORES.iter().filter(|s| args.ways.iter().any(|w| w.score() == Some(s.0))) {
        for rounding in args.roundings.iter().filter(|r| *name == "kl" || **r == args.roundings[0]) {
            let options = ScoreArgs { score: *which, rounding: *rounding, ..args.score.clone() }.options(&subject.checkpoint.config)?;
            let of_rounding = if *name == "kl" { rounding_name(*rounding) } else { "any" };
            let file = args.out.join(format!("scores-{name}-{of_rounding}.json"));
            let mut codes = || fitted_codes(&fitted, &subject, &fit, &options.spec);
            let found = scores((&subject.context, &subject.checkpoint), (&probe, &scored), &options, &mut codes, Some(&file))?;
            known.insert((*name, of_rounding), found.context("stopped: the same command goes on")?);
        }
    }
    let judge = subject.probe(&judged, Keep::All)?;
    let bench = Bench { args, subject: &subject, options, scores: known, fitted, fit, probe, judge };
    let base = subject.context.block_on(bench.judge.measure(0))?;
    let cells = bench.cells()?;
    report(g, args, &bench, &base, &cells)
}

fn fitted_codes(cell: &OnceCell<Codes>, subject: &Subject, texts: &[Sequence], spec: &Spec) -> Result<Codes> {
    if let Some(codes) = cell.get() {
        return Ok(codes.clone());
    }
    let codes = subject.fitted(texts, spec, &WIDTHS)?;
    Ok(cell.get_or_init(|| codes).clone())
}

/// Refuses a folder whose cells are of another model, other texts or other options than these.
fn same_setup(args: &Args, subject: &Subject, options: &Options, texts: [&[Sequence]; 3]) -> Result<()> {
    let of = |texts: &[Sequence]| {
        let tokens: usize = texts.iter().map(|t| t.tokens.len()).sum();
        let bytes = texts.iter().flat_map(|t| t.tokens.iter().chain(&[u32::MAX])).flat_map(|t| t.to_le_bytes());
        json!({ "tokens": tokens, "hash": format!("{:016x}", hash(bytes)) })
    };
    let [scored, fitted, judged] = texts.map(of);
    let ScoreArgs { sparsity, pairs, noise_bits, epsilon, seed, .. } = args.score;
    let now = json!({
        "weights": format!("{:016x}", fingerprint(&subject.checkpoint)?), "scored": scored, "fitted": fitted, "judged": judged,
        "unit": options.unit, "metric": options.metric, "spec": options.spec, "refine": args.refine,
        "sparsity": sparsity, "pairs": pairs, "noise_bits": noise_bits, "epsilon": epsilon, "seed": seed,
        "cca": format!("{:?}", args.score.cca), "cmpq_scope": format!("{:?}", args.score.cmpq_scope),
    });
    let file = args.out.join("setup.json");
    if !file.exists() {
        return Ok(write_atomically(&file, &serde_json::to_vec_pretty(&now)?)?);
    }
    let before: Value = serde_json::from_str(&read_text(&file)?).with_context(|| file.display().to_string())?;
    let differs = now.as_object().into_iter().flatten().find(|(name, value)| before.get(name.as_str()) != Some(value));
    match differs {
        Some((name, _)) => bail!("{}: `{name}` is not what the results there were made with: give another --out", file.display()),
        None => Ok(()),
    }
}

impl Bench<'_> {
    fn cells(&self) -> Result<Vec<Cell>> {
        let mut cells = Vec::new();
        let bar = bar((self.args.budgets.len() * self.args.ways.len() * self.args.roundings.len()) as u64, "judging", "choices");
        for budget in &self.args.budgets {
            for way in &self.args.ways {
                for rounding in &self.args.roundings {
                    let name = rounding_name(*rounding);
                    let file = self.args.out.join("cells").join(format!("{}-{name}-{budget}.json", way.name().replace(' ', "-")));
                    let cell = if file.exists() {
                        serde_json::from_str(&read_text(&file)?).with_context(|| file.display().to_string())?
                    } else {
                        let (chosen, fell_back) = self.choose(way, name, *budget)?;
                        let loss = self.judge(&chosen, *rounding)?;
                        let cell = Cell {
                            way: way.name(),
                            rounding: name.into(),
                            budget: *budget,
                            bits_per_weight: chosen.bits_per_weight(),
                            loss: loss.change,
                            nll: loss.nll,
                            fell_back,
                            bits: chosen.bits.clone(),
                        };
                        write_atomically(&file, &serde_json::to_vec_pretty(&cell)?)?;
                        cell
                    };
                    cells.push(cell);
                    bar.inc(1);
                    if common::interrupted() {
                        bail!("stopped: the same command goes on");
                    }
                }
            }
        }
        bar.finish_and_clear();
        Ok(cells)
    }

    fn choose(&self, way: &Way, rounding: &str, budget: f64) -> Result<(Chosen, bool)> {
        let (c, any) = (&self.subject.checkpoint, |_: &etalon::compress::Unit, _: u32| true);
        let budget = Budget::Linears { bits: budget, metadata: true };
        let flat = Scores::none(c, self.options.clone())?;
        let of = |scores: &Scores, search: &Search| choose(c, scores, (&WIDTHS, &any), (budget, (0, 0)), search);
        let scores = way.score().and_then(|name| self.of(name, rounding)).unwrap_or(&flat);
        match way {
            Way::Blind(search) => Ok((of(scores, search)?, false)),
            Way::Scored(_) => Ok((of(scores, &Search::Exact)?, false)),
            Way::Refined => {
                let context = &self.subject.context;
                let first = of(scores, &Search::Exact)?;
                let one = of(&flat, &Search::Uniform)?;
                let starts = [first, one.clone()];
                let codes = match rounding {
                    "gptq" => fitted_codes(&self.fitted, self.subject, &self.fit, &self.options.spec)?,
                    _ => Codes::Nearest(self.options.spec),
                };
                let better = context.block_on(refine(&self.probe, c, &codes, &starts, (&WIDTHS, &any, self.args.refine)))?;
                let fell_back = better.chosen.bits == one.bits;
                Ok((better.chosen, fell_back))
            }
        }
    }

    fn of(&self, score: &'static str, rounding: &str) -> Option<&Scores> {
        self.scores.iter().find(|((s, r), _)| *s == score && (*r == rounding || *r == "any")).map(|(_, s)| s)
    }

    fn judge(&self, chosen: &Chosen, rounding: RoundingName) -> Result<Loss> {
        let (s, spec, widths) = (self.subject, &self.options.spec, chosen.by_name());
        let rounded = match rounding {
            RoundingName::Nearest => to_nearest(&s.checkpoint, &widths, spec, &|_, _| {})?,
            RoundingName::Gptq => {
                let mut moving = s.probe(&self.fit, Keep::Current)?;
                let fitted = s.context.block_on(by_outputs(&mut moving, &s.checkpoint, &widths, (spec, &Gptq::default()), &|_, _| {}));
                restore(&*s.model, &s.checkpoint)?;
                fitted?
            }
        };
        rounded.iter().try_for_each(|(name, p)| s.model.set_weight(name, &p.decode()))?;
        let loss = s.context.block_on(self.judge.measure(0));
        restore(&*s.model, &s.checkpoint)?;
        Ok(loss?)
    }
}

fn rounding_name(r: RoundingName) -> &'static str {
    if r == RoundingName::Gptq { "gptq" } else { "nearest" }
}

/// Bits at which a way's curve reaches a loss, between its points by the logarithm of the loss; `None` beyond them.
fn bits_at(curve: &[(f64, f64)], loss: f64) -> Option<f64> {
    curve.windows(2).find(|w| w[0].1 >= loss && w[1].1 <= loss).map(|w| {
        let ((a, x), (b, y)) = (w[0], w[1]);
        if x <= y { a } else { a + (b - a) * (x / loss).ln() / (x / y).ln() }
    })
}

fn report(g: &Global, args: &Args, bench: &Bench<'_>, base: &Loss, cells: &[Cell]) -> Result<()> {
    let encoder = base.nll.is_none();
    let mut md = format!(
        "Scored on {} tokens, judged on {} others; before: {}.\n\n| bits | rounding | way | bits per weight | {} |\n|---|---|---|---|---|\n",
        bench.probe.tokens(),
        bench.judge.tokens(),
        base.nll.map_or("embeddings".into(), |n| format!("perplexity {:.4}", n.exp())),
        if encoder { "1 - cosine" } else { "KL, nats | perplexity" },
    );
    if !encoder {
        md = md.replace("|---|---|---|---|---|\n", "|---|---|---|---|---|---|\n");
    }
    for c in cells {
        let fell = if c.fell_back { " (fell back to uniform)" } else { "" };
        md += &format!("| {} | {} | {}{fell} | {:.4} | {:.4e} |", c.budget, c.rounding, c.way, c.bits_per_weight, c.loss);
        md += &c.nll.map_or("\n".into(), |n| format!(" {:.4} |\n", n.exp()));
    }
    let mut correlations = BTreeMap::new();
    if let Some(measured) = bench.of("kl", rounding_name(args.roundings[0])) {
        let losses = |s: &Scores| s.units.iter().map(|u| u.losses[&3]).collect::<Vec<f64>>();
        md += "\nRank correlation (Spearman) of each score's 3-bit losses with the measured ones, and of its ends with its middle:\n\n| score | with the measured loss | first 30 % over middle | last 30 % over middle |\n|---|---|---|---|\n";
        for ((name, rounding), s) in &bench.scores {
            let name = if *rounding == "any" { (*name).to_owned() } else { format!("{name}, {rounding}") };
            let rho = spearman(&losses(s), &losses(measured));
            let [first, last] = depth(bench, s);
            md += &format!("| {name} | {rho:.3} | {first:.2} | {last:.2} |\n");
            correlations.insert(name, rho);
        }
    }
    let mut series: Vec<plot::Series> = Vec::new();
    for c in cells {
        let name = format!("{}, {}", c.way, c.rounding);
        match series.iter_mut().find(|s| s.0 == name) {
            Some(s) => s.1.push((c.bits_per_weight, c.loss)),
            None => series.push((name, vec![(c.bits_per_weight, c.loss)])),
        }
    }
    series.iter_mut().for_each(|s| s.1.sort_by(|a, b| a.0.total_cmp(&b.0)));
    md += &equal_loss(&series);
    let unit = if encoder { "1 - cosine" } else { "KL, nats" };
    for rounding in args.roundings.iter().map(|r| rounding_name(*r)) {
        let ending = format!(", {rounding}");
        let mut own: Vec<plot::Series> =
            series.iter().filter_map(|(name, points)| Some((name.strip_suffix(&ending)?.to_owned(), points.clone()))).collect();
        own.extend(quarter(&own));
        let file = args.out.join(format!("frontier-{rounding}.svg"));
        plot::lines(&file, &format!("Size against loss{ending}"), "bits per linear weight", unit, true, &own)?;
    }
    let json = json!({
        "model": args.model, "scored_tokens": bench.probe.tokens(), "judged_tokens": bench.judge.tokens(), "nll_before": base.nll,
        "spearman": correlations, "cells": cells, "adapter": bench.subject.context.facts().summary(),
    });
    write_atomically(&args.out.join("frontier.json"), &serde_json::to_vec_pretty(&json)?)?;
    write_atomically(&args.out.join("table.md"), md.as_bytes())?;
    if g.json { print_json(&json) } else { print(&md) }
}

/// A line where linear weights take a quarter of half precision, scales and zero points counted: only a mix of widths gets there.
fn quarter(series: &[plot::Series]) -> Option<plot::Series> {
    let all = || series.iter().flat_map(|s| &s.1);
    let beside = |below: bool| all().any(|p| if below { p.0 <= QUARTER } else { p.0 >= QUARTER });
    let ends = all().map(|p| p.1).filter(|loss| *loss > 0.0).fold((f64::INFINITY, 0.0), |(lo, hi): (f64, f64), l| (lo.min(l), hi.max(l)));
    (beside(true) && beside(false)).then(|| ("4 times smaller than f16".into(), vec![(QUARTER, ends.0), (QUARTER, ends.1)]))
}

/// Bits that each way needs for the loss that uniform has at each of its budgets.
fn equal_loss(series: &[plot::Series]) -> String {
    let mut out = String::new();
    for rounding in ["nearest", "gptq"] {
        let Some((_, uniform)) = series.iter().find(|s| s.0 == format!("uniform, {rounding}")) else { continue };
        // Budgets between widths are filled by the one below: each width once.
        let mut points = uniform.clone();
        points.dedup_by(|a, b| a.0 == b.0);
        out += &format!(
            "\nBits for the loss of one width for all, {rounding}:\n\n| way |{}\n|---|{}\n",
            points.iter().map(|p| format!(" {:.4} |", p.0)).collect::<String>(),
            "---|".repeat(points.len())
        );
        for (name, curve) in series.iter().filter(|s| s.0.ends_with(rounding) && !s.0.starts_with("uniform")) {
            let bits: String = points.iter().map(|p| bits_at(curve, p.1).map_or(" - |".into(), |b| format!(" {b:.3} |"))).collect();
            out += &format!("| {} |{bits}\n", name.trim_end_matches(&format!(", {rounding}")));
        }
    }
    out
}

/// Mean losses at 3 bits for a weight of the first and of the last 30 % of layers, over those of the layers between.
fn depth(bench: &Bench<'_>, s: &Scores) -> [f64; 2] {
    let units = etalon::compress::units(&bench.subject.checkpoint.config, s.options.unit);
    let blocks = units.last().map_or(1, |u| u.block + 1);
    let edge = ((0.3 * blocks as f64).round() as usize).max(1);
    let mean = |keep: &dyn Fn(usize) -> bool| {
        let all = units.iter().zip(&s.units).filter(|(u, _)| keep(u.block));
        let (loss, weights) = all.fold((0.0, 0), |(l, w), (u, s)| (l + s.losses[&3], w + u.weights()));
        loss / (weights as f64).max(1.0)
    };
    let middle = mean(&|b| b >= edge && b + edge < blocks).max(f64::MIN_POSITIVE);
    [mean(&|b| b < edge) / middle, mean(&|b| b + edge >= blocks) / middle]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crossings_of_curves() {
        let curve = [(2.0, 1.0), (3.0, 0.1), (4.0, 0.01)];
        assert!((bits_at(&curve, 0.1f64.sqrt()).unwrap() - 2.5).abs() < 1e-12);
        assert_eq!(bits_at(&curve, 2.0), None);
        assert_eq!(way("random:3"), Ok(Way::Blind(Search::Random(3))));
        assert!(way("dp").is_err());
    }
}
