//! Embedding lookup, from tables of every format.

use super::linear::{format_defines, segment_windows, table_words};
use super::variants::formats;
use super::{Access, Variant};
use crate::gpu::Facts;
use crate::plan::{Builder, OpSpec, SlotId};
use crate::reference;
use crate::tensor::{Format, Matrix, Tensor};
use crate::{Error, Result};

/// Which row of the table a row of the output takes.
#[derive(Debug, Clone, Copy)]
pub enum Ids {
    /// Words of a slot, from a word on.
    Buffer(SlotId, usize),
    /// The row's position in its sequence plus a constant; `sequence_rows` rows for each sequence.
    Position {
        /// The sequences' states.
        state: SlotId,
        /// Rows of each sequence.
        sequence_rows: usize,
        /// Added to the position (OPT: 2).
        add: usize,
    },
}

const ACCESS: [Access; 4] = [Access::Read, Access::Write, Access::Read, Access::Read];

fn variant(format: &Format, by_position: bool, add: bool) -> Variant {
    let mut defines = format_defines(format);
    defines.extend([("LOAD", 1), ("SLOAD", 1), ("MANTISSA", 0), ("EXACT", 1), ("IDS", i64::from(by_position)), ("ADD", i64::from(add))]);
    let access = &ACCESS[..3 + usize::from(matches!(format, Format::Quant(_)))];
    Variant { kernel: "embedding", source: include_str!("../../shaders/embedding.wgsl"), defines, access, subgroup: None }
}

pub(crate) fn variants(_: &Facts) -> Vec<Variant> {
    let flags = [(false, false), (false, true), (true, false), (true, true)];
    formats().iter().flat_map(|f| flags.map(|(by_position, add)| variant(f, by_position, add))).collect()
}

/// Appends `y[r] = table[id(r)]`, or with `add` `y[r] += table[id(r)]`. Ids past the end take the last row.
///
/// # Errors
/// [`Error::Shape`] where the operands do not fit each other; [`Error::Limit`].
pub fn embedding(b: &mut Builder, label: &str, ids: &Ids, table: &Matrix, y: &Tensor, add: bool) -> Result<()> {
    if table.cols != y.cols || table.rows == 0 {
        return Err(Error::shape("embedding", format!("{label}: a table ({}, {}) into ({}, {})", table.rows, table.cols, y.rows, y.cols)));
    }
    let by_position = matches!(ids, Ids::Position { .. });
    // Positions count rows from the start of their sequence: those outputs are not cut.
    let chunks = match ids {
        Ids::Buffer(..) => b.row_chunks(y.rows, y.stride)?,
        Ids::Position { .. } => std::iter::once(0..y.rows).collect(),
    };
    for rows in chunks {
        let part = y.slice_rows(rows.clone());
        for s in &table.segments {
            let (window, sequence_rows, id_add) = match ids {
                Ids::Buffer(slot, at) => (b.window(*slot, at + rows.start..at + rows.end)?, 1, 0),
                Ids::Position { state, sequence_rows, add } => {
                    (b.window(*state, 0..y.rows.div_ceil((*sequence_rows).max(1)) * 32)?, *sequence_rows, *add)
                }
            };
            let yw = b.view(&part)?;
            let (w_stride, s_stride) = (table.format.row_words(table.cols), table.format.scale_words(table.cols));
            let mut params = vec![table.cols as u32, w_stride as u32, s_stride as u32, s.rows.start as u32, s.rows.len() as u32];
            params.extend([yw.offset, y.stride as u32, window.offset, sequence_rows as u32, id_add as u32, table.rows as u32 - 1, 0]);
            params.extend(table_words(&table.format));
            let mut bindings = vec![window, yw];
            bindings.extend(segment_windows(b, table, s)?);
            let elements = (part.rows * table.cols) as u64;
            b.push(OpSpec {
                label: label.into(),
                variant: variant(&table.format, by_position, add),
                params,
                bindings,
                grid: [table.cols.div_ceil(256) as u32, part.rows as u32, 1],
                bytes: 8 * elements,
                flops: elements,
                twin: reference::embedding::twin(table.format, by_position, add, part.rows),
            })?;
        }
    }
    Ok(())
}
