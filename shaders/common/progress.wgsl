// Words of a training run's progress: src/kernel/progress.rs writes them, the last dispatch of a step advances them.
const STEP: u32 = 0u; // optimiser steps done
const MICRO: u32 = 1u; // batches of this step done
const DRAWS: u32 = 2u; // samplings of singular vectors done
const FAULT: u32 = 3u; // 0, or 1 + the first gradient segment that was not finite: nothing is updated any more
const SEED: u32 = 4u; // two words
const NORM: u32 = 6u; // f32: norm of the last step's gradients
const CLIP: u32 = 7u; // f32: what gradients are multiplied by
const LOSS: u32 = 8u; // f32: mean loss of this step's batches so far
const BAD_LOSS: u32 = 9u; // 1: the loss itself was not finite
