//! `embed`: one vector for each line of a text.

use crate::common::{self, Global, Loaded, load, print, print_json, read_text};
use anyhow::{Result, bail};
use etalon::format::{Npy, Tokenizer};
use etalon::model::Sequence;
use serde_json::json;
use std::path::PathBuf;

/// Sequences that run together.
const BATCH: usize = 8;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A folder, a file, or a Hugging Face repository id
    #[arg(long)]
    model: String,
    /// The text, one line a vector
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Where to write the vectors: f32, one row a line
    #[arg(long, value_name = "FILE.npy")]
    out: Option<PathBuf>,
    /// The mean of a line's tokens, or its first token
    #[arg(long, value_enum, default_value = "mean")]
    pool: Pool,
    /// Leave the vectors at their own length instead of 1
    #[arg(long)]
    no_normalise: bool,
    /// Print the lines by closeness (cosine) to this query
    #[arg(long, value_name = "QUERY", allow_hyphen_values = true)]
    rank: Option<String>,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Pool {
    Mean,
    Cls,
}

pub(crate) fn run(g: &Global, args: &Args) -> Result<()> {
    let text = read_text(&args.text)?;
    let lines: Vec<&str> = text.lines().collect();
    if lines.is_empty() {
        bail!("{}: holds no line", args.text.display());
    }
    let loaded = load(g, &args.model)?;
    let mut texts = lines.clone();
    texts.extend(args.rank.as_deref());
    let mut vectors = embed(&loaded, args, &texts)?;
    let query = args.rank.as_ref().and_then(|_| vectors.pop());
    let width = vectors[0].len();
    if let Some(out) = &args.out {
        Npy::f32(&[vectors.len(), width], vectors.concat()).write(out)?;
    }
    let ranked = query.map(|q| rank(&q, &vectors));
    if g.json {
        let ranked = ranked.map(|r| r.iter().map(|(i, s)| json!({ "line": i + 1, "cosine": s, "text": lines[*i] })).collect::<Vec<_>>());
        let out = args.out.as_ref().map(|o| o.display().to_string());
        let rows = if out.is_none() && ranked.is_none() { Some(&vectors) } else { None };
        return print_json(&json!({ "rows": vectors.len(), "cols": width, "out": out, "ranking": ranked, "vectors": rows }));
    }
    if let Some(ranked) = ranked {
        for (i, score) in ranked {
            print(&format!("{score:.4}  {}\n", lines[i]))?;
        }
    } else if let Some(out) = &args.out {
        print(&format!("{}: {} x {width}\n", out.display(), vectors.len()))?;
    } else {
        for v in &vectors {
            print(&(v.iter().map(f32::to_string).collect::<Vec<_>>().join(" ") + "\n"))?;
        }
    }
    Ok(())
}

/// One vector for each text. Texts of similar length run together, since the shorter ones are padded.
fn embed(loaded: &Loaded, args: &Args, texts: &[&str]) -> Result<Vec<Vec<f32>>> {
    let (context, model) = (&loaded.context, &loaded.model);
    let tokenizer = model.tokenizer()?;
    let longest = model.dimensions().max_positions;
    let mut sequences = Vec::with_capacity(texts.len());
    let mut cut = 0;
    for (i, text) in texts.iter().enumerate() {
        let mut tokens = tokenizer.encode(text, true)?;
        if tokens.is_empty() {
            bail!("{}: line {} is empty, and this model has no token for that", args.text.display(), i + 1);
        }
        if tokens.len() > longest {
            truncate(tokenizer, &mut tokens, longest)?;
            cut += 1;
        }
        sequences.push(tokens);
    }
    if cut > 0 {
        eprintln!("warning: {cut} of {} lines were cut to the {longest} tokens that the model takes", texts.len());
    }
    let mut order: Vec<usize> = (0..texts.len()).collect();
    order.sort_by_key(|i| sequences[*i].len());
    let mut out = vec![Vec::new(); texts.len()];
    let bar = common::bar(texts.len() as u64, "embedding", "lines");
    for batch in order.chunks(BATCH) {
        let input: Vec<Sequence> = batch.iter().map(|i| sequences[*i].clone().into()).collect();
        let vectors = context.block_on(model.embed(&input, args.pool == Pool::Mean, !args.no_normalise))?;
        for (i, v) in batch.iter().zip(vectors) {
            out[*i] = v;
        }
        bar.inc(batch.len() as u64);
    }
    bar.finish_and_clear();
    Ok(out)
}

/// Cuts a text; the special token at its end, where the tokenizer adds one, stays.
fn truncate(tokenizer: &Tokenizer, tokens: &mut Vec<u32>, longest: usize) -> Result<()> {
    let special = tokenizer.encode("", true)?;
    let last = tokens.last().copied().filter(|t| special.len() >= 2 && special.last() == Some(t));
    tokens.truncate(longest - usize::from(last.is_some()));
    tokens.extend(last);
    Ok(())
}

/// Rows by falling cosine with the query.
fn rank(query: &[f32], rows: &[Vec<f32>]) -> Vec<(usize, f64)> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let cosine = |v: &[f32]| dot(query, v) / (dot(query, query) * dot(v, v)).sqrt().max(f64::MIN_POSITIVE);
    let mut ranked: Vec<(usize, f64)> = rows.iter().map(|v| cosine(v)).enumerate().collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    ranked
}
