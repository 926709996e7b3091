//! How long a plan takes: many runs in one compute pass between two timestamps, or by the host's clock where there are none.

use anyhow::{Result, anyhow};
use etalon::plan::Bound;
use etalon::{Context, wgpu};
use std::time::Instant;

/// By the host's clock, a sample is no shorter than this.
const SAMPLE_US: f64 = 50_000.0;
/// By timestamps, the same work runs for this long before a sample.
const WARM_US: f64 = 20_000.0;
/// Dispatches between two timestamps on a real GPU, where they may take microseconds.
const DISPATCHES: usize = 100;

/// What measures.
pub(super) fn clock(context: &Context) -> &'static str {
    // A software driver runs dispatches as the queue reaches them; the host's clock sees just that, and what it costs to wait.
    if !context.facts().is_software() && context.facts().features.contains(wgpu::Features::TIMESTAMP_QUERY) {
        "timestamps"
    } else {
        "the host's clock"
    }
}

/// Microseconds of one run: the median of some samples, after a first run that is not counted.
pub(super) fn median_us(context: &Context, bound: &Bound, samples: usize) -> Result<f64> {
    let by_timestamps = clock(context) == "timestamps";
    let once = |times: usize, warm| if by_timestamps { timestamps(context, bound, times, warm) } else { host(context, bound, times) };
    once(1, 1)?;
    let first = once(1, 1)?;
    let times = if by_timestamps {
        // No more runs than that: a run that writes what the one before wrote waits for it, dispatch by dispatch.
        DISPATCHES.div_ceil(bound.plan().dispatches())
    } else {
        ((SAMPLE_US / first.max(1.0)).ceil() as usize).clamp(1, 10_000)
    };
    let warm = ((WARM_US / first.max(1.0)).ceil() as usize).clamp(1, 1000);
    let mut us = (0..samples).map(|_| Ok(once(times, warm)? / times as f64)).collect::<Result<Vec<_>>>()?;
    us.sort_by(f64::total_cmp);
    Ok(us[us.len() / 2])
}

fn host(context: &Context, bound: &Bound, times: usize) -> Result<f64> {
    let start = Instant::now();
    bound.run(times)?;
    wait(context)?;
    Ok(start.elapsed().as_secs_f64() * 1e6)
}

pub(super) fn wait(context: &Context) -> Result<()> {
    context.device().poll(wgpu::PollType::wait_indefinitely()).map(|_| ()).map_err(|e| anyhow!("waiting for the device: {e}"))
}

fn timestamps(context: &Context, bound: &Bound, times: usize, warm: usize) -> Result<f64> {
    let device = context.device();
    let set = device.create_query_set(&wgpu::QuerySetDescriptor { label: None, ty: wgpu::QueryType::Timestamp, count: 2 });
    let buffer = |usage| device.create_buffer(&wgpu::BufferDescriptor { label: None, size: 16, usage, mapped_at_creation: false });
    let resolved = buffer(wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC);
    let read = buffer(wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ);
    // Work just before, since idle GPUs run at a fraction of their clock. In a command buffer of its own: within one, what both
    // passes write would make every dispatch of the second wait.
    let mut before = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    {
        let mut pass = before.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        for _ in 0..warm.max(1) {
            bound.encode(&mut pass)?;
        }
    }
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: None,
            timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                query_set: &set,
                beginning_of_pass_write_index: Some(0),
                end_of_pass_write_index: Some(1),
            }),
        });
        for _ in 0..times {
            bound.encode(&mut pass)?;
        }
    }
    encoder.resolve_query_set(&set, 0..2, &resolved, 0);
    encoder.copy_buffer_to_buffer(&resolved, 0, &read, 0, 16);
    context.queue().submit([before.finish(), encoder.finish()]);
    read.map_async(wgpu::MapMode::Read, .., |_| {});
    wait(context)?;
    let view = read.slice(..).get_mapped_range().map_err(|e| anyhow!("reading timestamps: {e}"))?;
    let tick = |i: usize| view[8 * i..8 * i + 8].iter().rev().fold(0u64, |t, b| t << 8 | u64::from(*b));
    Ok(tick(1).saturating_sub(tick(0)) as f64 * f64::from(context.queue().get_timestamp_period()) / 1e3)
}
