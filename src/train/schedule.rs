//! Learning rates and step counters, computed ahead for every step: the device reads them from a table.

use super::layout::Group;
use super::method::{Method, Scope, Sst};
use super::options::Options;
use crate::kernel::progress::{GROUPS, SCHEDULE_WORDS};
use serde::{Deserialize, Serialize};

/// How the learning rate changes over a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// A linear rise, then the same to the end.
    Constant,
    /// A linear rise, then half a cosine down to `floor` times the peak.
    Cosine {
        /// Last learning rate as a fraction of the highest.
        floor: f64,
    },
    /// A linear rise, then falling with the root of the step: `sqrt(warmup / step)` of the peak.
    Noam,
}

impl Schedule {
    /// The factor of the learning rate at a step, counted from 0.
    pub fn factor(self, step: usize, warmup: usize, steps: usize) -> f64 {
        if step < warmup {
            return (step + 1) as f64 / warmup as f64;
        }
        match self {
            Self::Constant => 1.0,
            Self::Cosine { floor } => {
                let done = (step - warmup) as f64 / steps.saturating_sub(warmup).max(1) as f64;
                floor + (1.0 - floor) * 0.5 * (1.0 + (std::f64::consts::PI * done.min(1.0)).cos())
            }
            Self::Noam => (warmup.max(1) as f64 / (step + 1) as f64).sqrt().min(1.0),
        }
    }
}

/// What happens before a step of Sparse Spectral Training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Events {
    /// A round has ended: the factors are decomposed anew.
    pub re_svd: bool,
    /// An iteration begins: other pairs of singular vectors become active.
    pub draw: bool,
    /// Factors are merged into the weight, or projections are made anew.
    pub restart: bool,
}

impl Sst {
    /// Iterations of a round for a model of this width.
    pub fn round(&self, width: usize) -> usize {
        match self.iterations {
            0 => width.div_ceil(self.rank.max(1)).max(1),
            n => n,
        }
    }
}

impl Method {
    /// What happens before a step, for a model of this width.
    pub fn events(&self, step: usize, width: usize) -> Events {
        let due = |every: usize| step > 0 && step.is_multiple_of(every.max(1));
        match self {
            Self::Sst(s) => {
                let draw = step.is_multiple_of(s.steps.max(1));
                let re_svd = s.re_svd && draw && step > 0 && (step / s.steps.max(1)).is_multiple_of(s.round(width));
                Events { re_svd, draw, restart: false }
            }
            Self::Relora { every, .. } => Events { restart: due(*every), ..Events::default() },
            Self::Galore { every, .. } => Events { restart: step == 0 || due(*every), ..Events::default() },
            Self::Full | Self::Lora { .. } => Events::default(),
        }
    }

    /// The step of a group's own counter, from 1, and the factor of its learning rate.
    fn clock(&self, group: Group, step: usize, width: usize) -> (usize, f64) {
        let rise = |since: usize, warmup: usize| ((since + 1) as f64 / warmup.max(1) as f64).min(1.0);
        match self {
            Self::Sst(s) => {
                let since = step % s.steps.max(1);
                let scaled = match s.warmup_scope {
                    Scope::Vectors => group == Group::Vectors,
                    Scope::Spectral => matches!(group, Group::Vectors | Group::Sigma),
                    Scope::All => true,
                };
                let factor = if scaled { rise(since, s.warmup) } else { 1.0 };
                let t = match group {
                    Group::Vectors => since + 1,
                    Group::Sigma if s.sampled_sigma => since + 1,
                    Group::Sigma if s.re_svd && s.reset_sigma => step % s.steps.max(1).saturating_mul(s.round(width)) + 1,
                    _ => step + 1,
                };
                (t, factor)
            }
            Self::Relora { every, warmup, .. } if group == Group::Adapted => {
                let since = step % (*every).max(1);
                // The first rise is the schedule's own.
                (since + 1, if step < *every { 1.0 } else { rise(since, *warmup) })
            }
            _ => (step + 1, 1.0),
        }
    }
}

/// The device's table: for each step and group the learning rate, the two bias corrections, and whether moments begin anew.
pub fn table(o: &Options, width: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(o.steps * SCHEDULE_WORDS);
    for step in 0..o.steps {
        let factor = o.schedule.factor(step, o.warmup, o.steps);
        for group in [Group::Rest, Group::Adapted, Group::Sigma, Group::Vectors] {
            let (t, own) = o.method.clock(group, step, width);
            let lr = if group == Group::Rest { o.rest_rate() } else { o.rate };
            let correction = |beta: f32| 1.0 / (1.0 - f64::from(beta).powi(t as i32));
            let row = [lr * factor * own, correction(o.beta1), correction(o.beta2), f64::from(u8::from(t == 1))];
            out.extend(row.map(|v| v as f32));
        }
    }
    debug_assert_eq!(GROUPS, 4);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_iteration_may_be_longer_than_any_run() {
        let o = Options { method: Method::Sst(Sst { steps: usize::MAX, ..Sst::default() }), steps: 3, ..Options::default() };
        let rows = table(&o, 96);
        assert!(rows.len() == 3 * SCHEDULE_WORDS && rows.iter().all(|v| v.is_finite()));
        assert!(!o.method.events(2, 96).draw && o.method.events(0, 96).draw);
    }
}
