//! The block types of GGML, and their lossless repacking for the device.
//!
//! Within a file a block of 32 (or 256) weights carries its own scales. Here codes and scales go to planes of their own; no
//! value changes. A block of 32 codes is handled as eight words, four codes a word, since nearly every GGML type stores
//! byte `i` of a block in the same place of each bit plane.

use crate::error::{Error, Result};
use crate::quant::packed::{Codes, get_block, plane_lengths, put_block};
use crate::quant::{Packed, QuantFormat, Scales};

/// A GGML tensor type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GgmlType {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// bfloat16.
    Bf16,
    /// 4 bits, a scale per 32.
    Q4_0,
    /// 4 bits, a scale and a min per 32.
    Q4_1,
    /// 5 bits, a scale per 32.
    Q5_0,
    /// 5 bits, a scale and a min per 32.
    Q5_1,
    /// 8 bits, a scale per 32.
    Q8_0,
    /// 2 bits, two-level scales and mins.
    Q2K,
    /// 3 bits, two-level scales.
    Q3K,
    /// 4 bits, two-level scales and mins.
    Q4K,
    /// 5 bits, two-level scales and mins.
    Q5K,
    /// 6 bits, two-level scales.
    Q6K,
    /// 4 bits through a table, a scale per 32.
    Iq4Nl,
    /// Known, but not readable.
    Other {
        /// GGML's name of the type.
        name: &'static str,
        /// Weights in a block.
        block: u32,
        /// Bytes of a block.
        bytes: u32,
    },
}

/// Types that are known by size only: (id, name, weights in a block, bytes of a block).
const OTHERS: [(u32, &str, u32, u32); 22] = [
    (9, "Q8_1", 32, 40),
    (15, "Q8_K", 256, 292),
    (16, "IQ2_XXS", 256, 66),
    (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50),
    (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82),
    (23, "IQ4_XS", 256, 136),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (29, "IQ1_M", 256, 56),
    (34, "TQ1_0", 256, 54),
    (35, "TQ2_0", 256, 66),
    (39, "MXFP4", 32, 17),
    (40, "NVFP4", 64, 36),
    (41, "Q1_0", 128, 18),
    // Removed from GGML; their files must be made anew.
    (4, "Q4_2", 32, 20),
    (5, "Q4_3", 32, 24),
];

/// What the codes of IQ4_NL stand for, in units of the scale.
const IQ4_NL: [f32; 16] = [-127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0];

impl GgmlType {
    /// The type with this number in a file.
    pub fn from_id(id: u32) -> Option<Self> {
        Some(match id {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            10 => Self::Q2K,
            11 => Self::Q3K,
            12 => Self::Q4K,
            13 => Self::Q5K,
            14 => Self::Q6K,
            20 => Self::Iq4Nl,
            30 => Self::Bf16,
            _ => {
                let &(_, name, block, bytes) = OTHERS.iter().find(|t| t.0 == id)?;
                Self::Other { name, block, bytes }
            }
        })
    }

    /// Its number in a file; `None` for one that is known by name only.
    pub fn id(self) -> Option<u32> {
        (0..64).find(|id| Self::from_id(*id) == Some(self)).filter(|_| !matches!(self, Self::Other { .. }))
    }

    /// The type that holds matrices of this format as they are, block after block; `None` where there is none, or it cannot be written.
    pub fn holding(format: &QuantFormat) -> Option<Self> {
        [Self::Q4_0, Self::Q5_0, Self::Q8_0].into_iter().find(|ty| ty.quant_format().as_ref() == Some(format))
    }

