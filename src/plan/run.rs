//! Running a plan: bind groups over buffers, encoding, profiling, slices.

use super::{Op, Plan, SlotId, SlotKind};
use crate::gpu::{Buffer, Context, Pipeline, Workspace, lock};
use crate::{Error, Result};
use std::sync::{Arc, Mutex, MutexGuard};

/// WebGPU's alignment of uniform binding offsets.
const UNIFORM_ALIGN: usize = 256;

/// A plan with buffers attached: running it only encodes dispatches.
#[derive(Debug)]
pub struct Bound {
    plan: Arc<Plan>,
    context: Context,
    external: Vec<Option<Arc<Buffer>>>,
    pipelines: Vec<Arc<Pipeline>>,
    /// The context's, but for a run that must not share it.
    workspace: Arc<Mutex<Workspace>>,
    params: Arc<Buffer>,
    groups: Mutex<Groups>,
    /// Measured milliseconds of each op; empty until [`Bound::calibrate`].
    measured_ms: Mutex<Vec<f64>>,
}

/// Bind groups of every cut of every op, valid for one state of the workspace.
#[derive(Debug)]
struct Groups {
    generation: u64,
    groups: Arc<Vec<Vec<wgpu::BindGroup>>>,
    /// Keeps the workspace buffers of these bind groups counted while they are in use.
    _workspace: Vec<Arc<Buffer>>,
}

/// Measured time of one op.
#[derive(Debug, Clone)]
pub struct OpTime {
    /// Its label.
    pub label: String,
    /// Kernel and variant.
    pub variant: String,
    /// Microseconds on the device.
    pub us: f64,
    /// Bytes that it must move.
    pub bytes: u64,
    /// Floating-point operations.
    pub flops: u64,
}

impl Bound {
    pub(super) fn new(plan: Arc<Plan>, context: &Context, bindings: &[(SlotId, Arc<Buffer>)]) -> Result<Self> {
        let mut external = vec![None; plan.slots.len()];
        for (slot, buffer) in bindings {
            let place = external.get_mut(slot.0 as usize);
            let unknown = || Error::Plan { plan: plan.label.clone(), message: format!("unknown slot {}", slot.0) };
            *place.ok_or_else(unknown)? = Some(buffer.clone());
        }
        Self::with(plan, context, external, context.workspace().clone())
    }

    /// The same in a workspace of its own, for runs of several submissions that another thread's run must not come between.
    pub(super) fn apart(&self) -> Result<Self> {
        Self::with(self.plan.clone(), &self.context, self.external.clone(), Arc::default())
    }

    fn with(plan: Arc<Plan>, context: &Context, external: Vec<Option<Arc<Buffer>>>, workspace: Arc<Mutex<Workspace>>) -> Result<Self> {
        let fault = |message: String| Error::Plan { plan: plan.label.clone(), message };
        for (s, b) in plan.slots.iter().zip(&external) {
            match (s.kind, b) {
                (SlotKind::External, None) => return Err(fault(format!("slot `{}` has no buffer", s.label))),
                (SlotKind::External, Some(b)) if b.size() < s.bytes => {
                    let (has, needs) = (b.size(), s.bytes);
                    return Err(fault(format!("slot `{}` needs {needs} bytes, its buffer has {has}", s.label)));
                }
                _ => {}
            }
        }
        let pipelines = plan.ops.iter().map(|o| context.pipeline(&o.variant)).collect::<Result<Vec<_>>>()?;
        let params = upload_params(&plan, context)?;
        let groups = Mutex::new(Groups { generation: u64::MAX, groups: Arc::default(), _workspace: Vec::new() });
        let measured_ms = Mutex::default();
        let bound = Self { plan, context: context.clone(), external, pipelines, workspace, params, groups, measured_ms };
        bound.groups()?;
        Ok(bound)
    }

