//! Twin of `shaders/adam.wgsl`.

use crate::kernel::adam::{Adam, After, Rule, Segment, Update};
use crate::kernel::progress::{GROUPS, Progress};
use crate::plan::{Expected, Snapshot, Tolerance, Twin};
use std::ops::Range;

/// A row of the schedule for one group.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Learning rate.
    pub lr: f64,
    /// `1 / (1 - beta1^t)`.
    pub c1: f64,
    /// `1 / (1 - beta2^t)`.
    pub c2: f64,
    /// The moments count as 0 before this step.
    pub fresh: bool,
}

/// Moments after a gradient.
pub fn moments(a: &Adam, r: &Rate, g: f64, m: f64, v: f64) -> (f64, f64) {
    let (beta1, beta2) = (f64::from(a.beta1), f64::from(a.beta2));
    let (m, v) = if r.fresh { (0.0, 0.0) } else { (m, v) };
    (beta1 * m + (1.0 - beta1) * g, beta2 * v + (1.0 - beta2) * g * g)
}

/// The direction that moments give.
pub fn direction(a: &Adam, r: &Rate, m: f64, v: f64) -> f64 {
    m * r.c1 / ((v * r.c2).sqrt() + f64::from(a.epsilon))
}

/// A value after a step along `d`.
pub fn step(update: Update, r: &Rate, decay: f64, p: f64, d: f64) -> f64 {
    match update {
        Update::Step => r.lr * d,
        Update::Lorentz { .. } => p,
        Update::Clamped | Update::Rows { after: After::Clamp, .. } => (p * (1.0 - r.lr * decay) - r.lr * d).max(0.0),
        Update::Dense | Update::Rows { .. } | Update::Unit { .. } => p * (1.0 - r.lr * decay) - r.lr * d,
    }
}

/// Values of one kind with the places that they belong at.
#[derive(Default)]
struct List {
    at: Vec<usize>,
    want: Vec<f64>,
    magnitude: Vec<f64>,
}

impl List {
    fn push(&mut self, at: usize, want: f64, magnitude: f64) {
        self.at.push(at);
        self.want.push(want);
        self.magnitude.push(magnitude);
    }

    fn expected(self, binding: usize, tolerance: Tolerance) -> Expected {
        Expected::Floats { binding, at: self.at, want: self.want, magnitude: self.magnitude, tolerance }
    }
}

/// Divides by their norm what `row` has of the list.
fn normalise(list: &mut List, row: Range<usize>) {
    let squares: f64 = list.want[row.clone()].iter().map(|v| v * v).sum();
    // Squares below the smallest normal f32 sum to 0 on a device.
    if squares > 2f64.powi(-126) {
        let norm = squares.sqrt();
        row.for_each(|i| {
            list.want[i] /= norm;
            list.magnitude[i] /= norm;
        });
    }
}

/// `parts`: segments and words of their gradients.
pub(crate) fn twin(rule: Rule, parts: Vec<(Segment, Range<usize>)>, steps: usize, value_base: usize, gradient_base: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let progress = Progress::from_words(s.words(4));
        if progress.fault != 0 || progress.bad_loss {
            return Vec::new();
        }
        let row = GROUPS * (progress.step as usize).min(steps - 1);
        let mut lists = [List::default(), List::default(), List::default()];
        let mut longest = 0;
        for (segment, words) in parts.iter().filter(|(s, _)| !matches!(s.update, Update::Lorentz { .. })) {
            let [lr, c1, c2, fresh] = [0, 1, 2, 3].map(|i| f64::from(s.f32(3)[4 * (row + segment.group) + i]));
            let rate = Rate { lr, c1, c2, fresh: fresh != 0.0 };
            let decay = f64::from(segment.weight_decay);
            for w in words.clone() {
                let place = segment.gradient + w - gradient_base;
                let g = f64::from(s.f32(1)[place]) * f64::from(progress.clip);
                let (mut d, mut loud) = (g, g.abs());
                if let Rule::AdamW(a) = rule {
                    let (m0, v0) = (f64::from(s.f32(6)[place]), f64::from(s.f32(7)[place]));
                    let (m, v) = moments(&a, &rate, g, m0, v0);
                    let m_loud = moments(&a, &rate, g.abs(), m0.abs(), v0).0;
                    (d, loud) = (direction(&a, &rate, m, v), direction(&a, &rate, m_loud, v));
                    lists[1].push(place, m, m_loud);
                    lists[2].push(place, v, v);
                }
                if lr == 0.0 && segment.update != Update::Step {
                    continue;
                }
                let value = match segment.update {
                    Update::Rows { indices, cols, .. } => {
                        let index = (s.words(2)[indices + w / cols] as usize).min(segment.len / cols - 1);
                        segment.value + index * cols + w % cols
                    }
                    _ => segment.value + w,
                };
                let p = f64::from(s.f32(0)[value - value_base]);
                let kept = if segment.update == Update::Step { 0.0 } else { p.abs() * (1.0 + (lr * decay).abs()) };
                lists[0].push(value - value_base, step(segment.update, &rate, decay, p, d), kept + (lr * loud).abs());
                if let Update::Rows { cols, after: After::Normalise, .. } | Update::Unit { cols } = segment.update {
                    longest = longest.max(cols);
                    if w % cols == cols - 1 {
                        let end = lists[0].at.len();
                        normalise(&mut lists[0], end - cols..end);
                    }
                }
            }
        }
        // WGSL allows 4.5 ulp to a root and 2.5 to a quotient; with the moments and products a step may be off by 12 ulp. A norm adds
        // another root, a quotient and a sum of squares.
        let values = match longest {
            0 => Tolerance { relative_l2: 1e-6, ulps: 24.0 },
            cols => Tolerance { relative_l2: 3e-6, ulps: 40.0 + cols as f64 / 64.0 },
        };
        let [p, m, v] = lists;
        let mut out = vec![p.expected(0, values)];
        if matches!(rule, Rule::AdamW(_)) {
            out.extend([m.expected(6, Tolerance::elementwise()), v.expected(7, Tolerance::elementwise())]);
        }
        out
    })
}
