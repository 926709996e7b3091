//! `quantize` of a translator: its loss is that of given translations, and rounding is to the nearest codes.

use super::options::RoundingName;
use super::quantize::{Args, chosen, nearest, plan};
use super::report::Refinement;
use super::scores;
use crate::common::{Global, bar, bytes, open_device, print, print_json};
use anyhow::{Context as _, Result, bail};
use etalon::Context;
use etalon::compress::choose::Chosen;
use etalon::compress::pack::write;
use etalon::compress::round::Codes;
use etalon::compress::score::Scores;
use etalon::compress::translator::Translator;
use etalon::format::{Checkpoint, write_atomically};
use etalon::model::Sequence;
use etalon::translation::{Pair, config, encode, read_pairs, shapes_of};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Pairs at equal distances, of so many target tokens or somewhat more.
fn pairs(c: &Checkpoint, source: &Path, target: Option<&PathBuf>, option: &str, (tokens, longest): (usize, usize)) -> Result<Vec<Pair>> {
    let target =
        target.with_context(|| format!("a translator's loss is that of translations: give those of {} by {option}", source.display()))?;
    let (config, _) = config(c)?;
    let all = read_pairs(source, target)?;
    let (kept, _) = encode(&c.tokenizer()?, &all, config, &shapes_of(1, longest.min(config.max_positions)))?;
    let there: usize = kept.iter().map(|p| p.1.len()).sum();
    let step = (there / tokens.max(1)).max(1);
    let found: Vec<Pair> = kept.into_iter().step_by(step).collect();
    if found.is_empty() { bail!("{}: no sentence of up to {longest} tokens", source.display()) } else { Ok(found) }
}

/// What a pair's tokens are to a hash: one text.
fn texts(pairs: &[Pair]) -> Vec<Sequence> {
    pairs.iter().map(|(s, t)| [s.as_slice(), t].concat().into()).collect()
}

/// The loss that a translator has on pairs, in nats a token.
fn loss(c: &Context, checkpoint: &Checkpoint, pairs: &[Pair]) -> Result<f64> {
    Ok(c.block_on(Translator::new(c, checkpoint, pairs))?.base())
}

pub(super) fn run(g: &Global, args: &Args, checkpoint: &Checkpoint) -> Result<()> {
    let mut args = args.clone();
    // GPTQ looks into layers of one stack.
    args.score.rounding = RoundingName::Nearest;
    let plan = plan(checkpoint, &args)?;
    if args.spectral || plan.gguf {
        bail!("{}: translators become folders of whole weights: leave --spectral out, and give a folder as --out", args.model);
    }
    let given = |file: &Path, targets: Option<&PathBuf>, option: &str, tokens: usize| {
        pairs(checkpoint, file, targets, option, (tokens, args.score.window))
    };
    let calibration = args.score.calibration.as_deref();
    let scored = match (plan.blind(), calibration) {
        (true, _) => None,
        (false, Some(file)) => Some(given(file, args.targets.as_ref(), "--targets", args.score.score_tokens)?),
        (false, None) => bail!("scores need sentences and their translations: give --calibration and --targets"),
    };
    let judged = match (&args.check, calibration) {
        (Some(file), _) => Some(given(file, args.check_targets.as_ref(), "--check-targets", args.check_tokens)?),
        (None, Some(file)) => Some(given(file, args.targets.as_ref(), "--targets", args.check_tokens)?),
        (None, None) => None,
    };
    let c = open_device(g)?;
    let measured = scored.as_ref().map(|pairs| c.block_on(Translator::new(&c, checkpoint, pairs))).transpose()?;
    let mut fit = || Ok(Codes::Nearest(plan.options.spec));
    let found = match (&measured, &scored) {
        (Some(m), Some(pairs)) => scores((&c, checkpoint), (m, texts(pairs).as_slice()), &plan.options, &mut fit, args.scores.as_deref())?,
        _ => Some(Scores::none(checkpoint, plan.options.clone())?),
    };
    let Some(found) = found else { bail!("stopped: nothing was written; give --scores FILE to go on from what has been measured") };
    let (chosen, refined) = chosen((&c, checkpoint), &plan, &args, &found, (measured.as_ref(), &mut fit))?;
    drop(measured);
    write(checkpoint, &nearest(checkpoint, &chosen, &plan.options.spec)?, &plan.beside, &args.out)?;
    let losses = match &judged {
        Some(pairs) => {
            let bar = bar(0, "judging", "");
            let written = Checkpoint::open(&args.out)?;
            let both = [loss(&c, checkpoint, pairs)?, loss(&c, &written, pairs)?];
            bar.finish_and_clear();
            Some((both, pairs.iter().map(|p| p.1.len()).sum()))
        }
        None => None,
    };
    report(g, &args, &found, &chosen, refined.as_ref(), losses)
}

fn report(
    g: &Global,
    args: &Args,
    s: &Scores,
    chosen: &Chosen,
    refined: Option<&Refinement>,
    losses: Option<([f64; 2], usize)>,
) -> Result<()> {
    let bits = chosen.bits_per_weight();
    let file = args.out.join("model.safetensors");
    let size = std::fs::metadata(&file).with_context(|| file.display().to_string())?.len();
    let json = json!({
        "model": args.model, "bits_per_weight": bits, "bytes": size, "scored_tokens": s.tokens, "own_text": args.check.is_some(),
        "units": chosen.units.iter().zip(&chosen.bits).map(|(u, b)| json!({ "unit": u.name, "bits": b })).collect::<Vec<_>>(),
        "refined": refined.map(|r| json!({ "before": r.before, "after": r.after, "uniform": r.uniform, "runs": r.measured, "fell_back": r.fell_back })),
        "loss_before": losses.map(|l| l.0[0]), "loss_after": losses.map(|l| l.0[1]), "judged_tokens": losses.map(|l| l.1), "rounding": "nearest",
    });
    write_atomically(&args.out.join("report.json"), format!("{json:#}\n").as_bytes())?;
    if g.json {
        return print_json(&json);
    }
    let mut text = format!("{:.3} bits per linear weight, {} in {}\n", bits, bytes(size), args.out.display());
    for (u, bits) in chosen.units.iter().zip(&chosen.bits) {
        text += &format!("  {:<16} {bits}\n", u.name);
    }
    if let Some(([before, after], tokens)) = losses {
        let of = if args.check.is_some() { "--check" } else { "the calibration text, which flatters it" };
        text += &format!("loss {before:.4} before, {after:.4} after, nats a token, on {tokens} target tokens of {of}\n");
    }
    print(&text)
}
