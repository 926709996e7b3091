//! One training run of a graph network: epochs until the validation stops improving, then the test's score at the best of them.

use super::{Graph, LinkSplit, NodeSplit, Preset, adjacency, appended, average_precision, f1, lifted, normalised, roc_auc, with_degrees};
use crate::gpu::Context;
use crate::tensor::Csr;
use crate::train::job::Control;
use crate::train::{Data, Geometry, GraphData, GraphNet, GraphRows, Initial, Method, Options, Schedule, Spec, Sst, Task, Trainer};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Epochs between reads of the device's log, which holds 256 steps.
const REPORT_EVERY: usize = 128;

/// What a run is to do.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// How the linear layers are trained.
    pub method: Method,
    /// Hyper-parameters.
    pub preset: Preset,
    /// Where points lie.
    pub geometry: Geometry,
    /// Coordinates of a point.
    pub width: usize,
    /// Most epochs.
    pub epochs: usize,
    /// Epochs without improvement after which it ends.
    pub patience: usize,
    /// Epochs between evaluations.
    pub evaluate_every: usize,
    /// Seed of weights, dropout and negatives.
    pub seed: u64,
}

/// What a finished run gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The graph's name.
    pub graph: String,
    /// `nc` or `lp`.
    pub task: String,
    /// The division of the nodes.
    pub split: String,
    /// The method's name.
    pub method: String,
    /// Its rank; 0 for full rank.
    pub rank: usize,
    /// Where points lie.
    pub geometry: Geometry,
    /// The seed.
    pub seed: u64,
    /// F1 (nc) or average precision (lp) on the test part, at the best validation.
    #[serde(deserialize_with = "null_is_nan")]
    pub test: f64,
    /// The same on the validation part: for lp the mean of average precision and area under the curve.
    #[serde(deserialize_with = "null_is_nan")]
    pub valid: f64,
    /// Area under the ROC curve on the test part (lp).
    pub roc_auc: Option<f64>,
    /// Epochs until the best validation.
    pub best_epoch: usize,
    /// Epochs in all.
    pub epochs: usize,
    /// Mean loss of the last report's epochs.
    #[serde(deserialize_with = "null_is_nan")]
    pub loss: f64,
    /// Re-SVDs done.
    pub re_svds: usize,
    /// Elements that have a gradient.
    pub trained: usize,
    /// Seconds of training, evaluations included.
    pub seconds: f64,
    /// What it ran on.
    pub adapter: String,
    /// What was not a number, where the run ended by that.
    pub diverged: Option<String>,
}

/// JSON has null for NaN, which a run that diverged may leave.
fn null_is_nan<'de, D: serde::Deserializer<'de>>(d: D) -> std::result::Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(d)?.unwrap_or(f64::NAN))
}

/// Called with epochs done, the loss, and the best validation so far; tells whether to go on.
pub type Watch<'a> = dyn FnMut(usize, f64, f64) -> Control + Send + 'a;

/// What is evaluated: the pairs to be scored, and what scores mean.
enum Judge {
    /// Labels of the validation and the test nodes.
    Nodes(usize, Vec<u32>, Vec<u32>),
    /// Numbers of pairs: valid, valid negatives, test, test negatives.
    Links([usize; 4]),
}

/// Validation (what is compared), test (what is reported), and area under the test's curve.
type Scores = (f64, f64, Option<f64>);

impl Judge {
    fn judge(&self, scores: &[f32]) -> Scores {
        match self {
            Self::Nodes(classes, valid, test) => {
                let (a, b) = scores.split_at(classes * valid.len());
                (f1(a, *classes, valid), f1(b, *classes, test), None)
            }
            Self::Links(counts) => {
                let mut at = 0;
                let [v, vn, t, tn] = counts.map(|n| {
                    at += n;
                    &scores[at - n..at]
                });
                let valid = (average_precision(v, vn) + roc_auc(v, vn)) / 2.0;
                (valid, average_precision(t, tn), Some(roc_auc(t, tn)))
            }
        }
    }
}

