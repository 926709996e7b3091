//! The quantised matrix on the host, and the definition of what its codes are worth.

use std::fmt;

use half::f16;

use super::{QuantFormat, Scales};
use crate::error::{Error, Result};

/// Weights in a block of codes.
pub(crate) const BLOCK: usize = 32;

/// The 32 codes of a block, four a word: code `4 j + i` is byte `i` of word `j`.
pub(crate) type Codes = [u32; 8];

/// Bit planes of a code, low bits first: (bits in this plane, bits below it).
const fn planes(bits: u32) -> &'static [(u32, u32)] {
    match bits {
        2 => &[(2, 0)],
        3 => &[(2, 0), (1, 2)],
        4 => &[(4, 0)],
        5 => &[(4, 0), (1, 4)],
        6 => &[(4, 0), (2, 4)],
        8 => &[(8, 0)],
        _ => &[],
    }
}

/// Writes a block of codes as `bits` words of bit planes.
pub(crate) fn put_block(bits: u32, codes: &Codes, out: &mut [u32]) {
    let mut first = 0;
    for &(width, below) in planes(bits) {
        let mask = byte_mask(width);
        let per_word = 8 / width as usize;
        for (j, &four) in codes.iter().enumerate() {
            let shift = width * (j % per_word) as u32;
            let part = ((four >> below) & mask) << shift;
            let word = &mut out[first + j / per_word];
            *word = if shift == 0 { part } else { *word | part };
        }
        first += width as usize;
    }
}

/// Reads what [`put_block`] wrote.
pub(crate) fn get_block(bits: u32, words: &[u32]) -> Codes {
    let mut codes = [0; 8];
    let mut first = 0;
    for &(width, below) in planes(bits) {
        let mask = byte_mask(width);
        let per_word = 8 / width as usize;
        for (j, four) in codes.iter_mut().enumerate() {
            let shift = width * (j % per_word) as u32;
            *four |= ((words[first + j / per_word] >> shift) & mask) << below;
        }
        first += width as usize;
    }
    codes
}

/// The low `width` bits of each byte.
const fn byte_mask(width: u32) -> u32 {
    0x0101_0101 * ((1 << width) - 1)
}

/// A quantised matrix as it lies in device memory; see the [module](super) for the layout.
#[derive(Clone, PartialEq)]
pub struct Packed {
    /// The encoding.
    pub format: QuantFormat,
    /// Rows (outputs of a layer).
    pub rows: usize,
    /// Columns (inputs of a layer).
    pub cols: usize,
    /// The plane of codes.
    pub codes: Vec<u32>,
    /// The plane of scales.
    pub scales: Vec<u32>,
}

impl fmt::Debug for Packed {
    /// Without the planes, which are long.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { format, rows, cols, .. } = self;
        write!(f, "Packed({rows} x {cols}, {format:?}, {} bytes)", self.bytes())
    }
}

/// How the codes of one group become values: `v = scale (q - zero) + min`.
///
/// Kinds without a min have -0.0 there: adding it changes no value, not even a zero's sign.
#[derive(Clone, Copy)]
struct Rule {
    scale: f32,
    zero: f32,
    min: f32,
}

impl Packed {
    /// Packs one code per weight (row by row) with a finished scale plane.
    pub fn pack(format: QuantFormat, rows: usize, cols: usize, codes: &[u8], scales: Vec<u32>) -> Result<Self> {
        let (code_len, scale_len) = plane_lengths(&format, rows, cols)?;
        if rows.checked_mul(cols) != Some(codes.len()) {
            return Err(Error::shape("pack", format!("{} codes for {rows} x {cols} weights", codes.len())));
        }
        if scales.len() != scale_len {
            return Err(Error::shape("pack", format!("{} words of scales where {format:?} needs {scale_len}", scales.len())));
        }
        if let Some(at) = codes.iter().position(|&q| u32::from(q) >> format.bits != 0) {
            return Err(Error::shape("pack", format!("code {} of weight {at} does not fit {} bits", codes[at], format.bits)));
        }
        let mut packed = vec![0; code_len];
        let bits = format.bits as usize;
        for (row, out) in codes.chunks_exact(cols).zip(packed.chunks_exact_mut(format.code_words(cols))) {
            for (block, out) in row.chunks(BLOCK).zip(out.chunks_exact_mut(bits)) {
                let mut bytes = [0; BLOCK];
                bytes[..block.len()].copy_from_slice(block);
                put_block(format.bits, &codes_from_bytes(&bytes), out);
            }
        }
        Ok(Self { format, rows, cols, codes: packed, scales })
    }

