//! `logits`: raw outputs for given tokens, to compare with other programs.

use crate::common::{Global, load, print, print_json};
use anyhow::{Result, bail};
use etalon::format::Npy;
use etalon::model::Sequence;
use serde_json::json;
use std::path::PathBuf;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A folder, a file, or a Hugging Face repository id
    #[arg(long)]
    model: String,
    /// Token ids, separated by commas
    #[arg(long, value_delimiter = ',', required = true)]
    tokens: Vec<u32>,
    /// 1 for each token that counts, 0 for padding; its rows come out as zeros
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u8).range(0..=1))]
    mask: Vec<u8>,
    /// Token types (BERT)
    #[arg(long, value_delimiter = ',')]
    token_types: Vec<u32>,
    /// Where to write them: f32, one row a token; a classifier writes one row
    #[arg(long, value_name = "FILE.npy")]
    out: PathBuf,
}

pub(crate) fn run(g: &Global, args: &Args) -> Result<()> {
    let n = args.tokens.len();
    for (name, given) in [("--mask", args.mask.len()), ("--token-types", args.token_types.len())] {
        if given != 0 && given != n {
            bail!("{name} has {given} values for {n} tokens");
        }
    }
    let mask: Vec<bool> = args.mask.iter().map(|m| *m != 0).collect();
    let kept: Vec<usize> = (0..n).filter(|i| mask.get(*i).copied().unwrap_or(true)).collect();
    if kept.is_empty() {
        bail!("--mask leaves no token");
    }
    let loaded = load(g, &args.model)?;
    let sequence = Sequence { tokens: args.tokens.clone(), mask, types: args.token_types.clone() };
    let values = loaded.context.block_on(loaded.model.logits(&[sequence]))?.remove(0);
    let classifier =
        matches!(loaded.model.config(), etalon::format::Config::Bert(c) if matches!(c.head, etalon::format::BertHead::Classifier { .. }));
    let (rows, cols, values) = if classifier {
        (1, values.len(), values)
    } else {
        let cols = values.len() / kept.len();
        // Rows of padding are zeros, so that row i belongs to token i.
        let mut all = vec![0.0; n * cols];
        for (row, i) in values.chunks_exact(cols).zip(&kept) {
            all[i * cols..(i + 1) * cols].copy_from_slice(row);
        }
        (n, cols, all)
    };
    Npy::f32(&[rows, cols], values).write(&args.out)?;
    let out = args.out.display().to_string();
    match g.json {
        true => print_json(&json!({ "rows": rows, "cols": cols, "out": out })),
        false => print(&format!("{out}: {rows} x {cols}\n")),
    }
}
