//! The plain folder form of a graph: `edges.txt`, `features.svm`, `labels.txt`, `split_*.json`, `lp_*.txt`.

use super::{Graph, LinkSplit, NodeSplit, planetoid};
use crate::tensor::Csr;
use crate::train::random::{Random, hash};
use crate::{Error, Result};
use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

/// Largest number of nodes, columns or classes that a file may name: more is a mistake, and would be allocated.
const MOST: u32 = 1 << 26;

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.display().to_string(), source })
}

fn wrong(path: &Path, line: usize, what: impl std::fmt::Display) -> Error {
    Error::Request(format!("{} line {}: {what}", path.display(), line + 1))
}

/// A pair of nodes a line.
fn pairs(path: &Path, nodes: usize) -> Result<Vec<[u32; 2]>> {
    let text = read(path)?;
    let pair = |(i, line): (usize, &str)| {
        let mut words = line.split_whitespace().map(str::parse::<u32>);
        let (Some(Ok(a)), Some(Ok(b)), None) = (words.next(), words.next(), words.next()) else {
            return Err(wrong(path, i, format!("`{}` where two node numbers are expected", line.trim())));
        };
        match [a, b].into_iter().find(|n| *n as usize >= nodes) {
            Some(n) => Err(wrong(path, i, format!("node {n}, but the features have {nodes} rows, numbered from 0"))),
            None => Ok([a, b]),
        }
    };
    text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()).map(pair).collect()
}

/// A row a line, `column:value` each.
fn features(path: &Path) -> Result<Csr> {
    let text = read(path)?;
    let (mut entries, mut rows, mut cols) = (Vec::new(), 0u32, 0u32);
    for (i, line) in text.lines().enumerate() {
        for word in line.split_whitespace() {
            let entry = word.split_once(':').and_then(|(c, v)| Some((c.parse::<u32>().ok()?, v.parse::<f32>().ok()?)));
            let Some((c, v)) = entry.filter(|(c, v)| *c < MOST && v.is_finite()) else {
                return Err(wrong(path, i, format!("`{word}` where column:value is expected, the value finite")));
            };
            cols = cols.max(c + 1);
            entries.push((rows, c, v));
        }
        rows += 1;
    }
    if rows == 0 || cols == 0 {
        return Err(Error::Request(format!("{}: no features: each node wants a line, and one value at least in all", path.display())));
    }
    Csr::from_entries(rows as usize, cols as usize, entries)
}

/// The class of each node, -1 for none.
fn labels(path: &Path, nodes: usize) -> Result<Vec<Option<u32>>> {
    let text = read(path)?;
    let label = |(i, line): (usize, &str)| match line.trim().parse::<i64>() {
        Ok(-1) => Ok(None),
        Ok(v) if (0..i64::from(MOST)).contains(&v) => Ok(Some(v as u32)),
        _ => Err(wrong(path, i, format!("`{}` where a class is expected: 0, 1, …, or -1 for none", line.trim()))),
    };
    let all = text.lines().enumerate().map(label).collect::<Result<Vec<_>>>()?;
    if all.len() != nodes {
        return Err(Error::Request(format!("{}: {} labels for {nodes} nodes", path.display(), all.len())));
    }
    Ok(all)
}

