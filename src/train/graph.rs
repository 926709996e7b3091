//! Graph networks, hyperbolic (HyboNet, Chen et al. 2022) and Euclidean: layers of a linear map and a sum over neighbours, for classes of
//! nodes or for links between them.

use super::feed::FeedSlots;
use super::layout::{Group, Id, Layout, Slots};
use super::method::{Decay, Linear, Method};
use super::network::ConstantSlots;
use super::options::Options;
use crate::autograd::{Links, Loss, Parameter, Tape, Var, Weight};
use crate::gpu::{Buffer, Context};
use crate::kernel::edges::{Pairs, edge_scores};
use crate::kernel::linear::Activation;
use crate::kernel::lorentz::Map;
use crate::kernel::negatives::Negatives;
use crate::plan::{Builder, SlotId};
use crate::tensor::{Csr, Sparse, SparseData, SparseExtent, SparsePair, Tensor};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Where a network's points lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Geometry {
    /// On the hyperboloid of curvature -1, time first.
    Lorentz,
    /// In a plane space.
    Euclidean,
}

/// What a graph network is trained for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// The class of a node, of so many.
    Classes(usize),
    /// Whether two nodes are linked.
    Links,
}

/// A graph network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GraphNet {
    /// Where its points lie.
    pub geometry: Geometry,
    /// What it is for.
    pub task: Task,
    /// Columns of the features, with the time coordinate of a point in front (Lorentz).
    pub inputs: usize,
    /// Coordinates of a node's point, time included.
    pub width: usize,
    /// Layers, without the classes' points.
    pub layers: usize,
    /// ReLU before each layer but the first (Lorentz), or after each (Euclidean).
    pub relu: bool,
    /// Margin of the losses (Lorentz).
    pub margin: f32,
}

/// A graph on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct GraphData {
    /// What a node's sum over neighbours counts: rows of `A + I`, each divided by its sum.
    pub adjacency: Csr,
    /// Features, a row a node.
    pub features: Csr,
    /// What the data's pairs are.
    pub rows: GraphRows,
}

/// What pairs of words in [`super::Data::tokens`] are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GraphRows {
    /// Nodes and their classes.
    Nodes,
    /// Linked nodes, beside which others are drawn.
    Links,
    /// Pairs of nodes that are only to be scored.
    Pairs,
}

/// How large a graph is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GraphExtent {
    adjacency: SparseExtent,
    features: SparseExtent,
    nodes: usize,
    rows: RowsExtent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RowsExtent {
    Nodes(SparseExtent),
    /// Number of pairs, and the most of a node.
    Links(usize, usize),
    Pairs(usize),
}

/// A graph's words for the device, in the order of [`GraphSlots::all`].
pub(super) struct GraphWords {
    pub(super) extent: GraphExtent,
    words: Vec<Vec<u32>>,
}

impl GraphData {
    /// `pairs`: the data's.
    pub(super) fn words(&self, pairs: &[u32]) -> Result<GraphWords> {
        let nodes = self.adjacency.rows;
        if nodes == 0 || self.adjacency.cols != nodes || self.features.rows != nodes {
            let sizes = format!("{nodes} x {} and {} rows of features", self.adjacency.cols, self.features.rows);
            return Err(Error::Request(format!("a graph's adjacency of {sizes}: they must agree, and not be empty")));
        }
        let ends: Vec<u32> = match self.rows {
            GraphRows::Nodes => pairs.iter().step_by(2).copied().collect(),
            _ => pairs.to_vec(),
        };
        if let Some(n) = ends.iter().find(|n| **n as usize >= nodes) {
            return Err(Error::Request(format!("node {n} of a graph with {nodes}")));
        }
        let (adjacency, features) = (SparseData::from(&self.adjacency), SparseData::from(&self.features));
        let mut words: Vec<Vec<u32>> = adjacency.words.into_iter().chain(features.words).collect();
        let rows = match self.rows {
            GraphRows::Nodes => {
                let picked = SparseData::from(&Csr::selection(&ends, nodes)?);
                words.extend(picked.words);
                RowsExtent::Nodes(picked.extent)
            }
            GraphRows::Links => {
                let (offsets, columns, places) = neighbours(nodes, pairs);
                let longest = offsets.windows(2).map(|w| (w[1] - w[0]) as usize).max().unwrap_or(0);
                let count = pairs.len() / 2;
                let width = Negatives::width_of(nodes, count) as u32;
                words.extend([offsets, columns, places, (0..=nodes as u32).map(|n| n * width).collect()]);
                RowsExtent::Links(count, longest)
            }
            GraphRows::Pairs => RowsExtent::Pairs(pairs.len() / 2),
        };
        Ok(GraphWords { extent: GraphExtent { adjacency: adjacency.extent, features: features.extent, nodes, rows }, words })
    }
}

