// Words of a sequence's state, 32 a sequence: src/kernel/state.rs writes them.
const LENGTH: u32 = 0u; // tokens in the cache before this run
const COUNT: u32 = 1u; // valid new tokens of this run
const ACTIVE: u32 = 2u; // 0: the sequence has stopped
const STEP: u32 = 3u; // counter of the generator
const SEED: u32 = 4u; // two words
const TEMPERATURE: u32 = 6u; // f32; 0 is greedy
const TOP_K: u32 = 7u; // 0: all
const TOP_P: u32 = 8u; // f32; 1: all
const MIN_P: u32 = 9u; // f32; 0: all
const PRODUCED: u32 = 10u; // tokens written to the output ring so far
const STOPS: u32 = 11u; // number of stop tokens
const STOP: u32 = 12u; // up to 20 of them
