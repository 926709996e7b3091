//! The header of a safetensors file.

use std::fmt;

use serde::Deserialize;
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};

use super::source::Source;
use crate::error::{Error, Result};

/// The longest header, as the format's own library has it.
const MAX_HEADER: u64 = 100_000_000;

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
const TYPES: [(&str, u64); 17] = [
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

/// Reads and checks the header: known types, sizes that fit the shapes, and data that is covered exactly once.
pub(super) fn read_header(source: &dyn Source) -> Result<Vec<Entry>> {
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
    let Header(raw) = serde_json::from_slice(&json).map_err(|e| fail("header", e.to_string()))?;
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
        None => Ok(entries),
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

/// The header's object as a list, so that a name that occurs twice is seen.
struct Header(Vec<(String, Info)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut list = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        let info = map.next_value().map_err(|e| A::Error::custom(format!("tensor `{name}`: {e}")))?;
                        list.push((name, info));
                    }
                }
                Ok(Header(list))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
