//! Writing files whole or not at all, and safetensors among them.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::safetensors::{MAX_HEADER, TYPES};
use crate::error::{Error, Result};

/// A tensor that is to be written.
#[derive(Debug, Clone)]
pub struct NewTensor {
    /// Its name.
    pub name: String,
    /// The format's name of the element type: `F32`, `F16`, `BF16`, `U32`, `I64`, ...
    pub dtype: &'static str,
    /// The shape, rows first.
    pub shape: Vec<usize>,
}

impl NewTensor {
    /// A tensor that is to be written.
    pub fn new(name: impl Into<String>, dtype: &'static str, shape: impl Into<Vec<usize>>) -> Self {
        Self { name: name.into(), dtype, shape: shape.into() }
    }
}

/// Writes `bytes` to `path`: what was there before stays until all of them are on the disk.
///
/// # Errors
/// [`Error::Io`]; then the old file, if there is one, is as it was.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = Draft::new(path)?;
    file.write(bytes)?;
    file.finish()
}

/// Writes a safetensors file piece by piece, whole or not at all (as [`write_atomically`]), so that a model need not be in memory as
/// a whole. The same input gives the same bytes.
#[derive(Debug)]
pub struct SafetensorsWriter {
    file: Draft,
    /// Tensors in the order of the file: name, and bytes.
    order: Vec<(String, u64)>,
    written: usize,
}

impl SafetensorsWriter {
    /// Begins a file. `metadata` stands under `__metadata__`; transformers want `format` to be `pt` there.
    ///
    /// # Errors
    /// [`Error::Format`] for a name that occurs twice or is `__metadata__`, an unknown type; [`Error::Io`].
    pub fn create(path: &Path, tensors: &[NewTensor], metadata: &BTreeMap<String, String>) -> Result<Self> {
        let (header, order) = header(&path.display().to_string(), tensors, metadata)?;
        let mut file = Draft::new(path)?;
        file.write(&(header.len() as u64).to_le_bytes())?;
        file.write(header.as_bytes())?;
        Ok(Self { file, order: order.into_iter().map(|(i, bytes)| (tensors[i].name.clone(), bytes)).collect(), written: 0 })
    }

    /// Names in the order in which their elements are wanted: by size of element, larger first, so that all are aligned; then by
    /// name.
    pub fn order(&self) -> Vec<String> {
        self.order.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Writes the elements of the next tensor, little-endian.
    ///
    /// # Errors
    /// [`Error::Format`] where they do not fit the shape; [`Error::Io`].
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        let file = || self.file.target.display().to_string();
        let Some((name, size)) = self.order.get(self.written) else {
            return Err(Error::format(file(), "tensors", "more elements than were announced"));
        };
        if bytes.len() as u64 != *size {
            return Err(Error::format(file(), name, format!("{} bytes were given where {size} were announced", bytes.len())));
        }
        self.written += 1;
        self.file.write(bytes)
    }

    /// Puts the file into its place.
    ///
    /// # Errors
    /// [`Error::Format`] where tensors are missing; [`Error::Io`]. Then the old file, if there is one, is as it was.
    pub fn finish(self) -> Result<()> {
        if let Some((name, _)) = self.order.get(self.written) {
            return Err(Error::format(self.file.target.display().to_string(), name, "was announced and not written"));
        }
        self.file.finish()
    }
}

/// Writes a safetensors file with the elements that `bytes` gives for each tensor, by its number.
///
/// # Errors
/// As [`SafetensorsWriter`]; whatever `bytes` fails with. Then the old file, if there is one, is as it was.
pub fn write_safetensors<'a>(
    path: &Path,
    tensors: &[NewTensor],
    metadata: &BTreeMap<String, String>,
    mut bytes: impl FnMut(usize) -> Result<Cow<'a, [u8]>>,
) -> Result<()> {
    let mut writer = SafetensorsWriter::create(path, tensors, metadata)?;
    for name in writer.order() {
        if let Some(i) = tensors.iter().position(|t| t.name == name) {
            writer.push(&bytes(i)?)?;
        }
    }
    writer.finish()
}

