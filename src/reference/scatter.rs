//! Twin of `shaders/scatter.wgsl`.

use crate::plan::{Expected, Snapshot, Tolerance, Twin};
use std::collections::BTreeMap;

const NONE: u32 = u32::MAX;

/// `dw[id(r)] += dy[r]`, the gradient of a lookup `y[r] = w[id(r)]`; rows of `cols` elements.
pub fn backward(ids: &[usize], dy: &[f64], dw: &mut [f64], cols: usize) {
    for (id, row) in ids.iter().zip(dy.chunks(cols)) {
        dw[id * cols..][..cols].iter_mut().zip(row).for_each(|(w, y)| *w += y);
    }
}

pub(crate) fn ids(by_position: bool) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let p: Vec<usize> = s.params()[4..].iter().map(|v| *v as usize).collect();
        let id = |r: usize| match by_position {
            true => s.words(0)[p[2] + (p[1] + r) / p[3] * 32].wrapping_add(((p[1] + r) % p[3] + p[4]) as u32),
            false => s.words(0)[p[2] + r],
        };
        let mut want: Vec<u32> =
            (0..p[0]).map(|r| id(r).min(p[5] as u32)).map(|id| if id as usize == p[6] { NONE - 1 } else { id }).collect();
        want.resize(p[0].next_multiple_of(4), NONE);
        vec![Expected::Words { binding: 1, at: (0..want.len()).collect(), want }]
    })
}

pub(crate) fn links(rows: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let mut chains: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        s.words(0)[..rows].iter().enumerate().for_each(|(r, id)| chains.entry(*id).or_default().push(r));
        let mut want = vec![NONE; 2 * rows];
        for (id, rows) in chains {
            want[2 * rows[0]] = id;
            rows.windows(2).for_each(|pair| want[2 * pair[0] + 1] = pair[1] as u32);
        }
        vec![Expected::Words { binding: 1, at: (0..want.len()).collect(), want }]
    })
}

/// `unit`: words that columns and places are counted in.
pub(crate) fn add(dy_rows: usize, unit: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let p: Vec<usize> = s.params()[4..].iter().map(|v| *v as usize).collect();
        let [cols, dy_offset, dy_stride, dw_offset, dw_stride] = [p[0], p[1], p[2], p[3], p[4]].map(|v| v * unit);
        let links = s.words(0);
        // The id of every row, from the chains.
        let mut ids: Vec<Option<u32>> = vec![None; dy_rows];
        for r in 0..dy_rows {
            let id = ids[r].unwrap_or(links[2 * r]);
            ids[r] = Some(id);
            if links[2 * r + 1] != NONE {
                ids[links[2 * r + 1] as usize] = Some(id);
            }
        }
        let ids: Vec<usize> = ids.into_iter().flatten().map(|id| id as usize).collect();
        let inside = |id: usize| (p[5]..p[5] + p[6]).contains(&id);
        let mut rows: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        ids.iter().enumerate().filter(|(_, id)| inside(**id)).for_each(|(r, id)| rows.entry(*id).or_default().push(r));
        let longest = rows.values().map(Vec::len).max().unwrap_or(0);
        let (mut at, mut want, mut magnitude) = (Vec::new(), Vec::new(), Vec::new());
        for (id, rows) in rows {
            let begin = dw_offset + (id - p[5]) * dw_stride;
            let take = |words: &[f32], at: usize| words[at..at + cols].iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
            let dy: Vec<f64> = rows.iter().flat_map(|r| take(s.f32(1), dy_offset + r * dy_stride)).collect();
            let mut dw = take(s.f32(2), begin);
            let mut size: Vec<f64> = dw.iter().map(|v| v.abs()).collect();
            backward(&vec![0; rows.len()], &dy, &mut dw, cols);
            backward(&vec![0; rows.len()], &dy.iter().map(|v| v.abs()).collect::<Vec<_>>(), &mut size, cols);
            at.extend(begin..begin + cols);
            want.extend(dw);
            magnitude.extend(size);
        }
        vec![Expected::Floats { binding: 2, at, want, magnitude, tolerance: Tolerance::sum(longest + 1) }]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_gradient_of_a_lookup() {
        let (ids, cols, vocabulary) = ([2, 0, 2, 4, 2], 3, 5);
        let wave = |n: usize, by: f64| (0..n).map(|i| (by * i as f64 + 0.3).sin()).collect::<Vec<f64>>();
        let (w, c) = (wave(vocabulary * cols, 1.1), wave(ids.len() * cols, 2.3));
        // The loss sum_r,i c[r, i] sin(w[id(r), i]) has dy = c cos(y).
        let y = |w: &[f64]| ids.iter().flat_map(|id| w[id * cols..][..cols].to_vec()).collect::<Vec<_>>();
        let loss = |w: &[f64]| y(w).iter().zip(&c).map(|(y, c)| c * y.sin()).sum::<f64>();
        let dy: Vec<f64> = y(&w).iter().zip(&c).map(|(y, c)| c * y.cos()).collect();
        let mut dw = vec![0.0; w.len()];
        backward(&ids, &dy, &mut dw, cols);
        for (i, g) in dw.iter().enumerate() {
            let at = |h: f64| {
                let mut w = w.clone();
                w[i] += h;
                loss(&w)
            };
            let difference = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((g - difference).abs() <= 1e-6 * g.abs().max(1e-3), "{i}: {g} and {difference}");
        }
    }
}
