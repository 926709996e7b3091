//! Planetoid's files (Yang et al. 2016), `ind.NAME.{x,tx,allx,y,ty,ally,graph,test.index}`: pickles of SciPy's matrices, read as plain data.

use super::{Graph, NodeSplit};
use crate::format::pickle::{Node, Pickle};
use crate::tensor::Csr;
use crate::{Error, Result};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Most rows and columns of a matrix.
const MOST: i64 = 1 << 26;

/// NAME, where a folder holds such files.
pub(super) fn name(folder: &Path) -> Option<String> {
    let files = std::fs::read_dir(folder).ok()?.flatten();
    let name = |f: std::fs::DirEntry| Some(f.file_name().to_str()?.strip_prefix("ind.")?.strip_suffix(".graph")?.to_owned());
    files.filter_map(name).min()
}

/// A dense or a sparse matrix.
struct Matrix {
    rows: usize,
    cols: usize,
    /// Row, column, value.
    entries: Vec<(u32, u32, f32)>,
}

/// A NumPy array: its shape and its elements.
fn array(p: &Pickle<'_>, n: Node) -> Result<(Vec<usize>, Vec<f64>)> {
    let (_, _, state) = p.object(n)?;
    let state = p.sequence(state.ok_or_else(|| p.wrong("an array without contents"))?)?;
    let &[_, shape, kind, fortran, raw] = state else { return Err(p.wrong("an array's contents are five values")) };
    let size =
        |n: &Node| p.int(*n).and_then(|v| if (0..=MOST).contains(&v) { Ok(v as usize) } else { Err(p.wrong("a size out of range")) });
    let shape = p.sequence(shape)?.iter().map(size).collect::<Result<Vec<_>>>()?;
    let (_, arguments, _) = p.object(kind)?;
    let kind = p.sequence(arguments)?.first().ok_or_else(|| p.wrong("an array of no type"))?;
    let (kind, raw) = (p.bytes(*kind)?, p.bytes(raw)?);
    if p.int(fortran)? != 0 && shape.len() > 1 {
        return Err(p.wrong("an array by columns"));
    }
    let values: Vec<f64> = match kind {
        b"f4" => raw.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]).into()).collect(),
        b"i4" => raw.chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]).into()).collect(),
        b"f8" => raw.chunks_exact(8).map(|b| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]])).collect(),
        b"i8" => raw.chunks_exact(8).map(|b| i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f64).collect(),
        other => return Err(p.wrong(format!("elements of type `{}`: f4, f8, i4 and i8 are read", String::from_utf8_lossy(other)))),
    };
    let wanted = shape.iter().try_fold(1usize, |n, s| n.checked_mul(*s));
    if wanted != Some(values.len()) {
        return Err(p.wrong(format!("{} elements for a shape of {shape:?}", values.len())));
    }
    Ok((shape, values))
}

/// A number that may count or be an index.
fn index(p: &Pickle<'_>, v: f64, end: usize) -> Result<usize> {
    if v >= 0.0 && v < end as f64 { Ok(v as usize) } else { Err(p.wrong(format!("{v} where a number below {end} is expected"))) }
}

fn matrix(p: &Pickle<'_>) -> Result<Matrix> {
    let (class, _, state) = p.object(p.root())?;
    if class != "csr_matrix" {
        let (shape, values) = array(p, p.root())?;
        let &[rows, cols] = shape.as_slice() else { return Err(p.wrong("a matrix has two dimensions")) };
        let filled = values.iter().enumerate().filter(|(_, v)| **v != 0.0);
        return Ok(Matrix { rows, cols, entries: filled.map(|(i, v)| ((i / cols) as u32, (i % cols) as u32, *v as f32)).collect() });
    }
    let state = state.ok_or_else(|| p.wrong("a matrix without contents"))?;
    let part = |key: &str| p.get(state, key)?.ok_or_else(|| p.wrong(format!("a matrix without `{key}`")));
    let shape = p.get(state, "_shape")?.map_or_else(|| part("shape"), Ok)?;
    let &[rows, cols] = p.sequence(shape)? else { return Err(p.wrong("a matrix has two dimensions")) };
    let size = |n| p.int(n).and_then(|v| if (0..=MOST).contains(&v) { Ok(v as usize) } else { Err(p.wrong("a size out of range")) });
    let (rows, cols) = (size(rows)?, size(cols)?);
    let [offsets, columns, values] = ["indptr", "indices", "data"].map(|key| array(p, part(key)?).map(|(_, v)| v));
    let (offsets, columns, values) = (offsets?, columns?, values?);
    if offsets.len() != rows + 1 || columns.len() != values.len() {
        return Err(p.wrong(format!("{} offsets of {rows} rows, {} columns of {} values", offsets.len(), columns.len(), values.len())));
    }
    let mut entries = Vec::with_capacity(values.len());
    for r in 0..rows {
        let range = index(p, offsets[r], values.len() + 1)?..index(p, offsets[r + 1], values.len() + 1)?;
        for e in range {
            entries.push((r as u32, index(p, columns[e], cols)? as u32, values[e] as f32));
        }
    }
    Ok(Matrix { rows, cols, entries })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|source| Error::Io { path: path.display().to_string(), source })
}