    /// GGML's name, weights in a block, bytes of a block.
    const fn facts(self) -> (&'static str, u32, u32) {
        match self {
            Self::F32 => ("F32", 1, 4),
            Self::F16 => ("F16", 1, 2),
            Self::Bf16 => ("BF16", 1, 2),
            Self::Q4_0 => ("Q4_0", 32, 18),
            Self::Q4_1 => ("Q4_1", 32, 20),
            Self::Q5_0 => ("Q5_0", 32, 22),
            Self::Q5_1 => ("Q5_1", 32, 24),
            Self::Q8_0 => ("Q8_0", 32, 34),
            Self::Q2K => ("Q2_K", 256, 84),
            Self::Q3K => ("Q3_K", 256, 110),
            Self::Q4K => ("Q4_K", 256, 144),
            Self::Q5K => ("Q5_K", 256, 176),
            Self::Q6K => ("Q6_K", 256, 210),
            Self::Iq4Nl => ("IQ4_NL", 32, 18),
            Self::Other { name, block, bytes } => (name, block, bytes),
        }
    }

    /// GGML's name of the type.
    pub const fn name(self) -> &'static str {
        self.facts().0
    }

    /// Weights in a block.
    pub const fn block_len(self) -> usize {
        self.facts().1 as usize
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        self.facts().2 as usize
    }

    /// Bytes of `weights` weights; `None` if they are no whole blocks or too many.
    pub fn bytes_of(self, weights: u64) -> Option<u64> {
        let block = self.block_len() as u64;
        if weights.is_multiple_of(block) { (weights / block).checked_mul(self.block_bytes() as u64) } else { None }
    }

    /// The device's encoding of the type; `None` unless it is a quantised type that can be read.
    pub const fn quant_format(self) -> Option<QuantFormat> {
        let (bits, group, scales, table) = match self {
            Self::Q4_0 => (4, 32, Scales::F16 { zero: 8 }, None),
            Self::Q4_1 => (4, 32, Scales::F16Min, None),
            Self::Q5_0 => (5, 32, Scales::F16 { zero: 16 }, None),
            Self::Q5_1 => (5, 32, Scales::F16Min, None),
            Self::Q8_0 => (8, 32, Scales::F16 { zero: 128 }, None),
            Self::Q2K => (2, 16, Scales::K2, None),
            Self::Q3K => (3, 16, Scales::K3, None),
            Self::Q4K => (4, 32, Scales::K4, None),
            Self::Q5K => (5, 32, Scales::K4, None),
            Self::Q6K => (6, 16, Scales::K6, None),
            Self::Iq4Nl => (4, 32, Scales::F16 { zero: 0 }, Some(IQ4_NL)),
            _ => return None,
        };
        Some(QuantFormat { bits, group, scales, table, per_tensor: false })
    }
}

/// Repacks a matrix of a quantised GGML type; its values stay what they are, bit for bit.
///
/// Scales that are NaN or infinite are refused.
pub fn pack(ty: GgmlType, bytes: &[u8], rows: usize, cols: usize) -> Result<Packed> {
    let Some(format) = ty.quant_format() else {
        return Err(Error::Unsupported {
            what: format!("GGML type {}", ty.name()),
            advice: "convert the file to one of F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K, IQ4_NL".into(),
        });
    };
    if !cols.is_multiple_of(ty.block_len()) {
        return Err(Error::shape("GGML blocks", format!("rows of {cols} are no whole blocks of {} ({})", ty.block_len(), ty.name())));
    }
    let row_bytes = cols / ty.block_len() * ty.block_bytes();
    if rows.checked_mul(row_bytes) != Some(bytes.len()) {
        return Err(Error::shape("GGML blocks", format!("{} bytes for {rows} x {cols} weights of {}", bytes.len(), ty.name())));
    }
    let (code_len, scale_len) = plane_lengths(&format, rows, cols)?;
    let mut packed = Packed { format, rows, cols, codes: vec![0; code_len], scales: vec![0; scale_len] };
    let planes = packed.codes.chunks_exact_mut(format.code_words(cols)).zip(packed.scales.chunks_exact_mut(format.scale_words(cols)));
    for (row, (codes, scales)) in bytes.chunks_exact(row_bytes).zip(planes) {
        if ty.block_len() == 32 {
            pack_row_of_32(ty, format.bits, row, codes, scales);
        } else {
            pack_row_of_256(ty, format.bits, row, codes, scales);
        }
    }
    match packed.non_finite_row() {
        None => Ok(packed),
        Some(row) => Err(Error::shape("GGML blocks", format!("a scale in row {row} is NaN or infinite: the file is damaged"))),
    }
}