    /// The code of a weight. Panics outside the matrix.
    pub fn code(&self, row: usize, col: usize) -> u32 {
        assert!(row < self.rows && col < self.cols, "({row}, {col}) lies outside {} x {}", self.rows, self.cols);
        let at = row * self.format.code_words(self.cols) + col / BLOCK * self.format.bits as usize;
        let block = get_block(self.format.bits, &self.codes[at..]);
        let element = col % BLOCK;
        (block[element / 4] >> (8 * (element % 4))) & 0xff
    }

    /// Decodes a row in f32, in the order of operations that [`Scales`] states. Panics if `row` is outside the matrix or
    /// `out` is not `cols` long.
    pub fn decode_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.cols, "row {row} of {} x {} into {}", self.rows, self.cols, out.len());
        let words = self.format.code_words(self.cols);
        let codes = &self.codes[row * words..][..words];
        let scales = &self.scales[row * self.format.scale_words(self.cols)..];
        // A half block is the largest unit that lies in one group whatever the group's size.
        const HALF: usize = BLOCK / 2;
        for (half, out) in out.chunks_mut(HALF).enumerate() {
            let block = get_block(self.format.bits, &codes[half / 2 * self.format.bits as usize..]);
            let group = if self.format.per_tensor { 0 } else { half * HALF / self.format.group as usize };
            let rule = self.rule(scales, group);
            for (i, v) in out.iter_mut().enumerate() {
                let element = half % 2 * HALF + i;
                let q = (block[element / 4] >> (8 * (element % 4))) & 0xff;
                *v = match &self.format.table {
                    Some(table) => rule.scale * table[q as usize & 15],
                    None => rule.scale * (q as f32 - rule.zero) + rule.min,
                };
            }
        }
    }

    /// Decodes the whole matrix.
    pub fn decode(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.cols];
        for (row, out) in out.chunks_exact_mut(self.cols).enumerate() {
            self.decode_row(row, out);
        }
        out
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        4 * (self.codes.len() + self.scales.len())
    }

    /// The first row with a scale or min that is NaN or infinite.
    pub fn non_finite_row(&self) -> Option<usize> {
        let bad = |group: usize, scales: &[u32]| {
            let rule = self.rule(scales, group);
            !(rule.scale.is_finite() && rule.min.is_finite())
        };
        if self.format.per_tensor {
            return bad(0, &self.scales).then_some(0);
        }
        let groups = self.cols.div_ceil(self.format.group as usize);
        self.scales.chunks_exact(self.format.scale_words(self.cols)).position(|row| (0..groups).any(|g| bad(g, row)))
    }

    /// The rule of group `g` of the row whose scales begin at `scales[0]`.
    fn rule(&self, scales: &[u32], g: usize) -> Rule {
        let low = |word: u32| f16::from_bits(word as u16).to_f32();
        let high = |word: u32| f16::from_bits((word >> 16) as u16).to_f32();
        let zeroed = |scale, zero| Rule { scale, zero, min: -0.0 };
        let with_min = |scale, min| Rule { scale, zero: 0.0, min };
        match self.format.scales {
            Scales::F16 { zero } => {
                let word = scales[g / 2];
                zeroed(if g.is_multiple_of(2) { low(word) } else { high(word) }, f32::from(zero))
            }
            Scales::F32 { zero } => zeroed(f32::from_bits(scales[g]), f32::from(zero)),
            Scales::F16Min => with_min(low(scales[g]), high(scales[g])),
            Scales::F32Min => with_min(f32::from_bits(scales[2 * g]), f32::from_bits(scales[2 * g + 1])),
            Scales::F16Zero => zeroed(low(scales[g]), (scales[g] >> 16) as f32),
            Scales::F32Zero => zeroed(f32::from_bits(scales[2 * g]), scales[2 * g + 1] as f32),
            Scales::K2 => {
                let words = &scales[g / 16 * 5..][..5];
                let byte = byte(words, g % 16);
                with_min(low(words[4]) * (byte & 15) as f32, -(high(words[4]) * (byte >> 4) as f32))
            }
            Scales::K3 => {
                let words = &scales[g / 16 * 4..][..4];
                let g = g % 16;
                let c = (words[g / 8] >> (4 * (g % 8))) & 15 | ((words[2] >> (2 * g)) & 3) << 4;
                zeroed(low(words[3]) * (c as f32 - 32.0), 4.0)
            }
            Scales::K4 => {
                let words = &scales[g / 8 * 5..][..5];
                let (c, n) = (byte(words, g % 8), byte(words, 8 + g % 8));
                with_min(low(words[4]) * c as f32, -(high(words[4]) * n as f32))
            }
            Scales::K6 => {
                let words = &scales[g / 16 * 5..][..5];
                zeroed(low(words[4]) * f32::from(byte(words, g % 16) as u8 as i8), 32.0)
            }
        }
    }
}

