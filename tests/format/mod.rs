//! Reading model files.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

mod alloc;
mod checkpoint;
mod config;
mod gguf;
mod hostile;
mod npy;
mod text;

use std::path::{Path, PathBuf};

use etalon::format::Npy;

/// A file of `tests/fixtures`.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// An array of `tests/fixtures`.
pub(crate) fn array(name: &str) -> Npy {
    Npy::read(&fixture(name)).unwrap()
}

/// A downloaded model, or `None` with a note that the test is skipped.
pub(crate) fn model(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/data").join(name);
    if !path.exists() {
        eprintln!("skipped: {} is not there (cargo xtask fetch)", path.display());
        return None;
    }
    Some(path)
}

/// A folder of its own that is removed at the end.
struct TempFolder(PathBuf);

impl TempFolder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("etalon-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.0.join(name), bytes).unwrap();
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Writes GGUF files, right or wrong.
#[derive(Clone, Default)]
pub(crate) struct GgufBuilder {
    keys: Vec<Vec<u8>>,
    tensors: Vec<(String, Vec<u64>, u32, Option<u64>, Vec<u8>)>,
}

impl GgufBuilder {
    fn string(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
    }

    fn key(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.keys.push([&Self::string(key), &kind.to_le_bytes()[..], value].concat());
        self
    }

    pub(crate) fn u32(self, key: &str, value: u32) -> Self {
        self.key(key, 4, &value.to_le_bytes())
    }

    fn f32(self, key: &str, value: f32) -> Self {
        self.key(key, 6, &value.to_le_bytes())
    }

    fn bool(self, key: &str, value: bool) -> Self {
        self.key(key, 7, &[value.into()])
    }

    fn text(self, key: &str, value: &str) -> Self {
        self.key(key, 8, &Self::string(value))
    }

    fn texts(self, key: &str, values: &[&str]) -> Self {
        let items: Vec<u8> = values.iter().flat_map(|v| Self::string(v)).collect();
        self.array(key, 8, values.len(), &items)
    }

    fn i32s(self, key: &str, values: &[i32]) -> Self {
        let items: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.array(key, 5, values.len(), &items)
    }

    fn f32s(self, key: &str, values: &[f32]) -> Self {
        let items: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.array(key, 6, values.len(), &items)
    }

    fn array(self, key: &str, kind: u32, count: usize, items: &[u8]) -> Self {
        self.key(key, 9, &[&kind.to_le_bytes()[..], &(count as u64).to_le_bytes(), items].concat())
    }

    /// A tensor; `dims` as in the file, columns first.
    fn tensor(mut self, name: &str, dims: &[u64], kind: u32, data: Vec<u8>) -> Self {
        self.tensors.push((name.into(), dims.into(), kind, None, data));
        self
    }

    /// A tensor whose entry lies about its offset.
    fn tensor_at(mut self, name: &str, dims: &[u64], kind: u32, offset: u64, data: Vec<u8>) -> Self {
        self.tensors.push((name.into(), dims.into(), kind, Some(offset), data));
        self
    }

    /// The header, up to the data.
    fn header(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.keys.len() as u64).to_le_bytes());
        out.extend(self.keys.concat());
        let mut offset = 0u64;
        for (name, dims, kind, lie, data) in &self.tensors {
            out.extend(Self::string(name));
            out.extend((dims.len() as u32).to_le_bytes());
            out.extend(dims.iter().flat_map(|d| d.to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend(lie.unwrap_or(offset).to_le_bytes());
            offset = (offset + data.len() as u64).next_multiple_of(32);
        }
        out
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        let mut out = self.header();
        for (_, _, _, _, data) in &self.tensors {
            out.resize(out.len().next_multiple_of(32), 0);
            out.extend(data);
        }
        out
    }
}

/// Blocks of a GGML type (size in bytes, places of f16 scales) for a number of blocks: every byte differs, scales are 1/4.
fn blocks(size: usize, scales: &[usize], count: usize) -> Vec<u8> {
    let mut out: Vec<u8> = (0..size * count).map(|i| (i * 31 + i / 7) as u8).collect();
    for block in out.chunks_exact_mut(size) {
        for &at in scales {
            block[at..at + 2].copy_from_slice(&0x3400u16.to_le_bytes());
        }
    }
    out
}

/// Floats around zero, little-endian.
fn floats(count: usize) -> Vec<u8> {
    (0..count).flat_map(|i| ((i % 13) as f32 / 8.0 - 0.5).to_le_bytes()).collect()
}

/// A Llama of one small layer with many block types and a byte-level tokenizer.
pub(crate) fn tiny_llama() -> GgufBuilder {
    let halves = |count: usize| (0..count).flat_map(|i| (0x3000u16 + i as u16 % 64).to_le_bytes()).collect::<Vec<u8>>();
    let builder = GgufBuilder::default()
        .text("general.architecture", "llama")
        .u32("llama.block_count", 1)
        .u32("llama.context_length", 64)
        .u32("llama.embedding_length", 32)
        .u32("llama.feed_forward_length", 256)
        .u32("llama.attention.head_count", 4)
        .u32("llama.attention.head_count_kv", 2)
        .f32("llama.attention.layer_norm_rms_epsilon", 1e-5)
        .f32("llama.rope.freq_base", 10000.0)
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", "smollm")
        .texts("tokenizer.ggml.tokens", &["<s>", "</s>", "a", "b", "c", "\u{120}", "ab", "\u{120}ab"])
        .i32s("tokenizer.ggml.token_type", &[3, 3, 1, 1, 1, 1, 1, 1])
        .texts("tokenizer.ggml.merges", &["a b", "\u{120} ab"])
        .u32("tokenizer.ggml.bos_token_id", 0)
        .u32("tokenizer.ggml.eos_token_id", 1)
        .bool("tokenizer.ggml.add_bos_token", true)
        .text("tokenizer.chat_template", "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}");
    builder
        .tensor("token_embd.weight", &[32, 8], 3, blocks(20, &[0, 2], 8))
        .tensor("blk.0.attn_norm.weight", &[32], 0, floats(32))
        .tensor("blk.0.attn_q.weight", &[32, 32], 2, blocks(18, &[0], 32))
        .tensor("blk.0.attn_k.weight", &[32, 16], 8, blocks(34, &[0], 16))
        .tensor("blk.0.attn_v.weight", &[32, 16], 1, halves(512))
        .tensor("blk.0.attn_output.weight", &[32, 32], 7, blocks(24, &[0, 2], 32))
        .tensor("blk.0.ffn_norm.weight", &[32], 0, floats(32))
        .tensor("blk.0.ffn_gate.weight", &[32, 256], 30, halves(8192))
        .tensor("blk.0.ffn_up.weight", &[32, 256], 20, blocks(18, &[0], 256))
        .tensor("blk.0.ffn_down.weight", &[256, 32], 14, blocks(210, &[208], 32))
        .tensor("output_norm.weight", &[32], 0, floats(32))
}