/// The blocks of a matrix whose format is a type's ([`GgmlType::holding`]): the inverse of [`pack`].
///
/// # Errors
/// [`Error::Unsupported`] for other formats; [`Error::Shape`] where rows are no whole blocks.
pub fn unpack(p: &Packed) -> Result<(GgmlType, Vec<u8>)> {
    let Some(ty) = GgmlType::holding(&p.format) else {
        return Err(Error::Unsupported {
            what: format!("{:?} in a GGUF file", p.format),
            advice: "round to 4, 5 or 8 bits without zero points, in groups of 32".into(),
        });
    };
    if !p.cols.is_multiple_of(ty.block_len()) {
        return Err(Error::shape("GGML blocks", format!("rows of {} are no whole blocks of {}", p.cols, ty.block_len())));
    }
    let bits = p.format.bits as usize;
    let mut out = Vec::with_capacity(p.rows * p.cols / 32 * ty.block_bytes());
    let rows = p.codes.chunks_exact(p.format.code_words(p.cols)).zip(p.scales.chunks_exact(p.format.scale_words(p.cols)));
    for (codes, scales) in rows {
        for (b, block) in codes.chunks_exact(bits).enumerate() {
            let words = get_block(p.format.bits, block);
            let code = |i: usize| (words[i / 4] >> (8 * (i % 4))) as u8;
            out.extend(((scales[b / 2] >> (16 * (b % 2))) as u16).to_le_bytes());
            match ty {
                GgmlType::Q8_0 => out.extend((0..32).map(|i| code(i) ^ 0x80)),
                _ => {
                    if ty == GgmlType::Q5_0 {
                        let high = (0..32).fold(0u32, |h, i| h | u32::from(code(i) >> 4) << i);
                        out.extend(high.to_le_bytes());
                    }
                    out.extend((0..16).map(|i| code(i) & 15 | (code(i + 16) & 15) << 4));
                }
            }
        }
    }
    Ok((ty, out))
}

/// Types with blocks of 32 weights.
fn pack_row_of_32(ty: GgmlType, bits: u32, row: &[u8], codes: &mut [u32], scales: &mut [u32]) {
    let out = codes.chunks_exact_mut(bits as usize);
    for (b, (block, out)) in row.chunks_exact(ty.block_bytes()).zip(out).enumerate() {
        let d = half(block, 0);
        let with_min = matches!(ty, GgmlType::Q4_1 | GgmlType::Q5_1);
        if with_min {
            scales[b] = d | half(block, 2) << 16;
        } else {
            scales[b / 2] |= d << (16 * (b % 2));
        }
        let rest = &block[if with_min { 4 } else { 2 }..];
        let block = match ty {
            GgmlType::Q8_0 => words::<8>(rest, 0).map(|w| w ^ 0x8080_8080), // signed to offset 128
            GgmlType::Q5_0 | GgmlType::Q5_1 => {
                let [high] = words::<1>(rest, 0);
                let mut block = nibbles(words(rest, 4));
                for (j, four) in block.iter_mut().enumerate() {
                    *four |= spread(high >> (4 * j)) << 4;
                }
                block
            }
            _ => nibbles(words(rest, 0)),
        };
        put_block(bits, &block, out);
    }
}

/// The K-quants: super-blocks of 256 weights.
fn pack_row_of_256(ty: GgmlType, bits: u32, row: &[u8], codes: &mut [u32], scales: &mut [u32]) {
    let per_block = if ty == GgmlType::Q3K { 4 } else { 5 };
    let out = codes.chunks_exact_mut(8 * bits as usize).zip(scales.chunks_exact_mut(per_block));
    for (block, (codes, scales)) in row.chunks_exact(ty.block_bytes()).zip(out) {
        match ty {
            GgmlType::Q2K => {
                scales[..4].copy_from_slice(&words::<4>(block, 0));
                scales[4] = half(block, 80) | half(block, 82) << 16;
            }
            GgmlType::Q3K => scales.copy_from_slice(&q3_scales(block)),
            GgmlType::Q6K => {
                scales[..4].copy_from_slice(&words::<4>(block, 192));
                scales[4] = half(block, 208);
            }
            _ => scales.copy_from_slice(&q4_scales(block)),
        }
        for (b, out) in codes.chunks_exact_mut(bits as usize).enumerate() {
            put_block(bits, &k_codes(ty, block, b), out);
        }
    }
}

