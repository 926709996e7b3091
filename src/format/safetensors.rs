//! Safetensors: the header, and tensors as they lie in the file.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Error as _, MapAccess, Visitor};
use serde_json::Value as Json;

use super::source::Source;
use crate::error::{Error, Result};

/// The longest header, as the format's own library has it.
pub(super) const MAX_HEADER: u64 = 100_000_000;

/// A tensor's place in the file.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) dtype: &'static str,
    pub(super) shape: Vec<usize>,
    /// From the beginning of the file.
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// Element types: name and bytes.
pub(super) const TYPES: [(&str, u64); 17] = [
    ("F32", 4),
    ("F16", 2),
    ("BF16", 2),
    ("F64", 8),
    ("I64", 8),
    ("I32", 4),
    ("I16", 2),
    ("I8", 1),
    ("U64", 8),
    ("U32", 4),
    ("U16", 2),
    ("U8", 1),
    ("BOOL", 1),
    ("F8_E4M3", 1),
    ("F8_E5M2", 1),
    ("F8_E8M0", 1),
    ("C64", 8),
];

/// A safetensors file whose tensors are read as they are, whatever they mean.
#[derive(Debug)]
pub struct Safetensors {
    source: Arc<dyn Source>,
    entries: Vec<Entry>,
    metadata: BTreeMap<String, String>,
}

/// A tensor as it lies in the file.
#[derive(Debug)]
pub struct RawTensor<'a> {
    /// The format's name of the element type, such as `F32`.
    pub dtype: &'static str,
    /// The shape, rows first.
    pub shape: &'a [usize],
    /// The elements, little-endian.
    pub bytes: Cow<'a, [u8]>,
}

impl Safetensors {
    /// Reads the header.
    ///
    /// # Errors
    /// [`Error::Format`] if the file is damaged or cut off, [`Error::Io`].
    pub fn parse(source: Arc<dyn Source>) -> Result<Self> {
        let (entries, metadata) = read(&*source)?;
        Ok(Self { source, entries, metadata })
    }

    /// Reads the header of a file.
    ///
    /// # Errors
    /// As [`Self::parse`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open(path: &std::path::Path) -> Result<Self> {
        Self::parse(Arc::new(super::source::Mapped::open(path)?))
    }

    /// The strings under `__metadata__`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The tensors' names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|e| e.name.as_str())
    }

    /// A tensor as it lies in the file.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] if there is none of this name, [`Error::Format`] if it is larger than memory can be, [`Error::Io`].
    pub fn raw(&self, name: &str) -> Result<RawTensor<'_>> {
        let file = self.source.name();
        let Ok(at) = self.entries.binary_search_by(|e| e.name.as_str().cmp(name)) else {
            let hint = format!("the file has {} tensors", self.entries.len());
            return Err(Error::MissingTensor { file: file.into(), tensor: name.into(), hint });
        };
        let entry = &self.entries[at];
        let len = usize::try_from(entry.bytes).map_err(|_| Error::format(file, name, "is too large for this machine"))?;
        Ok(RawTensor { dtype: entry.dtype, shape: &entry.shape, bytes: self.source.read(entry.offset, len)? })
    }

    /// The 32-bit words of a tensor of type `U32`, `I32` or `F32`, bit for bit.
    ///
    /// # Errors
    /// As [`Self::raw`], and [`Error::Format`] if the tensor has another type.
    pub fn words(&self, name: &str) -> Result<Vec<u32>> {
        let raw = self.raw(name)?;
        if !matches!(raw.dtype, "U32" | "I32" | "F32") {
            return Err(Error::format(self.source.name(), name, format!("has type {} where words of 32 bits are needed", raw.dtype)));
        }
        Ok(raw.bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }
}

/// Reads and checks the header: known types, sizes that fit the shapes, and data that is covered exactly once.
pub(super) fn read_header(source: &dyn Source) -> Result<Vec<Entry>> {
    Ok(read(source)?.0)
}

