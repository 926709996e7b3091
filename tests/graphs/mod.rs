//! Graph networks: gradients against differences of an f64 model, methods against full rank, points on the manifold, files.

mod files;
mod model;
mod runs;

use etalon::graphs::{Graph, LinkSplit, NodeSplit};
use etalon::tensor::Csr;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// A random tree of which the last node is isolated: features tell a node's depth and branch, with noise; its class is its branch.
pub fn tree(nodes: usize, seed: u64) -> Graph {
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut depth, mut branch, mut edges) = (vec![0u32], vec![0u32], Vec::new());
    for n in 1..nodes as u32 {
        let parent = if n < 4 { 0 } else { rng.random_range(1..n) };
        depth.push(depth[parent as usize] + 1);
        branch.push(if n < 4 { n - 1 } else { branch[parent as usize] });
        if n + 1 < nodes as u32 {
            edges.push([parent, n]);
        }
    }
    let mut entries = Vec::new();
    for n in 0..nodes {
        entries.push((n as u32, depth[n].min(6), 1.0f32));
        entries.push((n as u32, 7 + branch[n], rng.random_range(0.2f32..1.2)));
        entries.push((n as u32, 10 + rng.random_range(0..3), rng.random_range(0.0f32..1.0)));
    }
    let features = Csr::from_entries(nodes, 13, entries).unwrap();
    Graph {
        name: "tree".into(),
        nodes,
        edges,
        features,
        extra: None,
        labels: branch.into_iter().map(Some).collect(),
        classes: 3,
        split: None,
    }
}

/// A ring, each node linked with the three before it; features tell the part of the ring.
pub fn ring(nodes: usize) -> Graph {
    let n = nodes as u32;
    let edges = (0..n).flat_map(|a| (1..4).map(move |d| [(a + d) % n, a])).collect();
    let entries = (0..n).flat_map(|a| [(a, a / 6, 1.0f32), (a, (a + 3) % n / 6, 0.5)]).collect();
    let features = Csr::from_entries(nodes, nodes.div_ceil(6), entries).unwrap();
    Graph { name: "ring".into(), nodes, edges, features, extra: None, labels: vec![None; nodes], classes: 0, split: None }
}

pub fn node_split(g: &Graph) -> NodeSplit {
    let part = |k: u32| (0..g.nodes as u32).filter(|n| n % 3 == k).collect();
    NodeSplit { train: part(0), valid: part(1), test: part(2) }
}

pub fn link_split(g: &Graph) -> LinkSplit {
    let (n, m) = (g.nodes as u32, g.edges.len());
    let mut edges = g.edges.clone();
    (0..m).for_each(|i| edges.swap(i, (i * 31 + 5) % m));
    let part = |range: std::ops::Range<usize>| edges[range].to_vec();
    let apart = |count: usize, step: u32| (0..count as u32).map(|i| [i % n, (i * step + 7) % n]).filter(|[a, b]| a != b).collect();
    LinkSplit {
        train: part(0..m * 7 / 10),
        valid: part(m * 7 / 10..m * 8 / 10),
        test: part(m * 8 / 10..m),
        valid_negatives: apart(m / 10, 3),
        test_negatives: apart(m / 5, 5),
    }
}
