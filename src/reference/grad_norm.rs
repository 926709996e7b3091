//! Twins of `shaders/grad_norm.wgsl` and `shaders/grad_norm_total.wgsl`.

use crate::kernel::progress::Progress;
use crate::plan::{Expected, Snapshot, Tolerance, Twin};
use std::ops::Range;

/// What a workgroup without a bad segment writes for it.
const NONE: f32 = -16_777_216.0;

/// A sum of squares from here on counts as not finite.
const HUGE: f64 = 1e30;

/// For each workgroup its chunks: segment, and words of the binding.
pub(crate) fn sum_twin(works: Vec<Vec<(usize, Range<usize>)>>, partial_offset: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let (mut at, mut want, mut longest) = (Vec::new(), Vec::new(), 0);
        let mut out = Vec::new();
        for (w, work) in works.iter().enumerate() {
            let place = partial_offset + 2 * w;
            let squares: Vec<Vec<f64>> =
                work.iter().map(|(_, r)| s.f32(0)[r.clone()].iter().map(|g| f64::from(*g).powi(2)).collect()).collect();
            // Surely bad: a single element is. Surely good: all together are. What lies between depends on who sums what.
            let first = |bad: &dyn Fn(&[f64]) -> bool| (0..work.len()).filter(|c| bad(&squares[*c])).map(|c| work[c].0).min();
            let surely = first(&|c| c.iter().any(|v| !v.is_finite() || *v > 1.001 * HUGE));
            let perhaps = first(&|c| !c.iter().sum::<f64>().is_finite() || c.iter().sum::<f64>() > 0.999 * HUGE);
            let (sure, maybe) = (surely.map_or(NONE, |n| -(n as f32)), perhaps.map_or(NONE, |n| -(n as f32)));
            let judge = move |words: &[u32]| {
                let got = f32::from_bits(words[place + 1]);
                if got >= sure && got <= maybe { Ok(()) } else { Err(format!("first bad segment {got}, expected {sure} to {maybe}")) }
            };
            out.push(Expected::Choice { binding: 2, at: vec![place + 1], judge: Box::new(judge) });
            if perhaps.is_none() {
                at.push(place);
                want.push(squares.iter().flatten().sum::<f64>());
                longest = longest.max(squares.iter().map(Vec::len).sum());
            } else {
                out.push(Expected::Choice { binding: 2, at: vec![place], judge: Box::new(|_| Ok(())) });
            }
        }
        out.push(Expected::Floats { binding: 2, at, magnitude: want.clone(), want, tolerance: Tolerance::sum(longest) });
        out
    })
}

/// What gradients of this norm are multiplied by.
pub fn clip_factor(norm: f64, clip: Option<f32>) -> f64 {
    clip.map_or(1.0, |c| (f64::from(c) / (norm + 1e-6)).min(1.0))
}

pub(crate) fn total_twin(count: usize, clip: Option<f32>) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let worst = (0..count).map(|i| s.f32(0)[2 * i + 1]).fold(NONE, f32::max);
        if worst > NONE {
            let before = Progress::from_words(s.words(1)).fault;
            let fault = if before == 0 { 1 - worst as i32 } else { before as i32 };
            return vec![Expected::Words { binding: 1, at: vec![3, 6, 7], want: vec![fault as u32, f32::INFINITY.to_bits(), 0] }];
        }
        let norm = (0..count).map(|i| f64::from(s.f32(0)[2 * i])).sum::<f64>().sqrt();
        let want = vec![norm, clip_factor(norm, clip)];
        vec![Expected::Floats { binding: 1, at: vec![6, 7], magnitude: want.clone(), want, tolerance: Tolerance::sum(count) }]
    })
}
