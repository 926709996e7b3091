//! Sparse matrices by compressed rows (CSR): on the host, and in slots of a plan.

use crate::plan::{Builder, SlotId};
use crate::{Error, Result};
use std::sync::Arc;

/// A sparse `rows x cols` matrix: the entries of row r are `offsets[r]..offsets[r + 1]`, their columns ascending.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Csr {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// `rows + 1` numbers of entries.
    pub offsets: Vec<u32>,
    /// The column of each entry.
    pub columns: Vec<u32>,
    /// The value of each entry.
    pub values: Vec<f32>,
}

impl Csr {
    /// From `(row, column, value)` in any order; the values of one place are added.
    ///
    /// # Errors
    /// [`Error::Request`] for an entry outside of the matrix, or more than 2^32 of them.
    pub fn from_entries(rows: usize, cols: usize, mut entries: Vec<(u32, u32, f32)>) -> Result<Self> {
        if let Some((r, c, _)) = entries.iter().find(|(r, c, _)| *r as usize >= rows || *c as usize >= cols) {
            return Err(Error::Request(format!("an entry in row {r}, column {c} of a {rows} x {cols} matrix")));
        }
        if u32::try_from(entries.len()).is_err() {
            return Err(Error::Request(format!("{} entries: a sparse matrix may have 2^32", entries.len())));
        }
        entries.sort_by_key(|(r, c, _)| (*r, *c));
        let mut out = Self { rows, cols, offsets: vec![0; rows + 1], ..Self::default() };
        let mut last = None;
        for (r, c, v) in entries {
            if last == Some((r, c)) {
                out.values.last_mut().into_iter().for_each(|sum| *sum += v);
                continue;
            }
            last = Some((r, c));
            out.columns.push(c);
            out.values.push(v);
            out.offsets[r as usize + 1] += 1;
        }
        for r in 0..rows {
            out.offsets[r + 1] += out.offsets[r];
        }
        Ok(out)
    }

    /// Row r of the result is row `rows[r]` of the identity: what picks rows of a matrix of `cols` rows.
    ///
    /// # Errors
    /// [`Error::Request`] for a row that is not there.
    pub fn selection(rows: &[u32], cols: usize) -> Result<Self> {
        let entries = rows.iter().enumerate().map(|(r, c)| (r as u32, *c, 1.0)).collect();
        Self::from_entries(rows.len(), cols, entries)
    }

    /// Columns and values of a row.
    pub fn row(&self, r: usize) -> impl Iterator<Item = (u32, f32)> + '_ {
        let range = self.offsets[r] as usize..self.offsets[r + 1] as usize;
        self.columns[range.clone()].iter().copied().zip(self.values[range].iter().copied())
    }

    /// The transposed pattern: offsets, columns, and for each entry its number in this matrix.
    pub fn transposed(&self) -> (Vec<u32>, Vec<u32>, Vec<u32>) {
        let mut offsets = vec![0u32; self.cols + 1];
        self.columns.iter().for_each(|c| offsets[*c as usize + 1] += 1);
        (0..self.cols).for_each(|c| offsets[c + 1] += offsets[c]);
        let mut next = offsets.clone();
        let (mut columns, mut entries) = (vec![0; self.columns.len()], vec![0; self.columns.len()]);
        for r in 0..self.rows {
            for e in self.offsets[r]..self.offsets[r + 1] {
                let place = &mut next[self.columns[e as usize] as usize];
                (columns[*place as usize], entries[*place as usize]) = (r as u32, e);
                *place += 1;
            }
        }
        (offsets, columns, entries)
    }
}

/// Most entries of a row.
fn longest(offsets: &[u32]) -> usize {
    offsets.windows(2).map(|w| (w[1] - w[0]) as usize).max().unwrap_or(0)
}

/// A sparse matrix in slots of a plan.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sparse {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// Number of entries.
    pub len: usize,
    /// Most entries of a row.
    pub longest: usize,
    /// `rows + 1` words.
    pub offsets: SlotId,
    /// A word an entry; one past the last column counts as the last.
    pub columns: SlotId,
    /// An f32 an entry: slot, first word, and how many there are.
    pub values: (SlotId, usize, usize),
    /// For each entry the number of its value, or [`NONE`]; without it the value has the entry's number.
    pub entries: Option<SlotId>,
}

