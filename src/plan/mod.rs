//! Plans: ordered, checked dispatches over slots, built once and replayed.
//!
//! Building a [`Plan`] needs only the [`Facts`] of an adapter: it checks shapes, chooses kernel variants and plans memory by
//! liveness, and every bad shape or exceeded limit is an error there. [`Plan::bind`] attaches buffers and compiles pipelines;
//! a [`Bound`] only encodes dispatches.

mod build;
mod memory;
mod run;
mod verify;

pub use build::{Builder, OpSpec, Window};
pub use run::{Bound, OpTime, SlicedRun};
pub use verify::{Expected, Judge, Snapshot, Tolerance, Twin, Verified};

use crate::Result;
use crate::gpu::{Buffer, Context, Facts};
use crate::kernel::{Access, Variant};
use std::fmt::Write as _;
use std::sync::Arc;

/// A slot of one plan: a place for a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId(pub(crate) u32);

/// Who provides the buffer of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotKind {
    /// Bound by the caller; contents are kept.
    External,
    /// From the workspace; contents last from the first write to the last read within one run.
    Transient,
}

/// A slot's declaration.
#[derive(Debug, Clone)]
pub struct Slot {
    /// For messages and memory reports.
    pub label: String,
    /// Least size in bytes.
    pub bytes: u64,
    /// Who provides it.
    pub kind: SlotKind,
}

/// A range of a slot's buffer that a dispatch binds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding {
    /// The slot.
    pub slot: SlotId,
    /// Byte offset, a multiple of 256.
    pub offset: u64,
    /// Bytes, a multiple of 4.
    pub size: u64,
}

/// One kernel call: a variant, its operands, and one or more dispatches that together cover its grid.
#[derive(Clone)]
pub struct Op {
    pub(crate) label: String,
    pub(crate) variant: Variant,
    /// Uniform words; the first four hold the origin of each cut.
    pub(crate) params: Vec<u32>,
    pub(crate) bindings: Vec<Binding>,
    /// `(origin, workgroups)` of each dispatch.
    pub(crate) cuts: Vec<([u32; 3], [u32; 3])>,
    pub(crate) bytes: u64,
    pub(crate) flops: u64,
    pub(crate) twin: Twin,
}

impl std::fmt::Debug for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Op({}, {})", self.label, self.variant.name())
    }
}

/// An ordered list of dispatches over slots, with a memory plan. Made by [`Builder::finish`].
#[derive(Debug)]
pub struct Plan {
    label: String,
    slots: Vec<Slot>,
    ops: Vec<Op>,
    memory: memory::MemoryPlan,
    estimated_ms: Vec<f64>,
}

/// Bytes that a plan needs, before anything is allocated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanMemory {
    /// External slots: label and bytes.
    pub external: Vec<(String, u64)>,
    /// Workspace buffers, largest first.
    pub workspace: Vec<u64>,
    /// What the transient slots would take if none shared memory.
    pub transient_unshared: u64,
}

impl Plan {
    /// Its label.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Number of dispatches of one run.
    pub fn dispatches(&self) -> usize {
        self.ops.iter().map(|o| o.cuts.len()).sum()
    }

    /// Its kernel calls, in order.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// What it needs in memory.
    pub fn memory(&self) -> PlanMemory {
        let external = self.slots.iter().filter(|s| s.kind == SlotKind::External);
        let transient = self.slots.iter().filter(|s| s.kind == SlotKind::Transient);
        PlanMemory {
            external: external.map(|s| (s.label.clone(), s.bytes)).collect(),
            workspace: self.memory.sizes.clone(),
            transient_unshared: transient.map(|s| s.bytes).sum(),
        }
    }

    /// Bytes of the uniform buffer with the parameters of its dispatches, once it is bound.
    pub fn parameter_bytes(&self) -> u64 {
        run::parameter_words(self) as u64 * 4
    }

    /// One line a kernel call: label, kernel and variant, workgroups, bytes moved, floating-point operations.
    pub fn describe(&self) -> String {
        let mut out = format!("plan {}: {} dispatches\n", self.label, self.dispatches());
        for (i, op) in self.ops.iter().enumerate() {
            let grid = op.cuts.iter().map(|(_, g)| format!("{}x{}x{}", g[0], g[1], g[2])).collect::<Vec<_>>().join("+");
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{i:4} {:28} {:48} {grid:16} {:>12} B {:>14} flop", op.label, op.variant.name(), op.bytes, op.flops);
        }
        out
    }

    /// Attaches buffers to the external slots and compiles what is not compiled yet.
    ///
    /// # Errors
    /// [`crate::Error::Plan`] where a slot is missing or its buffer too small; what the device reports.
    pub fn bind(self: &Arc<Self>, context: &Context, external: &[(SlotId, Arc<Buffer>)]) -> Result<Bound> {
        Bound::new(self.clone(), context, external)
    }
}

impl Op {
    /// What it is for.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The kernel permutation that it runs.
    pub fn variant(&self) -> &Variant {
        &self.variant
    }

    /// Its uniform words: the four of the origin, then the kernel's own.
    pub fn params(&self) -> &[u32] {
        &self.params
    }

    /// Its dispatches: the first workgroup and the number of workgroups of each, in x, y and z.
    pub fn cuts(&self) -> &[([u32; 3], [u32; 3])] {
        &self.cuts
    }

    /// Bytes that it must move at least.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Floating-point operations.
    pub fn flops(&self) -> u64 {
        self.flops
    }

    fn access(&self, binding: usize) -> Access {
        self.variant.access[binding]
    }

    fn estimate_ms(&self, facts: &Facts) -> f64 {
        let (bytes_s, flop_s) = facts.rates();
        1e3 * (self.bytes as f64 / bytes_s).max(self.flops as f64 / flop_s)
    }
}
