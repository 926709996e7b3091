//! The progress of a training run, which the device reads and advances: `shaders/common/progress.wgsl` names the same words.

use super::{Access, Variant};
use crate::gpu::Facts;
use crate::plan::{Builder, OpSpec, SlotId};
use crate::reference;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Words of a run's progress.
pub const WORDS: usize = 16;

/// Groups of parameters that have a learning rate and a step counter of their own.
pub const GROUPS: usize = 4;

/// Words of the schedule for one step: for each group the learning rate, `1 / (1 - beta1^t)`, `1 / (1 - beta2^t)`, and 1 where the
/// moments begin anew (t = 1), else 0.
pub const SCHEDULE_WORDS: usize = 4 * GROUPS;

/// What the device knows of a training run.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Progress {
    /// Optimiser steps done.
    pub step: u32,
    /// Batches of this step done.
    pub micro: u32,
    /// Samplings of singular vectors done.
    pub draws: u32,
    /// 0, or 1 + the first gradient segment that was not finite.
    pub fault: u32,
    /// Key of the generator.
    pub seed: u64,
    /// Norm of the last step's gradients.
    pub norm: f32,
    /// What gradients were multiplied by.
    pub clip: f32,
    /// Mean loss of this step's batches so far.
    pub loss: f32,
    /// The loss itself was not finite.
    pub bad_loss: bool,
}

impl Progress {
    /// Its words on the device.
    pub fn words(&self) -> [u32; WORDS] {
        let mut w = [0; WORDS];
        w[..6].copy_from_slice(&[self.step, self.micro, self.draws, self.fault, self.seed as u32, (self.seed >> 32) as u32]);
        w[6..10].copy_from_slice(&[self.norm.to_bits(), self.clip.to_bits(), self.loss.to_bits(), u32::from(self.bad_loss)]);
        w
    }

    /// The progress in the words of the device.
    pub fn from_words(w: &[u32]) -> Self {
        Self {
            step: w[0],
            micro: w[1],
            draws: w[2],
            fault: w[3],
            seed: u64::from(w[4]) | u64::from(w[5]) << 32,
            norm: f32::from_bits(w[6]),
            clip: f32::from_bits(w[7]),
            loss: f32::from_bits(w[8]),
            bad_loss: w[9] != 0,
        }
    }
}

/// Words of a line of the log: loss, norm of the gradients, what they were multiplied by (all f32), and the fault.
pub const LOG_WORDS: usize = 4;

const COUNT: [Access; 3] = [Access::Read, Access::Read, Access::Write];
const END: [Access; 2] = [Access::Write, Access::Write];

fn variant(end: bool) -> Variant {
    let source = include_str!("../../shaders/progress.wgsl");
    let access: &[Access] = if end { &END } else { &COUNT };
    Variant { kernel: "progress", source, defines: vec![("END", i64::from(end)), ("WG", 256), ("SG", 0)], access, subgroup: None }
}

pub(crate) fn variants(_: &Facts) -> Vec<Variant> {
    vec![variant(false), variant(true)]
}

/// Appends the end of a batch: `LOSS += scale sum(losses)`, from 0 where it is the first batch of its step; `BAD_LOSS = 1` where that
/// is not finite; `MICRO += 1`. Whatever reads `MICRO` for this batch (batches, dropout) comes before it.
///
/// `losses` is `(1, rows)`; `scale` is the slot and the word of an f32, in another slot than the progress.
///
/// # Errors
/// [`Error::Shape`] where `losses` is not one row; [`Error::Limit`].
pub fn count_loss(b: &mut Builder, label: &str, losses: &Tensor, scale: (SlotId, usize), progress: SlotId) -> Result<()> {
    if losses.rows != 1 {
        return Err(Error::shape("progress", format!("{label}: losses ({}, {}), which should be one row", losses.rows, losses.cols)));
    }
    let (lw, sw) = (b.view(losses)?, b.window(scale.0, scale.1..scale.1 + 1)?);
    let bindings = vec![lw, sw, b.window(progress, 0..WORDS)?];
    b.push(OpSpec {
        label: label.into(),
        variant: variant(false),
        params: vec![losses.cols as u32, lw.offset, sw.offset, 0],
        bindings,
        grid: [1, 1, 1],
        bytes: 4 * losses.cols as u64,
        flops: losses.cols as u64,
        twin: reference::progress::count_loss(),
    })
}

/// Appends the end of an optimiser step: `log[STEP % log_rows] = (LOSS, NORM, CLIP, FAULT)`, then `STEP += 1` and `MICRO = 0`. After a
/// fault or a loss that is not finite nothing advances any more.
///
/// `log` holds `log_rows` lines of [`LOG_WORDS`].
///
/// # Errors
/// [`Error::Shape`] for a log without lines; [`Error::Plan`] where `log` is smaller; [`Error::Limit`].
pub fn end_step(b: &mut Builder, label: &str, progress: SlotId, log: SlotId, log_rows: usize) -> Result<()> {
    let words = log_rows.checked_mul(LOG_WORDS).filter(|n| (1..=u32::MAX as usize).contains(n));
    let words = words.ok_or_else(|| Error::shape("progress", format!("{label}: a log of {log_rows} lines")))?;
    let bindings = vec![b.window(progress, 0..WORDS)?, b.window(log, 0..words)?];
    b.push(OpSpec {
        label: label.into(),
        variant: variant(true),
        params: vec![log_rows as u32, 0, 0, 0],
        bindings,
        grid: [1, 1, 1],
        bytes: 4 * LOG_WORDS as u64,
        flops: 0,
        twin: reference::progress::end_step(),
    })
}