/// A division for one of the tasks.
#[derive(Debug, Clone, Copy)]
pub enum Division<'a> {
    /// Of the nodes.
    Nodes(&'a NodeSplit),
    /// Of the edges.
    Links(&'a LinkSplit),
}

/// Data of a run: for training and for the scores.
struct Prepared {
    net: GraphNet,
    train: Data,
    scored: Data,
    judge: Judge,
}

fn pairs_data(pairs: Vec<u32>, graph: GraphData) -> Data {
    Data { starts: (0..pairs.len() as u32).step_by(2).collect(), tokens: pairs, graph: Some(graph), ..Data::default() }
}

fn prepare(g: &Graph, division: Division<'_>, r: &Request) -> Result<Prepared> {
    let p = &r.preset;
    let edges = match division {
        Division::Links(l) => &l.train,
        Division::Nodes(_) => &g.edges,
    };
    let mut features = g.features.clone();
    if let (true, Division::Links(_), Some(extra)) = (p.degrees, division, &g.extra) {
        features = appended(&features, 1, extra.iter().enumerate().map(|(r, v)| (r as u32, 0, *v)))?;
    }
    if p.normalise {
        features = normalised(&features);
    }
    if p.degrees {
        features = with_degrees(&features, edges)?;
    }
    if r.geometry == Geometry::Lorentz {
        features = lifted(&features);
    }
    let task = if let Division::Links(_) = division { Task::Links } else { Task::Classes(g.classes) };
    let net = GraphNet {
        geometry: r.geometry,
        task,
        inputs: features.cols,
        width: r.width,
        layers: p.layers,
        relu: p.relu || r.geometry == Geometry::Euclidean,
        margin: p.margin,
    };
    let adjacency: Csr = adjacency(g.nodes, edges)?;
    let data = |rows| GraphData { adjacency: adjacency.clone(), features: features.clone(), rows };
    let (train, scored, judge) = match division {
        Division::Nodes(s) => {
            let valid = validation(s, p.valid, g);
            let labelled = |nodes: &[u32]| nodes.iter().map(|n| g.labels[*n as usize].unwrap_or(0)).collect::<Vec<_>>();
            let pairs = |nodes: &[u32]| nodes.iter().zip(labelled(nodes)).flat_map(|(n, l)| [*n, l]).collect::<Vec<_>>();
            let judge = Judge::Nodes(g.classes, labelled(&valid), labelled(&s.test));
            (
                pairs_data(pairs(&s.train), data(GraphRows::Nodes)),
                pairs_data(pairs(&[valid, s.test.clone()].concat()), data(GraphRows::Nodes)),
                judge,
            )
        }
        Division::Links(l) => {
            let parts = [&l.valid, &l.valid_negatives, &l.test, &l.test_negatives];
            let scored = parts.iter().flat_map(|p| p.concat()).collect();
            (
                pairs_data(l.train.concat(), data(GraphRows::Links)),
                pairs_data(scored, data(GraphRows::Pairs)),
                Judge::Links(parts.map(Vec::len)),
            )
        }
    };
    Ok(Prepared { net, train, scored, judge })
}

/// The validation's nodes, or with `most` those that follow its first one and have classes, the test's left out (as HyboNet does).
fn validation(s: &NodeSplit, most: usize, g: &Graph) -> Vec<u32> {
    let (Some(first), true) = (s.valid.first(), most > 0) else { return s.valid.clone() };
    let free = |n: &u32| g.labels[*n as usize].is_some() && !s.test.contains(n) && !s.train.contains(n);
    (*first..g.nodes as u32).filter(free).take(most).collect()
}

/// Options of training, a step an epoch.
fn options(r: &Request, rows: usize) -> Options {
    let p = &r.preset;
    let dropout = if r.method == Method::Full { p.dropout } else { p.dropout_low };
    Options {
        method: r.method,
        steps: r.epochs,
        rate: p.rate,
        schedule: Schedule::Constant,
        warmup: 0,
        weight_decay: p.weight_decay,
        clip: p.clip,
        dropout,
        sequences: rows,
        context: 1,
        seed: r.seed,
        ..Options::default()
    }
}

/// Options of Sparse Spectral Training on graphs: T3 = 100, a warm-up of 100 steps, T2 = 16.
pub fn sst(rank: usize) -> Method {
    Method::Sst(Sst { rank, steps: 100, warmup: 100, iterations: 16, ..Sst::default() })
}

/// Trains a network on a graph; nothing comes of a run that is stopped. `split`: the division's name, for the outcome.
///
/// # Errors
/// [`Error::Request`] for data or options that do not fit, [`Error::OutOfMemory`], [`Error::DeviceLost`]. A run that diverges is an
/// outcome: its best epoch counts.
pub async fn run(
    context: &Context,
    g: &Graph,
    division: Division<'_>,
    split: &str,
    r: &Request,
    watch: &mut Watch<'_>,
) -> Result<Option<Outcome>> {
    if r.evaluate_every == 0 || r.epochs == 0 {
        return Err(Error::Request("0 epochs, or none between evaluations: at least 1".into()));
    }
    let begun = Instant::now();
    let Prepared { net, train, scored, judge } = prepare(g, division, r)?;
    let options = options(r, train.starts.len());
    let mut t = Trainer::new(context, &Spec::Graph(net), &options, &train, &Initial::Random).await?;
    t.score_on(&scored)?;
    let mut best: Option<(Scores, usize)> = None;
    let (mut loss, mut diverged, mut epoch) = (f64::NAN, None, 0);
    while epoch < r.epochs {
        t.submit_step().await?;
        epoch += 1;
        let last = epoch == r.epochs;
        if epoch.is_multiple_of(r.evaluate_every) || last {
            let scores = judge.judge(&t.scores().await?);
            if best.is_none_or(|(b, _)| scores.0 > b.0) {
                best = Some((scores, epoch));
            }
        }
        let stale = best.is_some_and(|(_, at)| epoch - at >= r.patience);
        if epoch.is_multiple_of(REPORT_EVERY) || last || stale {
            match t.reports().await {
                Ok(steps) => loss = steps.iter().map(|s| f64::from(s.loss)).sum::<f64>() / steps.len().max(1) as f64,
                Err(Error::Diverged { step, what }) => diverged = Some(format!("{what} at epoch {step}")),
                Err(e) => return Err(e),
            }
            if watch(epoch, loss, best.map_or(f64::NAN, |(b, _)| b.0)) == Control::Stop && !last && !stale {
                return Ok(None);
            }
        }
        if stale || diverged.is_some() {
            break;
        }
    }
    let ((valid, test, roc_auc), best_epoch) = best.unwrap_or(((f64::NAN, f64::NAN, None), 0));
    Ok(Some(Outcome {
        graph: g.name.clone(),
        task: if let Division::Links(_) = division { "lp" } else { "nc" }.into(),
        split: split.into(),
        method: r.method.name().into(),
        rank: r.method.rank(),
        geometry: r.geometry,
        seed: r.seed,
        test,
        valid,
        roc_auc,
        best_epoch,
        epochs: epoch,
        loss,
        re_svds: t.re_svds(),
        trained: t.layout().trained_elements().0,
        seconds: begun.elapsed().as_secs_f64(),
        adapter: context.facts().summary(),
        diverged,
    }))
}
