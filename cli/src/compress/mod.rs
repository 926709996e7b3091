//! Mixed precision: `sensitivity`, `quantize` and `frontier`.

pub(crate) mod frontier;
mod html;
pub(crate) mod options;
pub(crate) mod quantize;
mod report;
pub(crate) mod sensitivity;
mod spectral;
mod translator;

use crate::common::{self, Global, Loaded, bar, load_open, on_bar, open_checkpoint, read_text};
use anyhow::{Context as _, Result, bail};
use etalon::Context;
use etalon::compress::measure::measure;
use etalon::compress::round::Codes;
use etalon::compress::score::{Options, Scores};
use etalon::compress::subject;
use etalon::compress::units;
use etalon::format::{Checkpoint, Tokenizer, write_atomically};
use etalon::model::{Keep, Model, Probe, Sequence};
use etalon::quant::round::{Gptq, Spec};
use std::path::Path;
use std::sync::Arc;

/// Fewer tokens of calibration than this say little.
const FEW: usize = 512;

/// A model whose weights may be changed, and its files.
struct Subject {
    context: Context,
    checkpoint: Checkpoint,
    model: Arc<Model>,
    /// Keeps what was compiled when it is dropped.
    _loaded: Loaded,
}

impl Subject {
    fn open(g: &Global, model: &str) -> Result<Self> {
        Self::load(g, open_checkpoint(model)?)
    }

    fn load(g: &Global, checkpoint: Checkpoint) -> Result<Self> {
        let loaded = load_open(g, &checkpoint)?;
        Ok(Self { context: loaded.context.clone(), checkpoint, model: loaded.model.clone(), _loaded: loaded })
    }

    /// Codes of all layers at some widths, fitted to texts.
    fn fitted(&self, texts: &[Sequence], spec: &Spec, widths: &[u32]) -> Result<Codes> {
        let bar = bar(0, "fitting codes", "blocks");
        let mut probe = self.probe(texts, Keep::Current)?;
        let codes = self.context.block_on(Codes::fitted(&mut probe, &self.checkpoint, (spec, &Gptq::default()), widths, &on_bar(&bar)))?;
        bar.finish_and_clear();
        Ok(codes)
    }

    fn probe(&self, texts: &[Sequence], keep: Keep) -> Result<Probe> {
        Ok(self.context.block_on(Probe::new(&self.model, texts, keep))?)
    }
}

/// Texts of about so many tokens: for a decoder windows at equal distances, for an encoder lines.
fn texts(model: &Model, path: &Path, tokens: usize, window: usize) -> Result<Vec<Sequence>> {
    let (text, tokenizer, longest) = (read_text(path)?, model.tokenizer()?, model.dimensions().max_positions);
    let window = window.min(longest);
    let found = match model.is_decoder() {
        true => windows(&tokenizer.encode(&text, true)?, tokens, window),
        false => lines(&text, tokenizer, tokens, window)?,
    };
    if found.is_empty() {
        let what = if model.is_decoder() {
            format!("fewer tokens than one window of {window}: give more text or a shorter --window")
        } else {
            "no line".into()
        };
        bail!("{}: {what}", path.display());
    }
    Ok(found)
}

/// `tokens / window` windows (one at least, if there are as many) at equal distances.
fn windows(all: &[u32], tokens: usize, window: usize) -> Vec<Sequence> {
    let (there, wanted) = (all.len() / window.max(1), (tokens / window.max(1)).max(1));
    let count = there.min(wanted);
    (0..count).map(|i| i * there / count.max(1)).map(|i| all[i * window..(i + 1) * window].to_vec().into()).collect()
}

/// Lines at equal distances, until there are so many tokens; each cut to a window.
fn lines(text: &str, tokenizer: &Tokenizer, tokens: usize, window: usize) -> Result<Vec<Sequence>> {
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    // Steps of the golden ratio spread any number of lines evenly.
    let step = ((lines.len() as f64 * 0.618_034) as usize).max(1);
    let step = (step..).find(|s| gcd(*s, lines.len()) <= 1).unwrap_or(1);
    let (mut out, mut count) = (Vec::new(), 0);
    for i in 0..lines.len() {
        if count >= tokens {
            break;
        }
        let mut ids = tokenizer.encode(lines[i * step % lines.len()], true)?;
        ids.truncate(window);
        count += ids.len();
        out.push(ids.into());
    }
    Ok(out)
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Measures scores, or goes on with those in a file; there every unit is kept as it is found. `None` where the user stopped it.
fn scores(
    (context, checkpoint): (&Context, &Checkpoint),
    (measured, texts): (&impl subject::Subject, &[Sequence]),
    options: &Options,
    fit: &mut dyn FnMut() -> Result<Codes>,
    file: Option<&Path>,
) -> Result<Option<Scores>> {
    let mut scores = Scores::new(checkpoint, texts, options.clone())?;
    if let Some(path) = file.filter(|p| p.exists()) {
        let before: Scores = serde_json::from_str(&read_text(path)?).with_context(|| format!("{}: no scores", path.display()))?;
        scores.resume(before).with_context(|| path.display().to_string())?;
    }
    if scores.tokens < FEW {
        log::warn!("{} tokens of calibration: fewer than {FEW} say little", scores.tokens);
    }
    if scores.complete(checkpoint) {
        return Ok(Some(scores));
    }
    let codes = if options.fitted_to > 0 { fit()? } else { Codes::Nearest(options.spec) };
    let all = units(&checkpoint.config, options.unit).len();
    let bar = bar(all as u64, "scoring", "units");
    bar.set_position(scores.units.len() as u64);
    common::stop_gracefully();
    let mut tell = |s: &Scores| {
        bar.set_position(s.units.len() as u64);
        if let Some(path) = file {
            let text = serde_json::to_vec_pretty(s).map_err(|e| etalon::Error::Request(format!("scores cannot be written: {e}")))?;
            write_atomically(path, &text)?;
        }
        Ok(!common::interrupted())
    };
    let found = context.block_on(measure((measured, checkpoint, &codes), &mut scores, &mut tell));
    bar.finish_and_clear();
    found?;
    Ok(scores.complete(checkpoint).then_some(scores))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_spread_over_the_text() {
        let all: Vec<u32> = (0..103).collect();
        let starts = |tokens, window| windows(&all, tokens, window).iter().map(|s| s.tokens[0]).collect::<Vec<_>>();
        assert_eq!(starts(30, 10), [0, 30, 60]);
        assert_eq!(starts(1000, 10), [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]);
        assert_eq!(starts(5, 10), [0]);
        assert!(windows(&all, 10, 104).is_empty());
    }
}
