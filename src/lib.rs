//! GPU compute kernels on wgpu for quantised language models and encoders, recorded once and replayed, inside an
//! application's own device or on one of the crate's own.

pub mod autograd;
pub mod error;
pub mod gpu;
pub mod hyperbolic;
pub mod kernel;
pub mod linalg;
pub mod plan;
pub mod quant;
pub mod reference;
pub mod tensor;

#[cfg(feature = "models")]
pub mod compress;
#[cfg(feature = "models")]
pub mod format;
#[cfg(feature = "models")]
pub mod graphs;
#[cfg(feature = "models")]
pub mod model;
#[cfg(feature = "models")]
pub mod train;
#[cfg(feature = "models")]
pub mod translation;

pub use error::{Error, Result};
pub use gpu::{Context, ContextOptions, Facts};
pub use plan::Plan;
pub use wgpu;
