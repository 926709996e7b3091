//! The plain folder form of a graph: `edges.txt`, `features.svm`, `labels.txt`, `split_*.json`, `lp_*.txt`.

use super::{Graph, LinkSplit, NodeSplit};
use crate::tensor::Csr;
use crate::{Error, Result};
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
    /// Reads a folder; labels are optional.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Request`] that names file and line.
    pub fn load(folder: &Path) -> Result<Self> {
        let features = features(&folder.join("features.svm"))?;
        let nodes = features.rows;
        let edges = pairs(&folder.join("edges.txt"), nodes)?;
        let path = folder.join("labels.txt");
        let labels = if path.exists() { labels(&path, nodes)? } else { vec![None; nodes] };
        let classes = labels.iter().flatten().max().map_or(0, |m| *m as usize + 1);
        let path = folder.join("feature4.txt");
        let extra = if path.exists() { Some(values(&path, nodes)?) } else { None };
        let name = folder.file_name().map_or_else(|| "graph".into(), |n| n.to_string_lossy().into_owned());
        Ok(Self { name, nodes, edges, features, extra, labels, classes })
    }

    /// Reads a division of the nodes, `split_NAME.json`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Request`] for nodes that are not there or have no class, or an empty part.
    pub fn node_split(&self, folder: &Path, name: &str) -> Result<NodeSplit> {
        let path = folder.join(format!("split_{name}.json"));
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

    /// Reads the division of the edges, `lp_*.txt`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Request`] for nodes that are not there, or an empty part.
    pub fn link_split(&self, folder: &Path) -> Result<LinkSplit> {
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

/// A value a line.
fn values(path: &Path, nodes: usize) -> Result<Vec<f32>> {
    let text = read(path)?;
    let value = |(i, line): (usize, &str)| {
        line.trim().parse::<f32>().ok().filter(|v| v.is_finite()).ok_or_else(|| wrong(path, i, "not a finite number"))
    };
    let all = text.lines().enumerate().map(value).collect::<Result<Vec<_>>>()?;
    if all.len() == nodes { Ok(all) } else { Err(Error::Request(format!("{}: {} values for {nodes} nodes", path.display(), all.len()))) }
}