/// Byte `i` of an array of words.
fn byte(words: &[u32], i: usize) -> u32 {
    (words[i / 4] >> (8 * (i % 4))) & 0xff
}

/// Words of a block from one code a byte.
fn codes_from_bytes(bytes: &[u8; BLOCK]) -> Codes {
    let mut codes = [0; 8];
    for (word, four) in codes.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = u32::from_le_bytes([four[0], four[1], four[2], four[3]]);
    }
    codes
}

/// Checks a format and the size of the matrix; words of the planes of codes and scales.
pub(crate) fn plane_lengths(format: &QuantFormat, rows: usize, cols: usize) -> Result<(usize, usize)> {
    let fail = |message: String| Err(Error::shape("quantised matrix", message));
    if rows == 0 || cols == 0 {
        return fail(format!("{rows} x {cols} has no weights"));
    }
    if planes(format.bits).is_empty() {
        return fail(format!("codes of {} bits: 2, 3, 4, 5, 6 and 8 are possible", format.bits));
    }
    if format.group == 0 || !format.group.is_multiple_of(16) {
        return fail(format!("groups of {}: a multiple of 16 is needed", format.group));
    }
    let fixed = match format.scales {
        Scales::K2 => Some((2, 16)),
        Scales::K3 => Some((3, 16)),
        Scales::K4 => Some((format.bits.clamp(4, 5), 32)),
        Scales::K6 => Some((6, 16)),
        _ => None,
    };
    if fixed.is_some_and(|f| f != (format.bits, format.group) || format.per_tensor) {
        return fail(format!("{:?} fixes bits and group, unlike {format:?}", format.scales));
    }
    if format.table.is_some() && !(format.bits == 4 && matches!(format.scales, Scales::F16 { .. } | Scales::F32 { .. })) {
        return fail("a table needs 4 bits and one scale a group".into());
    }
    let codes = rows.checked_mul(format.code_words(cols));
    let scales = if format.per_tensor { Some(format.group_words(1, cols)) } else { rows.checked_mul(format.scale_words(cols)) };
    match (codes, scales) {
        (Some(codes), Some(scales)) if codes.checked_add(scales).is_some_and(|n| n <= usize::MAX / 4) => Ok((codes, scales)),
        _ => fail(format!("{rows} x {cols} is too large")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_round_trip_in_every_width() {
        for bits in [2, 3, 4, 5, 6, 8] {
            let bytes: [u8; BLOCK] = std::array::from_fn(|i| ((i * 37 + 11) as u32 & ((1 << bits) - 1)) as u8);
            let mut words = vec![!0; bits as usize];
            put_block(bits, &codes_from_bytes(&bytes), &mut words);
            assert_eq!(get_block(bits, &words), codes_from_bytes(&bytes), "{bits} bits");
        }
    }
}
