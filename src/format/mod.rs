//! Reading model files: safetensors and GGUF behind one view, configurations, tokenizers, and NumPy arrays; writing safetensors.

mod chat;
mod checkpoint;
pub mod compressed;
mod config;
mod config_gguf;
mod config_marian;
mod ggml;
mod gguf;
mod names;
mod npy;
#[cfg(not(target_arch = "wasm32"))]
mod open;
pub(crate) mod pickle;
mod safetensors;
mod source;
mod tokenizer;
#[cfg(not(target_arch = "wasm32"))]
mod write;

pub use chat::{Message, render_chat};
pub use checkpoint::{Checkpoint, Encoding, HostMatrix, RopePairing, TensorEntry};
pub use config::{Activation, BertConfig, BertHead, Config, LlamaConfig, OptConfig, RopeScaling};
pub use config_marian::MarianConfig;
pub use ggml::{GgmlType, pack, unpack};
pub use gguf::{Gguf, Scalar, TensorInfo, Value};
pub(crate) use names::from_gguf as gguf_name;
pub use npy::{Npy, NpyData};
pub use safetensors::{RawTensor, Safetensors};
#[cfg(not(target_arch = "wasm32"))]
pub use source::Mapped;
pub use source::{Bytes, Source};
pub use tokenizer::{TextStream, Tokenizer};
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use write::Draft;
#[cfg(not(target_arch = "wasm32"))]
pub use write::{NewTensor, SafetensorsWriter, write_atomically, write_safetensors};
