//! Where bytes come from: a mapped file, or memory.

use std::borrow::Cow;
use std::fmt::Debug;
use std::sync::Arc;

use crate::error::{Error, Result};

/// A sequence of bytes that can be read anywhere. Implement it to load models from ranges of something else.
pub trait Source: Send + Sync + Debug {
    /// What errors call it: a file name.
    fn name(&self) -> &str;

    /// Its length.
    fn len(&self) -> u64;

    /// True if it holds nothing.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Exactly `len` bytes from `offset`; an error if they are not all there.
    fn read(&self, offset: u64, len: usize) -> Result<Cow<'_, [u8]>>;
}

/// Bytes in memory.
#[derive(Clone)]
pub struct Bytes {
    /// What errors call it.
    pub name: String,
    /// The bytes.
    pub data: Arc<[u8]>,
}

impl Bytes {
    /// Bytes in memory; `name` appears in errors.
    pub fn new(name: impl Into<String>, data: impl Into<Arc<[u8]>>) -> Self {
        Self { name: name.into(), data: data.into() }
    }
}

impl Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bytes({}, {} bytes)", self.name, self.data.len())
    }
}

impl Source for Bytes {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> u64 {
        self.data.len() as u64
    }

    fn read(&self, offset: u64, len: usize) -> Result<Cow<'_, [u8]>> {
        slice(&self.name, &self.data, offset, len)
    }
}

/// A range of `data`, checked.
fn slice<'a>(name: &str, data: &'a [u8], offset: u64, len: usize) -> Result<Cow<'a, [u8]>> {
    let range = usize::try_from(offset).ok().and_then(|start| Some(start..start.checked_add(len)?));
    match range.and_then(|range| data.get(range)) {
        Some(bytes) => Ok(Cow::Borrowed(bytes)),
        None => Err(Error::format(
            name,
            "length",
            format!("{len} bytes at {offset} are past the end ({} bytes): the file is cut off or damaged", data.len()),
        )),
    }
}

/// A file mapped into memory.
#[cfg(not(target_arch = "wasm32"))]
#[derive(Debug)]
pub struct Mapped {
    name: String,
    map: memmap2::Mmap,
}

#[cfg(not(target_arch = "wasm32"))]
impl Mapped {
    /// Maps a file. It must not be changed or cut short while it is in use: what is read then is undefined.
    pub fn open(path: &std::path::Path) -> Result<Self> {
        let name = path.display().to_string();
        let io = |source| Error::Io { path: name.clone(), source };
        let file = std::fs::File::open(path).map_err(io)?;
        // SAFETY: the map is read-only and lives as long as `Mapped`. That nobody else changes the file meanwhile cannot be
        // enforced by the system; as every memory-mapping reader, `open` states it as a condition.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(io)?;
        Ok(Self { name, map })
    }
}

#[cfg(not(target_arch = "wasm32"))]
impl Source for Mapped {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> u64 {
        self.map.len() as u64
    }

    fn read(&self, offset: u64, len: usize) -> Result<Cow<'_, [u8]>> {
        slice(&self.name, &self.map, offset, len)
    }
}
