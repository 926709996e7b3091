//! Graphs for node classification and link prediction: reading them, preparing features, training, judging.

mod load;
mod metrics;
mod planetoid;
mod presets;
mod run;

pub use metrics::{average_precision, f1, roc_auc};
pub use presets::{Preset, preset};
pub use run::{Division, Outcome, Request, Watch, run, sst};

use crate::hyperbolic;
use crate::tensor::Csr;
use crate::train::random::hash;
use crate::{Error, Result};

/// A graph with features, and how it is divided for its tasks.
#[derive(Debug, Clone, PartialEq)]
pub struct Graph {
    /// Its folder's name.
    pub name: String,
    /// Number of nodes.
    pub nodes: usize,
    /// Undirected edges, once each.
    pub edges: Vec<[u32; 2]>,
    /// A row a node.
    pub features: Csr,
    /// A value a node that link prediction may see beside the features.
    pub extra: Option<Vec<f32>>,
    /// The class of each node, where it has one.
    pub labels: Vec<Option<u32>>,
    /// Number of classes.
    pub classes: usize,
    /// The division of the nodes that came with it.
    pub split: Option<NodeSplit>,
}

/// Nodes in three parts, as lists that may name a node twice.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct NodeSplit {
    /// For training.
    pub train: Vec<u32>,
    /// For choosing when to stop.
    pub valid: Vec<u32>,
    /// For the result.
    pub test: Vec<u32>,
}

/// Edges in three parts, and as many pairs that are none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSplit {
    /// For training, and the only ones that the network sees.
    pub train: Vec<[u32; 2]>,
    /// For choosing when to stop.
    pub valid: Vec<[u32; 2]>,
    /// For the result.
    pub test: Vec<[u32; 2]>,
    /// Non-edges beside `valid`.
    pub valid_negatives: Vec<[u32; 2]>,
    /// Non-edges beside `test`.
    pub test_negatives: Vec<[u32; 2]>,
}

impl Graph {
    /// A number that tells graphs apart: of edges, features and classes.
    pub fn fingerprint(&self) -> u64 {
        let f = &self.features;
        let words = self.edges.iter().flatten().copied().chain(f.offsets.iter().copied()).chain(f.columns.iter().copied());
        let words = words.chain(f.values.iter().map(|v| v.to_bits())).chain(self.labels.iter().map(|l| l.map_or(u32::MAX, |l| l)));
        hash(words.flat_map(u32::to_le_bytes))
    }
}

/// Rows of `A + I`, each divided by its sum: a node without edges keeps itself.
///
/// # Errors
/// [`Error::Request`] for an edge of a node that is not there.
pub fn adjacency(nodes: usize, edges: &[[u32; 2]]) -> Result<Csr> {
    let loops = (0..nodes as u32).map(|n| (n, n, 1.0));
    let both = edges.iter().filter(|[a, b]| a != b).flat_map(|&[a, b]| [(a, b, 1.0), (b, a, 1.0)]);
    let mut m = Csr::from_entries(nodes, nodes, both.chain(loops).collect())?;
    for r in 0..nodes {
        let range = m.offsets[r] as usize..m.offsets[r + 1] as usize;
        let share = 1.0 / range.len().max(1) as f32;
        // An edge that is listed twice counts once.
        m.values[range].iter_mut().for_each(|v| *v = share);
    }
    Ok(m)
}

/// Rows divided by their sums; rows that sum to 0 become 0.
pub fn normalised(features: &Csr) -> Csr {
    let mut m = features.clone();
    for r in 0..m.rows {
        let range = m.offsets[r] as usize..m.offsets[r + 1] as usize;
        let sum: f64 = m.values[range.clone()].iter().map(|v| f64::from(*v)).sum();
        let factor = if sum == 0.0 { 0.0 } else { 1.0 / sum };
        m.values[range].iter_mut().for_each(|v| *v = (f64::from(*v) * factor) as f32);
    }
    m
}

/// Columns appended to features: entries `(row, column, value)` of columns counted from 0, `cols` of them.
fn appended(features: &Csr, cols: usize, more: impl IntoIterator<Item = (u32, u32, f32)>) -> Result<Csr> {
    let first = features.cols as u32;
    let old = (0..features.rows).flat_map(|r| features.row(r).map(move |(c, v)| (r as u32, c, v)));
    let new = more.into_iter().map(|(r, c, v)| (r, first + c, v));
    Csr::from_entries(features.rows, features.cols + cols, old.chain(new).collect())
}

/// Features with a one-hot of each node's degree, up to 5, and a constant 1: seven columns more (HGCN's of the airport graph).
///
/// # Errors
/// [`Error::Request`] for an edge of a node that is not there.
pub fn with_degrees(features: &Csr, edges: &[[u32; 2]]) -> Result<Csr> {
    let mut degrees = vec![0u32; features.rows];
    for n in edges.iter().flatten() {
        *degrees.get_mut(*n as usize).ok_or_else(|| Error::Request(format!("an edge of node {n}, of {}", features.rows)))? += 1;
    }
    let columns = degrees.iter().enumerate().flat_map(|(r, d)| [(r as u32, *d.min(&5), 1.0), (r as u32, 6, 1.0)]);
    appended(features, 7, columns)
}

/// Features as points of the Lorentz model: `exp0` of each row, time first. What is 0 stays 0.
pub fn lifted(features: &Csr) -> Csr {
    let mut out = Csr { rows: features.rows, cols: features.cols + 1, offsets: vec![0], ..Csr::default() };
    for r in 0..features.rows {
        let row: Vec<(u32, f32)> = features.row(r).collect();
        let point = hyperbolic::exp0(&row.iter().map(|(_, v)| f64::from(*v)).collect::<Vec<_>>());
        out.columns.extend(std::iter::once(0).chain(row.iter().map(|(c, _)| c + 1)));
        out.values.extend(point.into_iter().map(|v| v as f32));
        out.offsets.push(out.columns.len() as u32);
    }
    out
}
