//! Running a plan on the device and by the CPU twins, dispatch by dispatch.

use super::{Bound, Op};
use crate::gpu::Buffer;
use crate::kernel::Access;
use crate::{Error, Result};
use std::sync::Arc;

/// What a CPU twin sees: the words of each binding as they were before the dispatch.
#[derive(Debug)]
pub struct Snapshot {
    pub(crate) params: Vec<u32>,
    pub(crate) windows: Vec<Vec<u32>>,
}

impl Snapshot {
    /// The words of binding `i` (0 being the first storage binding).
    pub fn words(&self, i: usize) -> &[u32] {
        &self.windows[i]
    }

    /// The same as f32.
    pub fn f32(&self, i: usize) -> &[f32] {
        bytemuck::cast_slice(&self.windows[i])
    }

    /// The uniform words, the four of the origin included.
    pub fn params(&self) -> &[u32] {
        &self.params
    }
}

/// Bounds on the difference from the f64 twin; both must hold.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    /// `||got - want|| / ||want||` over the whole output.
    pub relative_l2: f64,
    /// `|got - want| <= ulps 2^-24 magnitude` for each element.
    pub ulps: f64,
}

impl Tolerance {
    /// Sums of `k` products: 8 + k/64 half-ulps of `sum |a||b|`, and 3e-6 as a whole.
    pub fn sum(k: usize) -> Self {
        Self { relative_l2: 3e-6, ulps: 8.0 + k as f64 / 64.0 }
    }

    /// Elementwise arithmetic: 4 ulp (8 half-ulps) each, and 1e-6 as a whole.
    pub fn elementwise() -> Self {
        Self { relative_l2: 1e-6, ulps: 8.0 }
    }

    /// Elementwise with exp, tanh or erf, which WGSL specifies loosely: 64 ulp each.
    pub fn transcendental() -> Self {
        Self { relative_l2: 3e-6, ulps: 128.0 }
    }
}

/// Judges words of a binding after the dispatch.
pub type Judge = Box<dyn Fn(&[u32]) -> std::result::Result<(), String>>;

/// What a twin expects of one writable binding. Words that nothing is expected of must not change.
pub enum Expected {
    /// Floats near these.
    Floats {
        /// The binding.
        binding: usize,
        /// Words, one for each value.
        at: Vec<usize>,
        /// The f64 results.
        want: Vec<f64>,
        /// What each element's error is measured against (`sum |a||b|`), at least `|want|`.
        magnitude: Vec<f64>,
        /// The kernel's own tolerance.
        tolerance: Tolerance,
    },
    /// Exactly these words.
    Words {
        /// The binding.
        binding: usize,
        /// Words, one for each value.
        at: Vec<usize>,
        /// Their values.
        want: Vec<u32>,
    },
    /// A choice, judged by property, since two right devices may break a tie differently.
    Choice {
        /// The binding.
        binding: usize,
        /// Words that it may write.
        at: Vec<usize>,
        /// The property; sees the whole binding.
        judge: Judge,
    },
}

impl std::fmt::Debug for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Floats { binding, at, .. } => write!(f, "Floats({} of binding {binding})", at.len()),
            Self::Words { binding, at, .. } => write!(f, "Words({} of binding {binding})", at.len()),
            Self::Choice { binding, at, .. } => write!(f, "Choice({} of binding {binding})", at.len()),
        }
    }
}

/// The CPU twin of one op.
#[derive(Clone)]
pub struct Twin(Arc<TwinFn>);

type TwinFn = dyn Fn(&Snapshot) -> Vec<Expected> + Send + Sync;

impl Twin {
    /// Wraps a function of what was bound.
    pub fn new(f: impl Fn(&Snapshot) -> Vec<Expected> + Send + Sync + 'static) -> Self {
        Self(Arc::new(f))
    }
}

impl std::fmt::Debug for Twin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Twin")
    }
}

/// How far one op was from its twin.
#[derive(Debug, Clone)]
pub struct Verified {
    /// Its label.
    pub label: String,
    /// Kernel and variant.
    pub variant: String,
    /// Largest relative L2 difference over its float outputs.
    pub relative_l2: f64,
    /// Largest element error, as a fraction of what is allowed.
    pub worst: f64,
}

impl Bound {
    /// Runs every op on the device and by its CPU twin, on inputs read back from the device just before it, so that
    /// differences do not add up; also checks that nothing else in its writable bindings changed. Transient slots lie in a workspace
    /// of their own meanwhile, external ones in the buffers that were bound.
    ///
    /// # Errors
    /// [`Error::Mismatch`] for the first op that differs; what the device reports.
    pub async fn verify(&self) -> Result<Vec<Verified>> {
        let mut done = Vec::new();
        let bound = self.apart()?;
        for (i, op) in self.plan().ops().iter().enumerate() {
            let before = bound.snapshot(op, false).await?;
            bound.run_op(i)?;
            let after = bound.snapshot(op, true).await?;
            let v = compare(op, &before, &after.windows).map_err(|message| Error::Mismatch {
                plan: self.plan().label().into(),
                index: i,
                dispatch: format!("{}, {}", op.label, op.variant.name()),
                message,
            })?;
            done.push(v);
        }
        Ok(done)
    }