/// The same, and the metadata.
fn read(source: &dyn Source) -> Result<(Vec<Entry>, BTreeMap<String, String>)> {
    let file = source.name();
    let fail = |field: &str, message: String| Error::format(file, field, message);
    if source.len() < 8 {
        return Err(fail("header length", "the file ends here: it is cut off or damaged".into()));
    }
    let mut length = [0; 8];
    length.copy_from_slice(&source.read(0, 8)?);
    let length = u64::from_le_bytes(length);
    let data_len = match (source.len() - 8).checked_sub(length) {
        Some(rest) if length <= MAX_HEADER => rest,
        _ => {
            return Err(fail(
                "header length",
                format!("{length} bytes in a file of {}: it is cut off, damaged, or no safetensors file", source.len()),
            ));
        }
    };
    let json = source.read(8, length as usize)?;
    let Header(raw, metadata) = serde_json::from_slice(&json).map_err(|e| fail("header", e.to_string()))?;
    let mut entries = raw.into_iter().map(|(name, info)| entry(file, name, &info)).collect::<Result<Vec<_>>>()?;

    entries.sort_by_key(|e| (e.offset, e.bytes));
    let mut end = 0;
    for entry in &mut entries {
        if entry.offset != end {
            return Err(fail(
                &entry.name,
                format!("begins at {} where the tensor before it ends at {end}: an overlap or a hole", entry.offset),
            ));
        }
        end = end.checked_add(entry.bytes).filter(|&end| end <= data_len).ok_or_else(|| {
            fail(
                &entry.name,
                format!(
                    "{} bytes at {} are past the end of the file ({data_len} bytes of data): it is cut off or damaged",
                    entry.bytes, entry.offset
                ),
            )
        })?;
        entry.offset += 8 + length;
    }
    if end != data_len {
        return Err(fail("data", format!("{data_len} bytes, of which the header describes {end}")));
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    match entries.windows(2).find(|pair| pair[0].name == pair[1].name) {
        Some(pair) => Err(fail(&pair[0].name, "two tensors have this name".into())),
        None => Ok((entries, metadata)),
    }
}

/// An entry with its offset still relative to the data.
fn entry(file: &str, name: String, info: &Info) -> Result<Entry> {
    let fail = |message: String| Err(Error::format(file, &name, message));
    let Some(&(dtype, size)) = TYPES.iter().find(|t| t.0 == info.dtype) else {
        return fail(format!("type `{}` is unknown", info.dtype));
    };
    let bytes = info.shape.iter().try_fold(size, |product, &n| product.checked_mul(n));
    let [start, end] = info.data_offsets;
    if bytes.is_none() || end.checked_sub(start) != bytes {
        return fail(format!("data offsets {start} to {end} do not fit {:?} elements of {dtype}", info.shape));
    }
    let shape: Result<Vec<usize>, _> = info.shape.iter().map(|&n| usize::try_from(n)).collect();
    match shape {
        Ok(shape) => Ok(Entry { name, dtype, shape, offset: start, bytes: end - start }),
        Err(_) => fail("is too large for this machine".into()),
    }
}

#[derive(Deserialize)]
struct Info {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// The header's object as a list, so that a name that occurs twice is seen; and its metadata, as far as they are strings.
struct Header(Vec<(String, Info)>, BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let (mut list, mut metadata) = (Vec::new(), BTreeMap::new());
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        // Whatever else stands there harms nobody.
                        if let Json::Object(object) = map.next_value()? {
                            let text = |(key, value): (String, Json)| value.as_str().map(|v| (key, v.to_owned()));
                            metadata = object.into_iter().filter_map(text).collect();
                        }
                    } else {
                        let info = map.next_value().map_err(|e| A::Error::custom(format!("tensor `{name}`: {e}")))?;
                        list.push((name, info));
                    }
                }
                Ok(Header(list, metadata))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
