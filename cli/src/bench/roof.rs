//! What the device can do at most.

use super::bed::Bed;
use super::timing;
use anyhow::Result;
use etalon::Context;
use etalon::kernel::roof::{copy, fma};
use std::time::Instant;

pub(super) struct Roof {
    /// Bytes read and written by a copy, a second.
    pub(super) bytes_s: f64,
    /// Operations of multiply-adds in registers, a second.
    pub(super) flop_s: f64,
    /// Microseconds of the host for a dispatch that is replayed: encoded, finished and submitted.
    pub(super) replay_us: f64,
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
    let flop_s = flops as f64 / timing::median_us(context, &bound, samples)? * 1e6;
    Ok(Roof { bytes_s, flop_s, replay_us: replay(context)? })
}

/// Small dispatches, each waiting for the one before, as in a decode step.
const REPLAYED: usize = 1000;

fn replay(context: &Context) -> Result<f64> {
    let mut bed = Bed::new(context);
    let tensors = [bed.output(1, 64)?, bed.output(1, 64)?];
    for i in 0..REPLAYED {
        copy(bed.builder(), "replay", &tensors[i % 2], &tensors[(i + 1) % 2])?;
    }
    let bound = bed.bind()?;
    let mut us = Vec::new();
    for _ in 0..5 {
        let start = Instant::now();
        bound.run(1)?;
        us.push(start.elapsed().as_secs_f64() * 1e6 / REPLAYED as f64);
        timing::wait(context)?;
    }
    us.sort_by(f64::total_cmp);
    Ok(us[us.len() / 2])
}
