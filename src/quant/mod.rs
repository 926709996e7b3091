//! Quantised matrices: how codes and scales lie in device memory, and how they turn into values.
//!
//! A matrix of `rows x cols` keeps two planes, `codes` and `scales`, both arrays of `u32`, rows one after another.
//!
//! **Codes.** A row is cut into blocks of 32 weights (the last one padded with code 0); a block of `b`-bit codes takes
//! exactly `b` words, made of bit planes in the order of the table. Codes are unsigned; element `4 j + i` of a block
//! (`j` in 0..8, `i` in 0..4) always lies in byte `i` of a word, so that four of them come out with one mask:
//!
//! | plane | words | element `4 j + i` |
//! |---|---|---|
//! | 8 bits | 8 | word `j`, byte `i` |
//! | 4 bits | 4 | word `j / 2`, byte `i`, bits `4 (j % 2) ..+4` |
//! | 2 bits | 2 | word `j / 4`, byte `i`, bits `2 (j % 4) ..+2` |
//! | 1 bit | 1 | word 0, byte `i`, bit `j` |
//!
//! 2 = \[2\], 3 = \[2, 1\], 4 = \[4\], 5 = \[4, 1\], 6 = \[4, 2\], 8 = \[8\]; the first plane holds the low bits.
//!
//! **Scales.** See [`Scales`]; a group is `group` weights of one row, a multiple of 16; `group >= cols` is a scale per row.

pub mod allocate;
mod dense;
mod kmeans;
pub(crate) mod packed;
mod prune;
pub mod round;
pub mod similarity;

pub use kmeans::kmeans;
pub use packed::Packed;
pub use prune::{matched_sparsity, prune};

/// How the scale plane of a quantised matrix is laid out, and what it means. `q` is a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scales {
    /// `v = s (q - zero)`; one f16 a group, two groups a word (low half first), rows padded to whole words.
    F16 {
        /// The constant zero point.
        zero: u8,
    },
    /// `v = s (q - zero)`; one f32 word a group.
    F32 {
        /// The constant zero point.
        zero: u8,
    },
    /// `v = s q + m`; a word a group: s as f16 in the low half, m as f16 in the high half.
    F16Min,
    /// `v = s q + m`; two words a group: s, m as f32.
    F32Min,
    /// `v = s (q - z)`; a word a group: s as f16 in the low half, z as u16 in the high half.
    F16Zero,
    /// `v = s (q - z)`; two words a group: s as f32, z as u32.
    F32Zero,
    /// Two-level, 2-bit K-quants: groups of 16; 5 words per 256 weights. Words 0..4: byte `g` holds the 4-bit scale `c` (low
    /// nibble) and 4-bit min `n` of group `g`; word 4: d (f16, low half), e (f16, high half). `v = d c q - e n`.
    K2,
    /// Two-level, 3-bit K-quants: groups of 16; 4 words per 256 weights. Words 0..2: nibble `g` holds the low 4 bits of the
    /// 6-bit scale `c` of group `g`; word 2: bits `2 g..+2` its high bits; word 3: d (f16, low half). `v = d (c - 32) (q - 4)`.
    K3,
    /// Two-level, 4- and 5-bit K-quants: groups of 32; 5 words per 256 weights. Words 0..2: byte `g` holds the 6-bit scale `c`;
    /// words 2..4: byte `g` the 6-bit min `n`; word 4: d (f16, low half), e (f16, high half). `v = d c q - e n`.
    K4,
    /// Two-level, 6-bit K-quants: groups of 16; 5 words per 256 weights. Words 0..4: byte `g` holds the signed 8-bit scale `c`;
    /// word 4: d (f16, low half). `v = d c (q - 32)`.
    K6,
}

/// How a quantised matrix is encoded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QuantFormat {
    /// Bits of a code: 2, 3, 4, 5, 6 or 8.
    pub bits: u32,
    /// Weights of a row that share a scale: a multiple of 16. Fixed by the two-level kinds.
    pub group: u32,
    /// The scale plane.
    pub scales: Scales,
    /// `Some`: `v = s table[q]` instead of the affine rule (4 bits and [`Scales::F16`] or [`Scales::F32`] only; `zero` is ignored).
    pub table: Option<[f32; 16]>,
    /// One scale for the whole matrix: the scale plane holds one group, which every row uses.
    pub per_tensor: bool,
}

impl QuantFormat {
    /// Words of codes in a row of `cols` weights.
    pub fn code_words(&self, cols: usize) -> usize {
        cols.div_ceil(32) * self.bits as usize
    }

    /// Words of scales in a row of `cols` weights; 0 for a scale per tensor, whose plane is one group long.
    pub fn scale_words(&self, cols: usize) -> usize {
        if self.per_tensor {
            return 0;
        }
        self.group_words(cols.div_ceil(self.group.max(1) as usize), cols)
    }

    /// Words that `groups` consecutive groups take.
    pub fn group_words(&self, groups: usize, cols: usize) -> usize {
        match self.scales {
            Scales::F16 { .. } => groups.div_ceil(2),
            Scales::F32 { .. } | Scales::F16Min | Scales::F16Zero => groups,
            Scales::F32Min | Scales::F32Zero => 2 * groups,
            Scales::K3 => 4 * cols.div_ceil(256),
            Scales::K2 | Scales::K4 | Scales::K6 => 5 * cols.div_ceil(256),
        }
    }

    /// Bits per weight, scales included, for rows of `cols` weights.
    pub fn bits_per_weight(&self, cols: usize) -> f64 {
        32.0 * (self.code_words(cols) + self.scale_words(cols)) as f64 / cols.max(1) as f64
    }
}
