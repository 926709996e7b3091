//! Where operands lie: activations are views of plan slots, weights are matrices cut into row segments.

mod csr;

pub use csr::{Csr, NONE, Sparse, SparseBuffers, SparseData, SparseExtent, SparsePair};

use crate::plan::SlotId;
use crate::quant::QuantFormat;
use std::ops::Range;

/// A matrix of f32 in a slot of a plan: `rows x cols`, row `r` beginning at word `offset + r * stride`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tensor {
    /// The slot it lies in.
    pub slot: SlotId,
    /// Words before its first element.
    pub offset: usize,
    /// Number of rows.
    pub rows: usize,
    /// Elements of a row.
    pub cols: usize,
    /// Words from one row to the next.
    pub stride: usize,
}

impl Tensor {
    /// Rows `r` of it.
    pub fn slice_rows(&self, r: Range<usize>) -> Self {
        Self { offset: self.offset + r.start * self.stride, rows: r.len(), ..*self }
    }

    /// Columns `c` of it.
    pub fn slice_cols(&self, c: Range<usize>) -> Self {
        Self { offset: self.offset + c.start, cols: c.len(), ..*self }
    }

    /// Words from its first element to just past its last.
    pub fn span(&self) -> usize {
        if self.rows == 0 { 0 } else { (self.rows - 1) * self.stride + self.cols }
    }
}

/// How frozen rows are stored: in whole quads of elements, the last one padded with zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Packing {
    /// IEEE half precision, two a word, low half first.
    F16,
    /// Codes in -127..=127, four a word, lowest byte first; then a word for the row's scale in f32. A value is code times scale.
    Int8,
}

impl Packing {
    /// Words of a row.
    pub fn row_words(self, cols: usize) -> usize {
        match self {
            Self::F16 => 2 * cols.div_ceil(4),
            Self::Int8 => cols.div_ceil(4) + 1,
        }
    }
}

/// A `rows x cols` matrix of packed rows in a slot of a plan, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedRows {
    /// The slot it lies in.
    pub slot: SlotId,
    /// Words before its first row, an even number.
    pub offset: usize,
    /// Number of rows.
    pub rows: usize,
    /// Elements of a row.
    pub cols: usize,
    /// How they are stored.
    pub packing: Packing,
}

impl PackedRows {
    /// Rows `r` of it.
    pub fn slice_rows(&self, r: Range<usize>) -> Self {
        Self { offset: self.offset + r.start * self.packing.row_words(self.cols), rows: r.len(), ..*self }
    }

    /// Its words in the slot.
    pub fn words(&self) -> Range<usize> {
        self.offset..self.offset + self.rows * self.packing.row_words(self.cols)
    }
}

/// How the elements of a weight matrix are stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Format {
    /// IEEE single precision, a word each.
    F32,
    /// IEEE half precision, two a word (low half first), rows padded to whole words.
    F16,
    /// bfloat16, two a word, rows padded to whole words.
    Bf16,
    /// Codes and scales.
    Quant(QuantFormat),
}

impl Format {
    /// Words of a row in the data (or codes) plane.
    pub fn row_words(&self, cols: usize) -> usize {
        match self {
            Self::F32 => cols,
            Self::F16 | Self::Bf16 => cols.div_ceil(2),
            Self::Quant(q) => q.code_words(cols),
        }
    }

    /// Words of a row in the scale plane.
    pub fn scale_words(&self, cols: usize) -> usize {
        match self {
            Self::Quant(q) => q.scale_words(cols),
            _ => 0,
        }
    }

    /// A short name: `f32`, `q4 g32`, ….
    pub fn name(&self) -> String {
        match self {
            Self::F32 => "f32".into(),
            Self::F16 => "f16".into(),
            Self::Bf16 => "bf16".into(),
            Self::Quant(q) => format!("q{} g{} {:?}", q.bits, q.group, q.scales),
        }
    }
}

/// A weight matrix `rows x cols` in slots of a plan, cut by rows where a binding could not hold it.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    /// Number of rows (outputs of a linear layer).
    pub rows: usize,
    /// Elements of a row (inputs of a linear layer).
    pub cols: usize,
    /// How the elements are stored.
    pub format: Format,
    /// Its parts, in the order of the rows.
    pub segments: Vec<Segment>,
}

/// Consecutive rows of a [`Matrix`].
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// Which rows of the matrix.
    pub rows: Range<usize>,
    /// The slot of the data or codes.
    pub data: SlotId,
    /// Words before the segment's first in that slot, a multiple of 64.
    pub offset: usize,
    /// The slot of the scales, for quantised formats.
    pub scales: Option<SlotId>,
}