impl Graph {
    /// Reads a folder, of this form or Planetoid's (`ind.NAME.graph`, …); labels are optional, and so is `feature4.txt`, [`Graph::extra`].
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Request`] that names file and line.
    pub fn load(folder: &Path) -> Result<Self> {
        if let Some(name) = planetoid::name(folder) {
            return planetoid::load(folder, &name);
        }
        let features = features(&folder.join("features.svm"))?;
        let nodes = features.rows;
        let edges = pairs(&folder.join("edges.txt"), nodes)?;
        let path = folder.join("labels.txt");
        let labels = if path.exists() { labels(&path, nodes)? } else { vec![None; nodes] };
        let classes = labels.iter().flatten().max().map_or(0, |m| *m as usize + 1);
        let path = folder.join("feature4.txt");
        let extra = if path.exists() { Some(values(&path, nodes)?) } else { None };
        let name = folder.file_name().map_or_else(|| "graph".into(), |n| n.to_string_lossy().into_owned());
        Ok(Self { name, nodes, edges, features, extra, labels, classes, split: None })
    }

    /// Reads a division of the nodes, `split_NAME.json`; without that file the one that came with the graph is `nc`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Request`] for nodes that are not there or have no class, or an empty part.
    pub fn node_split(&self, folder: &Path, name: &str) -> Result<NodeSplit> {
        let path = folder.join(format!("split_{name}.json"));
        if let (Some(split), "nc", false) = (&self.split, name, path.exists()) {
            return Ok(split.clone());
        }
        let bad = |what: String| Error::Request(format!("{}: {what}", path.display()));
        let split: NodeSplit = serde_json::from_str(&read(&path)?).map_err(|e| bad(e.to_string()))?;
        for (part, nodes) in [("train", &split.train), ("valid", &split.valid), ("test", &split.test)] {
            if nodes.is_empty() {
                return Err(bad(format!("`{part}` names no node")));
            }
            if let Some(n) = nodes.iter().find(|n| self.labels.get(**n as usize).copied().flatten().is_none()) {
                return Err(bad(format!("node {n} of `{part}`: it is not there, or has no class")));
            }
        }
        Ok(split)
    }

    /// Reads the division of the edges, `lp_*.txt`; without these files draws 5 % for validation and 10 % for the test, always the same.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Request`] for nodes that are not there, or an empty part.
    pub fn link_split(&self, folder: &Path) -> Result<LinkSplit> {
        if !folder.join("lp_train.txt").exists() {
            return self.draw_links(0);
        }
        let part = |name: &str| {
            let path: PathBuf = folder.join(format!("lp_{name}.txt"));
            let all = pairs(&path, self.nodes)?;
            if all.is_empty() { Err(Error::Request(format!("{}: no pairs", path.display()))) } else { Ok(all) }
        };
        Ok(LinkSplit {
            train: part("train")?,
            valid: part("valid")?,
            test: part("test")?,
            valid_negatives: part("valid_neg")?,
            test_negatives: part("test_neg")?,
        })
    }
}

impl Graph {
    /// Draws a division of the edges, loops left out and doubles once, 85 / 5 / 10 %, and as many pairs that are none beside the latter two.
    fn draw_links(&self, seed: u64) -> Result<LinkSplit> {
        let mut g = Random::new(seed, hash("links".bytes()));
        let distinct: BTreeSet<[u32; 2]> = self.edges.iter().filter(|[a, b]| a != b).map(|&[a, b]| [a.min(b), a.max(b)]).collect();
        let mut edges: Vec<[u32; 2]> = distinct.iter().copied().collect();
        let n = self.nodes as u64;
        let below = |g: &mut Random, n: usize| (g.uniform() * n as f64) as usize % n.max(1);
        for i in (1..edges.len()).rev() {
            edges.swap(i, below(&mut g, i + 1));
        }
        let counts = [edges.len() / 20, edges.len() / 10];
        let wanted = counts[0] + counts[1];
        if counts[0] == 0 || n * n.saturating_sub(1) / 2 < (distinct.len() + 2 * wanted) as u64 {
            let sizes = format!("{n} nodes with {} edges", edges.len());
            return Err(Error::Request(format!("{sizes} are too few or too dense to draw links from: give lp_train.txt and its like")));
        }
        let mut apart = HashSet::new();
        let mut negatives = Vec::with_capacity(wanted);
        while negatives.len() < wanted {
            let (a, b) = (below(&mut g, self.nodes) as u32, below(&mut g, self.nodes) as u32);
            let pair = [a.min(b), a.max(b)];
            if a != b && !distinct.contains(&pair) && apart.insert(pair) {
                negatives.push(pair);
            }
        }
        let test = edges.split_off(edges.len() - counts[1]);
        let valid = edges.split_off(edges.len() - counts[0]);
        let test_negatives = negatives.split_off(counts[0]);
        Ok(LinkSplit { train: edges, valid, test, valid_negatives: negatives, test_negatives })
    }
}

/// A value a line.
fn values(path: &Path, nodes: usize) -> Result<Vec<f32>> {
    let text = read(path)?;
    let value = |(i, line): (usize, &str)| {
        line.trim().parse::<f32>().ok().filter(|v| v.is_finite()).ok_or_else(|| wrong(path, i, "not a finite number"))
    };
    let all = text.lines().enumerate().map(value).collect::<Result<Vec<_>>>()?;
    if all.len() == nodes { Ok(all) } else { Err(Error::Request(format!("{}: {} values for {nodes} nodes", path.display(), all.len()))) }
}
