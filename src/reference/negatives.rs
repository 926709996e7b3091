//! Twin of `shaders/negatives.wgsl`.

use super::sample::threefry;
use crate::kernel::progress::Progress;
use crate::plan::{Expected, Snapshot, Twin};

const NONE: u32 = u32::MAX;

fn constants(at: &Progress, stream: u32, side: u32) -> Vec<u32> {
    let key = [at.seed as u32, (at.seed >> 32) as u32, 1, 0];
    (0..2).flat_map(|i| threefry([2 * side + i, at.step, at.micro, stream], key)).collect()
}

/// What is added to images of a side, modulo the number of nodes.
pub fn turn(at: &Progress, stream: u32, side: u32) -> u32 {
    let words = constants(at, stream, side);
    words[1] ^ words[7].rotate_left(16)
}

/// The images of `0..2^bits` under the bijection of a side, 0 or 1.
pub fn bijection(at: &Progress, stream: u32, side: u32, bits: u32) -> Vec<u32> {
    let words = constants(at, stream, side);
    let domain = 1u64 << bits;
    let round = |x: u64, c: &[u32]| {
        let y = (x * u64::from(c[0] | 1) + u64::from(c[1])) % domain;
        y ^ (y / (1 << bits.div_ceil(2)))
    };
    (0..domain).map(|x| words.chunks(2).fold(x, round) as u32).collect()
}

/// The smallest power of two that is at least `count` and 4, by its exponent.
pub fn bits(count: usize) -> u32 {
    (2..32).find(|b| 1usize << b >= count).unwrap_or(31)
}

/// Both ends of each of `count` pairs.
pub fn pairs(at: &Progress, stream: u32, nodes: usize, count: usize) -> Vec<(u32, u32)> {
    let side = |side| {
        let turned = move |x| ((u64::from(x) + u64::from(turn(at, stream, side)) % nodes as u64) % nodes as u64) as u32;
        bijection(at, stream, side, bits(count)).into_iter().map(turned)
    };
    side(0).zip(side(1)).take(count).collect()
}

pub(crate) fn draw_twin() -> Twin {
    Twin::new(|s: &Snapshot| {
        let p: Vec<usize> = s.params()[4..].iter().map(|v| *v as usize).collect();
        let (nodes, first, count) = (p[0], p[5], p[6]);
        let drawn = pairs(&Progress::from_words(s.words(0)), p[3] as u32, nodes, p[1] + 1);
        let neighbours = |a: u32| &s.words(2)[s.words(1)[a as usize] as usize..s.words(1)[a as usize + 1] as usize];
        let here = &drawn[first..first + count];
        let target = |&(a, b): &(u32, u32)| if a == b || neighbours(a).contains(&b) { NONE } else { 0 };
        let want = [here.iter().map(|e| e.0).collect(), here.iter().map(|e| e.1).collect(), here.iter().map(target).collect()];
        let expect = |(i, want)| Expected::Words { binding: 3 + i, at: (p[7]..p[7] + count).collect(), want };
        want.into_iter().enumerate().map(expect).collect()
    })
}

/// By the pairs instead of the places: each is put where its two ends have it.
pub(crate) fn incidence_twin() -> Twin {
    Twin::new(|s: &Snapshot| {
        let p: Vec<usize> = s.params()[4..].iter().map(|v| *v as usize).collect();
        let (nodes, count, depth, first, rows) = (p[0], p[4], p[5], p[6], p[7]);
        let mut indices: Vec<u32> = (first..first + rows).flat_map(|n| vec![n as u32; 2 * depth]).collect();
        let mut entries = vec![NONE; indices.len()];
        for side in 0..2 {
            let at = Progress::from_words(s.words(0));
            let images = bijection(&at, p[3] as u32, side, bits(p[1] + 1));
            let turn = turn(&at, p[3] as u32, side) as usize % nodes;
            for pair in (0..count).filter(|pair| s.words(3)[*pair] == 0) {
                let (n, k) = ((images[pair] as usize + turn) % nodes, images[pair] as usize / nodes);
                if (first..first + rows).contains(&n) {
                    let place = (n - first) * 2 * depth + side as usize * depth + k;
                    indices[place] = s.words(if side == 0 { 2 } else { 1 })[pair];
                    entries[place] = (pair * p[8] + p[9]) as u32;
                }
            }
        }
        let at: Vec<usize> = (p[10]..p[10] + indices.len()).collect();
        vec![Expected::Words { binding: 4, at: at.clone(), want: indices }, Expected::Words { binding: 5, at, want: entries }]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_occur_equally_often() {
        for bits in 2..13 {
            for step in 0..20 {
                let at = Progress { step, seed: 0x1234_5678_9abc_def0, ..Progress::default() };
                for (side, nodes) in [(0, 1usize), (1, 2), (0, 7), (1, 64), (0, 65), (1, 1 << bits)] {
                    let mut counts = vec![0; nodes];
                    bijection(&at, 3, side, bits).iter().for_each(|x| counts[*x as usize % nodes] += 1);
                    let least = (1 << bits) / nodes;
                    assert!(counts.iter().all(|n| *n == least || *n == (1usize << bits).div_ceil(nodes)), "{bits} {counts:?}");
                }
            }
        }
    }
}
