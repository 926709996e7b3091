//! BLEU (Papineni et al. 2002) as sacreBLEU computes it by default: words split as mteval-v13a splits them, n-grams up to 4, precisions
//! of 0 smoothed exponentially.

use std::collections::HashMap;

/// Longest n-grams.
const ORDER: usize = 4;

/// A corpus' score.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Bleu {
    /// BLEU, 0 to 100.
    pub score: f64,
    /// Precisions of 1- to 4-grams in per cent, smoothed.
    pub precisions: [f64; ORDER],
    /// The penalty of a translation that is too short.
    pub brevity: f64,
    /// Words of the translation.
    pub words: usize,
    /// Words of the references.
    pub reference_words: usize,
}

/// A symbol that always stands alone: ASCII's but for `'`, `,`, `-`, `.`.
fn stands_alone(c: char) -> bool {
    matches!(c, '{'..='~' | '['..='`' | ' '..='&' | '('..='+' | ':'..='@' | '/')
}

/// Rewrites pairs of neighbours that a rule matches, from the left and without overlap; what a pair does not match passes.
fn pairs(text: &[char], rule: impl Fn(char, char) -> Option<String>) -> Vec<char> {
    let (mut out, mut i) = (Vec::with_capacity(text.len() + 16), 0);
    while i < text.len() {
        match text.get(i + 1).and_then(|next| rule(text[i], *next)) {
            Some(new) => {
                out.extend(new.chars());
                i += 2;
            }
            None => {
                out.push(text[i]);
                i += 1;
            }
        }
    }
    out
}

/// A line's words.
pub fn words(line: &str) -> Vec<String> {
    let mut text = line.trim_end().replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    if text.contains('&') {
        text = text.replace("&quot;", "\"").replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">");
    }
    let mut chars: Vec<char> = vec![' '];
    for c in text.chars() {
        if stands_alone(c) { chars.extend([' ', c, ' ']) } else { chars.push(c) }
    }
    chars.push(' ');
    let digit = |c: char| c.is_ascii_digit();
    let stop = |c: char| c == '.' || c == ',';
    let chars = pairs(&chars, |a, b| (!digit(a) && stop(b)).then(|| format!("{a} {b} ")));
    let chars = pairs(&chars, |a, b| (stop(a) && !digit(b)).then(|| format!(" {a} {b}")));
    let chars = pairs(&chars, |a, b| (digit(a) && b == '-').then(|| format!("{a} {b} ")));
    chars.into_iter().collect::<String>().split_whitespace().map(str::to_owned).collect()
}

fn grams(words: &[String], n: usize) -> HashMap<&[String], usize> {
    let mut counts = HashMap::new();
    words.windows(n).for_each(|g| *counts.entry(g).or_default() += 1);
    counts
}

/// BLEU of translations against one reference each; lines past the shorter list do not count.
pub fn bleu(translations: &[String], references: &[String]) -> Bleu {
    let (mut right, mut all, mut lengths) = ([0usize; ORDER], [0usize; ORDER], [0usize; 2]);
    for (t, r) in translations.iter().zip(references) {
        let (t, r) = (words(t), words(r));
        lengths = [lengths[0] + t.len(), lengths[1] + r.len()];
        for n in 1..=ORDER {
            let there = grams(&r, n);
            all[n - 1] += t.len().saturating_sub(n - 1);
            right[n - 1] += grams(&t, n).into_iter().map(|(g, count)| count.min(there.get(g).copied().unwrap_or(0))).sum::<usize>();
        }
    }
    let brevity = match lengths {
        [0, _] => 0.0,
        [words, wanted] if words < wanted => (1.0 - wanted as f64 / words as f64).exp(),
        _ => 1.0,
    };
    let (mut precisions, mut smooth) = ([0.0; ORDER], 1.0);
    for n in 0..ORDER {
        if all[n] == 0 {
            break;
        }
        precisions[n] = match right[n] {
            0 => {
                smooth *= 2.0;
                100.0 / (smooth * all[n] as f64)
            }
            hits => 100.0 * hits as f64 / all[n] as f64,
        };
    }
    let nothing = right.iter().all(|n| *n == 0) || precisions.contains(&0.0);
    let mean = precisions.iter().map(|p| p.ln()).sum::<f64>() / ORDER as f64;
    let score = if nothing { 0.0 } else { brevity * mean.exp() };
    Bleu { score, precisions, brevity, words: lengths[0], reference_words: lengths[1] }
}
