//! Twin of `shaders/lorentz_adam.wgsl`.

use super::adam::Rate;
use super::lorentz::List;
use crate::hyperbolic::{MAX_NORM, exp, inner, project, transport};
use crate::kernel::adam::Adam;
use crate::kernel::progress::{GROUPS, Progress};
use crate::plan::{Snapshot, Tolerance, Twin};

/// A point with its moments.
#[derive(Debug, Clone)]
pub struct State {
    /// The point.
    pub x: Vec<f64>,
    /// The first moment, tangent at the point.
    pub m: Vec<f64>,
    /// The second moment.
    pub v: f64,
}

/// `sum |a| |b|`.
fn sizes(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a * b).abs()).sum()
}

fn each(a: &[f64], b: &[f64], f: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| f(*a, *b)).collect()
}

/// One step of a point along its gradient, which was clipped. Second: what the errors of the first are measured against, an error of each
/// operation followed to the first order through all that depend on it.
pub fn step(a: &Adam, rate: &Rate, s: &State, g: &[f64]) -> (State, State) {
    let (beta1, beta2, x) = (f64::from(a.beta1), f64::from(a.beta2), &s.x);
    let kept = |v: f64| if rate.fresh { 0.0 } else { v };
    let h: Vec<f64> = g.iter().enumerate().map(|(i, g)| if i == 0 { -g } else { *g }).collect();
    let (along, along_loud) = (inner(x, &h), sizes(x, &h));
    let (r, r_loud) = (each(&h, x, |h, x| h + along * x), each(&h, x, |h, x| h.abs() + along_loud * x.abs()));
    let m = each(&s.m, &r, |m, r| beta1 * kept(m) + (1.0 - beta1) * r);
    let m_loud = each(&s.m, &r_loud, |m, r| beta1 * kept(m).abs() + (1.0 - beta1) * r);
    let v = beta2 * kept(s.v) + (1.0 - beta2) * inner(&r, &r).max(0.0);
    let v_loud = beta2 * kept(s.v) + (1.0 - beta2) * sizes(&r_loud, &r_loud);
    let q = rate.lr * rate.c1 / ((v * rate.c2).sqrt() + f64::from(a.epsilon));
    let moved = project(&exp(x, &m.iter().map(|m| -q * m).collect::<Vec<_>>()));
    let y = if rate.lr == 0.0 { x.clone() } else { moved };
    // Half the relative errors of v and of <m,m>_L are those of their roots.
    let root = if v > 0.0 { 0.5 * v_loud / v } else { 0.0 };
    let (mm, mm_loud) = (inner(&m, &m).max(0.0), sizes(&m_loud, &m_loud));
    let n = q.abs() * mm.sqrt();
    let clamped = n.min(MAX_NORM);
    let cosh = clamped.cosh();
    let ratio = if clamped < 1e-4 { 1.0 } else { clamped.sinh() / clamped };
    // n times the error of n, of which cosh(n) gets sinh(n) / n, and sinh(n) / n at most cosh(n) / 3.
    let nudge = if n > MAX_NORM { 0.0 } else { q * q * (0.5 * mm_loud + root * mm) };
    let a_loud = cosh * (1.0 + clamped) + ratio * nudge;
    let b = q.abs() * ratio * if n > MAX_NORM { MAX_NORM / n } else { 1.0 };
    let b_loud = match n > MAX_NORM {
        true => b * (1.0 + clamped + 0.5 * mm_loud / mm),
        false => b * (1.0 + clamped + root) + q.abs() * cosh / 3.0 * nudge,
    };
    let mut y_loud = each(&each(x, &m, |x, m| a_loud * x.abs() + b_loud * m.abs()), &m_loud, |y, m| y + b * m);
    y_loud[0] = y[0] + sizes(&y[1..], &y_loud[1..]) / y[0];
    if rate.lr == 0.0 {
        return (State { x: y, m, v }, State { x: y_loud, m: m_loud, v: v_loud });
    }
    let (top, under) = (inner(&y, &m), 1.0 - inner(x, &y));
    let turn_loud = (sizes(&y, &m_loud) + sizes(&y_loud, &m)) / under + top.abs() * (1.0 + sizes(x, &y_loud)) / (under * under);
    let path = each(x, &y, |x, y| turn_loud * (x.abs() + y.abs()));
    let path = each(&path, &each(x, &y_loud, |x, y| x.abs() + y), |p, xy| p + (top / under).abs() * xy);
    let new = State { m: transport(x, &y, &m), x: y, v };
    (new, State { x: y_loud, m: each(&m_loud, &path, |m, p| m + p), v: v_loud })
}