struct Folder<'a> {
    folder: &'a Path,
    name: &'a str,
}

impl Folder<'_> {
    fn path(&self, part: &str) -> PathBuf {
        self.folder.join(format!("ind.{}.{part}", self.name))
    }

    fn matrix(&self, part: &str) -> Result<Matrix> {
        let path = self.path(part);
        matrix(&Pickle::read(&path.display().to_string(), &read(&path)?)?)
    }

    /// Each listed node and its neighbours.
    fn edges(&self) -> Result<BTreeSet<[u32; 2]>> {
        let path = self.path("graph");
        let (name, bytes) = (path.display().to_string(), read(&path)?);
        let p = Pickle::read(&name, &bytes)?;
        let filled = p.object(p.root()).ok().and_then(|(_, _, state)| state).unwrap_or(p.root());
        let mut edges = BTreeSet::new();
        for (node, neighbours) in p.pairs(filled)? {
            let a = index(&p, p.int(*node)? as f64, MOST as usize)? as u32;
            for other in p.sequence(*neighbours)? {
                let b = index(&p, p.int(*other)? as f64, MOST as usize)? as u32;
                if a != b {
                    edges.insert([a.min(b), a.max(b)]);
                }
            }
        }
        Ok(edges)
    }

    /// The test's nodes, in the order of `tx` and `ty`.
    fn tested(&self) -> Result<Vec<u32>> {
        let path = self.path("test.index");
        let text = String::from_utf8_lossy(&read(&path)?).into_owned();
        let node = |l: &str| l.trim().parse().ok().filter(|n| i64::from(*n) < MOST);
        let all: Option<Vec<u32>> = text.lines().filter(|l| !l.trim().is_empty()).map(node).collect();
        all.ok_or_else(|| Error::Request(format!("{}: a line is no node", path.display())))
    }
}

/// Reads such files. Nodes that none of them describes have no features and no class. The division is the public one: the nodes of `y`,
/// the 500 after them, and the test's.
pub(super) fn load(folder: &Path, name: &str) -> Result<Graph> {
    let f = Folder { folder, name };
    let (known, tested, classes, test_classes) = (f.matrix("allx")?, f.matrix("tx")?, f.matrix("ally")?, f.matrix("ty")?);
    let (train, test, edges) = (f.matrix("y")?.rows as u32, f.tested()?, f.edges()?);
    if tested.rows != test.len() || test_classes.rows != test.len() || known.rows != classes.rows || tested.cols != known.cols {
        let sizes = format!(
            "{} and {} of {} test nodes, {} and {} of the others",
            tested.rows,
            test_classes.rows,
            test.len(),
            known.rows,
            classes.rows
        );
        return Err(Error::Request(format!("{}: features and classes do not agree: {sizes}", folder.display())));
    }
    let last = test.iter().chain(edges.iter().flatten()).max().copied().unwrap_or(0);
    let nodes = (last as usize + 1).max(known.rows);
    let placed = |m: Matrix, tests: bool| {
        let test = &test;
        m.entries.into_iter().map(move |(r, c, v)| (if tests { test[r as usize] } else { r }, c, v))
    };
    let mut labels: Vec<Option<u32>> = vec![None; nodes];
    let count = classes.cols;
    // Of several classes the first highest counts.
    let mut highest = vec![0.0f32; nodes];
    for (n, c, v) in placed(classes, false).chain(placed(test_classes, true)) {
        if v > highest[n as usize] {
            (highest[n as usize], labels[n as usize]) = (v, Some(c));
        }
    }
    let cols = known.cols;
    let features = Csr::from_entries(nodes, cols, placed(known, false).chain(placed(tested, true)).collect())?;
    let mut test = test;
    test.sort_unstable();
    let free = |n: &u32| labels.get(*n as usize).is_some_and(Option::is_some) && test.binary_search(n).is_err();
    let valid = (train..train + 500).filter(free).collect();
    let split = Some(NodeSplit { train: (0..train).collect(), valid, test });
    Ok(Graph { name: name.into(), nodes, edges: edges.into_iter().collect(), features, extra: None, labels, classes: count, split })
}
