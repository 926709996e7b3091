//! Building a plan: slots, windows, checks, cuts of large grids.

use super::{Binding, Op, Plan, Slot, SlotId, SlotKind, Twin, memory};
use crate::gpu::Facts;
use crate::kernel::{Access, Variant};
use crate::tensor::Tensor;
use crate::{Error, Result};
use std::ops::Range;

/// WebGPU's alignment of storage binding offsets.
const ALIGN: u64 = 256;

/// Collects the dispatches of a plan. Kernel families append to it; [`Builder::finish`] checks and plans the whole.
#[derive(Debug)]
pub struct Builder {
    label: String,
    facts: Facts,
    slots: Vec<Slot>,
    ops: Vec<Op>,
}

/// A binding, and where in it the wanted words begin.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// What is bound.
    pub binding: Binding,
    /// Words from the binding's start to the first wanted word: goes into the parameters.
    pub offset: u32,
}

/// A kernel call as a kernel family hands it over.
#[derive(Debug)]
pub struct OpSpec {
    /// What it is for, e.g. `layer 3 down`.
    pub label: String,
    /// The permutation.
    pub variant: Variant,
    /// Uniform words after the four of the origin.
    pub params: Vec<u32>,
    /// In the order of the variant's `access`.
    pub bindings: Vec<Window>,
    /// Workgroups in x, y, z; may exceed the device's limit, the builder cuts.
    pub grid: [u32; 3],
    /// Bytes that must move.
    pub bytes: u64,
    /// Floating-point operations.
    pub flops: u64,
    /// The CPU twin.
    pub twin: Twin,
}

impl Builder {
    /// An empty plan for adapters with these facts.
    pub fn new(label: impl Into<String>, facts: &Facts) -> Self {
        Self { label: label.into(), facts: facts.clone(), slots: Vec::new(), ops: Vec::new() }
    }

    /// The facts that variants are chosen by.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// What was appended so far.
    pub(crate) fn ops(&self) -> &[Op] {
        &self.ops
    }

    #[cfg(test)]
    pub(crate) fn ops_mut(&mut self) -> &mut [Op] {
        &mut self.ops
    }

    /// A slot that the caller binds, of at least `words` words.
    pub fn external(&mut self, label: impl Into<String>, words: usize) -> SlotId {
        self.slot(label.into(), words, SlotKind::External)
    }

    /// An external `rows x cols` matrix of f32.
    pub fn external_tensor(&mut self, label: impl Into<String>, rows: usize, cols: usize) -> Tensor {
        let slot = self.external(label, rows * cols);
        Tensor { slot, offset: 0, rows, cols, stride: cols }
    }

    /// A `rows x cols` matrix of f32 that lives only within a run.
    pub fn transient(&mut self, label: impl Into<String>, rows: usize, cols: usize) -> Tensor {
        let slot = self.slot(label.into(), rows * cols, SlotKind::Transient);
        Tensor { slot, offset: 0, rows, cols, stride: cols }
    }

    fn slot(&mut self, label: String, words: usize, kind: SlotKind) -> SlotId {
        let bytes = (4 * words as u64).max(4).next_multiple_of(ALIGN);
        self.slots.push(Slot { label, bytes, kind });
        SlotId(self.slots.len() as u32 - 1)
    }

    /// A binding that covers `words` of a slot.
    ///
    /// # Errors
    /// [`Error::Limit`] where it would exceed the binding limit (kernels cut by rows before they ask), [`Error::Plan`] where the
    /// range is not in the slot.
    pub fn window(&self, slot: SlotId, words: Range<usize>) -> Result<Window> {
        let s = self.slots.get(slot.0 as usize).ok_or_else(|| self.fault(format!("unknown slot {}", slot.0)))?;
        let (start, end) = (4 * words.start as u64, (4 * words.end as u64).max(4 * words.start as u64 + 4));
        if end > s.bytes {
            return Err(self.fault(format!("bytes {start}..{end} of slot `{}`, which has {}", s.label, s.bytes)));
        }
        let offset = start & !(ALIGN - 1);
        let size = end - offset;
        if size > self.facts.max_binding {
            return Err(Error::Limit {
                what: s.label.clone(),
                limit: "max_storage_buffer_binding_size",
                needed: size,
                allowed: self.facts.max_binding,
                advice: "open the device with required_limits(), or use a smaller model or shorter context",
            });
        }
        Ok(Window { binding: Binding { slot, offset, size }, offset: ((start - offset) / 4) as u32 })
    }

    /// A binding that covers a tensor.
    ///
    /// # Errors
    /// As [`Builder::window`].
    pub fn view(&self, t: &Tensor) -> Result<Window> {
        self.window(t.slot, t.offset..t.offset + t.span())
    }

