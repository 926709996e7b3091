//! `perplexity`: how well a model predicts a text, window by window.

use crate::common::{self, Global, load, load_beside, print, print_json, read_text};
use anyhow::{Context as _, Result, bail};
use etalon::format::Npy;
use etalon::model::Model;
use serde_json::json;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A folder, a file, or a Hugging Face repository id
    #[arg(long)]
    model: String,
    /// The text
    #[arg(long, value_name = "FILE", required_unless_present = "tokens", conflicts_with = "tokens")]
    text: Option<PathBuf>,
    /// Token ids instead of a text: integers, of any shape
    #[arg(long, value_name = "FILE.npy")]
    tokens: Option<PathBuf>,
    /// Tokens that the model sees at once [default: 2048, or what the model takes if that is less]
    #[arg(long)]
    window: Option<usize>,
    /// Tokens from one window to the next [default: the window; what is left at the end is dropped]. If shorter, only the
    /// tokens of a window that were in none before are counted
    #[arg(long)]
    stride: Option<usize>,
    /// Put the BOS token before the whole text, or before each window
    #[arg(long, value_enum, num_args = 0..=1, default_missing_value = "once", value_name = "once|each")]
    bos: Option<Bos>,
    /// Say too how far the predictions are from those of this model: of the same weights before they were compressed, say
    #[arg(long, value_name = "MODEL")]
    against: Option<String>,
    /// Use only this many tokens of the text
    #[arg(long)]
    max_tokens: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Bos {
    Once,
    Each,
}

/// Tokens that are run together, and how many of them, at the end, are predictions that count.
#[derive(Debug, PartialEq)]
struct Window {
    tokens: Range<usize>,
    counted: usize,
}

pub(crate) fn run(g: &Global, args: &Args) -> Result<()> {
    let loaded = load(g, &args.model)?;
    let against = args.against.as_ref().map(|m| load_beside(&loaded, m)).transpose()?;
    let model = &loaded.model;
    let bos = match args.bos {
        Some(_) => Some(bos(model)?),
        None => None,
    };
    let each = args.bos == Some(Bos::Each);
    let mut tokens = tokens(model, args)?;
    if let (Some(bos), false) = (bos, each) {
        tokens.insert(0, bos);
    }
    tokens.truncate(args.max_tokens.unwrap_or(usize::MAX));
    let longest = model.dimensions().max_positions;
    let window = args.window.unwrap_or(longest.min(2048));
    if window > longest || window < 2 + usize::from(each) {
        bail!("--window {window}: the model takes 2 to {longest} tokens");
    }
    // A BOS token before each window takes one of its places.
    let room = window - usize::from(each);
    let stride = args.stride.unwrap_or(room);
    if stride == 0 || stride > room {
        bail!("--stride {stride}: must be 1 to {room}, the tokens of a window");
    }
    let windows = windows(tokens.len(), room, stride, each);
    if windows.is_empty() {
        bail!("the text has {} tokens: at least two are needed", tokens.len());
    }
    let start = Instant::now();
    let before = bos.filter(|_| each);
    let (mean, count) = mean(&windows, &tokens, before, "perplexity", &|input| model.context().block_on(model.nll(input)))?;
    let kl = against.as_ref().map(|a| divergence(&a.model, model, &tokens, before, &windows)).transpose()?;
    let seconds = start.elapsed().as_secs_f64();
    if !mean.is_finite() {
        bail!("the mean likelihood is {mean}: run `etalon verify --model {}` to find the kernel at fault", args.model);
    }
    if let Some(kl) = kl.filter(|kl| !kl.is_finite()) {
        bail!("the mean divergence is {kl}: run `etalon verify` on both models to find the kernel at fault");
    }
    if g.json {
        return print_json(&json!({
            "windows": windows.len(), "window": window, "stride": stride, "tokens": tokens.len(), "predictions": count,
            "mean_nll": mean, "perplexity": mean.exp(), "mean_kl": kl, "seconds": seconds, "adapter": loaded.context.facts().summary(),
        }));
    }
    print(&format!(
        "windows     {} of {window} tokens, stride {stride}\ntokens      {}, {count} predictions\nmean NLL    {mean:.6} nats\nperplexity  {:.4}\n",
        windows.len(),
        tokens.len(),
        mean.exp(),
    ))?;
    if let Some(kl) = kl {
        print(&format!("mean KL     {kl:.3e} nats from the predictions of {}\n", args.against.as_deref().unwrap_or_default()))?;
    }
    eprintln!("{seconds:.1} s, {:.1} tokens/s on {}", tokens.len() as f64 / seconds, loaded.context.facts().summary());
    Ok(())
}

/// Mean divergence from the predictions of `from`, in nats, of those that count.
fn divergence(from: &Model, model: &Model, tokens: &[u32], before: Option<u32>, windows: &[Window]) -> Result<f64> {
    // The one after the last token of a window is not counted by its perplexity.
    let of = |input: &[u32]| {
        let mut all = model.context().block_on(from.divergence(model, input))?;
        all.pop();
        Ok(all)
    };
    Ok(mean(windows, tokens, before, "divergence", &of)?.0)
}

