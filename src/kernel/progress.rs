//! The progress of a training run, which the device reads and advances: `shaders/common/progress.wgsl` names the same words.

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
