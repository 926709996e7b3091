//! What a quantised model is like: its size, what it lost, how fast it is.

use super::{Subject, html};
use crate::common::{Global, bar, print, print_json};
use anyhow::Result;
use etalon::compress::HALF;
use etalon::compress::choose::Chosen;
use etalon::compress::score::Scores;
use etalon::format::{Checkpoint, write_atomically};
use etalon::model::{Model, Sampling, Sequence, Session};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// How a choice was improved by measuring it.
pub(super) struct Refinement {
    /// Measured losses on the calibration text: as it was found, as it is, and uniform's.
    pub(super) before: f64,
    pub(super) after: f64,
    pub(super) uniform: Option<f64>,
    pub(super) measured: usize,
    pub(super) fell_back: bool,
}

/// What there is to report.
pub(super) struct Report<'a> {
    pub(super) model: &'a str,
    pub(super) scores: &'a Scores,
    pub(super) chosen: &'a Chosen,
    pub(super) refined: Option<Refinement>,
    pub(super) rounding: &'static str,
    /// It is judged by a text that it was not calibrated on.
    pub(super) own_text: bool,
    /// Until units were scored, and until the model was written.
    pub(super) seconds: (f64, f64),
    pub(super) written: &'a Path,
}

impl Report<'_> {
    /// `report.json` in a folder, `MODEL.report.json` beside a file.
    fn file(&self, extension: &str) -> PathBuf {
        if self.written.is_dir() {
            self.written.join(format!("report.{extension}"))
        } else {
            self.written.with_extension(format!("report.{extension}"))
        }
    }
}

/// Tokens that are made to time decoding.
const TIMED: usize = 24;

/// Sizes of a written model.
struct Size {
    elements: u64,
    bytes: u64,
}

/// Judges the written model, writes `report.json` and `report.html` beside it, and prints what matters.
pub(super) fn write(g: &Global, subject: &Subject, r: &Report<'_>, texts: Option<&[Sequence]>) -> Result<()> {
    let written = Checkpoint::open(r.written)?;
    let model = Model::load(&subject.context, &written, &|_, _| {})?;
    let size = Size {
        elements: subject.checkpoint.tensors().map(|t| t.elements()).sum(),
        bytes: written.tensors().map(etalon::format::TensorEntry::file_bytes).sum(),
    };
    let quality = match texts {
        Some(texts) => quality(subject, &model, texts)?,
        None => json!({}),
    };
    let speed = speed(subject, &model)?;
    let json = json!({
        "model": r.model, "rounding": r.rounding, "bits_per_linear_weight": r.chosen.bits_per_weight(),
        "bits_per_weight": 8.0 * size.bytes as f64 / size.elements as f64, "bytes": size.bytes,
        "times_smaller_than_f16": 2.0 * size.elements as f64 / size.bytes as f64,
        "times_smaller_than_f32": 4.0 * size.elements as f64 / size.bytes as f64,
        "linear_weights_times_smaller_than_f16": 16.0 / r.chosen.bits_per_weight(),
        "widths": widths(r.chosen), "units": units(r), "exact": r.chosen.exact, "predicted_loss": r.chosen.expected(r.scores)?,
        "refinement": r.refined.as_ref().map(|r| json!({
            "before": r.before, "after": r.after, "uniform": r.uniform, "runs": r.measured, "fell_back_to_uniform": r.fell_back,
        })),
        "calibration": { "tokens": r.scores.tokens, "few": r.scores.tokens < super::FEW && r.scores.tokens > 0 },
        "score": r.scores.options, "chance": r.scores.chance,
        "judged_on_own_text": r.own_text, "quality": quality, "speed": speed,
        "seconds": { "scored": r.seconds.0, "written": r.seconds.1 }, "adapter": subject.context.facts().summary(),
    });
    write_atomically(&r.file("json"), format!("{json:#}\n").as_bytes())?;
    write_atomically(&r.file("html"), html::page(&json).as_bytes())?;
    if g.json { print_json(&json) } else { print(&text(&json, r)) }
}

