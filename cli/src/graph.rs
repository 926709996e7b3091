//! `graph`: networks for the nodes and links of a graph, by several methods and seeds. Every finished run is kept, so that it can be
//! interrupted at any time and goes on with what is missing.

use crate::common::{self, Global, bar, interrupted, open_device, print, print_json, read_text};
use crate::train::options::MethodName;
use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use etalon::Context;
use etalon::format::write_atomically;
use etalon::graphs::{Division, Graph, LinkSplit, NodeSplit, Outcome, Preset, Request, preset, run as train, sst};
use etalon::train::job::Control;
use etalon::train::{Geometry, Method};
use serde_json::json;
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TaskName {
    /// Classes of nodes
    Nc,
    /// Links between nodes
    Lp,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum GeometryName {
    /// The Lorentz model of hyperbolic space
    Lorentz,
    /// A plane space
    Euclidean,
}

impl GeometryName {
    pub(crate) fn get(self) -> Geometry {
        if self == Self::Lorentz { Geometry::Lorentz } else { Geometry::Euclidean }
    }
}

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder of the graph: edges.txt, features.svm, labels.txt, split_nc.json, lp_train.txt and its like
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// What the network is for
    #[arg(long, value_enum)]
    task: TaskName,
    /// Which division of the nodes: NAME of split_NAME.json
    #[arg(long, value_name = "NAME", default_value = "nc")]
    split: String,
    /// Methods, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "full,lora,sst")]
    methods: Vec<MethodName>,
    /// Rank of all methods but full rank
    #[arg(long, default_value_t = 1)]
    rank: usize,
    /// Seeds, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "0")]
    seeds: Vec<u64>,
    /// Where points lie
    #[arg(long, value_enum, default_value = "lorentz")]
    geometry: GeometryName,
    /// Coordinates of a node's point
    #[arg(long, default_value_t = 16)]
    width: usize,
    /// Most epochs
    #[arg(long, default_value_t = 5000)]
    epochs: usize,
    /// Epochs without improvement on the validation part after which a run ends
    #[arg(long, default_value_t = 500)]
    patience: usize,
    /// Epochs between evaluations
    #[arg(long, default_value_t = 2)]
    evaluate_every: usize,
    /// Learning rate [default: that of HyboNet's script for a graph of this name, as for all that follow]
    #[arg(long)]
    lr: Option<f64>,
    /// Layers, the classes' points not counted
    #[arg(long)]
    layers: Option<usize>,
    /// Dropout of each layer's inputs
    #[arg(long)]
    dropout: Option<f32>,
    /// Decoupled weight decay
    #[arg(long)]
    weight_decay: Option<f32>,
    /// Margin of the loss
    #[arg(long)]
    margin: Option<f32>,
    /// Largest norm of all gradients together; 0: none
    #[arg(long)]
    clip: Option<f32>,
    /// Folder that keeps a JSON file for each finished run
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Args {
    fn preset(&self, name: &str) -> Preset {
        let p = preset(name, self.task == TaskName::Lp);
        Preset {
            rate: self.lr.unwrap_or(p.rate),
            layers: self.layers.unwrap_or(p.layers),
            dropout: self.dropout.unwrap_or(p.dropout),
            dropout_low: self.dropout.unwrap_or(p.dropout_low),
            weight_decay: self.weight_decay.unwrap_or(p.weight_decay),
            margin: self.margin.unwrap_or(p.margin),
            clip: self.clip.map_or(p.clip, |c| Some(c).filter(|c| *c > 0.0)),
            ..p
        }
    }
}

enum Parts {
    Nodes(NodeSplit),
    Links(LinkSplit),
}

pub(crate) fn run(g: &Global, args: &Args) -> Result<()> {
    if args.task == TaskName::Lp && args.geometry == GeometryName::Euclidean {
        bail!("--task lp --geometry euclidean: only points of the Lorentz model have a score for links");
    }
    let graph = Graph::load(&args.data)?;
    let parts = match args.task {
        TaskName::Nc => Parts::Nodes(graph.node_split(&args.data, &args.split)?),
        TaskName::Lp => Parts::Links(graph.link_split(&args.data)?),
    };
    if let Some(out) = &args.out {
        std::fs::create_dir_all(out).with_context(|| format!("{}", out.display()))?;
    }
    let context = open_device(g)?;
    common::stop_gracefully();
    let mut all = Vec::new();
    for method in &args.methods {
        for seed in &args.seeds {
            if interrupted() {
                break;
            }
            all.extend(one(&context, args, &graph, &parts, method.of_rank(args.rank, sst(args.rank)), *seed)?);
        }
    }
    if g.json {
        return print_json(&json!(all));
    }
    print(&table(&all, args.task == TaskName::Lp))
}

/// A run, or what is kept of it; nothing if it was interrupted.
fn one(context: &Context, args: &Args, graph: &Graph, parts: &Parts, method: Method, seed: u64) -> Result<Option<Outcome>> {
    let (task, split) = if args.task == TaskName::Lp { ("lp", "edges") } else { ("nc", args.split.as_str()) };
    let geometry = args.geometry.get();
    let request = Request {
        method,
        preset: args.preset(&graph.name),
        geometry,
        width: args.width,
        epochs: args.epochs,
        patience: args.patience,
        evaluate_every: args.evaluate_every,
        seed,
    };
    let place = if geometry == Geometry::Lorentz { "" } else { "-euclidean" };
    let name = format!("{}-{task}-{split}-{}-r{}{place}-s{seed}", graph.name, method.name(), method.rank());
    let asked = format!("{request:?}, graph {:016x}", graph.fingerprint());
    let path = args.out.as_ref().map(|out| out.join(format!("{name}.json")));
    if let Some(kept) = path.as_deref().filter(|p| p.exists()) {
        return read(kept, &asked).map(Some);
    }
    let division = match parts {
        Parts::Nodes(s) => Division::Nodes(s),
        Parts::Links(s) => Division::Links(s),
    };
    let bar = bar(args.epochs as u64, "training", "epochs");
    let mut watch = |epoch: usize, loss: f64, best: f64| {
        bar.set_position(epoch as u64);
        bar.set_message(format!("{name}: loss {loss:.4}, best validation {:.2} %", 100.0 * best));
        if interrupted() { Control::Stop } else { Control::Continue }
    };
    let outcome = context.block_on(train(context, graph, division, split, &request, &mut watch))?;
    bar.finish_and_clear();
    if let (Some(path), Some(outcome)) = (path, &outcome) {
        let text = serde_json::to_string_pretty(&json!({ "request": asked, "outcome": outcome }))?;
        write_atomically(&path, format!("{text}\n").as_bytes())?;
    }
    Ok(outcome)
}

/// The outcome that a file holds, if it was asked for in the same words.
fn read(path: &Path, asked: &str) -> Result<Outcome> {
    let text = read_text(path)?;
    let value: serde_json::Value = serde_json::from_str(&text).with_context(|| format!("{}", path.display()))?;
    if value["request"].as_str() != Some(asked) {
        bail!("{} is of a run with other options, or on another graph: choose another --out, or remove the file", path.display());
    }
    serde_json::from_value(value["outcome"].clone()).with_context(|| format!("{}", path.display()))
}

/// Mean and deviation of the seeds of each method, in per cent.
fn table(all: &[Outcome], links: bool) -> String {
    let metric = if links { "average precision" } else { "F1" };
    let mut text = format!(
        "| method | rank | seeds | test {metric} % | deviation | validation % | epochs | s a run | trained |\n|---|---|---|---|---|---|---|---|---|\n"
    );
    let mut rest = all;
    while let Some(first) = rest.first() {
        let n = rest.iter().take_while(|o| o.method == first.method && o.rank == first.rank).count();
        let (runs, more) = rest.split_at(n);
        let mean = |of: &dyn Fn(&Outcome) -> f64| runs.iter().map(of).sum::<f64>() / n as f64;
        let test = mean(&|o| o.test);
        let deviation = (runs.iter().map(|o| (o.test - test).powi(2)).sum::<f64>() / (n.max(2) - 1) as f64).sqrt();
        text += &format!(
            "| {} | {} | {n} | {:.2} | {:.2} | {:.2} | {:.0} | {:.0} | {} |\n",
            first.method,
            first.rank,
            100.0 * test,
            100.0 * deviation,
            100.0 * mean(&|o| o.valid),
            mean(&|o| o.epochs as f64),
            mean(&|o| o.seconds),
            first.trained
        );
        rest = more;
    }
    for o in all.iter().filter(|o| o.diverged.is_some()) {
        text += &format!("{} seed {}: ended by {}\n", o.method, o.seed, o.diverged.as_deref().unwrap_or_default());
    }
    text
}
