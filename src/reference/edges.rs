//! Twin of `shaders/edges.wgsl`.

use crate::plan::{Expected, Snapshot, Tolerance, Twin};

/// `2 + 2 <a, b>_L`, and what its error is measured against, `2 + 2 sum_i |a_i b_i|`.
pub fn score(a: &[f64], b: &[f64]) -> (f64, f64) {
    let products: Vec<f64> = a.iter().zip(b).map(|(a, b)| a * b).collect();
    let space: f64 = products[1..].iter().sum();
    (2.0 + 2.0 * (space - products[0]), 2.0 + 2.0 * products.iter().map(|v| v.abs()).sum::<f64>())
}

/// `unit`: words that places of the points count in.
pub(crate) fn twin(unit: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let p: Vec<usize> = s.params()[4..].iter().map(|v| *v as usize).collect();
        let [cols, offset, stride] = [p[0], p[1], p[2]].map(|v| v * unit);
        let point = |node: u32| -> Vec<f64> {
            let at = offset + (node as usize).min(p[3]) * stride;
            s.f32(0)[at..at + cols].iter().map(|v| f64::from(*v)).collect()
        };
        let (mut at, mut want, mut magnitude) = (Vec::new(), Vec::new(), Vec::new());
        for pair in 0..p[8] {
            let (value, size) = score(&point(s.words(1)[p[4] + pair]), &point(s.words(2)[p[5] + pair]));
            at.push(p[6] + pair * p[7]);
            want.push(value);
            magnitude.push(size);
        }
        // Scores of near points are what cancellation left: only the bound on each counts.
        let tolerance = Tolerance { relative_l2: f64::INFINITY, ..Tolerance::sum(cols) };
        vec![Expected::Floats { binding: 3, at, want, magnitude, tolerance }]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_minus_the_squared_distance() {
        // <a - b, a - b>_L of points of the hyperboloid.
        let point = |x: f64, y: f64| [(1.0 + x * x + y * y).sqrt(), x, y];
        let (a, b) = (point(0.3, -1.2), point(2.0, 0.7));
        let d: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
        let squared = -d[0] * d[0] + d[1] * d[1] + d[2] * d[2];
        assert!((score(&a, &b).0 + squared).abs() < 1e-12);
        assert!(score(&a, &a).0.abs() < 1e-12);
        // 2 - 2 cosh of the geodesic distance.
        let line = |t: f64| [t.cosh(), t.sinh()];
        assert!((score(&line(0.4), &line(-1.1)).0 - (2.0 - 2.0 * 1.5f64.cosh())).abs() < 1e-12);
    }
}