/// Weights of each width.
fn widths(chosen: &Chosen) -> Value {
    let mut all = std::collections::BTreeMap::new();
    chosen.units.iter().zip(&chosen.bits).for_each(|(u, b)| *all.entry(b.to_string()).or_insert(0) += u.weights());
    json!(all)
}

fn units(r: &Report<'_>) -> Value {
    let of = |((u, bits), s): ((&etalon::compress::Unit, &u32), &etalon::compress::score::UnitScore)| {
        let site = if let [one] = u.sites()[..] { one.name() } else { "all" };
        let loss = if *bits == HALF { Some(0.0) } else { s.losses.get(bits).copied() };
        let names: Vec<&str> = u.linears.iter().map(|l| l.stem()).collect();
        json!({ "unit": u.name, "block": u.block, "site": site, "weights": u.weights(), "bits": bits, "score": s.score, "loss": loss, "layers": names })
    };
    r.chosen.units.iter().zip(&r.chosen.bits).zip(&r.scores.units).map(of).collect()
}

/// How far the written model is from the one that it was made of.
pub(super) fn quality(subject: &Subject, model: &Arc<Model>, texts: &[Sequence]) -> Result<Value> {
    let (before, c) = (&subject.model, &subject.context);
    let tokens: usize = texts.iter().map(|t| t.tokens.len()).sum();
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len().max(1) as f64;
    let progress = bar(texts.len() as u64, "judging", "texts");
    let mut out = json!({ "tokens": tokens });
    let encoder = matches!(before.config(), etalon::format::Config::Bert(b) if b.head == etalon::format::BertHead::None);
    if encoder {
        let mut cosines = Vec::new();
        for part in texts.chunks(8) {
            let of = |m: &Model| c.block_on(m.embed(part, true, true));
            let pairs = of(before)?.into_iter().zip(of(model)?);
            cosines.extend(pairs.map(|(a, b)| a.iter().zip(&b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>()));
            progress.inc(part.len() as u64);
        }
        out["mean_cosine"] = json!(mean(&cosines));
        out["least_cosine"] = json!(cosines.iter().copied().fold(f64::INFINITY, f64::min));
        return Ok(out);
    }
    let (mut changes, mut likelihoods) = (Vec::new(), [Vec::new(), Vec::new()]);
    for t in texts {
        let found = if matches!(before.config(), etalon::format::Config::Bert(b) if matches!(b.head, etalon::format::BertHead::Classifier { .. }))
        {
            classified(subject, model, t)?
        } else {
            c.block_on(before.divergence(model, &t.tokens))?.iter().map(|v| f64::from(*v)).collect()
        };
        changes.extend(found);
        if before.is_decoder() && t.tokens.len() > 1 {
            for (m, all) in [before, model].into_iter().zip(&mut likelihoods) {
                all.extend(c.block_on(m.nll(&t.tokens))?.iter().map(|v| f64::from(*v)));
            }
        }
        progress.inc(1);
    }
    out["mean_kl"] = json!(mean(&changes));
    if before.is_decoder() {
        let [a, b] = likelihoods.map(|v| mean(&v).exp());
        (out["perplexity_before"], out["perplexity"]) = (json!(a), json!(b));
    }
    Ok(out)
}

/// The divergence of a classifier's answer on a text.
fn classified(subject: &Subject, model: &Model, t: &Sequence) -> Result<Vec<f64>> {
    let of = |m: &Model| subject.context.block_on(m.logits(std::slice::from_ref(t)));
    let wide = |v: Vec<Vec<f32>>| v.concat().into_iter().map(f64::from).collect::<Vec<_>>();
    Ok(vec![etalon::reference::kl::row(&wide(of(&subject.model)?), &wide(of(model)?))])
}

/// Tokens a second, of the model with f32 weights and of the written one, on this adapter.
pub(super) fn speed(subject: &Subject, model: &Arc<Model>) -> Result<Value> {
    if !model.is_decoder() {
        return Ok(json!({}));
    }
    let of = |m: &Arc<Model>| -> Result<f64> {
        let mut session = Session::new(m, 1)?;
        session.warm_up(4)?;
        let sampling = Sampling { max_tokens: TIMED, ..Sampling::default() };
        let mut rate = 0.0;
        // Drivers finish compiling in a first run.
        for _ in 0..2 {
            session.truncate(0, 0);
            let (mut first, mut made) = (None, 0);
            for token in session.generate(&[vec![3, 4, 5, 6]], &sampling)?.blocking() {
                token?;
                first.get_or_insert_with(Instant::now);
                made += 1;
            }
            rate = first.map_or(0.0, |t: Instant| f64::from(made - 1) / t.elapsed().as_secs_f64());
        }
        Ok(rate)
    };
    Ok(json!({ "decode_tokens_per_s": of(model)?, "decode_tokens_per_s_f32": of(&subject.model)? }))
}

/// What was lost, and how fast it is.
pub(super) fn judged(j: &Value) -> String {
    let n = |path: &str| j.pointer(path).and_then(Value::as_f64);
    let mut out = String::new();
    let text = if j["judged_on_own_text"] == true { "another text" } else { "the calibration text" };
    let tokens = n("/quality/tokens").unwrap_or(0.0);
    if let (Some(mean), Some(least)) = (n("/quality/mean_cosine"), n("/quality/least_cosine")) {
        out += &format!("quality     cosine {mean:.5} to the embeddings before ({least:.5} at least), {tokens} tokens of {text}\n");
    }
    if let Some(kl) = n("/quality/mean_kl") {
        let perplexity = match (n("/quality/perplexity_before"), n("/quality/perplexity")) {
            (Some(a), Some(b)) => format!(", perplexity {a:.4} to {b:.4}"),
            _ => String::new(),
        };
        out += &format!("quality     KL {kl:.4e} nats{perplexity}, {tokens} tokens of {text}\n");
    }
    if let (Some(fast), Some(slow)) = (n("/speed/decode_tokens_per_s"), n("/speed/decode_tokens_per_s_f32")) {
        out += &format!("speed       {fast:.1} tokens/s, with f32 weights {slow:.1}\n");
    }
    out
}

fn text(j: &Value, r: &Report<'_>) -> String {
    let n = |path: &str| j.pointer(path).and_then(Value::as_f64);
    let mut out = format!(
        "size        {:.4} bits per linear weight, {:.4} per weight in all: {:.2} times smaller than f16 ({:.2} than f32), {:.1} MB\n",
        n("/bits_per_linear_weight").unwrap_or(0.0),
        n("/bits_per_weight").unwrap_or(0.0),
        n("/times_smaller_than_f16").unwrap_or(0.0),
        n("/times_smaller_than_f32").unwrap_or(0.0),
        n("/bytes").unwrap_or(0.0) / 1e6,
    );
    let total: f64 = j["widths"].as_object().map_or(0.0, |w| w.values().filter_map(Value::as_f64).sum());
    let parts =
        j["widths"].as_object().map(|w| w.iter().map(|(b, n)| format!("{b} bits {:.1} %", 100.0 * n.as_f64().unwrap_or(0.0) / total)));
    out += &format!("widths      {}\n", parts.map_or(String::new(), |p| p.collect::<Vec<_>>().join(", ")));
    if let (Some(before), Some(after)) = (n("/refinement/before"), n("/refinement/after")) {
        let uniform = n("/refinement/uniform").map_or(String::new(), |u| format!("; one width for all: {u:.4e}"));
        let fell = if j["refinement"]["fell_back_to_uniform"] == true { ", so that is what was taken" } else { "" };
        out += &format!("choice      loses {before:.4e} on the calibration text, after refinement {after:.4e}{uniform}{fell}\n");
    }
    out += &judged(j);
    if j["calibration"]["few"] == true {
        out += &format!("caution     {} tokens of calibration: fewer than {} say little\n", j["calibration"]["tokens"], super::FEW);
    }
    out + &format!("written     {}, report in {}\n", r.written.display(), r.file("html").display())
}