/// Each node's linked nodes, ascending, and for each twice its pair's number.
fn neighbours(nodes: usize, pairs: &[u32]) -> (Vec<u32>, Vec<u32>, Vec<u32>) {
    let both = |(p, ends): (usize, &[u32])| [(ends[0], ends[1], 2 * p as u32), (ends[1], ends[0], 2 * p as u32)];
    let mut all: Vec<(u32, u32, u32)> = pairs.chunks_exact(2).enumerate().flat_map(both).collect();
    all.sort_unstable();
    let mut offsets = vec![0u32; nodes + 1];
    all.iter().for_each(|(n, ..)| offsets[*n as usize + 1] += 1);
    (0..nodes).for_each(|n| offsets[n + 1] += offsets[n]);
    (offsets, all.iter().map(|a| a.1).collect(), all.iter().map(|a| a.2).collect())
}

impl GraphWords {
    pub(super) fn upload(&self, context: &Context) -> Result<Vec<Arc<Buffer>>> {
        self.words.iter().map(|w| context.upload("graph", if w.is_empty() { &[0] } else { w })).collect()
    }
}

/// Its slots in a plan.
#[derive(Debug, Clone)]
pub(super) struct GraphSlots {
    adjacency: SparsePair,
    features: SparsePair,
    rows: RowSlots,
    nodes: usize,
    pub(super) all: Vec<SlotId>,
}

#[derive(Debug, Clone, Copy)]
enum RowSlots {
    Nodes(SparsePair),
    Links { neighbours: Sparse, places: SlotId, count: usize },
    Pairs(usize),
}

impl GraphSlots {
    pub(super) fn external(b: &mut Builder, e: &GraphExtent) -> Self {
        let (adjacency, a) = SparsePair::external(b, "adjacency", &e.adjacency);
        let (features, f) = SparsePair::external(b, "features", &e.features);
        let mut all: Vec<SlotId> = a.into_iter().chain(f).collect();
        let rows = match e.rows {
            RowsExtent::Nodes(extent) => {
                let (picked, p) = SparsePair::external(b, "nodes", &extent);
                all.extend(p);
                RowSlots::Nodes(picked)
            }
            RowsExtent::Links(count, longest) => {
                let sizes = [e.nodes + 1, 2 * count, 2 * count, e.nodes + 1];
                let labels = ["link offsets", "linked nodes", "link places", "places"];
                let [offsets, columns, entries, places] = std::array::from_fn(|i| b.external(labels[i], sizes[i]));
                all.extend([offsets, columns, entries, places]);
                let len = 2 * count;
                let values = (columns, 0, len);
                let neighbours = Sparse { rows: e.nodes, cols: e.nodes, len, longest, offsets, columns, values, entries: Some(entries) };
                RowSlots::Links { neighbours, places, count }
            }
            RowsExtent::Pairs(count) => RowSlots::Pairs(count),
        };
        Self { adjacency, features, rows, nodes: e.nodes, all }
    }
}

