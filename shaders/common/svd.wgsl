// Words of the state of one decomposition: src/kernel/svd.rs names the same.
const STATE: u32 = 16u;
const DONE: u32 = 0u; // 1: the rows are orthogonal, or there is nothing to do
const NULLS: u32 = 1u; // rows that count as zero and have no direction yet
const LARGEST: u32 = 2u; // f32: the largest norm of a row
const CURSOR: u32 = 3u; // the row that is being given a direction; k: none
const PEAK: u32 = 4u; // f32: the largest cosine between two rows that the last sweep met
const FIRST: u32 = 5u; // the same of the first sweep
const SWEEPS: u32 = 6u; // sweeps that turned something
const SCALE_X: u32 = 8u; // f32: what the rows of X were multiplied by when they were loaded, a power of two
const SCALE_Y: u32 = 9u; // the same for Y
const UNSCALE: u32 = 10u; // f32: what makes singular values of that
