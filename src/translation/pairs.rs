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

/// Tokens of sentences that fit one of the shapes of batches, and how many did not.
///
/// # Errors
/// What the tokenizer returns.
pub fn encode(tokenizer: &Tokenizer, pairs: &[(String, String)], c: &MarianConfig, shapes: &[SentenceBatch]) -> Result<(Vec<Pair>, usize)> {
    let one = |text: &str| {
        let mut ids = tokenizer.encode(text, false)?;
        ids.push(c.eos);
        Ok::<_, Error>(ids)
    };
    let all = pairs.iter().map(|(s, t)| Ok((one(s)?, one(t)?))).collect::<Result<Vec<Pair>>>()?;
    let count = all.len();
    let kept: Vec<Pair> = all.into_iter().filter(|p| shape_for(p, shapes, 0).is_some()).collect();
    let left = count - kept.len();
    Ok((kept, left))
}

/// Lengths of batches are multiples of so many tokens: what is not filled is wasted, and each shape has plans of its own.
const LENGTHS: usize = 8;

/// Shapes of batches of about so many tokens of each language, for sentences of at most so many: many short ones, or few long ones.
pub fn shapes_of(tokens: usize, most: usize) -> Vec<SentenceBatch> {
    let of = |length: usize| SentenceBatch { sentences: (tokens / length).max(1), source: length, target: length };
    let most = most.max(1);
    (1..=most.div_ceil(LENGTHS)).map(|i| of((i * LENGTHS).min(most))).collect()
}

/// The first shape that a pair fits, from the one of that number on.
fn shape_for((s, t): &Pair, shapes: &[SentenceBatch], from: usize) -> Option<usize> {
    (from..shapes.len()).find(|i| s.len() <= shapes[*i].source && t.len() <= shapes[*i].target)
}

/// What the loss of a batch's targets is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Divisor {
    /// Its own number of them: of each batch the mean.
    Own,
    /// The number of all batches together.
    All(usize),
}

/// Batches under way: for each shape the sentences that wait for more.
struct Filling<'a> {
    config: &'a MarianConfig,
    shapes: &'a [SentenceBatch],
    waiting: Vec<Vec<&'a Pair>>,
    divisor: Divisor,
    data: Data,
}

impl<'a> Filling<'a> {
    fn new(config: &'a MarianConfig, shapes: &'a [SentenceBatch], divisor: Divisor) -> Self {
        Self { config, shapes, waiting: vec![Vec::new(); shapes.len()], divisor, data: Data::default() }
    }

    fn add(&mut self, pair: &'a Pair) -> Result<()> {
        let Some(shape) = shape_for(pair, self.shapes, 0) else {
            let (s, t) = (pair.0.len(), pair.1.len());
            return Err(Error::Request(format!("a sentence of {s} tokens and its translation of {t}: longer than every batch")));
        };
        self.wait(pair, shape)
    }

    fn wait(&mut self, pair: &'a Pair, shape: usize) -> Result<()> {
        self.waiting[shape].push(pair);
        if self.waiting[shape].len() == self.shapes[shape].sentences { self.close(shape) } else { Ok(()) }
    }

    /// Closes what is under way: sentences that fill no batch of theirs go with longer ones, so that few batches have room left.
    fn close_all(&mut self) -> Result<()> {
        for shape in 0..self.shapes.len() {
            let left = std::mem::take(&mut self.waiting[shape]);
            for pair in left {
                self.wait(pair, shape_for(pair, self.shapes, shape + 1).unwrap_or(shape))?;
            }
            self.close(shape)?;
        }
        Ok(())
    }

    fn close(&mut self, shape: usize) -> Result<()> {
        let pairs: Vec<(&[u32], &[u32])> = self.waiting[shape].drain(..).map(|p| (p.0.as_slice(), p.1.as_slice())).collect();
        if pairs.is_empty() {
            return Ok(());
        }
        let count = match self.divisor {
            Divisor::Own => pairs.iter().map(|p| p.1.len()).sum(),
            Divisor::All(count) => count,
        };
        let words = self.shapes[shape].words(&pairs, self.config, count)?;
        self.data.starts.push(self.data.tokens.len() as u32);
        self.data.shapes.push(shape as u32);
        self.data.tokens.extend(words);
        Ok(())
    }

    fn finish(mut self) -> Result<Data> {
        if self.data.starts.is_empty() {
            return Err(Error::Request("no pair of sentences fits a batch: allow longer ones, or give more text".into()));
        }
        // The window after the last batch: its first word is asked for.
        self.data.tokens.push(0);
        Ok(self.data)
    }
}

/// Batches that have every pair once, the loss of all of their targets counting alike.
///
/// # Errors
/// [`Error::Request`] without a sentence, or with one that fits no shape.
pub fn all_batches(pairs: &[Pair], c: &MarianConfig, shapes: &[SentenceBatch]) -> Result<Data> {
    let mut f = Filling::new(c, shapes, Divisor::All(pairs.iter().map(|p| p.1.len()).sum()));
    pairs.iter().try_for_each(|p| f.add(p))?;
    f.close_all()?;
    f.finish()
}

/// `steps` batches, or as many as fit `words` words (one at least), to be seen again: epoch for epoch all pairs in another random order,
/// each batch of sentences that fit one shape, all full but for an epoch's last.
///
/// # Errors
/// As [`all_batches`].
pub fn drawn_batches(
    pairs: &[Pair],
    c: &MarianConfig,
    shapes: &[SentenceBatch],
    seed: u64,
    (steps, words): (usize, usize),
) -> Result<Data> {
    let mut f = Filling::new(c, shapes, Divisor::Own);
    let largest = shapes.iter().map(SentenceBatch::len).max().unwrap_or(0);
    let enough = |d: &Data| d.starts.len() >= steps.max(1) || !d.starts.is_empty() && d.tokens.len() + largest >= words;
    let mut epoch = 0;
    while !enough(&f.data) && !pairs.is_empty() {
        let mut g = Random::new(seed, hash("pairs".bytes()) ^ epoch);
        let mut order: Vec<&Pair> = pairs.iter().collect();
        for i in (1..order.len()).rev() {
            order.swap(i, (g.uniform() * (i + 1) as f64) as usize % (i + 1));
        }
        for pair in order {
            f.add(pair)?;
            if enough(&f.data) {
                return f.finish();
            }
        }
        f.close_all()?;
        epoch += 1;
    }
    f.finish()
}