/// `unit`: words that the parameters count in.
pub(crate) fn twin(a: Adam, rows: usize, cols: usize, unit: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let p = &s.params()[4..];
        let [value, gradient, first, second] = [2, 3, 4, 5].map(|i| p[i] as usize * unit);
        let progress = Progress::from_words(s.words(3));
        if progress.fault != 0 || progress.bad_loss {
            return Vec::new();
        }
        let row = GROUPS * (progress.step as usize).min(p[7] as usize - 1) + p[6] as usize;
        let [lr, c1, c2, fresh] = [0, 1, 2, 3].map(|i| f64::from(s.f32(2)[4 * row + i]));
        let rate = Rate { lr, c1, c2, fresh: fresh != 0.0 };
        let mut lists = [List::default(), List::default(), List::default()];
        for r in 0..rows {
            let place = |at: usize| at + r * cols..at + (r + 1) * cols;
            let take = |binding: usize, at: usize| s.f32(binding)[place(at)].iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
            let g: Vec<f64> = take(1, gradient).iter().map(|g| g * f64::from(progress.clip)).collect();
            let state = State { x: take(0, value), m: take(4, first), v: f64::from(s.f32(5)[second + r * cols]) };
            let (new, loud) = step(&a, &rate, &state, &g);
            let mut push = |list: usize, at: usize, want: Vec<f64>, magnitude: Vec<f64>| {
                lists[list].at.extend(place(at));
                lists[list].judged.extend(want.into_iter().zip(magnitude));
            };
            if lr != 0.0 {
                push(0, value, new.x, loud.x);
            }
            push(1, first, new.m, loud.m);
            push(2, second, vec![new.v; cols], vec![loud.v; cols]);
        }
        // Exponentials, and sums over a row.
        let ulps = Tolerance::transcendental().ulps + Tolerance::sum(cols).ulps;
        let [x, m, v] = lists;
        [(x, 0), (m, 4), (v, 5)].map(|(list, binding)| list.expected(binding, ulps)).into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hyperbolic::{distance, exp0, log0};

    #[test]
    fn a_first_step_goes_by_its_rate_against_the_gradient() {
        let x = exp0(&[0.3, -0.2, 0.9]);
        let target = exp0(&[-0.5, 0.1, 0.4]);
        // Of -2 - 2 <x,y>_L.
        let g: Vec<f64> = target.iter().enumerate().map(|(i, y)| if i == 0 { 2.0 * y } else { -2.0 * y }).collect();
        let a = Adam { epsilon: 0.0, ..Adam::default() };
        let rate = Rate { lr: 0.01, c1: 1.0 / (1.0 - f64::from(a.beta1)), c2: 1.0 / (1.0 - f64::from(a.beta2)), fresh: true };
        let before = State { m: vec![f64::NAN; 4], v: f64::NAN, x };
        let (after, loud) = step(&a, &rate, &before, &g);
        assert!((distance(&before.x, &after.x) - 0.01).abs() < 1e-12);
        assert!((distance(&before.x, &target) - distance(&after.x, &target) - 0.01).abs() < 1e-12, "along the geodesic");
        assert!(inner(&after.x, &after.m).abs() < 1e-12);
        assert!(after.x.iter().zip(&loud.x).chain(after.m.iter().zip(&loud.m)).all(|(v, l)| l >= &v.abs()));
    }

    #[test]
    fn steps_at_the_origin_are_those_of_the_tangent_space() {
        let (a, origin) = (Adam::default(), exp0(&[0.0; 2]));
        let rate = Rate { lr: 0.5, c1: 2.0, c2: 3.0, fresh: false };
        let (after, _) = step(&a, &rate, &State { x: origin, m: vec![0.0, 0.2, -0.4], v: 0.5 }, &[7.0, 1.0, 2.0]);
        // The gradient of the time does not count there.
        let m = [0.2, -0.4].iter().zip([1.0, 2.0]).map(|(m, g)| f64::from(a.beta1) * m + (1.0 - f64::from(a.beta1)) * g);
        let v = f64::from(a.beta2) * 0.5 + (1.0 - f64::from(a.beta2)) * 5.0;
        let want: Vec<f64> = m.map(|m| -0.5 * 2.0 * m / ((3.0 * v).sqrt() + f64::from(a.epsilon))).collect();
        assert!(log0(&after.x).iter().zip(&want).all(|(got, want)| (got - want).abs() < 1e-12) && (after.v - v).abs() < 1e-15);
    }
}