/// A layer's tensors.
#[derive(Debug, Clone)]
struct Layer {
    linear: Linear,
    /// Logarithm of the scale of a point's time.
    scale: Option<Id>,
}

/// The tensors of a network.
#[derive(Debug, Clone)]
pub(super) struct GraphNetwork {
    pub(super) net: GraphNet,
    layers: Vec<Layer>,
    /// The classes' points or weights, and their biases.
    classes: Option<(Id, Id)>,
    method: Method,
}

/// What a row's loss counts, and whose dropout it is.
pub(super) struct Step<'a> {
    pub(super) loss: &'a Loss,
    pub(super) progress: SlotId,
    pub(super) dropout: f32,
    /// Numbers `0..width`, the factors `-2, 2, 2, …`, and signs.
    pub(super) metric: [SlotId; 3],
}

impl<'a> Step<'a> {
    pub(super) fn new(loss: &'a Loss, feed: &FeedSlots, o: &Options, constants: &ConstantSlots) -> Self {
        Self { loss, progress: feed.progress, dropout: o.dropout, metric: constants.metric }
    }
}

impl GraphNetwork {
    pub(super) fn plan(layout: &mut Layout, net: &GraphNet, method: &Method, decay: Decay) -> Result<Self> {
        let classes = if let Task::Classes(n) = net.task { n } else { 2 };
        if net.width < 2 || net.layers == 0 || net.inputs == 0 || classes < 2 {
            let sizes = format!("{} inputs, {} layers of {} coordinates, {classes} classes", net.inputs, net.layers, net.width);
            return Err(Error::Request(format!("a graph network of {sizes}: at least 1, 1, 2 and 2")));
        }
        let layer = |i: usize, layout: &mut Layout| {
            let name = format!("layers.{i}");
            let inputs = if i == 0 { net.inputs } else { net.width };
            let linear = Linear::plan(layout, method, &format!("{name}.linear"), (net.width, inputs), true, decay);
            let scale = (net.geometry == Geometry::Lorentz).then(|| layout.trained(&format!("{name}.scale"), (1, 1), Group::Rest, 0.0));
            Layer { linear, scale }
        };
        let layers = (0..net.layers).map(|i| layer(i, layout)).collect();
        let classes = match (net.task, net.geometry) {
            (Task::Links, Geometry::Euclidean) => {
                return Err(Error::Request("links between Euclidean points: only the Lorentz model has a score for them".into()));
            }
            (Task::Links, _) => None,
            (Task::Classes(n), Geometry::Lorentz) => Some((layout.points("classes.points", (n, net.width)), n)),
            (Task::Classes(n), _) => Some((layout.trained("classes.weight", (n, net.width), Group::Rest, decay.matrices), n)),
        };
        let classes = classes.map(|(id, n)| (id, layout.trained("classes.bias", (1, n), Group::Rest, 0.0)));
        Ok(Self { net: net.clone(), layers, classes, method: *method })
    }

