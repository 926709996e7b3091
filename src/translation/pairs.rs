//! Pairs of sentences, and batches of them.

use crate::format::{MarianConfig, Tokenizer};
use crate::train::random::{Random, hash};
use crate::train::{Data, SentenceBatch};
use crate::{Error, Result};
use std::path::Path;

/// A sentence's tokens and its translation's, both with the token that ends them.
pub type Pair = (Vec<u32>, Vec<u32>);

/// Reads two files of as many lines, a sentence each.
///
/// # Errors
/// [`Error::Io`]; [`Error::Request`] where the numbers of lines differ, or a line is empty: it is named.
pub fn read_pairs(source: &Path, target: &Path) -> Result<Vec<(String, String)>> {
    let read = |p: &Path| std::fs::read_to_string(p).map_err(|source| Error::Io { path: p.display().to_string(), source });
    let (s, t) = (read(source)?, read(target)?);
    let (lines, others) = (s.lines().count(), t.lines().count());
    if lines != others {
        let what = format!("{} has {lines} lines, {} has {others}", source.display(), target.display());
        return Err(Error::Request(format!("{what}: line n of one must be the translation of line n of the other")));
    }
    let pairs: Vec<(String, String)> = s.lines().zip(t.lines()).map(|(a, b)| (a.trim().into(), b.trim().into())).collect();
    for (i, (a, b)) in pairs.iter().enumerate() {
        if let Some((_, path)) = [(a, source), (b, target)].into_iter().find(|(line, _)| line.is_empty()) {
            return Err(Error::Request(format!("{} line {}: an empty sentence", path.display(), i + 1)));
        }
    }
    Ok(pairs)
}

/// Tokens of sentences that fit a batch, and how many did not.
///
/// # Errors
/// What the tokenizer returns.
pub fn encode(tokenizer: &Tokenizer, pairs: &[(String, String)], c: &MarianConfig, b: &SentenceBatch) -> Result<(Vec<Pair>, usize)> {
    let one = |text: &str| {
        let mut ids = tokenizer.encode(text, false)?;
        ids.push(c.eos);
        Ok::<_, Error>(ids)
    };
    let all = pairs.iter().map(|(s, t)| Ok((one(s)?, one(t)?))).collect::<Result<Vec<Pair>>>()?;
    let count = all.len();
    let kept: Vec<Pair> = all.into_iter().filter(|(s, t)| s.len() <= b.source && t.len() <= b.target).collect();
    let left = count - kept.len();
    Ok((kept, left))
}

/// The shape of batches of about so many tokens of each language, for sentences of at most so many.
pub fn shape_of(tokens: usize, most: usize) -> SentenceBatch {
    SentenceBatch { sentences: (tokens / most.max(1)).max(1), source: most, target: most }
}

/// Batches of sentences: in random order for `epochs` epochs, each made anew by `seed`, or with none in their order once, in which
/// case the loss counts all of their targets alike.
///
/// # Errors
/// [`Error::Request`] without a sentence.
pub fn batches(pairs: &[Pair], c: &MarianConfig, b: &SentenceBatch, epochs: Option<(usize, u64)>) -> Result<(Data, usize)> {
    if pairs.is_empty() {
        return Err(Error::Request("no pair of sentences fits a batch: allow longer ones, or give more text".into()));
    }
    let targets: usize = pairs.iter().map(|p| p.1.len()).sum();
    let mut tokens = Vec::new();
    let mut count = 0;
    for epoch in 0..epochs.map_or(1, |(n, _)| n.max(1)) {
        let mut order: Vec<usize> = (0..pairs.len()).collect();
        if let Some((_, seed)) = epochs {
            let mut g = Random::new(seed, hash("pairs".bytes()) ^ epoch as u64);
            for i in (1..order.len()).rev() {
                order.swap(i, (g.uniform() * (i + 1) as f64) as usize % (i + 1));
            }
        }
        for part in order.chunks(b.sentences) {
            let borrowed: Vec<(&[u32], &[u32])> = part.iter().map(|i| (pairs[*i].0.as_slice(), pairs[*i].1.as_slice())).collect();
            let own = borrowed.iter().map(|p| p.1.len()).sum();
            tokens.extend(b.words(&borrowed, c, if epochs.is_some() { own } else { targets })?);
            count += 1;
        }
    }
    // The window after the last batch: its first word is asked for.
    tokens.push(0);
    let starts = (0..count).map(|i| (i * b.len()) as u32).collect();
    Ok((Data { tokens, starts, examples: None, graph: None }, count))
}
