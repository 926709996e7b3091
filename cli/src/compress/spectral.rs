//! `quantize --spectral`: layers as factors, with more bits for the pairs of singular vectors that carry more.

use super::quantize::Args;
use super::report::{quality, speed};
use super::{Subject, texts};
use crate::common::{Global, bar, on_bar, print, print_json};
use anyhow::{Context as _, Result, bail};
use etalon::compress::HALF;
use etalon::compress::choose::{Budget, restore};
use etalon::compress::pack::{Beside, write};
use etalon::compress::round::{Bands, by_spectrum};
use etalon::format::{Checkpoint, TensorEntry, write_atomically};
use etalon::model::{Keep, Model, linears};
use etalon::quant::round::{Gptq, Spec};
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub(super) fn run(g: &Global, args: &Args) -> Result<()> {
    let Some(Budget::Linears { bits, metadata: true }) = args.budget.budget()? else {
        bail!("--spectral wants bits per linear weight: give --bpw");
    };
    let calibration = args.score.calibration.as_ref().context("GPTQ needs a text: give --calibration")?;
    if args.out.extension().is_some_and(|e| e == "gguf") {
        bail!("{}: a GGUF file holds no factors: give a folder", args.out.display());
    }
    let widths: Vec<u32> = args.bits.iter().copied().filter(|b| *b != HALF).collect();
    let subject = Subject::open(g, &args.model)?;
    let spec = args.score.options(&subject.checkpoint.config)?.spec;
    let texts_for = |file, tokens| texts(&subject.model, file, tokens, args.score.window);
    let progress = bar(0, "rounding", "blocks");
    let mut probe = subject.probe(&texts_for(calibration, args.score.tokens)?, Keep::Current)?;
    let how = (&spec, &Gptq { act_order: args.act_order, ..Gptq::default() });
    let tell = on_bar(&progress);
    let found = subject.context.block_on(by_spectrum(&mut probe, &subject.checkpoint, (bits, &widths), how, &tell));
    restore(&subject.model, &subject.checkpoint)?;
    progress.finish_and_clear();
    drop(probe);
    let (rounded, layers) = found?;
    let embeddings = (args.embedding_bits != HALF).then_some(Spec { bits: args.embedding_bits, ..spec });
    write(&subject.checkpoint, &rounded, &Beside { half: true, embeddings }, &args.out)?;
    let json = report(&subject, args, &layers)?;
    write_atomically(&args.out.join("report.json"), format!("{json:#}\n").as_bytes())?;
    if g.json { print_json(&json) } else { print(&text(&json, args)) }
}

/// Judges the written model.
fn report(subject: &Subject, args: &Args, layers: &[Bands]) -> Result<Value> {
    let written = Checkpoint::open(&args.out)?;
    let model = Model::load(&subject.context, &written, &|_, _| {})?;
    let file = args.check.as_ref().or(args.score.calibration.as_ref());
    let quality = match file {
        Some(f) => quality(subject, &model, &texts(&subject.model, f, args.check_tokens, args.score.window)?)?,
        None => json!({}),
    };
    let weights: u64 = linears(&subject.checkpoint.config).iter().map(etalon::model::Linear::weights).sum();
    let mut widths: BTreeMap<u32, usize> = BTreeMap::new();
    layers.iter().flat_map(|l| &l.bands).for_each(|(bits, pairs)| *widths.entry(*bits).or_default() += pairs);
    let (all, kept): (usize, usize) = (layers.iter().map(|l| l.of).sum(), widths.values().sum());
    Ok(json!({
        "model": args.model, "rounding": "GPTQ of factors",
        "bits_per_linear_weight": layers.iter().map(|l| l.cost).sum::<u64>() as f64 / weights as f64,
        "bytes": written.tensors().map(TensorEntry::file_bytes).sum::<u64>(),
        "pairs": all, "pairs_left_out": all - kept, "pairs_by_bits": widths, "layers": layers,
        "judged_on_own_text": args.check.is_some(), "quality": quality, "speed": speed(subject, &model)?,
        "adapter": subject.context.facts().summary(),
    }))
}

fn text(j: &Value, args: &Args) -> String {
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
    let text = if j["judged_on_own_text"] == true { "another text" } else { "the calibration text" };
    if let Some(kl) = n("/quality/mean_kl") {
        out += &format!("quality     KL {kl:.4e} nats, {} tokens of {text}\n", n("/quality/tokens").unwrap_or(0.0));
    }
    if let Some(cosine) = n("/quality/mean_cosine") {
        out +=
            &format!("quality     cosine {cosine:.5} to the embeddings before, {} tokens of {text}\n", n("/quality/tokens").unwrap_or(0.0));
    }
    if let (Some(fast), Some(slow)) = (n("/speed/decode_tokens_per_s"), n("/speed/decode_tokens_per_s_f32")) {
        out += &format!("speed       {fast:.1} tokens/s, with f32 weights {slow:.1}\n");
    }
    out + &format!("written     {}; only etalon reads factors\n", args.out.display())
}
