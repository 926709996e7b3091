//! Beam search: the likeliest translations, by the sum of their tokens' log-probabilities over a power of their length.

use crate::Result;
use crate::train::Translating;

/// How translations are searched.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Search {
    /// Prefixes that are kept; 1 is greedy.
    pub beams: usize,
    /// A translation of n tokens is worth its log-probability over n to this power.
    pub length_penalty: f32,
}

/// A prefix, or a finished translation.
#[derive(Debug, Clone)]
struct Found {
    tokens: Vec<u32>,
    score: f64,
}

impl Found {
    fn worth(&self, s: &Search) -> f64 {
        self.score / (self.tokens.len().max(1) as f64).powf(s.length_penalty.into())
    }
}

/// What is known of a sentence.
struct Beam {
    live: Vec<Found>,
    done: Vec<Found>,
}

impl Beam {
    fn ended(&self, s: &Search) -> bool {
        self.live.is_empty() || self.done.len() >= s.beams
    }

    /// Lengthens the live prefixes; `rows`: the logits of each.
    fn lengthen(&mut self, rows: &[&[f32]], eos: u32, s: &Search) {
        let mut next: Vec<(f64, usize, u32)> = Vec::new();
        for (i, row) in rows.iter().enumerate() {
            let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let total = row.iter().map(|v| f64::from(v - top).exp()).sum::<f64>().ln() + f64::from(top);
            let mut best: Vec<(f32, u32)> = row.iter().enumerate().map(|(t, v)| (*v, t as u32)).collect();
            // Of each prefix the one that ends and `beams` that go on are enough.
            let keep = (s.beams + 1).min(best.len());
            best.select_nth_unstable_by(keep - 1, |a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            next.extend(best[..keep].iter().map(|(v, t)| (self.live[i].score + f64::from(*v) - total, i, *t)));
        }
        next.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
        let mut live = Vec::new();
        for (rank, (score, i, token)) in next.into_iter().enumerate() {
            if live.len() == s.beams {
                break;
            }
            let mut tokens = self.live[i].tokens.clone();
            tokens.push(token);
            match token == eos {
                // An end counts only where it is among the best.
                true if rank < s.beams => self.done.push(Found { tokens, score }),
                true => {}
                false => live.push(Found { tokens, score }),
            }
        }
        self.live = live;
    }

    fn best(self, s: &Search) -> Vec<u32> {
        let all = if self.done.is_empty() { self.live } else { self.done };
        all.into_iter().max_by(|a, b| a.worth(s).total_cmp(&b.worth(s))).map_or(Vec::new(), |f| f.tokens)
    }
}

/// Translates sentences, each with the token that ends it; the translations end in it too, unless they became too long.
///
/// # Errors
/// [`crate::Error::Request`] for more beams than there are lanes, or sentences that are too long.
pub async fn translate(t: &mut Translating, sources: &[Vec<u32>], s: &Search) -> Result<Vec<Vec<u32>>> {
    let beams = s.beams.max(1);
    let s = Search { beams, ..*s };
    // Sentences of like lengths go together: a batch takes as long as its longest.
    let mut order: Vec<usize> = (0..sources.len()).collect();
    order.sort_by_key(|i| sources[*i].len());
    let mut out = vec![Vec::new(); sources.len()];
    for part in order.chunks((t.lanes() / beams).max(1)) {
        t.encode(&part.iter().flat_map(|i| vec![sources[*i].as_slice(); beams]).collect::<Vec<_>>())?;
        let mut all: Vec<Beam> =
            part.iter().map(|_| Beam { live: vec![Found { tokens: Vec::new(), score: 0.0 }], done: Vec::new() }).collect();
        for _ in 0..t.longest() {
            if all.iter().all(|b| b.ended(&s)) {
                break;
            }
            let prefix = |i: usize| all[i / beams].live.get(i % beams).map_or(&[][..], |f| f.tokens.as_slice());
            let logits = t.next(&(0..all.len() * beams).map(prefix).collect::<Vec<_>>()).await?;
            for (i, b) in all.iter_mut().enumerate().filter(|(_, b)| !b.ended(&s)) {
                let rows: Vec<&[f32]> = (0..b.live.len()).map(|k| logits.row(i * beams + k)).collect();
                b.lengthen(&rows, t.eos(), &s);
            }
        }
        for (i, b) in part.iter().zip(all) {
            out[*i] = b.best(&s);
        }
    }
    Ok(out)
}
