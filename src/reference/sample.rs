//! Twin of `shaders/sample.wgsl`.

use crate::kernel::state::{State, WORDS};
use crate::plan::{Expected, Snapshot, Twin};

/// Threefry-4x32-20 (Salmon et al., SC 2011).
pub fn threefry(counter: [u32; 4], key: [u32; 4]) -> [u32; 4] {
    const ROTATIONS: [[u32; 2]; 8] = [[10, 26], [11, 21], [13, 27], [23, 5], [6, 20], [17, 11], [25, 10], [18, 20]];
    let parity = key.iter().fold(0x1BD1_1BDA, |a, k| a ^ k);
    let keys = [key[0], key[1], key[2], key[3], parity];
    let mut x = counter;
    for i in 0..4 {
        x[i] = x[i].wrapping_add(keys[i]);
    }
    for round in 0..20 {
        let [a, b] = ROTATIONS[round % 8];
        // Odd rounds mix 0 with 3 and 2 with 1.
        let (p, q) = if round % 2 == 0 { (1, 3) } else { (3, 1) };
        x[0] = x[0].wrapping_add(x[p]);
        x[p] = x[p].rotate_left(a) ^ x[0];
        x[2] = x[2].wrapping_add(x[q]);
        x[q] = x[q].rotate_left(b) ^ x[2];
        if round % 4 == 3 {
            let n = round / 4 + 1;
            for i in 0..4 {
                x[i] = x[i].wrapping_add(keys[(n + i) % 5]);
            }
            x[3] = x[3].wrapping_add(n as u32);
        }
    }
    x
}

/// A uniform number in (0, 1) from random bits, the same in f32.
pub fn uniform_open(bits: u32) -> f64 {
    (f64::from(bits >> 9) + 0.5) * 2f64.powi(-23)
}

/// The tokens that pass top-k, then top-p, then min-p, at a temperature above 0. `slack` widens (or, negative, narrows) the
/// bounds, so that borderline tokens can be told apart.
pub fn kept(logits: &[f32], s: &State, slack: f64) -> Vec<bool> {
    let t = f64::from(s.temperature);
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
    let top = f64::from(logits[order[0]]);
    let p = |i: usize| ((f64::from(logits[i]) - top) / t).exp();
    let k = if s.top_k == 0 { logits.len() } else { (s.top_k as usize).min(logits.len()) };
    let bound = logits[order[k - 1]];
    let pool: Vec<usize> = order.into_iter().filter(|i| logits[*i] >= bound).collect();
    let total: f64 = pool.iter().map(|i| p(*i)).sum();
    let mut keep = vec![false; logits.len()];
    let (mut held, mut last) = (0.0, f32::NEG_INFINITY);
    for i in pool {
        if s.top_p < 1.0 && held >= f64::from(s.top_p) * total * (1.0 + slack) && logits[i] < last {
            break;
        }
        held += p(i);
        last = logits[i];
        keep[i] = p(i) >= f64::from(s.min_p) * (1.0 - slack);
    }
    keep
}

/// The score of a token: the largest wins.
pub fn score(logit: f32, token: usize, s: &State) -> f64 {
    let bits = threefry([token as u32, s.step, 0, 0], [s.seed as u32, (s.seed >> 32) as u32, 0, 0]);
    f64::from(logit) / f64::from(s.temperature) - (-uniform_open(bits[0]).ln()).ln()
}

/// Whether `token` is a right choice: the largest logit exactly where greedy; else kept, and no token that is surely kept scores
/// clearly better.
pub fn judge(logits: &[f32], s: &State, token: usize) -> Result<(), String> {
    if token >= logits.len() {
        return Err(format!("token {token} of a vocabulary of {}", logits.len()));
    }
    if s.temperature <= 0.0 {
        let first = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let want = logits.iter().position(|l| *l == first).unwrap_or(0);
        return if token == want { Ok(()) } else { Err(format!("token {token} where {want} has the largest logit")) };
    }
    // A sum of many exponentials in f32 may be off by some 1e-5.
    if !kept(logits, s, 1e-4)[token] {
        return Err(format!("token {token} should have been filtered out"));
    }
    let mine = score(logits[token], token, s);
    let sure = kept(logits, s, -1e-4);
    let better = (0..logits.len()).find(|i| sure[*i] && score(logits[*i], *i, s) > mine + 1e-4 * (1.0 + mine.abs()));
    better.map_or(Ok(()), |i| Err(format!("token {token} where {i} scores better")))
}

pub(crate) fn twin(sequences: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let p: Vec<usize> = s.params()[4..].iter().map(|v| *v as usize).collect();
        let (vocabulary, ring) = (p[0], p[3]);
        let mut out = Vec::new();
        for q in 0..sequences {
            let words = &s.words(1)[q * WORDS..][..WORDS];
            let state = State::from_words(words);
            if !state.active {
                continue;
            }
            let logits = s.f32(0)[p[1] + q * p[2]..][..vocabulary].to_vec();
            let cell = q * ring + state.produced as usize % ring;
            let before = state.clone();
            out.push(Expected::Choice { binding: 3, at: vec![cell], judge: Box::new(move |w| judge(&logits, &before, w[cell] as usize)) });
            // Which token it is decides whether the sequence stops: word 2 is judged by property.
            out.push(Expected::Choice {
                binding: 2,
                at: vec![q],
                judge: Box::new(move |w| if (w[q] as usize) < vocabulary { Ok(()) } else { Err("next token".into()) }),
            });
            let at = q * WORDS;
            let want = [(at, state.length + state.count), (at + 1, 1), (at + 3, state.step + 1), (at + 10, state.produced + 1)];
            out.push(Expected::Words { binding: 1, at: want.iter().map(|w| w.0).collect(), want: want.iter().map(|w| w.1).collect() });
            out.push(Expected::Choice {
                binding: 1,
                at: vec![at + 2],
                judge: Box::new(move |w| if w[at + 2] <= 1 { Ok(()) } else { Err("active flag".into()) }),
            });
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threefry_matches_the_published_vectors() {
        // Known answers of the Random123 distribution for threefry4x32, 20 rounds.
        assert_eq!(threefry([0; 4], [0; 4]), [0x9c6c_a96a, 0xe17e_ae66, 0xfc10_ecd4, 0x5256_a7d8]);
        assert_eq!(threefry([u32::MAX; 4], [u32::MAX; 4]), [0x2a88_1696, 0x5701_2287, 0xf6c7_446e, 0xa16a_6732]);
    }
}
