//! From weights to codes: by rounding to the nearest, or so that the outputs on given inputs stay near (GPTQ); whole, or as factors.
//!
//! A group of weights `w` has a scale `s` and a zero point `z`, and `q = clamp(round(w / s) + z, 0, 2^b - 1)`, halves to even. The
//! range of a group always holds 0, so that zeros stay zeros; the scale is rounded to how it is stored before codes are computed
//! with it.

mod gptq;
mod spectral;

pub use gptq::{Gptq, Hessian, gptq};
pub use spectral::{Band, Factored, PAIRS, Spectral, spectral};

use half::f16;

use super::packed::plane_lengths;
use super::{Packed, QuantFormat, Scales};
use crate::error::{Error, Result};

/// Which weights share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "models", derive(serde::Serialize, serde::Deserialize))]
pub enum Granularity {
    /// All of a matrix.
    Tensor,
    /// A row: all inputs of one output.
    Row,
    /// So many inputs of one output, a multiple of 16; the last group of a row may be shorter.
    Group(u32),
}

/// How a matrix is to be rounded.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "models", derive(serde::Serialize, serde::Deserialize))]
pub struct Spec {
    /// Bits of a code: 2, 3, 4, 5, 6 or 8.
    pub bits: u32,
    /// Which weights share a scale.
    pub granularity: Granularity,
    /// The zero point is the middle code; otherwise each group has its own.
    pub symmetric: bool,
    /// Scales are halves instead of f32.
    pub f16_scales: bool,
    /// Ranges are narrowed where that lowers the squared error: what lies outside is clipped.
    pub search: bool,
}

impl Default for Spec {
    /// 4 bits, groups of 128, a zero point for each, halves, no search.
    fn default() -> Self {
        Self { bits: 4, granularity: Granularity::Group(128), symmetric: false, f16_scales: true, search: false }
    }
}

/// Narrowest range that is tried, as a part of the whole, and the parts between: 2-bit codes want some 0.6 of it.
const NARROWEST: f64 = 0.4;
const TRIES: usize = 25;

impl Spec {
    /// The format that a matrix of `cols` inputs gets.
    pub fn format(&self, cols: usize) -> QuantFormat {
        let zero = 1u8.checked_shl(self.bits.saturating_sub(1)).unwrap_or(0);
        let scales = match (self.symmetric, self.f16_scales) {
            (true, true) => Scales::F16 { zero },
            (true, false) => Scales::F32 { zero },
            (false, true) => Scales::F16Zero,
            (false, false) => Scales::F32Zero,
        };
        let group = match self.granularity {
            Granularity::Group(n) => n,
            _ => u32::try_from(cols.next_multiple_of(16)).unwrap_or(!15),
        };
        QuantFormat { bits: self.bits, group, scales, table: None, per_tensor: self.granularity == Granularity::Tensor }
    }

    /// Bits that `rows x cols` weights take in a file: codes, scales, and zero points of a code's width where groups have their own.
    pub fn stored_bits(&self, rows: usize, cols: usize) -> u64 {
        let groups = match self.granularity {
            Granularity::Tensor => 1,
            Granularity::Row => rows,
            Granularity::Group(n) => rows * cols.div_ceil(n.max(1) as usize),
        };
        let of_group = if self.f16_scales { 16 } else { 32 } + if self.symmetric { 0 } else { u64::from(self.bits) };
        u64::from(self.bits) * (rows * cols) as u64 + groups as u64 * of_group
    }

    fn top(&self) -> f32 {
        ((1u32 << self.bits) - 1) as f32
    }

    /// Scale and zero point of a group. `importance`: what an error of each weight counts in the search.
    fn grid(&self, weights: &[f32], importance: Option<&[f64]>) -> Result<Grid> {
        let (lo, hi) = weights.iter().fold((0f32, 0f32), |(lo, hi), &w| (lo.min(w), hi.max(w)));
        let whole = self.grid_of(f64::from(lo), f64::from(hi))?;
        if !self.search || lo == hi {
            return Ok(whole);
        }
        let error = |g: &Grid| -> f64 {
            let of = |(i, w): (usize, &f32)| {
                let d = f64::from(g.value(g.code(*w))) - f64::from(*w);
                d * d * importance.map_or(1.0, |v| v[i])
            };
            weights.iter().enumerate().map(of).sum()
        };
        let mut best = (error(&whole), whole);
        for i in 1..=TRIES {
            let part = 1.0 - (1.0 - NARROWEST) * i as f64 / TRIES as f64;
            let g = self.grid_of(part * f64::from(lo), part * f64::from(hi))?;
            let e = error(&g);
            if e < best.0 {
                best = (e, g);
            }
        }
        Ok(best.1)
    }

    /// In f64: a range of two finite f32 may overflow f32.
    fn grid_of(&self, lo: f64, hi: f64) -> Result<Grid> {
        let top = self.top();
        let range = if self.symmetric { 2.0 * hi.max(-lo) } else { hi - lo };
        let scale = if range == 0.0 { 1.0 } else { stored_scale(range / f64::from(top), self.f16_scales)? };
        let zero = match (self.symmetric, range == 0.0) {
            (true, _) => ((1u32 << self.bits) / 2) as f32,
            (_, true) => 0.0,
            _ => (-lo as f32 / scale).round_ties_even().clamp(0.0, top),
        };
        Ok(Grid { scale, zero, top })
    }
}