/// In [`Sparse::entries`]: the entry is not there.
pub const NONE: u32 = u32::MAX;

/// A matrix and its transpose, which share their values: what an operation and its gradient need.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SparsePair {
    /// The matrix.
    pub matrix: Sparse,
    /// Its transpose.
    pub transpose: Sparse,
}

/// Its contents for the device, and its extent.
#[derive(Debug, Clone, PartialEq)]
pub struct SparseData {
    /// Offsets, columns and values (as bits), then offsets, columns and entries of the transpose.
    pub words: [Vec<u32>; 6],
    /// What slots are declared by.
    pub extent: SparseExtent,
}

/// How large a sparse matrix is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SparseExtent {
    rows: usize,
    cols: usize,
    len: usize,
    longest: [usize; 2],
}

impl From<&Csr> for SparseData {
    fn from(m: &Csr) -> Self {
        let (offsets, columns, entries) = m.transposed();
        let extent = SparseExtent { rows: m.rows, cols: m.cols, len: m.columns.len(), longest: [longest(&m.offsets), longest(&offsets)] };
        let values = m.values.iter().map(|v| v.to_bits()).collect();
        Self { words: [m.offsets.clone(), m.columns.clone(), values, offsets, columns, entries], extent }
    }
}

impl SparsePair {
    /// Declares slots: the pair, and its slots in the order of [`SparseData::words`].
    pub fn external(b: &mut Builder, label: &str, e: &SparseExtent) -> (Self, [SlotId; 6]) {
        let sizes = [e.rows + 1, e.len, e.len, e.cols + 1, e.len, e.len];
        let parts = ["offsets", "columns", "values", "transposed offsets", "transposed columns", "entries"];
        let slots: [SlotId; 6] = std::array::from_fn(|i| b.external(format!("{label} {}", parts[i]), sizes[i]));
        let [offsets, columns, values, t_offsets, t_columns, entries] = slots;
        let values = (values, 0, e.len);
        let matrix = Sparse { rows: e.rows, cols: e.cols, len: e.len, longest: e.longest[0], offsets, columns, values, entries: None };
        let transpose = Sparse {
            rows: e.cols,
            cols: e.rows,
            longest: e.longest[1],
            offsets: t_offsets,
            columns: t_columns,
            entries: Some(entries),
            ..matrix
        };
        (Self { matrix, transpose }, slots)
    }

    /// The same pattern with other values: a slot with one for each entry.
    pub fn with_values(self, values: (SlotId, usize)) -> Self {
        let values = (values.0, values.1, self.matrix.len);
        Self { matrix: Sparse { values, ..self.matrix }, transpose: Sparse { values, ..self.transpose } }
    }
}

/// The buffers of a [`SparseData`], in the order of its words.
pub type SparseBuffers = [Arc<crate::gpu::Buffer>; 6];

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;

    #[test]
    fn entries_are_sorted_added_and_transposed() {
        let m = Csr::from_entries(3, 4, vec![(2, 1, 1.0), (0, 3, 2.0), (2, 0, 3.0), (0, 3, 0.5)]).unwrap();
        assert_eq!(
            (m.offsets.as_slice(), m.columns.as_slice(), m.values.as_slice()),
            (&[0, 1, 1, 3][..], &[3, 0, 1][..], &[2.5, 3.0, 1.0][..])
        );
        assert_eq!(m.transposed(), (vec![0, 1, 2, 2, 3], vec![2, 2, 0], vec![1, 2, 0]));
        assert_eq!(m.row(2).collect::<Vec<_>>(), [(0, 3.0), (1, 1.0)]);
        assert!(Csr::from_entries(3, 4, vec![(3, 0, 1.0)]).is_err() && Csr::from_entries(3, 4, vec![(0, 4, 1.0)]).is_err());
        let e = SparseData::from(&m).extent;
        assert_eq!((e.len, e.longest), (3, [2, 1]));
    }
}