    /// The plan.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    fn workspace(&self) -> MutexGuard<'_, Workspace> {
        lock(&self.workspace)
    }

    /// The buffer that a slot lies in.
    pub(super) fn buffer(&self, slot: SlotId) -> Result<Arc<Buffer>> {
        if let Some(b) = &self.external[slot.0 as usize] {
            return Ok(b.clone());
        }
        let index = self.plan.memory.buffer[slot.0 as usize];
        let found = index.and_then(|i| self.workspace().buffers.get(i).cloned());
        found.ok_or_else(|| Error::Plan { plan: self.plan.label.clone(), message: format!("slot {} has no buffer", slot.0) })
    }

    /// Bind groups for the workspace as it is now, grown for this plan if it must be.
    fn groups(&self) -> Result<Arc<Vec<Vec<wgpu::BindGroup>>>> {
        let (generation, buffers) = self.grow_workspace()?;
        let mut cached = lock(&self.groups);
        if cached.generation == generation {
            return Ok(cached.groups.clone());
        }
        let mut groups = Vec::with_capacity(self.plan.ops.len());
        let mut at = 0;
        for (op, pipeline) in self.plan.ops.iter().zip(&self.pipelines) {
            let mut cuts = Vec::with_capacity(op.cuts.len());
            for _ in &op.cuts {
                cuts.push(self.group(op, pipeline, at)?);
                at += param_stride(op);
            }
            groups.push(cuts);
        }
        let groups = Arc::new(groups);
        // A plan without transient slots does not care which workspace there is.
        *cached = Groups { generation, groups: groups.clone(), _workspace: buffers };
        Ok(groups)
    }

    fn grow_workspace(&self) -> Result<(u64, Vec<Arc<Buffer>>)> {
        let sizes = &self.plan.memory.sizes;
        let mut w = self.workspace();
        for (i, size) in sizes.iter().enumerate() {
            if w.buffers.get(i).is_some_and(|b| b.size() >= *size) {
                continue;
            }
            if w.taken {
                return Err(Error::Request("a run in slices holds the workspace: finish it before a larger plan runs".into()));
            }
            let b = self.context.storage("workspace", *size)?;
            if i < w.buffers.len() {
                w.buffers[i] = b;
            } else {
                w.buffers.push(b);
            }
            w.generation += 1;
        }
        Ok((w.generation, w.buffers.iter().take(sizes.len()).cloned().collect()))
    }

    fn group(&self, op: &Op, pipeline: &Pipeline, params_at: usize) -> Result<wgpu::BindGroup> {
        let buffers = op.bindings.iter().map(|b| self.buffer(b.slot)).collect::<Result<Vec<_>>>()?;
        let range = |buffer, offset, size| {
            wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size: std::num::NonZeroU64::new(size) })
        };
        let params = (0, range(self.params.raw(), params_at as u64, 4 * op.params.len() as u64));
        let storage = op.bindings.iter().zip(&buffers).enumerate().map(|(i, (b, buffer))| (i + 1, range(buffer.raw(), b.offset, b.size)));
        let entries: Vec<_> =
            std::iter::once(params).chain(storage).map(|(i, resource)| wgpu::BindGroupEntry { binding: i as u32, resource }).collect();
        Ok(self.context.device().create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(&op.label),
            layout: &pipeline.layout,
            entries: &entries,
        }))
    }

    /// Encodes the whole plan into a compute pass, which may be the caller's.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] where the workspace must grow and cannot; [`Error::Request`] while a run in slices holds it.
    pub fn encode(&self, pass: &mut wgpu::ComputePass<'_>) -> Result<()> {
        let groups = self.groups()?;
        if self.workspace().taken {
            return Err(Error::Request("a run in slices holds the workspace: finish it first".into()));
        }
        for i in 0..self.plan.ops.len() {
            self.encode_op(pass, &groups, i);
        }
        Ok(())
    }

    fn encode_op(&self, pass: &mut wgpu::ComputePass<'_>, groups: &[Vec<wgpu::BindGroup>], i: usize) {
        pass.set_pipeline(&self.pipelines[i].pipeline);
        for ((_, grid), group) in self.plan.ops[i].cuts.iter().zip(&groups[i]) {
            pass.set_bind_group(0, group, &[]);
            pass.dispatch_workgroups(grid[0], grid[1], grid[2]);
        }
    }

    /// Runs the plan `times` times over in one submission.
    ///
    /// # Errors
    /// As [`Bound::encode`].
    pub fn run(&self, times: usize) -> Result<wgpu::SubmissionIndex> {
        let mut encoder = self.encoder();
        {
            let mut pass =
                encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: Some(&self.plan.label), timestamp_writes: None });
            for _ in 0..times {
                self.encode(&mut pass)?;
            }
        }
        Ok(self.context.queue().submit([encoder.finish()]))
    }

    fn encoder(&self) -> wgpu::CommandEncoder {
        self.context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some(&self.plan.label) })
    }

    /// Runs op `i` alone.
    pub(super) fn run_op(&self, i: usize) -> Result<()> {
        let groups = self.groups()?;
        let mut encoder = self.encoder();
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        self.encode_op(&mut pass, &groups, i);
        drop(pass);
        self.context.queue().submit([encoder.finish()]);
        Ok(())
    }

    pub(super) fn context(&self) -> &Context {
        &self.context
    }

    /// Begins a run that is encoded in slices; until it ends, no other run can use the context's workspace.
    ///
    /// # Errors
    /// As [`Bound::encode`].
    pub fn sliced(self: &Arc<Self>) -> Result<SlicedRun> {
        let groups = self.groups()?;
        let mut w = self.workspace();
        if w.taken {
            return Err(Error::Request("another run in slices holds the workspace: finish it first".into()));
        }
        w.taken = true;
        Ok(SlicedRun { bound: self.clone(), groups, next: (0, 0) })
    }

    /// Measures every op once, so that slices are sized by measured instead of estimated times.
    ///
    /// # Errors
    /// As [`Bound::profile`].
    pub async fn calibrate(&self) -> Result<()> {
        let times = self.profile().await?;
        *lock(&self.measured_ms) = times.iter().map(|t| t.us / 1e3).collect();
        Ok(())
    }

    /// What op `i` takes, measured where it was, else estimated from bytes and flops.
    fn cost_ms(&self, i: usize) -> f64 {
        let measured = lock(&self.measured_ms);
        measured.get(i).copied().unwrap_or(self.plan.estimated_ms[i])
    }

    /// Times every op by timestamps, each in a pass of its own, over one run.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the device has no timestamps.
    pub async fn profile(&self) -> Result<Vec<OpTime>> {
        let device = self.context.device();
        if !device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            return Err(Error::Unsupported { what: "profiling".into(), advice: "open the device with required_features()".into() });
        }
        let groups = self.groups()?;
        let n = self.plan.ops.len();
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let mut times = Vec::with_capacity(n);
        for start in (0..n).step_by(MAX_QUERIES / 2) {
            let ops = start..n.min(start + MAX_QUERIES / 2);
            let count = 2 * ops.len() as u32;
            let set = device.create_query_set(&wgpu::QuerySetDescriptor { label: None, ty: wgpu::QueryType::Timestamp, count });
            let resolved = self.context.buffer("readback", 8 * u64::from(count), usage)?;
            let mut encoder = self.encoder();
            for (q, i) in ops.clone().enumerate() {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                    label: Some(&self.plan.ops[i].label),
                    timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                        query_set: &set,
                        beginning_of_pass_write_index: Some(2 * q as u32),
                        end_of_pass_write_index: Some(2 * q as u32 + 1),
                    }),
                });
                self.encode_op(&mut pass, &groups, i);
            }
            encoder.resolve_query_set(&set, 0..count, resolved.raw(), 0);
            self.context.queue().submit([encoder.finish()]);
            let words = self.context.read_ranges(&[(&resolved, 0..8 * u64::from(count))])?.words().await?.remove(0);
            let ticks: Vec<u64> = words.chunks_exact(2).map(|w| u64::from(w[0]) | u64::from(w[1]) << 32).collect();
            let us = f64::from(self.context.queue().get_timestamp_period()) / 1e3;
            times.extend(ops.zip(ticks.chunks_exact(2)).map(|(i, t)| {
                let op = &self.plan.ops[i];
                let us = t[1].saturating_sub(t[0]) as f64 * us;
                OpTime { label: op.label.clone(), variant: op.variant.name(), us, bytes: op.bytes, flops: op.flops }
            }));
        }
        Ok(times)
    }
}

