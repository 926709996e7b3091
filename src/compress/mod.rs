//! Mixed precision, from a model to a file: how sensitive each part is ([`mod@score`], found by [`mod@measure`]), how many bits it gets within a budget ([`choose`]),
//! rounding ([`round`]) and writing it ([`pack`], [`gguf`]). A model of one stack is looked into layer by layer; a [`translator`] is asked for its loss.
//!
//! The three scores of CPTQuant (arXiv 2412.03599) are here, made well defined: correlation between layers (CMPQ), pruning (PMPQ),
//! and Taylor expansion by noise (TDMPQ); and what they stand for, the loss itself, measured for each part and width. All are brought to
//! one measure, the loss that a part costs at a width, so that one search serves them all.

pub mod choose;
pub mod gguf;
pub mod gradient;
pub mod measure;
pub mod pack;
pub mod round;
pub mod score;
pub mod subject;
pub mod translator;

use crate::format::{Checkpoint, Config, RopePairing};
use crate::model::{Linear, Site, linears};
use crate::train::random::hash;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// Bits of a weight that is not rounded but stored in half precision.
pub const HALF: u32 = 16;

/// What gets one width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnitKind {
    /// Each tensor.
    Tensor,
    /// The tensors of a layer that read the same, which other programs fuse: q, k and v; gate and up.
    Site,
    /// A transformer layer, as in the paper.
    Block,
}

/// Linear layers that get one width.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// `12 qkv`, a tensor's name, or `12`.
    pub name: String,
    /// The transformer layer.
    pub block: usize,
    /// Its members: of one site, unless it is a whole layer.
    pub linears: Vec<Linear>,
}

impl Unit {
    /// Number of weights.
    pub fn weights(&self) -> u64 {
        self.linears.iter().map(Linear::weights).sum()
    }

    /// The sites that its members stand at.
    pub fn sites(&self) -> Vec<Site> {
        let mut all: Vec<Site> = self.linears.iter().map(|l| l.site).collect();
        all.dedup();
        all
    }
}

/// The units of a model, in the order of its work.
pub fn units(config: &Config, kind: UnitKind) -> Vec<Unit> {
    let mut units: Vec<Unit> = Vec::new();
    for l in linears(config) {
        let name = match kind {
            UnitKind::Tensor => l.name.clone(),
            UnitKind::Site => format!("{} {}", l.block, l.site.name()),
            UnitKind::Block => l.block.to_string(),
        };
        match units.last_mut().filter(|u| u.name == name) {
            Some(unit) => unit.linears.push(l),
            None => units.push(Unit { name, block: l.block, linears: vec![l] }),
        }
    }
    units
}

/// The weights of a linear layer, whatever they are stored as.
///
/// # Errors
/// What the checkpoint lacks or gets wrong.
pub fn weights(checkpoint: &Checkpoint, l: &Linear) -> Result<Vec<f32>> {
    Ok(checkpoint.matrix(&l.name, l.rows, l.cols)?.into_f32())
}

/// A number for a model's linear weights, so that measurements of one are not taken for those of another: a hash of the names, shapes and
/// 256 of the bytes that each is stored in, evenly spaced.
///
/// # Errors
/// What the checkpoint lacks.
pub fn fingerprint(checkpoint: &Checkpoint) -> Result<u64> {
    let mut text = Vec::new();
    for l in linears(&checkpoint.config) {
        text.extend(format!("{} {} {}\n", l.name, l.rows, l.cols).into_bytes());
        let packed = format!("{}_packed", l.name);
        let bytes = checkpoint.bytes(if checkpoint.has(&packed) { &packed } else { &l.name })?;
        // An odd step meets every byte of the numbers.
        text.extend(bytes.iter().step_by((bytes.len() / 256) | 1));
    }
    Ok(hash(text))
}

/// Little-endian halves of a tensor's values.
fn halves(name: &str, values: &[f32]) -> Result<Vec<u8>> {
    let halves: Vec<half::f16> = values.iter().map(|v| half::f16::from_f32(*v)).collect();
    match halves.iter().position(|h| !h.is_finite()) {
        None => Ok(halves.iter().flat_map(|h| h.to_le_bytes()).collect()),
        Some(at) => Err(Error::shape("write", format!("`{name}`: element {at} is {}, beyond half precision: keep it in f32", values[at]))),
    }
}

/// Which row of a file's tensor each row of ours is: GGUF's queries and keys lie in pairs that are rotated together, Hugging Face's in halves.
fn order(c: &Checkpoint, name: &str, rows: usize) -> Option<Vec<usize>> {
    let Config::Llama(l) = &c.config else { return None };
    // The outputs of these; of factors those of U.
    let turned = [".q_proj.", ".k_proj."].iter().any(|p| name.split_once(p).is_some_and(|(_, part)| !part.starts_with("v.")));
    if c.rope == RopePairing::Half || !turned {
        return None;
    }
    let half = l.head_dim / 2;
    Some((0..rows).map(|r| r / l.head_dim * l.head_dim + 2 * (r % l.head_dim % half) + r % l.head_dim / half).collect())
}

/// Runs `f` over the items on all processors; results in the order of the items, or the first error.
fn on_all<T: Sync, R: Send>(items: &[T], f: impl Fn(&T) -> Result<R> + Sync) -> Result<Vec<R>> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(items.len());
    if workers < 2 {
        return items.iter().map(f).collect();
    }
    let next = std::sync::atomic::AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let i = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let Some(item) = items.get(i) else { return done };
            done.push((i, f(item)));
        }
    };
    let mut all: Vec<(usize, Result<R>)> = std::thread::scope(|s| {
        let threads: Vec<_> = (0..workers).map(|_| s.spawn(work)).collect();
        threads.into_iter().flat_map(|t| t.join().unwrap_or_default()).collect()
    });
    if all.len() != items.len() {
        return Err(Error::Request("a worker thread failed: what it printed says why".into()));
    }
    all.sort_by_key(|(i, _)| *i);
    all.into_iter().map(|(_, r)| r).collect()
}
