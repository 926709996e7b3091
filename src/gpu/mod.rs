//! The host layer: adapter facts, the device (its own or the host's), buffers, pipelines, readback.

mod buffer;
#[cfg(not(target_arch = "wasm32"))]
mod cache;
mod context;
mod facts;
mod pipeline;

pub(crate) use buffer::lock;
pub use buffer::{Buffer, MemoryReport};
pub(crate) use context::Workspace;
pub use context::{Context, ContextOptions, Readback};
pub use facts::{Facts, required_features, required_limits};
pub(crate) use pipeline::Pipeline;
