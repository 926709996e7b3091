//! What elementwise kernels share: operands of one shape, cut by rows that fit bindings, by `vec4` where they are aligned.

use super::Variant;
use crate::plan::{Builder, OpSpec, Twin, Window};
use crate::tensor::Tensor;
use crate::{Error, Result};
use std::ops::Range;

/// An elementwise call. The parameters of its shader are `cols`, then offset and stride of each operand.
pub(super) struct Elementwise<'a> {
    /// The kernel family, for errors.
    pub(super) op: &'static str,
    pub(super) label: &'a str,
    /// In the order of the bindings.
    pub(super) operands: &'a [&'a Tensor],
    /// The last two operands are columns of one slot and share a binding.
    pub(super) stacked: bool,
    /// Floating-point operations an element.
    pub(super) flops: usize,
}

impl Elementwise<'_> {
    /// Appends an op for each run of rows; `variant` gets whether it goes by `vec4`, `twin` rows and words of a unit.
    pub(super) fn push(&self, b: &mut Builder, variant: impl Fn(bool) -> Variant, twin: impl Fn(usize, usize) -> Twin) -> Result<()> {
        let (rows, cols) = self.operands.first().map_or((0, 0), |t| (t.rows, t.cols));
        if self.operands.iter().any(|t| (t.rows, t.cols) != (rows, cols)) {
            let sizes: Vec<_> = self.operands.iter().map(|t| format!("({}, {})", t.rows, t.cols)).collect();
            return Err(Error::shape(self.op, format!("{}: operands of {} differ", self.label, sizes.join(", "))));
        }
        if cols == 0 {
            return Ok(());
        }
        let widest = self.operands.iter().map(|t| t.stride.max(cols)).max().unwrap_or(cols);
        for r in b.row_chunks(rows, widest)? {
            let windows = self.windows(b, &r)?;
            // Rows without gaps are one long row: no invocations idle at the ends of short ones.
            let dense = self.operands.iter().all(|t| t.stride == cols);
            let (rows, cols) = if dense { (1, r.len() * cols) } else { (r.len(), cols) };
            let places =
                self.operands.iter().zip(&windows).flat_map(|(t, w)| [w.offset, if dense { cols as u32 } else { t.stride as u32 }]);
            let mut params: Vec<u32> = std::iter::once(cols as u32).chain(places).collect();
            let vec4 = params.iter().all(|n| n.is_multiple_of(4));
            let unit = if vec4 { 4 } else { 1 };
            params.iter_mut().for_each(|n| *n /= unit);
            let units = params[0];
            params.resize(params.len().next_multiple_of(4), 0);
            b.push(OpSpec {
                label: self.label.into(),
                variant: variant(vec4),
                params,
                bindings: windows[..windows.len() - usize::from(self.stacked)].to_vec(),
                grid: [units.div_ceil(64), rows as u32, 1],
                bytes: 4 * (rows * cols * self.operands.len()) as u64,
                flops: (rows * cols * self.flops) as u64,
                twin: twin(rows, unit as usize),
            })?;
        }
        Ok(())
    }

    /// A window for each operand; the last two are the same binding where they are stacked.
    fn windows(&self, b: &Builder, r: &Range<usize>) -> Result<Vec<Window>> {
        let cut: Vec<Tensor> = self.operands.iter().map(|t| t.slice_rows(r.clone())).collect();
        let [.., p, q] = cut.as_slice() else { return cut.iter().map(|t| b.view(t)).collect() };
        if !self.stacked {
            return cut.iter().map(|t| b.view(t)).collect();
        }
        let (start, end) = (p.offset.min(q.offset), (p.offset + p.span()).max(q.offset + q.span()));
        let apart = p.offset.abs_diff(q.offset);
        if p.stride != q.stride || apart < p.cols || (p.rows > 1 && apart + p.cols > p.stride) {
            return Err(Error::shape(self.op, format!("{}: outputs in one slot must be columns of one matrix, side by side", self.label)));
        }
        let both = b.window(p.slot, start..end)?;
        let at = |t: &Tensor| Window { offset: both.offset + (t.offset - start) as u32, ..both };
        let (first, second) = (at(p), at(q));
        let mut all = cut[..cut.len() - 2].iter().map(|t| b.view(t)).collect::<Result<Vec<_>>>()?;
        all.extend([first, second]);
        Ok(all)
    }
}
