//! `quantize --spectral`: layers as factors, with more bits for the pairs of singular vectors that carry more.

use super::Subject;
use super::report::{judged, quality, speed};
use crate::common::{Global, bar, on_bar, print, print_json};
use anyhow::Result;
use etalon::compress::HALF;
use etalon::compress::choose::restore;
use etalon::compress::pack::{Beside, write};
use etalon::compress::round::{Bands, by_spectrum};
use etalon::format::{Checkpoint, TensorEntry, write_atomically};
use etalon::model::{Keep, Linear, Model, Sequence, linears};
use etalon::quant::round::{Gptq, Spec};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// What is to be made.
pub(super) struct Order<'a> {
    pub(super) model: &'a str,
    /// Bits of each layer, by its tensor's name; those that have none stay in half precision.
    pub(super) budgets: BTreeMap<String, u64>,
    pub(super) widths: &'a [u32],
    pub(super) spec: Spec,
    pub(super) act_order: bool,
    pub(super) beside: &'a Beside,
    /// To fit to, and to judge by; whether these are others.
    pub(super) calibration: Vec<Sequence>,
    pub(super) judged: Option<Vec<Sequence>>,
    pub(super) own_text: bool,
    pub(super) out: &'a Path,
}

pub(super) fn make(g: &Global, subject: &Subject, o: &Order<'_>) -> Result<()> {
    let progress = bar(0, "rounding", "blocks");
    let mut probe = subject.probe(&o.calibration, Keep::Current)?;
    let how = (&o.spec, &Gptq { act_order: o.act_order, ..Gptq::default() });
    let tell = on_bar(&progress);
    let found = subject.context.block_on(by_spectrum(&mut probe, &subject.checkpoint, (&o.budgets, o.widths), how, &tell));
    restore(&*subject.model, &subject.checkpoint)?;
    progress.finish_and_clear();
    drop(probe);
    let (rounded, layers) = found?;
    write(&subject.checkpoint, &rounded, o.beside, o.out)?;
    let json = report(subject, o, &layers)?;
    write_atomically(&o.out.join("report.json"), format!("{json:#}\n").as_bytes())?;
    if g.json { print_json(&json) } else { print(&text(&json, o.out)) }
}

/// Judges the written model.
fn report(subject: &Subject, o: &Order<'_>, layers: &[Bands]) -> Result<Value> {
    let written = Checkpoint::open(o.out)?;
    let model = Model::load(&subject.context, &written, &|_, _| {})?;
    let quality = match &o.judged {
        Some(texts) => quality(subject, &model, texts)?,
        None => json!({}),
    };
    let all = linears(&subject.checkpoint.config);
    let weights: u64 = all.iter().map(Linear::weights).sum();
    let halves: u64 = all.iter().filter(|l| !o.budgets.contains_key(&l.name)).map(Linear::weights).sum();
    let cost = layers.iter().map(|l| l.cost).sum::<u64>() + u64::from(HALF) * halves;
    let mut widths: BTreeMap<u32, usize> = BTreeMap::new();
    layers.iter().flat_map(|l| &l.bands).for_each(|(bits, pairs)| *widths.entry(*bits).or_default() += pairs);
    let (all, kept): (usize, usize) = (layers.iter().map(|l| l.pairs).sum(), widths.values().sum());
    Ok(json!({
        "model": o.model, "rounding": "GPTQ of factors",
        "bits_per_linear_weight": cost as f64 / weights as f64,
        "bytes": written.tensors().map(TensorEntry::file_bytes).sum::<u64>(),
        "pairs": all, "pairs_left_out": all - kept, "pairs_by_bits": widths, "layers": layers,
        "judged_on_own_text": o.own_text, "quality": quality, "speed": speed(subject, &model)?,
        "adapter": subject.context.facts().summary(),
    }))
}

fn text(j: &Value, out_at: &Path) -> String {
    let n = |path: &str| j.pointer(path).and_then(Value::as_f64);
    let all = n("/pairs").unwrap_or(1.0);
    let share = |pairs: f64| format!("{:.1} %", 100.0 * pairs / all);
    let widths = j["pairs_by_bits"].as_object().into_iter().flatten();
    let mut parts: Vec<String> = widths.map(|(b, n)| format!("{b} bits {}", share(n.as_f64().unwrap_or(0.0)))).collect();
    parts.push(format!("left out {}", share(n("/pairs_left_out").unwrap_or(0.0))));
    let mut out = format!(
        "size        {:.4} bits per linear weight, {:.1} MB\npairs       {}\n",
        n("/bits_per_linear_weight").unwrap_or(0.0),
        n("/bytes").unwrap_or(0.0) / 1e6,
        parts.join(", ")
    );
    out += &judged(j);
    out + &format!("written     {}; only etalon reads factors\n", out_at.display())
}
