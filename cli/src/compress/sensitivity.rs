//! `sensitivity`: what rounding each part of a model costs.

use super::options::ScoreArgs;
use super::{Subject, scores, texts};
use crate::common::{Global, print, print_json};
use anyhow::{Context as _, Result};
use etalon::compress::score::Scores;
use etalon::model::Keep;
use std::path::PathBuf;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A folder, a file, or a Hugging Face repository id
    #[arg(long)]
    model: String,
    #[command(flatten)]
    score: ScoreArgs,
    /// Where the scores are kept, unit by unit: a run that was stopped goes on there, and `quantize --scores` reads them
    #[arg(long, value_name = "FILE.json")]
    out: PathBuf,
}

pub(crate) fn run(g: &Global, args: &Args) -> Result<()> {
    let subject = Subject::open(g, &args.model)?;
    let calibration = args.score.calibration.as_ref().context("scores need a text: give --calibration")?;
    let texts = texts(&subject.model, calibration, args.score.score_tokens, args.score.window)?;
    let options = args.score.options(&subject.checkpoint.config)?;
    let probe = subject.probe(&texts, Keep::All)?;
    let mut fit = || {
        let texts = super::texts(&subject.model, calibration, args.score.tokens, args.score.window)?;
        subject.fitted(&texts, &options.spec, &options.widths)
    };
    match scores((&subject.context, &subject.checkpoint), (&probe, texts.as_slice()), &options, &mut fit, Some(&args.out))? {
        Some(scores) if g.json => print_json(&serde_json::to_value(&scores)?),
        Some(scores) => print(&table(&scores)),
        None => print(&format!("stopped: the same command goes on with {}\n", args.out.display())),
    }
}

/// A line for each unit: its score, and the loss at each width.
pub(super) fn table(s: &Scores) -> String {
    let mut out = format!("{:40} {:>11}", format!("{} tokens", s.tokens), "score");
    s.options.widths.iter().for_each(|w| out += &format!(" {:>10}", format!("{w} bits")));
    out.push('\n');
    for u in &s.units {
        out += &format!("{:40} {:11.4e}", u.unit, u.score);
        s.options.widths.iter().for_each(|w| out += &u.losses.get(w).map_or(format!(" {:>10}", "-"), |l| format!(" {l:10.3e}")));
        out.push('\n');
    }
    if let Some(chance) = s.chance {
        out += &format!("layers that have nothing in common would be taken for {chance:.3} alike over so many tokens\n");
    }
    out
}