/// The header, padded so that the data are aligned; and the tensors in the order of their data, with their bytes.
fn header(file: &str, tensors: &[NewTensor], metadata: &BTreeMap<String, String>) -> Result<(String, Vec<(usize, u64)>)> {
    let mut names = BTreeSet::new();
    let mut sized = Vec::with_capacity(tensors.len());
    for (index, tensor) in tensors.iter().enumerate() {
        let fail = |message: String| Error::format(file, &tensor.name, message);
        if tensor.name == "__metadata__" || !names.insert(&tensor.name) {
            return Err(fail("two tensors have this name, or it is reserved".into()));
        }
        let Some(&(_, size)) = TYPES.iter().find(|t| t.0 == tensor.dtype) else {
            return Err(fail(format!("type `{}` is unknown", tensor.dtype)));
        };
        let bytes = tensor.shape.iter().try_fold(size, |product, &n| product.checked_mul(n as u64));
        sized.push((index, size, bytes.ok_or_else(|| fail(format!("{:?} elements are too many", tensor.shape)))?));
    }
    sized.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| tensors[a.0].name.cmp(&tensors[b.0].name)));

    let string = |text: &str| serde_json::Value::from(text).to_string();
    let mut fields = Vec::with_capacity(tensors.len() + 1);
    if !metadata.is_empty() {
        let pairs: Vec<String> = metadata.iter().map(|(key, value)| format!("{}:{}", string(key), string(value))).collect();
        fields.push(format!("\"__metadata__\":{{{}}}", pairs.join(",")));
    }
    let mut start = 0u64;
    for &(index, _, bytes) in &sized {
        let NewTensor { name, dtype, shape } = &tensors[index];
        let end = start.checked_add(bytes).ok_or_else(|| Error::format(file, name, "the file would be too large"))?;
        let shape: Vec<String> = shape.iter().map(usize::to_string).collect();
        fields.push(format!(r#"{}:{{"dtype":"{dtype}","shape":[{}],"data_offsets":[{start},{end}]}}"#, string(name), shape.join(",")));
        start = end;
    }
    let mut header = format!("{{{}}}", fields.join(","));
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    if header.len() as u64 > MAX_HEADER {
        return Err(Error::format(file, "header", format!("{} bytes, where the format allows {MAX_HEADER}", header.len())));
    }
    Ok((header, sized.into_iter().map(|(index, _, bytes)| (index, bytes)).collect()))
}

/// A file under a temporary name beside its place; removed if it is not finished.
#[derive(Debug)]
pub(crate) struct Draft {
    target: PathBuf,
    temporary: PathBuf,
    /// Nothing once it is closed.
    file: Option<BufWriter<File>>,
    finished: bool,
}

impl Draft {
    pub(crate) fn new(target: &Path) -> Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let unnamed = || Error::Io { path: target.display().to_string(), source: io::Error::from(io::ErrorKind::InvalidInput) };
        let mut name = target.file_name().ok_or_else(unnamed)?.to_owned();
        // Another process, or thread, may be writing the same file.
        name.push(format!(".{}-{}.tmp", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        let temporary = target.with_file_name(name);
        let file = OpenOptions::new().write(true).create_new(true).open(&temporary).map_err(|e| io_error(target, e))?;
        Ok(Self { target: target.into(), temporary, file: Some(BufWriter::with_capacity(1 << 20, file)), finished: false })
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.file {
            Some(file) => file.write_all(bytes).map_err(|e| io_error(&self.target, e)),
            None => Ok(()),
        }
    }

    /// Brings everything to the disk, then the file to its place.
    pub(crate) fn finish(mut self) -> Result<()> {
        let whole = match self.file.take() {
            // Closed at the end of this arm, as some systems do not rename an open file.
            Some(file) => file.into_inner().map_err(io::IntoInnerError::into_error).and_then(|file| file.sync_all()),
            None => Ok(()),
        };
        whole.and_then(|()| fs::rename(&self.temporary, &self.target)).map_err(|e| io_error(&self.target, e))?;
        self.finished = true;
        // The new name is to survive a loss of power too; where folders cannot be synchronised, nothing can be done.
        #[cfg(unix)]
        if let Some(Ok(folder)) = self.target.parent().map(|p| File::open(if p.as_os_str().is_empty() { Path::new(".") } else { p })) {
            let _ = folder.sync_all();
        }
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            // Not flushed: it may be what failed.
            drop(file.into_parts());
        }
        if !self.finished {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

fn io_error(path: &Path, source: io::Error) -> Error {
    Error::Io { path: path.display().to_string(), source }
}
