//! Twin of `shaders/hinge.wgsl`.

use crate::plan::{Expected, Judge, Snapshot, Tolerance, Twin};

/// `margin - s[target] + s[c]` for each c.
fn terms(s: &[f64], target: usize, margin: f64) -> Vec<f64> {
    s.iter().map(|v| margin - s[target] + v).collect()
}

/// `(1/n) sum_c max(0, margin - s[target] + s[c])` of n scores; NaN where one is.
pub fn loss(s: &[f64], target: usize, margin: f64) -> f64 {
    let total: f64 = terms(s, target, margin).into_iter().map(|v| if v < 0.0 { 0.0 } else { v }).sum();
    total / s.len() as f64
}

/// The derivatives of [`loss`] by the scores.
pub fn gradient(s: &[f64], target: usize, margin: f64) -> Vec<f64> {
    let mut g: Vec<f64> = terms(s, target, margin).into_iter().map(|v| f64::from(v > 0.0) / s.len() as f64).collect();
    g[target] = 0.0;
    g[target] = -g.iter().sum::<f64>();
    g
}

/// What a row's gradient should be.
struct Row {
    /// Word of its first element.
    at: usize,
    target: usize,
    /// For each column the gradient, or `None` where rounding decides between 0 and `step`.
    want: Vec<Option<f64>>,
    step: f64,
}

impl Row {
    fn judge(&self, got: &[u32]) -> Result<(), String> {
        let got: Vec<f64> = got[self.at..self.at + self.want.len()].iter().map(|w| f64::from(f32::from_bits(*w))).collect();
        // A quotient and a product, 4 ulp.
        let near = |g: f64, want: f64| (g - want).abs() <= 8.0 * 2f64.powi(-24) * want.abs() + 2f64.powi(-126);
        let others: f64 = got.iter().enumerate().filter(|(c, _)| *c != self.target).map(|(_, g)| g).sum();
        for (c, (g, want)) in got.iter().zip(&self.want).enumerate() {
            let fits = match want {
                _ if c == self.target => near(*g, -others),
                Some(want) => near(*g, *want),
                None => near(*g, 0.0) || near(*g, self.step),
            };
            if !fits {
                return Err(format!("column {c} of the row at word {} is {g:e} where {want:?} is expected", self.at));
            }
        }
        Ok(())
    }
}

/// Rows whose target is past the columns have a loss and a gradient of 0.
pub(crate) fn twin(with_gradient: bool) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let p: Vec<usize> = s.params()[4..].iter().map(|v| *v as usize).collect();
        let (cols, rows, margin) = (p[0], p[7], f64::from(f32::from_bits(p[6] as u32)));
        // Two roundings of a term, one an addition, at most 2.5 ulp of the quotient. Terms cancel: the whole has no bound of its own.
        let tolerance = Tolerance { relative_l2: f64::INFINITY, ulps: 8.0 + cols as f64 };
        let (mut at, mut want, mut magnitude) = (Vec::new(), Vec::new(), Vec::new());
        let (mut faults, mut gradients) = (Vec::new(), Vec::new());
        for r in 0..rows {
            let begin = p[1] + r * p[2];
            let x: Vec<f64> = s.f32(0)[begin..begin + cols].iter().map(|v| f64::from(*v)).collect();
            let target = s.words(1)[p[4] + r] as usize;
            let step = if with_gradient { f64::from(s.f32(3)[p[5]]) / cols as f64 } else { 0.0 };
            if target >= cols {
                at.push(p[3] + r);
                want.push(0.0);
                magnitude.push(0.0);
                gradients.push(Row { at: begin, target, want: vec![Some(0.0); cols], step });
                continue;
            }
            let sizes: Vec<f64> = x.iter().map(|v| margin.abs() + x[target].abs() + v.abs()).collect();
            let value = loss(&x, target, margin);
            if value.is_finite() {
                at.push(p[3] + r);
                want.push(value);
                magnitude.push(sizes.iter().sum::<f64>() / cols as f64);
            } else {
                faults.push(p[3] + r);
            }
            // A term this near to 0 may be on either side of it after two roundings in any order.
            let sure = terms(&x, target, margin).into_iter().zip(sizes).map(|(v, size)| v.abs() > 4.0 * 2f64.powi(-24) * size);
            let exact = gradient(&x, target, margin).into_iter().map(|g| g * step * cols as f64);
            gradients.push(Row { at: begin, target, want: exact.zip(sure).map(|(g, sure)| sure.then_some(g)).collect(), step });
        }
        let mut all = vec![Expected::Floats { binding: 2, at, want, magnitude, tolerance }];
        let places = faults.clone();
        let judge: Judge = Box::new(move |got| match faults.iter().find(|a| f32::from_bits(got[**a]).is_finite()) {
            Some(a) => Err(format!("the loss at word {a} is finite, and should not be")),
            None => Ok(()),
        });
        all.push(Expected::Choice { binding: 2, at: places, judge });
        if with_gradient {
            let at = gradients.iter().flat_map(|row| row.at..row.at + cols).collect();
            let judge: Judge = Box::new(move |got| gradients.iter().try_for_each(|row| row.judge(got)));
            all.push(Expected::Choice { binding: 0, at, judge });
        }
        all
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gradient_is_that_of_the_loss() {
        let x: Vec<f64> = (0..7).map(|i| 3.0 * f64::from(i * i % 11) / 11.0 - 1.0).collect();
        for (target, margin) in [(0, 1.0), (6, 0.5), (2, -0.1), (3, 2.0)] {
            for (i, g) in gradient(&x, target, margin).into_iter().enumerate() {
                let at = |h: f64| {
                    let mut x = x.clone();
                    x[i] += h;
                    loss(&x, target, margin)
                };
                // Terms are multiples of 1/110 and, at these margins, none is 0: linear within the step.
                let difference = (at(1e-4) - at(-1e-4)) / 2e-4;
                assert!((g - difference).abs() <= 1e-9, "{i}: {g} and {difference}");
            }
        }
    }

    #[test]
    fn a_row_by_hand() {
        // Terms 1, 3, 0.5, and -1, which counts for nothing.
        let x = [1.0, 3.0, 0.5, -1.0];
        assert_eq!(loss(&x, 0, 1.0), 4.5 / 4.0);
        assert_eq!(gradient(&x, 0, 1.0), [-0.5, 0.25, 0.25, 0.0]);
        assert!(loss(&[0.0, f64::NAN], 0, 1.0).is_nan());
    }
}