/// How the weights of a group become codes.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Grid {
    /// As it is stored.
    scale: f32,
    zero: f32,
    top: f32,
}

impl Grid {
    fn code(&self, w: f32) -> u8 {
        ((w / self.scale).round_ties_even() + self.zero).clamp(0.0, self.top) as u8
    }

    fn value(&self, q: u8) -> f32 {
        self.scale * (f32::from(q) - self.zero)
    }
}

/// The scale as the plane can hold it. Subnormal scales are avoided, since some devices flush them to zero.
fn stored_scale(scale: f64, as_f16: bool) -> Result<f32> {
    let stored = if as_f16 { f16::from_f64(scale).max(f16::MIN_POSITIVE).to_f32() } else { (scale as f32).max(f32::MIN_POSITIVE) };
    if stored.is_finite() {
        Ok(stored)
    } else {
        Err(Error::shape("quantize", format!("a scale of {scale:e} does not fit: use f32 scales")))
    }
}

/// A matrix of weights, checked, and the grids of its groups to come.
struct Draft<'a> {
    spec: &'a Spec,
    format: QuantFormat,
    weights: &'a [f32],
    rows: usize,
    cols: usize,
}

impl<'a> Draft<'a> {
    fn new(spec: &'a Spec, weights: &'a [f32], rows: usize, cols: usize) -> Result<Self> {
        let format = spec.format(cols);
        plane_lengths(&format, rows, cols)?;
        if rows.checked_mul(cols) != Some(weights.len()) {
            return Err(Error::shape("quantize", format!("{} weights for {rows} x {cols}", weights.len())));
        }
        if let Some(at) = weights.iter().position(|w| !w.is_finite()) {
            return Err(Error::shape("quantize", format!("the weight at row {}, column {} is not finite", at / cols, at % cols)));
        }
        Ok(Self { spec, format, weights, rows, cols })
    }

    /// Inputs of a group, and groups of a row.
    fn groups(&self) -> (usize, usize) {
        let size = (self.format.group as usize).min(self.cols);
        (size, self.cols.div_ceil(size))
    }

    /// The grids of the weights as they stand, row after row; one for all of a matrix where that shares a scale.
    fn grids(&self, importance: Option<&[f64]>) -> Result<Vec<Grid>> {
        if self.format.per_tensor {
            let all: Option<Vec<f64>> = importance.map(|v| v.iter().copied().cycle().take(self.weights.len()).collect());
            return Ok(vec![self.spec.grid(self.weights, all.as_deref())?]);
        }
        let (size, groups) = self.groups();
        let mut grids = Vec::with_capacity(self.rows * groups);
        for row in self.weights.chunks_exact(self.cols) {
            for (g, weights) in row.chunks(size).enumerate() {
                grids.push(self.spec.grid(weights, importance.map(|v| &v[g * size..][..weights.len()]))?);
            }
        }
        Ok(grids)
    }

    /// The grid of a weight among those of [`Draft::grids`].
    fn place(&self, row: usize, col: usize) -> usize {
        let (size, groups) = self.groups();
        if self.format.per_tensor { 0 } else { row * groups + col / size }
    }

    /// Packs codes, one a weight, with their grids.
    fn pack(&self, codes: &[u8], grids: &[Grid]) -> Result<Packed> {
        let (_, len) = plane_lengths(&self.format, self.rows, self.cols)?;
        let mut plane = vec![0; len];
        let words = if self.format.per_tensor { len } else { self.format.scale_words(self.cols) };
        let of_row = if self.format.per_tensor { 1 } else { self.groups().1 };
        for (plane, grids) in plane.chunks_mut(words).zip(grids.chunks(of_row)) {
            for (g, grid) in grids.iter().enumerate() {
                put_grid(self.format.scales, grid, g, plane);
            }
        }
        Packed::pack(self.format, self.rows, self.cols, codes, plane)
    }
}

fn put_grid(scales: Scales, grid: &Grid, g: usize, plane: &mut [u32]) {
    let half = u32::from(f16::from_f32(grid.scale).to_bits());
    match scales {
        Scales::F16 { .. } => plane[g / 2] |= half << (16 * (g % 2)),
        Scales::F32 { .. } => plane[g] = grid.scale.to_bits(),
        Scales::F16Zero => plane[g] = half | (grid.zero as u32) << 16,
        _ => plane[2 * g..2 * g + 2].copy_from_slice(&[grid.scale.to_bits(), grid.zero as u32]),
    }
}

/// Rounds `rows x cols` weights, row after row (a row holds the inputs of one output), to the nearest codes.
///
/// # Errors
/// [`Error::Shape`] for a width or group that there is not, weights that do not fill the matrix or are not finite, or scales that do
/// not fit halves.
pub fn nearest(weights: &[f32], rows: usize, cols: usize, spec: &Spec) -> Result<Packed> {
    let draft = Draft::new(spec, weights, rows, cols)?;
    let grids = draft.grids(None)?;
    let code = |(i, w): (usize, &f32)| grids[draft.place(i / cols, i % cols)].code(*w);
    let codes: Vec<u8> = weights.iter().enumerate().map(code).collect();
    draft.pack(&codes, &grids)
}
