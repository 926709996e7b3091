//! Checkpoints: everything that decides how a run goes on, so that a resumed run equals one that was never interrupted, bit for bit.
//!
//! A checkpoint is a folder `step-00001200` with `state.safetensors` and `state.json`. It is written under another name, flushed and
//! renamed, so that a folder of this name is always complete; older ones go only after that.

use super::options::Options;
use super::run::Trainer;
use crate::format::{NewTensor, Safetensors, SafetensorsWriter, write_atomically};
use crate::gpu::Buffer;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const STATE: &str = "state.safetensors";
const ABOUT: &str = "state.json";
const PREFIX: &str = "step-";

/// What a checkpoint says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// Format of the checkpoint.
    pub version: u32,
    /// Steps done.
    pub step: usize,
    /// Re-SVDs done.
    pub re_svds: usize,
    /// The run's options.
    pub options: Options,
}

/// A named range of words of a buffer.
struct Part {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    buffer: Arc<Buffer>,
    bytes: Range<u64>,
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
    move |source| Error::Io { path: path.display().to_string(), source }
}

/// The folder of a step.
pub fn folder(parent: &Path, step: usize) -> PathBuf {
    parent.join(format!("{PREFIX}{step:08}"))
}

/// The newest checkpoint below a folder.
///
/// # Errors
/// [`Error::Io`].
pub fn latest(parent: &Path) -> Result<Option<PathBuf>> {
    Ok(all(parent)?.pop().map(|(_, path)| path))
}

/// Complete checkpoints, oldest first.
fn all(parent: &Path) -> Result<Vec<(usize, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(parent).map_err(io(parent))? {
        let path = entry.map_err(io(parent))?.path();
        let step = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_prefix(PREFIX)).and_then(|n| n.parse().ok());
        found.extend(step.map(|s| (s, path)));
    }
    found.sort();
    Ok(found)
}

/// What a checkpoint says of itself.
///
/// # Errors
/// [`Error::Io`], [`Error::Format`].
pub fn about(checkpoint: &Path) -> Result<About> {
    let path = checkpoint.join(ABOUT);
    let text = std::fs::read(&path).map_err(io(&path))?;
    let about: About = serde_json::from_slice(&text).map_err(|e| Error::format(path.display().to_string(), "JSON", e.to_string()))?;
    if about.version != 1 {
        return Err(Error::format(path.display().to_string(), "version", format!("{} is not known: use a newer etalon", about.version)));
    }
    Ok(about)
}

impl Trainer {
    /// Writes a checkpoint below `parent` and removes all but the newest `keep`.
    ///
    /// # Errors
    /// [`Error::Io`]: older checkpoints are as they were.
    pub async fn save(&self, parent: &Path, keep: usize) -> Result<PathBuf> {
        let to = folder(parent, self.step());
        // One name, so that what a killed run left goes with the next checkpoint.
        let temporary = parent.join(".writing");
        if temporary.exists() {
            std::fs::remove_dir_all(&temporary).map_err(io(&temporary))?;
        }
        std::fs::create_dir_all(&temporary).map_err(io(&temporary))?;
        let written = self.write_state(&temporary).await;
        if let Err(e) = written {
            // What is left is no checkpoint; that it cannot be removed is not the fault to report.
            let _ = std::fs::remove_dir_all(&temporary);
            return Err(e);
        }
        if to.exists() {
            std::fs::remove_dir_all(&to).map_err(io(&to))?;
        }
        std::fs::rename(&temporary, &to).map_err(io(&to))?;
        // The new name is to survive a loss of power too, where folders can be synchronised.
        let _ = std::fs::File::open(parent).and_then(|f| f.sync_all());
        let mut old = all(parent)?;
        old.truncate(old.len().saturating_sub(keep.max(1)));
        for (_, path) in old {
            std::fs::remove_dir_all(&path).map_err(io(&path))?;
        }
        Ok(to)
    }

    async fn write_state(&self, folder: &Path) -> Result<()> {
        let parts = self.parts();
        let entries: Vec<NewTensor> =
            parts.iter().map(|p| NewTensor { name: p.name.clone(), dtype: p.dtype, shape: p.shape.clone() }).collect();
        let mut writer = SafetensorsWriter::create(&folder.join(STATE), &entries, &BTreeMap::new())?;
        for name in writer.order() {
            let Some(p) = parts.iter().find(|p| p.name == name) else { continue };
            let words = self.context.read_ranges(&[(&p.buffer, p.bytes.clone())])?.words().await?;
            writer.push(bytemuck::cast_slice(&words[0]))?;
        }
        writer.finish()?;
        let about = About { version: 1, step: self.step(), re_svds: self.re_svds(), options: self.options.clone() };
        let text = serde_json::to_string_pretty(&about).map_err(|e| Error::Request(e.to_string()))?;
        write_atomically(&folder.join(ABOUT), text.as_bytes())
    }

    /// Every range of the device's memory that the future depends on.
    fn parts(&self) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut push = |name: String, dtype, shape: Vec<usize>, buffer: &Arc<Buffer>, offset: usize| {
            let words: usize = shape.iter().product();
            let bytes = 4 * offset as u64..4 * (offset + words) as u64;
            parts.push(Part { name, dtype, shape, buffer: buffer.clone(), bytes });
        };
        for (id, t) in self.layout.tensors() {
            let (buffer, offset) = self.buffers.place(&self.layout, id);
            match t.packing() {
                None => push(t.name.clone(), "F32", vec![t.rows, t.cols], buffer, offset),
                Some(_) => push(t.name.clone(), "U32", vec![t.rows, t.words() / t.rows.max(1)], buffer, offset),
            }
            if let Some(([_, first, second], offset, words)) = self.buffers.gradient_place(&self.layout, id) {
                push(format!("{}:first", t.name), "F32", vec![words], first, offset);
                push(format!("{}:second", t.name), "F32", vec![words], second, offset);
            }
        }
        let mut whole = |name: &str, buffer: &Arc<Buffer>| {
            push(name.into(), "U32", vec![(buffer.size() / 4) as usize], buffer, 0);
        };
        whole(":active", &self.buffers.indices);
        whole(":progress", &self.feed.progress);
        for (i, used) in self.drawn().iter().enumerate() {
            whole(&format!(":drawn {i}"), used);
        }
        parts
    }

    /// Takes over the state of a checkpoint. The run must have been made from the same options, but for the number of steps.
    ///
    /// # Errors
    /// [`Error::Request`] for other options; [`Error::Format`], [`Error::MissingTensor`], [`Error::Io`].
    pub fn restore(&mut self, checkpoint: &Path) -> Result<()> {
        let about = about(checkpoint)?;
        if (Options { steps: self.options.steps, ..about.options.clone() }) != self.options {
            return Err(Error::Request(format!("{}: was made with other options than this run's", checkpoint.display())));
        }
        let path = checkpoint.join(STATE);
        let file = Safetensors::open(&path)?;
        for p in self.parts() {
            let words = file.words(&p.name)?;
            if 4 * words.len() as u64 != p.bytes.end - p.bytes.start {
                return Err(Error::format(
                    path.display().to_string(),
                    &p.name,
                    "has another size than the run's: was it made by another run?",
                ));
            }
            self.context.write(&p.buffer, p.bytes.start, &words)?;
            // Staging copies of a large state would pile up.
            self.context.queue().submit([]);
        }
        self.resumed(about.step, about.re_svds);
        Ok(())
    }
}