    async fn snapshot(&self, op: &Op, writable_only: bool) -> Result<Snapshot> {
        let mut buffers: Vec<Arc<Buffer>> = Vec::new();
        let mut ranges = Vec::new();
        for (j, b) in op.bindings.iter().enumerate() {
            buffers.push(self.buffer(b.slot)?);
            let skip = writable_only && op.access(j) == Access::Read;
            ranges.push(b.offset..if skip { b.offset } else { b.offset + b.size });
        }
        let wanted: Vec<_> = buffers.iter().map(|b| &**b).zip(ranges).collect();
        let windows = self.context().read_ranges(&wanted)?.words().await?;
        Ok(Snapshot { params: op.params.clone(), windows })
    }
}

fn compare(op: &Op, before: &Snapshot, after: &[Vec<u32>]) -> std::result::Result<Verified, String> {
    let mut v = Verified { label: op.label.clone(), variant: op.variant.name(), relative_l2: 0.0, worst: 0.0 };
    let mut touched: Vec<Vec<bool>> = after.iter().map(|w| vec![false; w.len()]).collect();
    for expected in (op.twin.0)(before) {
        let (binding, at) = match &expected {
            Expected::Floats { binding, at, .. } | Expected::Words { binding, at, .. } | Expected::Choice { binding, at, .. } => {
                (*binding, at)
            }
        };
        let got = &after[binding];
        for a in at {
            *touched[binding].get_mut(*a).ok_or_else(|| format!("the twin writes word {a} of a window of {}", got.len()))? = true;
        }
        match &expected {
            Expected::Floats { want, magnitude, tolerance, .. } => floats(&mut v, got, at, want, magnitude, tolerance)?,
            Expected::Words { want, .. } => {
                if let Some((a, w)) = at.iter().zip(want).find(|(a, w)| got[**a] != **w) {
                    return Err(format!("word {a} is {} where {w} is expected", got[*a]));
                }
            }
            Expected::Choice { judge, .. } => judge(got)?,
        }
    }
    for (j, t) in touched.iter().enumerate().filter(|(j, _)| op.access(*j) == Access::Write) {
        if let Some(a) = (0..t.len()).find(|a| !t[*a] && after[j][*a] != before.windows[j][*a]) {
            return Err(format!(
                "word {a} of binding {} changed from {:#x} to {:#x}, and nothing should have",
                j + 1,
                before.windows[j][a],
                after[j][a]
            ));
        }
    }
    Ok(v)
}

fn floats(v: &mut Verified, got: &[u32], at: &[usize], want: &[f64], magnitude: &[f64], t: &Tolerance) -> std::result::Result<(), String> {
    let (mut error, mut norm) = (0.0, 0.0);
    for ((a, w), m) in at.iter().zip(want).zip(magnitude) {
        let g = f64::from(f32::from_bits(got[*a]));
        let e = (g - w).abs();
        // Below the smallest normal f32 a device may flush to zero.
        let allowed = t.ulps * 2f64.powi(-24) * m.max(w.abs()) + 2f64.powi(-126);
        v.worst = v.worst.max(e / allowed);
        if e.is_nan() || e > allowed {
            return Err(format!("element at word {a} is {g:e} where {w:e} is expected: off by {e:.2e}, allowed {allowed:.2e}"));
        }
        error += e * e;
        norm += w * w;
    }
    let relative = if norm > 0.0 { (error / norm).sqrt() } else { 0.0 };
    v.relative_l2 = v.relative_l2.max(relative);
    if relative > t.relative_l2 {
        return Err(format!("relative L2 {relative:.2e}, allowed {:.2e}", t.relative_l2));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Context;
    use crate::kernel::roof::copy;
    use crate::plan::Builder;

    /// A twin runs between two submissions of `verify`: here one that runs another plan of the context, over its workspace.
    #[test]
    fn another_plan_may_run_meanwhile() {
        let context = pollster::block_on(Context::new(&Default::default())).expect("the tests need an adapter: see README");
        let plan = |value: f32, disturb: Option<Arc<Bound>>| {
            let mut b = Builder::new("copy twice", context.facts());
            let (x, between, y) = (b.external_tensor("x", 1, 64), b.transient("between", 1, 64), b.external_tensor("y", 1, 64));
            copy(&mut b, "in", &x, &between).unwrap();
            copy(&mut b, "out", &between, &y).unwrap();
            if let Some(other) = disturb {
                let twin = b.ops()[0].twin.clone();
                b.ops_mut()[0].twin = Twin::new(move |s| {
                    other.run(1).unwrap();
                    (twin.0)(s)
                });
            }
            let buffers = [context.upload("x", &[value.to_bits(); 64]).unwrap(), context.storage("y", 256).unwrap()];
            let bound = Arc::new(b.finish().unwrap()).bind(&context, &[(x.slot, buffers[0].clone()), (y.slot, buffers[1].clone())]);
            (Arc::new(bound.unwrap()), buffers[1].clone())
        };
        let (other, _) = plan(7.0, None);
        let (bound, y) = plan(1.0, Some(other));
        context.block_on(bound.verify()).unwrap();
        let words = context.block_on(context.read_ranges(&[(&y, 0..256)]).unwrap().words()).unwrap();
        assert_eq!(words[0], [1.0f32.to_bits(); 64]);
    }
}