/// WebGPU's limit on the size of a query set.
const MAX_QUERIES: usize = 4096;

/// A run that is encoded slice by slice, so that a renderer keeps its frame rate. Dropping it abandons the rest.
#[derive(Debug)]
pub struct SlicedRun {
    bound: Arc<Bound>,
    groups: Arc<Vec<Vec<wgpu::BindGroup>>>,
    /// Op and cut to encode next.
    next: (usize, usize),
}

impl SlicedRun {
    /// Encodes dispatches into `pass` until their estimated time, times `pace`, exceeds `budget_ms`; at least one. `pace` is
    /// the caller's ratio of measured to estimated time (1 at first). Returns the estimated milliseconds of what was encoded,
    /// or `None` once nothing is left.
    pub fn encode(&mut self, pass: &mut wgpu::ComputePass<'_>, budget_ms: f64, pace: f64) -> Option<f64> {
        let plan = &self.bound.plan;
        let (mut spent, mut any) = (0.0, false);
        while let Some(op) = plan.ops.get(self.next.0) {
            let cost = self.bound.cost_ms(self.next.0) / op.cuts.len() as f64 + DISPATCH_MS;
            if any && (spent + cost) * pace > budget_ms {
                return Some(spent);
            }
            let (i, c) = self.next;
            pass.set_pipeline(&self.bound.pipelines[i].pipeline);
            pass.set_bind_group(0, &self.groups[i][c], &[]);
            let grid = op.cuts[c].1;
            pass.dispatch_workgroups(grid[0], grid[1], grid[2]);
            self.next = if c + 1 < op.cuts.len() { (i, c + 1) } else { (i + 1, 0) };
            spent += cost;
            any = true;
        }
        any.then_some(spent)
    }