    /// A binding that covers a slot as a whole.
    ///
    /// # Errors
    /// As [`Builder::window`].
    pub fn whole(&self, slot: SlotId) -> Result<Window> {
        let bytes = self.slots.get(slot.0 as usize).map_or(0, |s| s.bytes);
        self.window(slot, 0..(bytes / 4) as usize)
    }

    /// Ranges of rows, each small enough that `words_per_row` words a row fit into a binding wherever they begin.
    ///
    /// # Errors
    /// [`Error::Limit`] where a single row does not fit.
    pub fn row_chunks(&self, rows: usize, words_per_row: usize) -> Result<Vec<Range<usize>>> {
        let room = self.facts.max_binding.saturating_sub(ALIGN) as usize;
        let fit = room / (4 * words_per_row.max(1));
        if fit == 0 {
            return Err(Error::Limit {
                what: format!("a row of {words_per_row} words in plan `{}`", self.label),
                limit: "max_storage_buffer_binding_size",
                needed: 4 * words_per_row as u64 + ALIGN,
                allowed: self.facts.max_binding,
                advice: "open the device with required_limits()",
            });
        }
        Ok((0..rows).step_by(fit.min(rows.max(1))).map(|r| r..(r + fit).min(rows)).collect())
    }

    /// Appends a kernel call. A grid beyond the device's workgroup limit, or longer than the wanted longest dispatch, is cut.
    ///
    /// # Errors
    /// [`Error::Plan`] where a buffer would be bound both read-only and writable, or twice writable, in one dispatch.
    pub fn push(&mut self, spec: OpSpec) -> Result<()> {
        let OpSpec { label, variant, params, bindings, grid, bytes, flops, twin } = spec;
        if grid.contains(&0) {
            return Ok(()); // nothing to compute
        }
        if bindings.len() != variant.access.len() || bindings.len() > self.facts.limits.max_storage_buffers_per_shader_stage as usize {
            return Err(self.fault(format!("{label}: {} bindings for {} of {}", bindings.len(), variant.access.len(), variant.name())));
        }
        if let Some(n) = variant.subgroup.filter(|n| self.facts.subgroup() != Some(*n)) {
            return Err(self.fault(format!("{label}: {} needs subgroups of exactly {n}", variant.name())));
        }
        for (i, a) in bindings.iter().enumerate() {
            for (j, b) in bindings.iter().enumerate().skip(i + 1) {
                let writes = variant.access[i] == Access::Write || variant.access[j] == Access::Write;
                if a.binding.slot == b.binding.slot && writes {
                    let slot = &self.slots[a.binding.slot.0 as usize].label;
                    return Err(self.fault(format!("{label}: slot `{slot}` is bound twice, once writable")));
                }
            }
        }
        let mut all = vec![0; 4];
        all.extend(params);
        let bindings = bindings.into_iter().map(|w| w.binding).collect();
        let mut op = Op { label, variant, params: all, bindings, cuts: Vec::new(), bytes, flops, twin };
        op.cuts = self.cut(grid, op.estimate_ms(&self.facts));
        self.ops.push(op);
        Ok(())
    }

    /// Cuts a grid along its dimensions to the device's limit, and along its largest to the wanted duration.
    fn cut(&self, grid: [u32; 3], estimate_ms: f64) -> Vec<([u32; 3], [u32; 3])> {
        let limit = self.facts.limits.max_compute_workgroups_per_dimension;
        let mut step = grid.map(|g| g.min(limit));
        let pieces = (estimate_ms / self.facts.max_dispatch_ms).ceil().max(1.0) as u32;
        let longest = (0..3).max_by_key(|d| grid[*d]).unwrap_or(0);
        step[longest] = step[longest].min(grid[longest].div_ceil(pieces)).max(1);
        let mut cuts = Vec::new();
        for z in (0..grid[2]).step_by(step[2] as usize) {
            for y in (0..grid[1]).step_by(step[1] as usize) {
                for x in (0..grid[0]).step_by(step[0] as usize) {
                    let size = [step[0].min(grid[0] - x), step[1].min(grid[1] - y), step[2].min(grid[2] - z)];
                    cuts.push(([x, y, z], size));
                }
            }
        }
        cuts
    }

    /// Plans memory and closes the plan.
    ///
    /// # Errors
    /// [`Error::Plan`] where a transient slot is read before anything wrote it.
    pub fn finish(self) -> Result<Plan> {
        let memory = memory::plan(&self.slots, &self.ops).map_err(|m| self.fault(m))?;
        let estimated_ms = self.ops.iter().map(|o| o.estimate_ms(&self.facts)).collect();
        Ok(Plan { label: self.label, slots: self.slots, ops: self.ops, memory, estimated_ms })
    }

    fn fault(&self, message: String) -> Error {
        Error::Plan { plan: self.label.clone(), message }
    }
}
