//! A device and everything that is shared by the plans that run on it.

use super::buffer::Accounting;
use super::pipeline::{PipelineCache, now};
use super::{Buffer, Facts, MemoryReport, Pipeline, required_features, required_limits};
use crate::kernel::Variant;
use crate::{Error, Result};
use futures_channel::oneshot;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

/// Uploads go in slices of this size, and are submitted once they have staged as much, so that the driver's staging memory stays bounded.
const UPLOAD_SLICE: usize = 8 << 20;

#[cfg(not(target_arch = "wasm32"))]
type DriverCache = Option<super::cache::DriverCache>;
/// Browsers keep their own.
#[cfg(target_arch = "wasm32")]
type DriverCache = Option<wgpu::PipelineCache>;

/// How a context of its own is made.
#[derive(Debug, Clone, Default)]
pub struct ContextOptions {
    /// An adapter's number in [`Context::adapters`], or a part of its name; `None` takes the first real GPU, else any.
    pub device: Option<String>,
    /// Ask for WebGPU's default limits and no optional feature, as a browser would give.
    pub webgpu_defaults: bool,
    /// Run [`Context::self_test`] before anything else and leave out what fails it. About a second on a software driver, so
    /// better with a `cache`, which keeps the result for this adapter, driver and version of the shaders.
    pub self_test: bool,
    /// A folder to keep results of the self-test and compiled pipelines ([`Context::save_pipelines`]) in. It must be one that
    /// nobody untrusted can write to, as drivers believe what is in their caches. Browsers ignore it.
    pub cache: Option<PathBuf>,
}

/// A handle to a device and what is shared on it: pipelines, workspace, memory accounting. Cheap to clone; `Send + Sync`.
///
/// One that was made by [`Context::from_host`] never destroys the device, installs no handler on it and never blocks on it.
#[derive(Debug, Clone)]
pub struct Context(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    device: wgpu::Device,
    queue: wgpu::Queue,
    facts: Facts,
    owned: bool,
    pipelines: PipelineCache,
    driver_cache: DriverCache,
    accounting: Arc<Accounting>,
    workspace: Arc<Mutex<Workspace>>,
    /// Bytes written since a submission on their account.
    staged: AtomicUsize,
}

/// Transient buffers, shared by every plan of the context; grown to the largest.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    pub(crate) buffers: Vec<Arc<Buffer>>,
    /// Changes when a buffer is replaced, so that bound plans know that their bind groups are stale.
    pub(crate) generation: u64,
    /// A run in slices has begun and not ended: what lies in the buffers is its own.
    pub(crate) taken: bool,
}

impl Context {
    /// Names and facts of every adapter, in the order of their numbers.
    pub async fn adapters() -> Vec<wgpu::AdapterInfo> {
        instance().enumerate_adapters(wgpu::Backends::all()).await.iter().map(wgpu::Adapter::get_info).collect()
    }

    /// Opens a device of its own.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] where no adapter fits, [`Error::Device`] where the device cannot be created.
    pub async fn new(options: &ContextOptions) -> Result<Self> {
        let adapter = choose_adapter(options).await?;
        let (required_features, required_limits) = if options.webgpu_defaults {
            (wgpu::Features::empty(), wgpu::Limits::default())
        } else {
            (required_features(&adapter), required_limits(&adapter))
        };
        let (device, queue) = adapter
            .request_device(&wgpu::DeviceDescriptor {
                label: Some("etalon"),
                required_features,
                required_limits,
                // Blocks of up to 64 MB to cut buffers from, not 256: weights are few large buffers, and what is left of a block lies idle.
                memory_hints: wgpu::MemoryHints::MemoryUsage,
                ..Default::default()
            })
            .await
            .map_err(|e| Error::Device { what: format!("opening {}", adapter.get_info().name), message: e.to_string() })?;
        let facts = Facts::of(&device);
        #[cfg(target_arch = "wasm32")]
        let cache = None;
        #[cfg(not(target_arch = "wasm32"))]
        let cache = options.cache.as_ref().and_then(|folder| super::cache::DriverCache::open(&device, folder));
        let context = Self::with(device, queue, facts, true, cache);
        if options.self_test { context.tested(options).await } else { Ok(context) }
    }

