//! Compressed-tensors' `pack-quantized` layout: codes of 1 to 8 bits, densely packed into 32-bit words.
//!
//! A layer NAME of `rows x cols` has, in the place of `NAME.weight`:
//!
//! | tensor | type | shape | |
//! |---|---|---|---|
//! | `NAME.weight_packed` | I32 | `rows x ceil(cols b / 32)` | unsigned codes of b bits as a stream of bits a row, low bits first |
//! | `NAME.weight_scale` | F16, BF16 or F32 | `rows x groups`, or 1 | |
//! | `NAME.weight_zero_point` | I32 | `ceil(rows b / 32) x groups` | zero points as streams down the columns; none: `2^(b-1)` |
//! | with one for the whole matrix | I8 | 1 | the zero point less `2^(b-1)` |
//! | `NAME.weight_shape` | I64 | 2, or 3 | rows, columns; of fewer than 32 columns (an addition of this crate) the width, which words would not tell |
//!
//! Factors of a layer lie band by band, each side of it in this layout too: [`band`].
//!
//! A weight is `scale (code - zero point)`. Since version 0.20 of that project codes may cross words; before, 3-, 5- and 6-bit codes were
//! padded to whole words, which has another number of words and is refused here.

use super::checkpoint::{Checkpoint, Encoding};
use crate::error::{Error, Result};
use crate::quant::{Packed, QuantFormat, Scales};

/// Names of the two sides of a layer's band: pairs of singular vectors of one width (an addition of this crate; no other program reads it).
/// The first is `pairs x inputs`, times the singular values; the second `outputs x pairs`; each is stored as above.
pub fn band(stem: &str, i: usize) -> (String, String) {
    (format!("{stem}.v.{i}.weight"), format!("{stem}.u.{i}.weight"))
}

/// Values of `bits` bits as a stream, low bits first.
pub fn pack_stream(values: impl Iterator<Item = u32>, bits: u32) -> Vec<u32> {
    let (mut words, mut held, mut filled) = (Vec::new(), 0u64, 0);
    for v in values {
        held |= u64::from(v) << filled;
        filled += bits;
        if filled >= 32 {
            words.push(held as u32);
            held >>= 32;
            filled -= 32;
        }
    }
    if filled > 0 {
        words.push(held as u32);
    }
    words
}

/// The first `count` values of a stream of [`pack_stream`].
pub fn unpack_stream(words: &[u32], bits: u32, count: usize) -> impl Iterator<Item = u32> {
    let word = |i: usize| u64::from(words.get(i).copied().unwrap_or(0));
    (0..count).map(move |i| {
        let at = i * bits as usize;
        (((word(at / 32) | word(at / 32 + 1) << 32) >> (at % 32)) & ((1 << bits) - 1)) as u32
    })
}

/// A rounded matrix as this layout stores it.
#[derive(Debug, Clone, PartialEq)]
pub struct Parts {
    /// `rows x ceil(cols b / 32)`.
    pub packed: Vec<u32>,
    /// `rows x groups`: halves, or f32.
    pub scales: ScalePart,
    /// `ceil(rows b / 32) x groups`; the zero point itself where there is one for the whole matrix.
    pub zero_points: Option<Vec<u32>>,
    /// Groups of a row.
    pub groups: usize,
}

/// Scales as they are stored.
#[derive(Debug, Clone, PartialEq)]
pub enum ScalePart {
    /// Halves.
    F16(Vec<u16>),
    /// Single precision.
    F32(Vec<f32>),
}

