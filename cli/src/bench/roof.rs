//! What the device can do at most.

use super::bed::Bed;
use super::timing;
use anyhow::Result;
use etalon::Context;
use etalon::kernel::roof::{copy, fma};

pub(super) struct Roof {
    /// Bytes read and written by a copy, a second.
    pub(super) bytes_s: f64,
    /// Operations of multiply-adds in registers, a second.
    pub(super) flop_s: f64,
}

/// Bytes that are copied: beyond any cache.
const COPY: u64 = 256 << 20;

pub(super) fn measure(context: &Context, samples: usize) -> Result<Roof> {
    let cols = 4096;
    let facts = context.facts();
    let rows = COPY.min(facts.limits.max_buffer_size) as usize / (4 * cols);
    let mut bed = Bed::new(context);
    let (x, y) = (bed.input(rows, cols)?, bed.output(rows, cols)?);
    copy(bed.builder(), "copy", &x, &y)?;
    let bound = bed.bind()?;
    let bytes: u64 = bound.plan().ops().iter().map(|o| o.bytes()).sum();
    let bytes_s = bytes as f64 / timing::median_us(context, &bound, samples)? * 1e6;

    // Enough invocations to fill the device several times over, and some milliseconds of work for it.
    let (invocations, rounds) = if facts.is_software() { (1 << 14, 32) } else { (1 << 20, 8) };
    let mut bed = Bed::new(context);
    let y = bed.output(1, invocations)?;
    // A factor below 1 keeps the numbers finite.
    fma(bed.builder(), "fma", &y, rounds, 0.999, 0.001)?;
    let bound = bed.bind()?;
    let flops: u64 = bound.plan().ops().iter().map(|o| o.flops()).sum();
    Ok(Roof { bytes_s, flop_s: flops as f64 / timing::median_us(context, &bound, samples)? * 1e6 })
}