    /// This context without the variants that fail the self-test, now or by the record of an earlier run.
    #[cfg(not(target_arch = "wasm32"))]
    async fn tested(&self, options: &ContextOptions) -> Result<Self> {
        use super::cache::{read_refused, write_refused};
        let fingerprint = crate::kernel::fingerprint(self.facts())?;
        if let Some(refused) = options.cache.as_ref().and_then(|folder| read_refused(folder, fingerprint)) {
            return Ok(self.without(refused));
        }
        let refused = self.polled(self.self_test()).await?.refused();
        if let Some(Err(e)) = options.cache.as_ref().map(|folder| write_refused(folder, fingerprint, &refused)) {
            log::warn!("the result of the self-test is not kept: {e}");
        }
        Ok(self.without(refused))
    }

    #[cfg(target_arch = "wasm32")]
    async fn tested(&self, _: &ContextOptions) -> Result<Self> {
        Ok(self.without(self.self_test().await?.refused()))
    }

    /// Polls the device whenever `future` waits, as nobody else can know of a context that is still being made.
    #[cfg(not(target_arch = "wasm32"))]
    async fn polled<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|cx| {
            let state = future.as_mut().poll(cx);
            if state.is_pending() {
                self.tick();
                std::thread::yield_now();
                cx.waker().wake_by_ref();
            }
            state
        })
        .await
    }

    /// Writes the pipelines compiled so far into the folder of [`ContextOptions::cache`], for the next run to take over. Does
    /// nothing without such a folder, or where the backend keeps no cache (only Vulkan does). What it saves is the driver's
    /// affair: software drivers put nothing into it.
    ///
    /// # Errors
    /// [`Error::Io`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn save_pipelines(&self) -> Result<()> {
        self.0.driver_cache.as_ref().map_or(Ok(()), super::cache::DriverCache::save)
    }

    /// Uses the host's device. `facts` is normally [`Facts::of`] that device.
    pub fn from_host(device: wgpu::Device, queue: wgpu::Queue, facts: Facts) -> Self {
        Self::with(device, queue, facts, false, None)
    }

    fn with(device: wgpu::Device, queue: wgpu::Queue, facts: Facts, owned: bool, driver_cache: DriverCache) -> Self {
        Self(Arc::new(Inner {
            device,
            queue,
            facts,
            owned,
            pipelines: PipelineCache::default(),
            driver_cache,
            accounting: Arc::default(),
            workspace: Arc::default(),
            staged: AtomicUsize::new(0),
        }))
    }

    /// The same device under other facts (a lower binding limit, refused variants), with caches of its own.
    pub fn with_facts(&self, facts: Facts) -> Self {
        Self::with(self.0.device.clone(), self.0.queue.clone(), facts, self.0.owned, self.0.driver_cache.clone())
    }

    /// The same device with these classes of variants refused, which normally failed [`Context::self_test`]. A handle to the
    /// same context where nothing changes; else one with caches of its own, and plans must be built anew for it.
    pub fn without(&self, refused: BTreeSet<String>) -> Self {
        if refused == self.0.facts.refused {
            return self.clone();
        }
        self.with_facts(Facts { refused, ..self.0.facts.clone() })
    }

    /// The device.
    pub fn device(&self) -> &wgpu::Device {
        &self.0.device
    }

    /// The queue.
    pub fn queue(&self) -> &wgpu::Queue {
        &self.0.queue
    }

    /// What variants are chosen by.
    pub fn facts(&self) -> &Facts {
        &self.0.facts
    }

    /// True where this context opened the device itself, and so may block on it.
    pub fn is_owned(&self) -> bool {
        self.0.owned
    }

    /// Bytes held by buffers of this context.
    pub fn memory(&self) -> MemoryReport {
        self.0.accounting.report()
    }

    /// Number of pipelines compiled so far.
    pub fn pipelines(&self) -> usize {
        self.0.pipelines.len()
    }

    pub(crate) fn pipeline(&self, variant: &Variant) -> Result<Arc<Pipeline>> {
        #[cfg(target_arch = "wasm32")]
        let cache = self.0.driver_cache.as_ref();
        #[cfg(not(target_arch = "wasm32"))]
        let cache = self.0.driver_cache.as_ref().map(|c| &c.cache);
        self.0.pipelines.get(&self.0.device, cache, variant)
    }

    pub(crate) fn workspace(&self) -> &Arc<Mutex<Workspace>> {
        &self.0.workspace
    }

    /// A zeroed storage buffer of at least `bytes` bytes (rounded up to 256), counted under `label`.
    ///
    /// # Errors
    /// [`Error::Limit`] above the device's buffer size, [`Error::OutOfMemory`].
    pub fn storage(&self, label: &str, bytes: u64) -> Result<Arc<Buffer>> {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        self.buffer(label, bytes.max(1).next_multiple_of(256), usage)
    }

    pub(crate) fn buffer(&self, label: &str, size: u64, usage: wgpu::BufferUsages) -> Result<Arc<Buffer>> {
        let allowed = self.facts().limits.max_buffer_size;
        if size > allowed {
            return Err(Error::Limit {
                what: label.into(),
                limit: "max_buffer_size",
                needed: size,
                allowed,
                advice: "use a shorter context, a smaller batch or fewer bits",
            });
        }
        let memory = self.0.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let invalid = self.0.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let raw = self.0.device.create_buffer(&wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false });
        let (invalid, memory) = (now(invalid.pop()).flatten(), now(memory.pop()).flatten());
        if memory.is_some() {
            return Err(Error::OutOfMemory { what: label.into(), bytes: size, in_use: self.memory().now });
        }
        if let Some(e) = invalid {
            return Err(Error::Device { what: format!("allocating {label}"), message: e.to_string() });
        }
        Ok(Arc::new(Buffer::counted(raw, label, &self.0.accounting)))
    }

    /// A storage buffer that holds `words`; the upload goes in bounded slices.
    ///
    /// # Errors
    /// As [`Context::storage`].
    pub fn upload(&self, label: &str, words: &[u32]) -> Result<Arc<Buffer>> {
        let buffer = self.storage(label, 4 * words.len() as u64)?;
        let bytes: &[u8] = bytemuck::cast_slice(words);
        for (i, slice) in bytes.chunks(UPLOAD_SLICE).enumerate() {
            self.stage(&buffer, (i * UPLOAD_SLICE) as u64, slice);
        }
        Ok(buffer)
    }

    /// Without a submission in between, the staging copies of all that is written would pile up: of a model's weights, as much again.
    fn stage(&self, buffer: &Buffer, offset: u64, bytes: &[u8]) {
        self.0.queue.write_buffer(buffer.raw(), offset, bytes);
        if self.0.staged.fetch_add(bytes.len(), Relaxed) + bytes.len() >= UPLOAD_SLICE {
            self.0.staged.store(0, Relaxed);
            self.0.queue.submit([]);
            self.settle();
        }
    }

    /// Lets go of staging copies: on a device of our own those of all submissions, else of those that have run.
    fn settle(&self) {
        #[cfg(not(target_arch = "wasm32"))]
        if self.0.owned {
            // A lost device shows in the operation that waits for it, not here.
            let _ = self.0.device.poll(wgpu::PollType::wait_indefinitely());
            return;
        }
        self.tick();
    }

    /// Writes words at a byte offset (a multiple of 4). Takes effect before the next submission as a whole, which may be its own: after every
    /// 8 MiB of writes and uploads one is made, and on a device of our own waited for.
    ///
    /// # Errors
    /// [`Error::Request`] where the range is not in the buffer.
    pub fn write(&self, buffer: &Buffer, offset: u64, words: &[u32]) -> Result<()> {
        let end = offset + 4 * words.len() as u64;
        if !offset.is_multiple_of(4) || end > buffer.size() {
            return Err(Error::Request(format!("a write of bytes {offset}..{end} into a buffer of {} bytes", buffer.size())));
        }
        self.stage(buffer, offset, bytemuck::cast_slice(words));
        Ok(())
    }

    /// One non-blocking poll of the device, which may run callbacks of the host too.
    pub fn tick(&self) {
        // A lost device shows in the operation that waits for it, not here.
        let _ = self.0.device.poll(wgpu::PollType::Poll);
    }

    /// Copies byte ranges of buffers to the host. The copies are submitted now; the future is ready once the device has been
    /// polled or has submitted after they ran.
    ///
    /// # Errors
    /// [`Error::Request`] where a range is not in its buffer, and what [`Context::storage`] returns.
    pub fn read_ranges(&self, ranges: &[(&Buffer, Range<u64>)]) -> Result<Readback> {
        let mut at = Vec::with_capacity(ranges.len());
        let mut total = 0u64;
        for (buffer, r) in ranges {
            if r.end > buffer.size() || r.start > r.end || !r.start.is_multiple_of(4) || !r.end.is_multiple_of(4) {
                return Err(Error::Request(format!("a read of bytes {r:?} of a buffer of {} bytes", buffer.size())));
            }
            at.push(total as usize..(total + r.end - r.start) as usize);
            total += r.end - r.start;
        }
        let staging = self.buffer("readback", total.max(4), wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ)?;
        let mut encoder = self.0.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("readback") });
        for ((buffer, r), at) in ranges.iter().zip(&at) {
            if r.end > r.start {
                encoder.copy_buffer_to_buffer(buffer.raw(), r.start, staging.raw(), at.start as u64, r.end - r.start);
            }
        }
        self.0.queue.submit([encoder.finish()]);
        let (send, receive) = oneshot::channel();
        staging.raw().map_async(wgpu::MapMode::Read, .., move |r| {
            let _ = send.send(r);
        });
        Ok(Readback { context: self.clone(), staging, at, receive })
    }

    /// Blocks until `future` is done, polling the device meanwhile.
    ///
    /// Only for a context that owns its device: on a host's, await the future instead, since its polls are the host's to make.
    ///
    /// # Errors
    /// [`Error::Request`] on a host's device, else what the future returns.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn block_on<T>(&self, future: impl Future<Output = Result<T>>) -> Result<T> {
        if !self.0.owned {
            return Err(Error::Request("blocking on a host's device is refused: await the future, and poll from the host".into()));
        }
        let mut future = std::pin::pin!(future);
        loop {
            if let Some(v) = now(future.as_mut()) {
                return v;
            }
            match self.0.device.poll(wgpu::PollType::wait_indefinitely()) {
                Ok(_) => {}
                Err(e) => return Err(Error::DeviceLost { reason: e.to_string() }),
            }
        }
    }
}