/// Mean of what `of` gives for the predictions that count, in nats, and their number. `before` stands before each window.
fn mean(
    windows: &[Window],
    tokens: &[u32],
    before: Option<u32>,
    what: &'static str,
    of: &dyn Fn(&[u32]) -> etalon::Result<Vec<f32>>,
) -> Result<(f64, usize)> {
    let (mut sum, mut count) = (0.0, 0usize);
    let bar = common::bar(windows.len() as u64, what, "windows");
    for w in windows {
        let input: Vec<u32> = before.into_iter().chain(tokens[w.tokens.clone()].iter().copied()).collect();
        let all = of(&input)?;
        let counted = &all[all.len() - w.counted..];
        sum += counted.iter().map(|x| f64::from(*x)).sum::<f64>();
        count += counted.len();
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok((sum / count as f64, count))
}

/// Perplexity of a text by windows side by side, as long as the model takes.
pub(crate) fn of_text(model: &Model, text: &str) -> Result<f64> {
    let tokens = model.tokenizer()?.encode(text, false)?;
    let window = model.dimensions().max_positions.min(2048);
    let windows = windows(tokens.len(), window, window, false);
    if windows.is_empty() {
        bail!("the text has {} tokens: at least two are needed", tokens.len());
    }
    Ok(mean(&windows, &tokens, None, "perplexity", &|input| model.context().block_on(model.nll(input)))?.0.exp())
}

/// Cuts `n` tokens into windows. With the stride as long as the window, what is left at the end is dropped; a text shorter
/// than one window is one. With a shorter stride the last window ends with the text (Hugging Face's recipe).
/// `before`: a token stands before each window, so that its first token is predicted too.
fn windows(n: usize, window: usize, stride: usize, before: bool) -> Vec<Window> {
    // Without a token before it, the first token of a window is no prediction.
    let predicted = |w: Range<usize>, new: usize| Window { counted: new.min(w.len() - usize::from(!before)), tokens: w };
    if n < 2 {
        return Vec::new();
    }
    if n <= window {
        return vec![predicted(0..n, n)];
    }
    if stride == window {
        return (0..n / window).map(|i| predicted(i * window..(i + 1) * window, window)).collect();
    }
    let (mut out, mut seen) = (Vec::new(), 0);
    for start in (0..n).step_by(stride) {
        let end = (start + window).min(n);
        out.push(predicted(start..end, end - seen));
        seen = end;
        if end == n {
            break;
        }
    }
    out
}

fn bos(model: &Model) -> Result<u32> {
    let of_config = match model.config() {
        etalon::format::Config::Llama(c) => c.bos,
        etalon::format::Config::Opt(c) => c.bos,
        etalon::format::Config::Bert(_) | etalon::format::Config::Translator { .. } => None,
    };
    let of_tokenizer = model.tokenizer().ok().and_then(|t| t.bos);
    of_tokenizer.or(of_config).context("the model names no BOS token: leave --bos out")
}

fn tokens(model: &Model, args: &Args) -> Result<Vec<u32>> {
    if let Some(path) = &args.tokens {
        return token_file(path);
    }
    let path = args.text.as_ref().context("give --text or --tokens")?;
    Ok(model.tokenizer()?.encode(&read_text(path)?, false)?)
}

fn token_file(path: &Path) -> Result<Vec<u32>> {
    let npy = Npy::read(path)?;
    let values = npy.to_i64().with_context(|| format!("{}: holds no integers", path.display()))?;
    let id = |v: &i64| u32::try_from(*v).with_context(|| format!("{}: {v} is no token id", path.display()));
    values.iter().map(id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(windows: &[Window]) -> Vec<(usize, usize, usize)> {
        windows.iter().map(|w| (w.tokens.start, w.tokens.end, w.counted)).collect()
    }

    #[test]
    fn windows_side_by_side_drop_the_rest() {
        assert_eq!(counted(&windows(11, 4, 4, false)), [(0, 4, 3), (4, 8, 3)]);
        assert_eq!(counted(&windows(3, 4, 4, false)), [(0, 3, 2)]);
        assert_eq!(counted(&windows(4, 4, 4, false)), [(0, 4, 3)]);
        assert!(windows(1, 4, 4, false).is_empty());
    }

    #[test]
    fn overlapping_windows_count_every_token_once() {
        let w = windows(11, 4, 2, false);
        assert_eq!(counted(&w), [(0, 4, 3), (2, 6, 2), (4, 8, 2), (6, 10, 2), (8, 11, 1)]);
        assert_eq!(w.iter().map(|w| w.counted).sum::<usize>(), 10);
    }

    #[test]
    fn a_token_before_each_window_makes_its_first_token_a_prediction() {
        assert_eq!(counted(&windows(8, 4, 4, true)), [(0, 4, 4), (4, 8, 4)]);
    }
}
