//! `merge`: what was trained as a model that other programs read, whole or as factors, with all singular values or fewer.

use crate::common::{Global, bytes, open_checkpoint, open_device, print, print_json};
use anyhow::{Context as _, Result, bail};
use etalon::Context;
use etalon::format::{Checkpoint, write_atomically};
use etalon::model::linears;
use etalon::train::Export;
use etalon::train::job::Job;
use etalon::train::prune::{Decomposed, Form, Keep, Kept, decompose, write_pruned};
use serde_json::json;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder of a run, whose newest checkpoint is taken; or a model
    #[arg(value_name = "RUN|MODEL")]
    source: String,
    /// Folder of the model that is written
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Write singular vectors and values instead of whole weights
    #[arg(long)]
    factors: bool,
    /// Keep so many singular values of each layer, as factors where these are smaller than the whole weight
    #[arg(long, value_name = "R", conflicts_with = "energy")]
    rank: Option<usize>,
    /// Keep the largest singular values of each layer that have this part of the sum of all
    #[arg(long, value_name = "PART")]
    energy: Option<f64>,
    /// Multiply what was kept into whole weights
    #[arg(long, conflicts_with = "factors")]
    whole: bool,
}

pub(crate) fn run(g: &Global, args: &Args) -> Result<()> {
    let keep = args.rank.map(Keep::Rank).or(args.energy.map(Keep::Energy));
    if let Some(k) = keep {
        k.check()?;
    }
    let context = open_device(g)?;
    std::fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let to = args.out.join("model.safetensors");
    let run = Path::new(&args.source);
    let (kept, folder) = match keep {
        None if run.join("job.json").exists() => {
            let job = context.block_on(Job::resume(&context, run))?;
            let how = if args.factors { Export::Factors } else { Export::Merged };
            context.block_on(job.trainer().export(&to, how))?;
            (Vec::new(), run.to_path_buf())
        }
        None => bail!("{}: no run of `etalon train`: give --rank or --energy to take a model apart", args.source),
        Some(keep) => {
            let checkpoint = trained(&context, run, &args.source, &args.out)?;
            let layers = decomposed(&context, &checkpoint, keep)?;
            let form = if args.whole { Form::Whole } else { Form::Factors };
            let folder = folder(&checkpoint)?;
            (write_pruned(&checkpoint, &layers, keep, form, &to)?, folder)
        }
    };
    beside(&folder, &args.out)?;
    report(g, &kept, &to)
}

/// A model, or that of a run's newest checkpoint.
fn trained(context: &Context, run: &Path, name: &str, out: &Path) -> Result<Checkpoint> {
    if !run.join("job.json").exists() || run.join("model.safetensors").exists() {
        return open_checkpoint(name);
    }
    let job = context.block_on(Job::resume(context, run))?;
    context.block_on(job.trainer().export(&out.join("model.safetensors"), Export::Merged))?;
    beside(run, out)?;
    open_checkpoint(&out.display().to_string())
}

/// The folder that a model's files lie in.
pub(super) fn folder(checkpoint: &Checkpoint) -> Result<PathBuf> {
    let path = Path::new(&checkpoint.name);
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(path) };
    if !folder.join("config.json").exists() {
        bail!("{}: there is no config.json beside it: take the model as a folder of safetensors", checkpoint.name);
    }
    Ok(folder.into())
}

/// Decomposes the linear layers of a model.
pub(super) fn decomposed(context: &Context, checkpoint: &Checkpoint, most: Keep) -> Result<Vec<Decomposed>> {
    let layers: Vec<_> = linears(&checkpoint.config).iter().map(|l| (l.stem().to_owned(), l.rows, l.cols)).collect();
    let weight = |name: &str, m, n| Ok(checkpoint.matrix(&format!("{name}.weight"), m, n)?.into_f32());
    Ok(context.block_on(decompose(context, &layers, most, &weight))?)
}

/// Copies what else a model's folder holds.
pub(super) fn beside(from: &Path, to: &Path) -> Result<()> {
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        let (from, to) = (from.join(name), to.join(name));
        if from.exists() && from != to {
            let text = std::fs::read(&from).with_context(|| from.display().to_string())?;
            write_atomically(&to, &text)?;
        }
    }
    Ok(())
}

fn report(g: &Global, kept: &[Kept], to: &Path) -> Result<()> {
    let size = std::fs::metadata(to).with_context(|| to.display().to_string())?.len();
    let sum = |of: fn(&Kept) -> usize| kept.iter().map(of).sum::<usize>();
    let (before, after) = (sum(|k| k.elements.0), sum(|k| k.elements.1));
    let (values, stay) = (sum(|k| k.values.0), sum(|k| k.values.1));
    if g.json {
        return print_json(&json!({ "bytes": size, "singular_values": values, "kept": stay, "elements": before, "elements_kept": after }));
    }
    let mut text = String::new();
    if !kept.is_empty() {
        text += &format!("singular values  {stay} of {values}\nelements         {after} of {before} in {} linear layers\n", kept.len());
    }
    print(&format!("{text}written          {} ({})\n", to.display(), bytes(size)))
}
