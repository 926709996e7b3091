//! Twins of `shaders/draw_keys.wgsl` and `shaders/draw.wgsl`.

use super::sample::{threefry, uniform_open};
use crate::kernel::draw::{Law, Layer};
use crate::kernel::progress::Progress;
use crate::plan::{Expected, Snapshot, Tolerance, Twin};
use std::ops::Range;

/// Key of what is drawn after all others.
const LAST: u32 = f32::INFINITY.to_bits();

/// Mark of what was drawn before in a round.
const USED: u32 = 1 << 31;

/// What a singular value counts as.
fn sound(s: f32) -> f64 {
    if s.is_normal() && s > 0.0 { f64::from(s).min(1e30) } else { 0.0 }
}

/// The probability of each index to be drawn first, by a random law (by [`Law::Uniform`] for the others).
pub fn probabilities(sigma: &[f32], law: Law) -> Vec<f64> {
    let k = sigma.len() as f64;
    let sum: f64 = sigma.iter().map(|s| sound(*s)).sum();
    let p = |s: &f32| match law {
        Law::Mixture if sum > 0.0 => 0.5 * (1.0 / k + sound(*s) / sum),
        Law::Sigma if sum > 0.0 => sound(*s) / sum,
        _ => 1.0 / k,
    };
    sigma.iter().map(p).collect()
}

/// The random number of index `i` of a layer.
pub fn variate(p: &Progress, layer: usize, i: usize) -> f64 {
    let bits = threefry([(i / 4) as u32, p.draws, layer as u32, 0x5354], [p.seed as u32, (p.seed >> 32) as u32, 0, 0]);
    uniform_open(bits[i % 4])
}

/// `-log(u) / p` for each index: the smallest ones are drawn.
pub fn keys(p: &[f64], progress: &Progress, layer: usize) -> Vec<f64> {
    p.iter().enumerate().map(|(i, p)| -variate(progress, layer, i).ln() / p).collect()
}

/// The places of the `r` smallest keys, ascending; the first ones of equals.
pub fn smallest(keys: &[u32], r: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..keys.len() as u32).collect();
    order.sort_by_key(|i| (keys[*i as usize], *i));
    order.truncate(r);
    order.sort_unstable();
    order
}

/// First key and first word of the bitmap of each layer.
fn places(layers: &[Layer]) -> Vec<(usize, usize)> {
    let mut at = (0, 0);
    let step = |l: &Layer| {
        let here = at;
        at = (at.0 + l.k, at.1 + l.k.div_ceil(32));
        here
    };
    layers.iter().map(step).collect()
}

pub(crate) fn keys_twin(layers: Vec<Layer>, group: Range<usize>, law: Law, round: Option<usize>, base: usize) -> Twin {
    let places = places(&layers);
    Twin::new(move |s: &Snapshot| {
        let progress = Progress::from_words(s.words(2));
        let anew = round.is_some_and(|draws| (progress.draws as usize).is_multiple_of(draws));
        let (mut at, mut want) = (Vec::new(), Vec::new());
        let (mut exact, mut words) = (Vec::new(), Vec::new());
        let mut cleared = Vec::new();
        for layer in group.clone() {
            let (l, (first, bits)) = (&layers[layer], places[layer]);
            let sigma = &s.f32(0)[l.sigma - base..][..l.k];
            let p = probabilities(sigma, law);
            let random = keys(&p, &progress, layer);
            let start = (u64::from(progress.draws) * l.r as u64 % l.k as u64) as usize;
            cleared.extend(bits..bits + if anew { l.k.div_ceil(32) } else { 0 });
            for i in 0..l.k {
                let used = round.is_some() && !anew && s.words(4)[bits + i / 32] >> (i % 32) & 1 != 0;
                let fixed = match law {
                    Law::Top => Some(LAST - if sound(sigma[i]) > 0.0 { sigma[i].to_bits() } else { 0 }),
                    Law::Sequential => Some(((i + l.k - start) % l.k) as u32),
                    _ if p[i] == 0.0 => Some(LAST),
                    _ => None,
                };
                if let Some(key) = fixed {
                    exact.push(first + i);
                    words.push(if used { key | USED } else { key });
                } else {
                    at.push(first + i);
                    want.push(random[i].min(3e38) * if used { -1.0 } else { 1.0 });
                }
            }
        }
        let magnitude = want.iter().map(|v| v.abs()).collect();
        let mut out = vec![
            Expected::Words { binding: 3, at: exact, want: words },
            Expected::Floats { binding: 3, at, want, magnitude, tolerance: Tolerance::transcendental() },
        ];
        if anew {
            out.push(Expected::Words { binding: 4, want: vec![0; cleared.len()], at: cleared });
        }
        out
    })
}

pub(crate) fn select_twin(layers: Vec<Layer>, round: bool) -> Twin {
    let places = places(&layers);
    Twin::new(move |s: &Snapshot| {
        let (mut at, mut want) = (Vec::new(), Vec::new());
        let mut used = if round { s.words(4).to_vec() } else { Vec::new() };
        for (l, (first, bits)) in layers.iter().zip(&places) {
            let chosen = smallest(&s.words(0)[*first..*first + l.k], l.r);
            at.extend(l.indices..l.indices + l.r);
            if round {
                chosen.iter().for_each(|i| used[bits + *i as usize / 32] |= 1 << (i % 32));
            }
            want.extend(chosen);
        }
        let draws = s.words(2)[2].wrapping_add(1);
        let mut out = vec![Expected::Words { binding: 3, at, want }, Expected::Words { binding: 2, at: vec![2], want: vec![draws] }];
        if round {
            out.push(Expected::Words { binding: 4, at: (0..used.len()).collect(), want: used });
        }
        out
    })
}
