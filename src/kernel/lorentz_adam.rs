//! Riemannian Adam over points of the Lorentz model of hyperbolic space ([`crate::hyperbolic`]).

use super::adam::{Adam, Parameters, Segment, Update, check};
use super::progress::{SCHEDULE_WORDS, WORDS};
use super::{Access, Variant, row_workgroup};
use crate::gpu::Facts;
use crate::plan::{Builder, OpSpec};
use crate::reference;
use crate::{Error, Result};
use std::ops::Range;

/// Most elements of a point that one invocation takes.
const SHORT: usize = 64;

const ACCESS: [Access; 6] = [Access::Write, Access::Read, Access::Read, Access::Read, Access::Write, Access::Write];

fn variant(facts: &Facts, vec4: bool, long: bool) -> Variant {
    let (wg, sg, subgroup) = if long { row_workgroup(facts, "lorentz_adam", 64) } else { (64, 0, None) };
    Variant {
        kernel: "lorentz_adam",
        source: include_str!("../../shaders/lorentz_adam.wgsl"),
        defines: vec![("VEC", i64::from(vec4)), ("LONG", i64::from(long)), ("WG", wg), ("SG", sg)],
        access: &ACCESS,
        subgroup,
    }
}

pub(crate) fn variants(facts: &Facts) -> Vec<Variant> {
    [(false, false), (false, true), (true, false), (true, true)].map(|(vec4, long)| variant(facts, vec4, long)).into()
}

/// Appends one step for each segment of [`Update::Lorentz`], a dispatch each (more where bindings hold only some of its rows); other
/// segments are left to [`adam`](super::adam::adam), which leaves these alone.
///
/// With the row of the schedule for the progress' step, `g' = CLIP g`, J flipping the sign of element 0, and x a row of the values:
///
/// * `h = J g'` and `r = h + <x,h>_L x`, the Riemannian gradient;
/// * `m = beta1 m + (1 - beta1) r` and `v = beta2 v + (1 - beta2) <r,r>_L`, one number a row, which all its words hold;
/// * `y = exp_x(-lr d)` with `d = m c1 / (sqrt(v c2) + epsilon)`, by a step of [`crate::hyperbolic::MAX_NORM`] at most, and with the
///   time `sqrt(1 + |y_s|^2)`;
/// * m becomes its parallel transport from x to y.
///
/// There is no decay. Moments count as 0 where the schedule says `fresh`, whatever they hold. At a learning rate of 0 values keep their
/// bits, and m is not moved. After a fault or a loss that was not finite nothing changes. Source: Becigneul and Ganea 2019,
/// "Riemannian adaptive optimization methods", as Chen et al. 2022, "Fully Hyperbolic Neural Networks", use it.
///
/// # Errors
/// [`Error::Shape`] where segments share words or rows do not fit; [`Error::Limit`] where a row exceeds a binding.
pub fn lorentz_adam(b: &mut Builder, label: &str, p: &Parameters, segments: &[Segment], rule: &Adam) -> Result<()> {
    check(segments)?;
    if p.steps == 0 {
        return Err(Error::shape("lorentz_adam", format!("{label}: a schedule without steps")));
    }
    for s in segments {
        let Update::Lorentz { cols } = s.update else { continue };
        for rows in b.row_chunks(s.len / cols, cols)? {
            one(b, label, p, s, cols, rows, rule)?;
        }
    }
    Ok(())
}

fn one(b: &mut Builder, label: &str, p: &Parameters, s: &Segment, cols: usize, rows: Range<usize>, rule: &Adam) -> Result<()> {
    let words = |start: usize| start + rows.start * cols..start + rows.end * cols;
    let (values, gradients) = (b.window(p.values, words(s.value))?, b.window(p.gradients, words(s.gradient))?);
    let (first, second) = (b.window(p.first, words(s.gradient))?, b.window(p.second, words(s.gradient))?);
    let (schedule, progress) = (b.window(p.schedule, 0..p.steps * SCHEDULE_WORDS)?, b.window(p.progress, 0..WORDS)?);
    let mut places = [cols as u32, values.offset, gradients.offset, first.offset, second.offset];
    let vec4 = places.iter().all(|n| n.is_multiple_of(4));
    let unit = if vec4 { 4 } else { 1 };
    places = places.map(|n| n / unit);
    let rest = |beta: f32| (1.0 - f64::from(beta)) as f32;
    let mut params = vec![rows.len() as u32];
    params.extend(places);
    params.extend([s.group as u32, p.steps as u32]);
    params.extend([rule.beta1, rest(rule.beta1), rule.beta2, rest(rule.beta2), rule.epsilon].map(f32::to_bits));
    params.extend([0; 3]);
    let long = cols > SHORT;
    let elements = (rows.len() * cols) as u64;
    b.push(OpSpec {
        label: format!("{label} {}", s.label),
        variant: variant(b.facts(), vec4, long),
        params,
        bindings: vec![values, gradients, schedule, progress, first, second],
        grid: [if long { rows.len() } else { rows.len().div_ceil(64) } as u32, 1, 1],
        bytes: 28 * elements,
        flops: 40 * elements,
        twin: reference::lorentz_adam::twin(*rule, rows.len(), cols, unit as usize),
    })
}