/// Takes a matrix apart.
///
/// # Errors
/// [`Error::Unsupported`] for formats with a minimum, two levels of scales, or a table, which this layout has not.
pub fn parts(p: &Packed) -> Result<Parts> {
    let f = p.format;
    let unsupported = || Error::Unsupported {
        what: format!("{:?} in compressed-tensors", f.scales),
        advice: "round with plain scales and zero points".into(),
    };
    if f.table.is_some() {
        return Err(unsupported());
    }
    let groups = if f.per_tensor { 1 } else { p.cols.div_ceil(f.group as usize) };
    let places = || (0..if f.per_tensor { 1 } else { p.rows }).flat_map(|r| (0..groups).map(move |g| (r, g)));
    let row = |r: usize| &p.scales[r * f.scale_words(p.cols)..];
    let (scales, zeros): (ScalePart, Option<Vec<u32>>) = match f.scales {
        Scales::F16 { .. } => (ScalePart::F16(places().map(|(r, g)| (row(r)[g / 2] >> (16 * (g % 2))) as u16).collect()), None),
        Scales::F32 { .. } => (ScalePart::F32(places().map(|(r, g)| f32::from_bits(row(r)[g])).collect()), None),
        Scales::F16Zero => {
            (ScalePart::F16(places().map(|(r, g)| row(r)[g] as u16).collect()), Some(places().map(|(r, g)| row(r)[g] >> 16).collect()))
        }
        Scales::F32Zero => (
            ScalePart::F32(places().map(|(r, g)| f32::from_bits(row(r)[2 * g])).collect()),
            Some(places().map(|(r, g)| row(r)[2 * g + 1]).collect()),
        ),
        _ => return Err(unsupported()),
    };
    if let Scales::F16 { zero } | Scales::F32 { zero } = f.scales
        && u32::from(zero) != 1 << (f.bits - 1)
    {
        return Err(unsupported());
    }
    let mut packed = Vec::new();
    for r in 0..p.rows {
        packed.extend(pack_stream((0..p.cols).map(|c| p.code(r, c)), f.bits));
    }
    let zero_points = zeros.map(|z| {
        if f.per_tensor {
            return z;
        }
        let rows = z.len() / groups;
        let columns: Vec<Vec<u32>> = (0..groups).map(|g| pack_stream((0..rows).map(|r| z[r * groups + g]), f.bits)).collect();
        let words = columns.first().map_or(0, Vec::len);
        (0..words).flat_map(|w| columns.iter().map(move |c| c[w])).collect()
    });
    Ok(Parts { packed, scales, zero_points, groups })
}

/// Reads a layer's weight from its parts; `name` ends in `.weight`.
pub(super) fn read(c: &Checkpoint, name: &str, rows: usize, cols: usize) -> Result<Packed> {
    let part = |suffix: &str| format!("{name}_{suffix}");
    let packed = c.tensor(&part("packed"))?;
    let fault = |message: String| c.fail(packed, message);
    let words = ints(c, &part("packed"))?;
    let per_row = words.len() / rows.max(1);
    if packed.shape != [rows, per_row] || per_row == 0 {
        return Err(fault(format!("has shape {:?} where the configuration asks for {rows} rows", packed.shape)));
    }
    let shape = if c.has(&part("shape")) { long(c, &part("shape"))? } else { vec![rows as i64, cols as i64] };
    if !shape.starts_with(&[rows as i64, cols as i64]) {
        return Err(fault(format!("is of {shape:?} weights where the configuration asks for [{rows}, {cols}]")));
    }
    let said = shape.get(2).copied();
    let fits = |b: &u32| (cols * *b as usize).div_ceil(32) == per_row && *b != 7 && said.is_none_or(|s| s == i64::from(*b));
    let mut widths = (2..=8).filter(fits);
    let bits = match (widths.next(), widths.next()) {
        (Some(bits), None) => bits,
        (Some(a), Some(b)) => return Err(fault(format!("{per_row} words for rows of {cols} may be codes of {a} or {b} bits"))),
        _ => {
            let why = "are no codes of 2 to 6 or 8 bits without gaps: save the model anew with compressed-tensors 0.20";
            return Err(fault(format!("{per_row} words for rows of {cols} {why}")));
        }
    };
    let scale = c.tensor(&part("scale"))?;
    let groups = scale.shape.get(1).copied().unwrap_or(1);
    let tensor_wide = scale.elements() == 1;
    if groups == 0 || !cols.is_multiple_of(groups) || (!tensor_wide && scale.elements() != (rows * groups) as u64) {
        return Err(c.fail(scale, format!("has shape {:?}: no groups of equal size in {rows} rows of {cols}", scale.shape)));
    }
    let (values, half) = scales(c, &part("scale"))?;
    let zeros = match c.has(&part("zero_point")) {
        true if tensor_wide => Some(vec![zero_point(c, &part("zero_point"), bits)?]),
        true => Some(zero_points(c, &part("zero_point"), bits, rows, groups)?),
        false => None,
    };
    let size = cols / groups;
    let group = if groups == 1 { size.next_multiple_of(16) } else { size };
    if group % 16 != 0 {
        return Err(c.fail(scale, format!("groups of {size} weights: they must be multiples of 16")));
    }
    let zero = 1u8 << (bits - 1);
    let kind = match (zeros.is_some(), half) {
        (true, true) => Scales::F16Zero,
        (true, false) => Scales::F32Zero,
        (false, true) => Scales::F16 { zero },
        (false, false) => Scales::F32 { zero },
    };
    let format = QuantFormat { bits, group: group as u32, scales: kind, table: None, per_tensor: tensor_wide };
    let mut plane = Vec::new();
    for (r, row) in values.chunks(groups).enumerate() {
        let z = |g: usize| zeros.as_ref().map_or(0, |z| z[r * groups + g]);
        match kind {
            Scales::F16 { .. } => plane.extend(row.chunks(2).map(|p| p[0] | p.get(1).copied().unwrap_or(0) << 16)),
            Scales::F16Zero => plane.extend(row.iter().enumerate().map(|(g, s)| s | z(g) << 16)),
            Scales::F32 { .. } => plane.extend(row),
            _ => plane.extend(row.iter().enumerate().flat_map(|(g, s)| [*s, z(g)])),
        }
    }
    let codes: Vec<u8> = words.chunks(per_row).flat_map(|row| unpack_stream(row, bits, cols).map(|q| q as u8)).collect();
    Packed::pack(format, rows, cols, &codes, plane).map_err(|e| fault(e.to_string()))
}

