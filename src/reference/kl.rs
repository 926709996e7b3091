//! Twin of `shaders/kl.wgsl`.

use crate::plan::{Expected, Snapshot, Tolerance, Twin};

/// `sum P log(P / Q)` of the softmax of two rows of logits: a difference of logarithms, or below 0.5 `log sum P exp(e)`, e being `q - p` less its
/// mean under P, as the difference has 13 digits only beside the logits.
pub fn row(p: &[f64], q: &[f64]) -> f64 {
    let log_sum = |v: &[f64]| {
        let top = v.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        top + v.iter().map(|x| (x - top).exp()).sum::<f64>().ln()
    };
    let (lp, lq) = (log_sum(p), log_sum(q));
    let apart = p.iter().zip(q).map(|(p, q)| (p - lp).exp() * ((p - lp) - (q - lq))).sum::<f64>();
    if apart > 0.5 {
        return apart;
    }
    let weighted = |f: &dyn Fn(f64) -> f64| p.iter().zip(q).map(|(p, q)| (p - lp).exp() * f(q - p)).sum::<f64>();
    let mean = weighted(&|d| d) / weighted(&|_| 1.0);
    weighted(&|d| (d - mean).exp_m1() - (d - mean)).max(0.0).ln_1p()
}

pub(crate) fn twin(rows: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let p: Vec<usize> = s.params()[4..].iter().map(|v| *v as usize).collect();
        let wide = |binding: usize, at: usize| s.f32(binding)[at..][..p[0]].iter().map(|v| f64::from(*v)).collect::<Vec<f64>>();
        let (mut want, mut magnitude) = (Vec::new(), Vec::new());
        for r in 0..rows {
            let (x, y) = (wide(0, p[1] + r * p[2]), wide(1, p[4] + r * p[5]));
            let largest = |v: &mut dyn Iterator<Item = f64>| v.fold(0.0, |m: f64, v| m.max(v.abs()));
            let apart = largest(&mut x.iter().zip(&y).map(|(x, y)| x - y));
            let found = row(&x, &y);
            // The square of what the mean difference is off by in f64 is no divergence.
            let found = if found < 1e-25 * apart * apart { 0.0 } else { found };
            want.push(found);
            // A small one is a sum of its own terms, and of the square of what the mean difference is off by. A large one is a difference
            // of logits.
            magnitude.push(match found > 0.9 {
                true => largest(&mut x.iter().chain(&y).copied()).max(1.0),
                false => found + 1e-6 * apart * apart,
            });
        }
        let at = (0..rows).map(|r| p[3] + r).collect();
        // Exponentials of -10 may be off by 23 ulp, of the weights that count.
        let tolerance = Tolerance { relative_l2: 1e-5, ulps: Tolerance::transcendental().ulps + Tolerance::sum(p[0]).ulps };
        vec![Expected::Floats { binding: 2, at, want, magnitude, tolerance }]
    })
}