/// The codes of weights `32 b ..+32` of a K-quant's super-block.
fn k_codes(ty: GgmlType, block: &[u8], b: usize) -> Codes {
    // A plane: eight words from byte `at`, the code's part being `mask` after a shift.
    let plane = |at: usize, shift: usize, mask: u32| words::<8>(block, at).map(|w| (w >> shift) & mask);
    let join = |low: Codes, high: Codes, shift: u32| -> Codes { std::array::from_fn(|j| low[j] | high[j] << shift) };
    let two_bits = |at: usize| plane(at + 32 * (b / 4), 2 * (b % 4), 0x0303_0303);
    match ty {
        GgmlType::Q2K => two_bits(16),
        GgmlType::Q3K => join(two_bits(32), plane(0, b, 0x0101_0101), 2),
        GgmlType::Q4K => plane(16 + 32 * (b / 2), 4 * (b % 2), 0x0f0f_0f0f),
        GgmlType::Q5K => join(plane(48 + 32 * (b / 2), 4 * (b % 2), 0x0f0f_0f0f), plane(16, b, 0x0101_0101), 4),
        // Each half of 128 weights: low nibbles of 64 bytes, then their high nibbles.
        _ => join(plane(64 * (b / 4) + 32 * (b % 2), 4 * (b % 4 / 2), 0x0f0f_0f0f), two_bits(128), 4),
    }
}

/// Scales of Q3_K: sixteen of 6 bits, low nibbles in 8 bytes, high pairs of bits in 4 more.
fn q3_scales(block: &[u8]) -> [u32; 4] {
    let bytes = &block[96..108];
    let mut out = [0, 0, 0, half(block, 108)];
    for g in 0..16 {
        let low = u32::from(bytes[g % 8] >> (4 * (g / 8))) & 15;
        let high = u32::from(bytes[8 + g % 4] >> (2 * (g / 4))) & 3;
        out[g / 8] |= low << (4 * (g % 8));
        out[2] |= high << (2 * g);
    }
    out
}

/// Scales and mins of Q4_K and Q5_K: eight of 6 bits each; the last four are split between the top bits of the first eight
/// bytes and the nibbles of the last four.
fn q4_scales(block: &[u8]) -> [u32; 5] {
    let [first, second, third] = words::<3>(block, 4);
    let top = |word: u32| (word >> 2) & 0x3030_3030;
    [
        first & 0x3f3f_3f3f,
        third & 0x0f0f_0f0f | top(first),
        second & 0x3f3f_3f3f,
        (third >> 4) & 0x0f0f_0f0f | top(second),
        half(block, 0) | half(block, 2) << 16,
    ]
}

/// `N` little-endian words from byte `at`.
fn words<const N: usize>(bytes: &[u8], at: usize) -> [u32; N] {
    let bytes = &bytes[at..at + 4 * N];
    std::array::from_fn(|i| u32::from_le_bytes([bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]]))
}

/// The bits of the f16 at byte `at`.
fn half(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

/// The low nibbles of 16 bytes, then their high nibbles.
fn nibbles(packed: [u32; 4]) -> Codes {
    std::array::from_fn(|j| (packed[j % 4] >> (4 * (j / 4))) & 0x0f0f_0f0f)
}

/// The low four bits, one a byte.
fn spread(bits: u32) -> u32 {
    bits & 1 | (bits & 2) << 7 | (bits & 4) << 14 | (bits & 8) << 21
}
