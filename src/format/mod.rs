//! Reading model files: safetensors and GGUF behind one view, configurations, tokenizers, and NumPy arrays.

mod ggml;
mod gguf;
mod source;

pub use ggml::{GgmlType, pack};
pub use gguf::{Gguf, Scalar, TensorInfo, Value};
#[cfg(not(target_arch = "wasm32"))]
pub use source::Mapped;
pub use source::{Bytes, Source};