    pub(super) fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.layers.iter().map(|l| &l.linear)
    }

    /// The nodes' points.
    fn points(&self, tape: &mut Tape, slots: &Slots, g: &GraphSlots, s: &Step<'_>) -> Result<Var> {
        let mut x = tape.sparse(g.features);
        x = tape.sparse_dropout("features", x, s.dropout, s.progress, 0)?;
        for (i, l) in self.layers.iter().enumerate() {
            let name = &l.linear.name;
            if i > 0 {
                if self.net.relu && l.scale.is_some() {
                    x = tape.activate(&format!("{name} relu"), Activation::Relu, x)?;
                }
                x = tape.dropout(&format!("{name} dropout"), x, s.dropout, s.progress, i as u32)?;
            }
            x = tape.linear(name, x, &l.linear.weight(slots, &self.method), l.linear.bias(slots).as_ref(), None)?;
            let label = format!("layers.{i} neighbours");
            let Some(scale) = l.scale else {
                x = tape.aggregate(&label, &g.adjacency, x)?;
                if self.net.relu {
                    x = tape.activate(&format!("{name} relu"), Activation::Relu, x)?;
                }
                continue;
            };
            let Parameter { value, gradient } = slots.parameter(scale);
            x = tape.lorentz(&format!("layers.{i} points"), Map::Rescale { scale: (value.slot, value.offset) }, 1, x, gradient)?;
            x = tape.aggregate(&label, &g.adjacency, x)?;
            x = tape.lorentz(&format!("layers.{i} centroids"), Map::Centroid, 1, x, None)?;
        }
        Ok(x)
    }

    /// Scores of the classes, a row a picked node.
    fn class_scores(&self, tape: &mut Tape, slots: &Slots, x: Var, picked: &SparsePair, s: &Step<'_>) -> Result<Var> {
        let Some((weight, bias)) = self.classes else { return Err(Error::Request("a network of links has no classes".into())) };
        let mut x = tape.aggregate("picked nodes", picked, x)?;
        if self.net.geometry == Geometry::Lorentz {
            // 2 <x, c>: the sign of time and the factor go to x.
            x = tape.scale_columns("metric", x, s.metric[0], s.metric[1])?;
        }
        tape.linear("classes", x, &Weight::Dense(slots.parameter(weight)), Some(&slots.parameter(bias)), None)
    }

    /// Appends the losses of the feed's pairs.
    pub(super) fn losses(&self, tape: &mut Tape, slots: &Slots, feed: &FeedSlots, s: &Step<'_>) -> Result<Tensor> {
        let Some(g) = &feed.graph else { return Err(Error::Request("a graph network needs a graph".into())) };
        let x = self.points(tape, slots, g, s)?;
        match (g.rows, self.net.task) {
            (RowSlots::Nodes(picked), Task::Classes(_)) => {
                let scores = self.class_scores(tape, slots, x, &picked, s)?;
                match self.net.geometry {
                    Geometry::Lorentz => tape.margin_loss("loss", scores, s.loss.targets.0, s.loss.scale, self.net.margin),
                    Geometry::Euclidean => tape.loss("loss", scores, s.loss),
                }
            }
            (RowSlots::Links { neighbours, places, count }, Task::Links) => {
                let negatives = Negatives {
                    nodes: g.nodes,
                    count,
                    offsets: neighbours.offsets,
                    columns: neighbours.columns,
                    entries: neighbours.len,
                    progress: s.progress,
                    stream: 0,
                };
                let positives = Pairs { from: (feed.tokens, 0), to: (feed.targets, 0), count };
                let l = Links { positives, neighbours, negatives, places, margin: self.net.margin, scale: s.loss.scale };
                tape.link_loss("links", x, &l)
            }
            _ => Err(Error::Request(format!("a network for {:?} cannot be trained on such data", self.net.task))),
        }
    }

    /// Appends scores: of the classes, or of the feed's pairs, a row each.
    pub(super) fn scores(&self, tape: &mut Tape, slots: &Slots, feed: &FeedSlots, s: &Step<'_>) -> Result<Tensor> {
        let Some(g) = &feed.graph else { return Err(Error::Request("a graph network needs a graph".into())) };
        let x = self.points(tape, slots, g, s)?;
        let count = match g.rows {
            RowSlots::Nodes(picked) => {
                let scores = self.class_scores(tape, slots, x, &picked, s)?;
                return Ok(tape.tensor(scores));
            }
            RowSlots::Links { count, .. } | RowSlots::Pairs(count) => count,
        };
        let (points, pairs) = (tape.tensor(x), Pairs { from: (feed.tokens, 0), to: (feed.targets, 0), count });
        let scores = tape.builder.transient("scores", count, 1);
        edge_scores(&mut tape.builder, "scores", &points, &pairs, &scores)?;
        Ok(scores)
    }
}