/// Scales as bits, and whether they are halves; bfloat16 ones become f32.
fn scales(c: &Checkpoint, name: &str) -> Result<(Vec<u32>, bool)> {
    let entry = c.tensor(name)?;
    let bytes = c.bytes(name)?;
    Ok(match entry.encoding {
        Encoding::F16 => (c.halves(entry, &bytes, 0x7c00)?.into_iter().map(u32::from).collect(), true),
        Encoding::Bf16 => (c.halves(entry, &bytes, 0x7f80)?.into_iter().map(|v| u32::from(v) << 16).collect(), false),
        Encoding::F32 => (c.floats(entry, &bytes)?.into_iter().map(f32::to_bits).collect(), false),
        other => return Err(c.fail(entry, format!("has type {other:?} where scales are F16, BF16 or F32"))),
    })
}

/// The zero point of a whole matrix.
fn zero_point(c: &Checkpoint, name: &str, bits: u32) -> Result<u32> {
    let (entry, bytes) = (c.tensor(name)?, c.bytes(name)?);
    let zero = match (entry.encoding, &*bytes) {
        (Encoding::Other("I8"), [z]) => i32::from(*z as i8) + (1 << (bits - 1)),
        _ => return Err(c.fail(entry, format!("has type {:?} and shape {:?} where one I8 is wanted", entry.encoding, entry.shape))),
    };
    match u32::try_from(zero) {
        Ok(z) if z < 1 << bits => Ok(z),
        _ => Err(c.fail(entry, format!("is {zero}, no code of {bits} bits"))),
    }
}

/// Zero points, row after row.
fn zero_points(c: &Checkpoint, name: &str, bits: u32, rows: usize, groups: usize) -> Result<Vec<u32>> {
    let entry = c.tensor(name)?;
    let per_column = (rows * bits as usize).div_ceil(32);
    if entry.shape != [per_column, groups] {
        return Err(c.fail(
            entry,
            format!("has shape {:?} where {rows} x {groups} zero points of {bits} bits take [{per_column}, {groups}]", entry.shape),
        ));
    }
    let words = ints(c, name)?;
    let mut out = vec![0; rows * groups];
    for g in 0..groups {
        let column: Vec<u32> = words.iter().skip(g).step_by(groups).copied().collect();
        unpack_stream(&column, bits, rows).enumerate().for_each(|(r, z)| out[r * groups + g] = z);
    }
    Ok(out)
}

fn ints(c: &Checkpoint, name: &str) -> Result<Vec<u32>> {
    let entry = c.tensor(name)?;
    if !matches!(entry.encoding, Encoding::Other("I32" | "U32")) {
        return Err(c.fail(entry, format!("has type {:?} where packed words are I32", entry.encoding)));
    }
    Ok(c.bytes(name)?.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

fn long(c: &Checkpoint, name: &str) -> Result<Vec<i64>> {
    let entry = c.tensor(name)?;
    match entry.encoding {
        Encoding::Other("I64") => Ok(c.bytes(name)?.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect()),
        other => Err(c.fail(entry, format!("has type {other:?} where a shape is I64"))),
    }
}