/// Bytes on their way from the device. Dropping it is safe at any time.
#[derive(Debug)]
pub struct Readback {
    context: Context,
    staging: Arc<Buffer>,
    at: Vec<Range<usize>>,
    receive: oneshot::Receiver<Result<(), wgpu::BufferAsyncError>>,
}

impl Readback {
    /// Waits for the bytes, one vector of words a range.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] where the device went away meanwhile.
    pub async fn words(self) -> Result<Vec<Vec<u32>>> {
        let lost = |reason: String| Error::DeviceLost { reason };
        self.receive.await.map_err(|_| lost("a readback was cancelled".into()))?.map_err(|e| lost(e.to_string()))?;
        let view = self.staging.raw().slice(..).get_mapped_range().map_err(|e| lost(e.to_string()))?;
        let out = self.at.iter().map(|r| bytemuck::pod_collect_to_vec(&view[r.clone()])).collect();
        drop(view);
        self.staging.raw().unmap();
        drop(self.context);
        Ok(out)
    }
}

fn instance() -> wgpu::Instance {
    wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env())
}

async fn choose_adapter(options: &ContextOptions) -> Result<wgpu::Adapter> {
    let adapters = instance().enumerate_adapters(wgpu::Backends::all()).await;
    let rank = |a: &wgpu::Adapter| match a.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Cpu => 3,
        wgpu::DeviceType::Other => 4,
    };
    let Some(wanted) = &options.device else {
        return adapters.into_iter().min_by_key(rank).ok_or(Error::NoAdapter { wanted: String::new() });
    };
    let fits = |(i, a): &(usize, wgpu::Adapter)| match wanted.parse::<usize>() {
        Ok(n) => n == *i,
        Err(_) => a.get_info().name.to_lowercase().contains(&wanted.to_lowercase()),
    };
    let found = adapters.into_iter().enumerate().find(fits).map(|(_, a)| a);
    found.ok_or_else(|| Error::NoAdapter { wanted: format!(" that matches `{wanted}`") })
}