    /// True once every dispatch was encoded.
    pub fn is_done(&self) -> bool {
        self.next.0 >= self.bound.plan.ops.len()
    }
}

/// What a dispatch costs beside its work, in the estimates of slices.
const DISPATCH_MS: f64 = 0.01;

impl Drop for SlicedRun {
    fn drop(&mut self) {
        self.bound.workspace().taken = false;
    }
}

fn param_stride(op: &Op) -> usize {
    (4 * op.params.len()).next_multiple_of(UNIFORM_ALIGN)
}

/// Words of the parameters of every dispatch.
pub(super) fn parameter_words(plan: &Plan) -> usize {
    plan.ops.iter().map(|op| op.cuts.len() * param_stride(op) / 4).sum::<usize>().max(64)
}

/// One uniform buffer with the parameters of every dispatch.
fn upload_params(plan: &Plan, context: &Context) -> Result<Arc<Buffer>> {
    let mut words = Vec::new();
    for op in &plan.ops {
        for (origin, _) in &op.cuts {
            let at = words.len();
            words.extend_from_slice(&op.params);
            words[at..at + 3].copy_from_slice(origin);
            words.resize(at + param_stride(op) / 4, 0);
        }
    }
    words.resize(parameter_words(plan), 0u32);
    let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
    let buffer = context.buffer("parameters", 4 * words.len() as u64, usage)?;
    context.queue().write_buffer(buffer.raw(), 0, bytemuck::cast_slice(&words));
    Ok(buffer)
}
