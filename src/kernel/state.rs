//! The state of a sequence, which the device reads and advances: `shaders/common/state.wgsl` names the same words.

/// Words of a sequence's state.
pub const WORDS: usize = 32;

/// Most stop tokens of a sequence.
pub const MAX_STOPS: usize = 20;

/// Word of [`State::length`], for reading one value back.
pub const LENGTH: usize = 0;
/// Word of [`State::active`].
pub const ACTIVE: usize = 2;
/// Word of the number of tokens written to the output ring.
pub const PRODUCED: usize = 10;

/// What the device knows of a sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// Tokens in the cache before the run.
    pub length: u32,
    /// Valid new tokens of the run.
    pub count: u32,
    /// False: nothing of the sequence changes.
    pub active: bool,
    /// Counter of the generator.
    pub step: u32,
    /// Key of the generator.
    pub seed: u64,
    /// 0 is greedy.
    pub temperature: f32,
    /// Keep the `top_k` most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the fewest tokens that hold this much probability.
    pub top_p: f32,
    /// Keep tokens at least this likely relative to the likeliest.
    pub min_p: f32,
    /// Tokens written to the output ring so far.
    pub produced: u32,
    /// Tokens that end the sequence.
    pub stops: Vec<u32>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            length: 0,
            count: 0,
            active: true,
            step: 0,
            seed: 0,
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            produced: 0,
            stops: Vec::new(),
        }
    }
}

impl State {
    /// Its words on the device; stop tokens beyond [`MAX_STOPS`] are left out.
    pub fn words(&self) -> [u32; WORDS] {
        let mut w = [0; WORDS];
        let stops = self.stops.len().min(MAX_STOPS);
        w[..12].copy_from_slice(&[
            self.length,
            self.count,
            u32::from(self.active),
            self.step,
            self.seed as u32,
            (self.seed >> 32) as u32,
            self.temperature.to_bits(),
            self.top_k,
            self.top_p.to_bits(),
            self.min_p.to_bits(),
            self.produced,
            stops as u32,
        ]);
        w[12..12 + stops].copy_from_slice(&self.stops[..stops]);
        w
    }

    /// The state in the words of the device.
    pub fn from_words(w: &[u32]) -> Self {
        Self {
            length: w[0],
            count: w[1],
            active: w[2] != 0,
            step: w[3],
            seed: u64::from(w[4]) | u64::from(w[5]) << 32,
            temperature: f32::from_bits(w[6]),
            top_k: w[7],
            top_p: f32::from_bits(w[8]),
            min_p: f32::from_bits(w[9]),
            produced: w[10],
            stops: w[12..12 + (w[11] as usize).min(MAX_STOPS)].to_vec(),
        }
    }
}
