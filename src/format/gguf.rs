//! GGUF, versions 2 and 3, little-endian.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::ggml::GgmlType;
use super::source::Source;
use crate::error::{Error, Result};

/// A value of the metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Any unsigned integer.
    Unsigned(u64),
    /// Any signed integer.
    Signed(i64),
    /// A float.
    Float(f64),
    /// A boolean.
    Bool(bool),
    /// A string.
    String(String),
    /// An array of strings.
    Strings(Vec<String>),
    /// An array of numbers, as they lie in the file.
    Numbers {
        /// The kind of the elements.
        kind: Scalar,
        /// The elements, little-endian.
        bytes: Vec<u8>,
    },
}

/// The kinds of numbers in metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it all")]
pub enum Scalar {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    U64,
    I64,
    F64,
}

/// Type numbers of strings and arrays.
const STRING: u32 = 8;
const ARRAY: u32 = 9;

impl Scalar {
    fn from_id(id: u32) -> Option<Self> {
        use Scalar::*;
        Some(match id {
            0 => U8,
            1 => I8,
            2 => U16,
            3 => I16,
            4 => U32,
            5 => I32,
            6 => F32,
            7 => Bool,
            10 => U64,
            11 => I64,
            12 => F64,
            _ => return None,
        })
    }

    fn size(self) -> usize {
        use Scalar::*;
        match self {
            U8 | I8 | Bool => 1,
            U16 | I16 => 2,
            U32 | I32 | F32 => 4,
            U64 | I64 | F64 => 8,
        }
    }

    /// The value of `size()` bytes.
    fn value(self, bytes: &[u8]) -> Value {
        let mut wide = [0; 8];
        wide[..self.size()].copy_from_slice(&bytes[..self.size()]);
        let raw = u64::from_le_bytes(wide);
        match self {
            Self::U8 | Self::U16 | Self::U32 | Self::U64 => Value::Unsigned(raw),
            Self::I8 => Value::Signed(i64::from(raw as i8)),
            Self::I16 => Value::Signed(i64::from(raw as i16)),
            Self::I32 => Value::Signed(i64::from(raw as i32)),
            Self::I64 => Value::Signed(raw as i64),
            Self::F32 => Value::Float(f64::from(f32::from_bits(raw as u32))),
            Self::F64 => Value::Float(f64::from_bits(raw)),
            Self::Bool => Value::Bool(raw != 0),
        }
    }
}

impl Value {
    /// The value if it is an integer from 0 to 2^32 - 1.
    pub fn as_u32(&self) -> Option<u32> {
        match *self {
            Self::Unsigned(x) => u32::try_from(x).ok(),
            Self::Signed(x) => u32::try_from(x).ok(),
            _ => None,
        }
    }

    /// The value if it is a number.
    pub fn as_f32(&self) -> Option<f32> {
        match *self {
            Self::Float(x) => Some(x as f32),
            Self::Unsigned(x) => Some(x as f32),
            Self::Signed(x) => Some(x as f32),
            _ => None,
        }
    }
}

/// Where a tensor lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Its type.
    pub ty: GgmlType,
    /// Its shape, rows first: the reverse of the order in the file.
    pub shape: Vec<usize>,
    /// Its first byte, counted from the beginning of the file.
    pub offset: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

/// The contents of a GGUF file; tensors stay in the file.
#[derive(Debug, Clone)]
pub struct Gguf {
    /// The file.
    pub source: Arc<dyn Source>,
    /// The metadata.
    pub metadata: BTreeMap<String, Value>,
    /// The tensors.
    pub tensors: BTreeMap<String, TensorInfo>,
    /// Where the metadata lie in the file.
    keys: std::ops::Range<u64>,
}

impl Gguf {
    /// Reads the header, the metadata and the table of tensors.
    pub fn parse(source: Arc<dyn Source>) -> Result<Self> {
        let mut cursor = Cursor { source: &*source, at: 0 };
        let fail = |field: &str, message: String| Error::format(source.name(), field, message);
        if *cursor.take("magic", 4)? != *b"GGUF" {
            return Err(fail("magic", "not a GGUF file".into()));
        }
        let version = cursor.u32("version")?;
        match version {
            2 | 3 => {}
            1 => return Err(unsupported(&*source, "version 1", "convert the model again with a newer converter")),
            _ if version.trailing_zeros() >= 16 => return Err(unsupported(&*source, "big-endian", "convert the model as little-endian")),
            _ => return Err(fail("version", format!("{version} is unknown: 2 and 3 can be read"))),
        }
        // The smallest entries: a tensor with name "" and no dimensions (24 bytes), a key "" with one byte (13 bytes).
        let tensor_count = cursor.count("tensor_count", 24)?;
        let key_count = cursor.count("metadata_kv_count", 13)?;
        let mut metadata = BTreeMap::new();
        let first_key = cursor.at;
        for i in 0..key_count {
            let key = cursor.string(&format!("metadata key {i}"))?;
            let value = cursor.value(&key)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(fail(&key, "occurs twice".into()));
            }
        }
        let keys = first_key..cursor.at;
        let mut infos = Vec::new();
        for i in 0..tensor_count {
            infos.push(cursor.tensor(i)?);
        }
        let start = data_start(&*source, &metadata, cursor.at)?;
        place(&*source, start, &mut infos)?;
        let mut tensors = BTreeMap::new();
        for info in infos {
            if let Some(twice) = tensors.insert(info.name.clone(), info) {
                return Err(fail(&twice.name, "two tensors have this name".into()));
            }
        }
        Ok(Self { source, metadata, tensors, keys })
    }

    /// The header of a file of version 3 with the same metadata and with other tensors, up to where these begin: names, shapes (rows first)
    /// and types, in the order of the data. The file type says that types are mixed.
    ///
    /// # Errors
    /// What reading fails with; [`Error::Format`] for a tensor that is not whole blocks of its type.
    pub fn header_for(&self, tensors: &[(String, Vec<usize>, GgmlType)]) -> Result<Vec<u8>> {
        /// llama.cpp's number for a mixture of types that no name stands for.
        const GUESSED: u32 = 1024;
        let fail = |field: &str, message: &str| Error::format(self.source.name(), field, message);
        let len = usize::try_from(self.keys.end - self.keys.start).map_err(|_| fail("metadata", "too large for this machine"))?;
        let mut keys = self.source.read(self.keys.start, len)?.into_owned();
        let name = b"general.file_type";
        let after = keys.windows(name.len()).position(|w| w == name).map(|at| at + name.len());
        if let Some(at) = after.filter(|at| keys.get(*at..*at + 4) == Some(&4u32.to_le_bytes()[..])) {
            keys[at + 4..at + 8].copy_from_slice(&GUESSED.to_le_bytes());
        }
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        out.extend(keys);
        let (_, align) = data_start(&*self.source, &self.metadata, 0)?;
        let mut offset = 0u64;
        for (name, shape, ty) in tensors {
            let bytes = ty.bytes_of(shape.iter().map(|n| *n as u64).product());
            let bytes = bytes.ok_or_else(|| fail(name, &format!("{shape:?} are no whole blocks of {}", ty.name())))?;
            let id = ty.id().ok_or_else(|| fail(name, &format!("{} cannot be written", ty.name())))?;
            out.extend((name.len() as u64).to_le_bytes());
            out.extend(name.as_bytes());
            out.extend((shape.len() as u32).to_le_bytes());
            shape.iter().rev().for_each(|n| out.extend((*n as u64).to_le_bytes()));
            out.extend(id.to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset += bytes.next_multiple_of(align);
        }
        out.resize(out.len().next_multiple_of(align as usize), 0);
        Ok(out)
    }

    /// Bytes that tensors begin at multiples of.
    ///
    /// # Errors
    /// [`Error::Format`] for an alignment that is none.
    pub fn alignment(&self) -> Result<u64> {
        Ok(data_start(&*self.source, &self.metadata, 0)?.1)
    }

    fn typed<'a, T>(&'a self, key: &str, wanted: &str, get: impl Fn(&'a Value) -> Option<T>) -> Result<T> {
        match self.metadata.get(key) {
            None => Err(Error::format(self.source.name(), key, "the key is missing")),
            Some(value) => get(value).ok_or_else(|| Error::format(self.source.name(), key, format!("is not {wanted}"))),
        }
    }

    /// True if the key is there.
    pub fn has(&self, key: &str) -> bool {
        self.metadata.contains_key(key)
    }

    /// An integer.
    pub fn u32(&self, key: &str) -> Result<u32> {
        self.typed(key, "an unsigned 32-bit integer", Value::as_u32)
    }

    /// A number.
    pub fn f32(&self, key: &str) -> Result<f32> {
        self.typed(key, "a number", Value::as_f32)
    }

    /// A boolean.
    pub fn bool(&self, key: &str) -> Result<bool> {
        self.typed(key, "a boolean", |v| if let Value::Bool(b) = v { Some(*b) } else { None })
    }

    /// A string.
    pub fn str(&self, key: &str) -> Result<&str> {
        self.typed(key, "a string", |v| if let Value::String(s) = v { Some(s.as_str()) } else { None })
    }

    /// An array of strings.
    pub fn strings(&self, key: &str) -> Result<&[String]> {
        self.typed(key, "an array of strings", |v| if let Value::Strings(s) = v { Some(s.as_slice()) } else { None })
    }

    /// An array of unsigned integers.
    pub fn u32s(&self, key: &str) -> Result<Vec<u32>> {
        self.typed(key, "an array of unsigned integers", |v| numbers(v, Value::as_u32))
    }

    /// An array of numbers.
    pub fn f32s(&self, key: &str) -> Result<Vec<f32>> {
        self.typed(key, "an array of numbers", |v| numbers(v, Value::as_f32))
    }

    /// A tensor's bytes.
    pub fn bytes(&self, info: &TensorInfo) -> Result<std::borrow::Cow<'_, [u8]>> {
        let len =
            usize::try_from(info.bytes).map_err(|_| Error::format(self.source.name(), &info.name, "is too large for this machine"))?;
        self.source.read(info.offset, len)
    }
}

fn unsupported(source: &dyn Source, what: &str, advice: &str) -> Error {
    Error::Unsupported { what: format!("{}: GGUF {what}", source.name()), advice: advice.into() }
}

fn numbers<T>(value: &Value, get: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    match value {
        Value::Numbers { kind, bytes } => bytes.chunks_exact(kind.size()).map(|b| get(&kind.value(b))).collect(),
        _ => None,
    }
}

/// Where the tensors begin: the end of the header, rounded up to the alignment.
fn data_start(source: &dyn Source, metadata: &BTreeMap<String, Value>, end: u64) -> Result<(u64, u64)> {
    const KEY: &str = "general.alignment";
    let align = match metadata.get(KEY) {
        None => 32,
        Some(value) => match value.as_u32() {
            Some(align) if align.is_power_of_two() => u64::from(align),
            _ => return Err(Error::format(source.name(), KEY, "is not a power of two")),
        },
    };
    let start = end.checked_next_multiple_of(align);
    Ok((start.ok_or_else(|| Error::format(source.name(), KEY, "is too large"))?, align))
}

/// Turns offsets relative to the data into absolute ones; checks that tensors lie inside the file and apart.
fn place(source: &dyn Source, (start, align): (u64, u64), infos: &mut [TensorInfo]) -> Result<()> {
    let fail = |name: &str, message: String| Err(Error::format(source.name(), name, message));
    for info in infos.iter_mut() {
        if !info.offset.is_multiple_of(align) {
            return fail(&info.name, format!("its offset {} is no multiple of the alignment {align}", info.offset));
        }
        let end = start.checked_add(info.offset).and_then(|o| o.checked_add(info.bytes));
        if end.is_none_or(|end| end > source.len()) {
            return fail(&info.name, format!("{} bytes at {} are past the end of the file", info.bytes, info.offset));
        }
        info.offset += start;
    }
    let mut order: Vec<&TensorInfo> = infos.iter().collect();
    order.sort_unstable_by_key(|info| info.offset);
    for pair in order.windows(2) {
        if pair[0].offset + pair[0].bytes > pair[1].offset {
            return fail(&pair[1].name, format!("overlaps `{}`", pair[0].name));
        }
    }
    Ok(())
}

/// Reads forward; every length is checked against what is left of the file before anything is allocated.
struct Cursor<'a> {
    source: &'a dyn Source,
    at: u64,
}

impl<'a> Cursor<'a> {
    fn fail(&self, field: &str, message: impl Into<String>) -> Error {
        Error::format(self.source.name(), field, message)
    }

    fn take(&mut self, field: &str, len: usize) -> Result<std::borrow::Cow<'a, [u8]>> {
        if self.source.len().saturating_sub(self.at) < len as u64 {
            return Err(self.fail(field, "the file ends here: it is cut off or damaged"));
        }
        let bytes = self.source.read(self.at, len)?;
        self.at += len as u64;
        Ok(bytes)
    }

    fn u32(&mut self, field: &str) -> Result<u32> {
        let b = self.take(field, 4)?;
        Ok(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    fn u64(&mut self, field: &str) -> Result<u64> {
        let b = self.take(field, 8)?;
        Ok(u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
    }

    /// A number of items that take at least `smallest` bytes each.
    fn count(&mut self, field: &str, smallest: u64) -> Result<usize> {
        let count = self.u64(field)?;
        let left = self.source.len().saturating_sub(self.at);
        match usize::try_from(count) {
            Ok(n) if count <= left / smallest => Ok(n),
            _ => Err(self.fail(field, format!("{count} items do not fit the {left} bytes that are left"))),
        }
    }

    fn string(&mut self, field: &str) -> Result<String> {
        let len = self.count(field, 1)?;
        let bytes = self.take(field, len)?;
        std::str::from_utf8(&bytes).map(str::to_owned).map_err(|_| self.fail(field, "is not UTF-8"))
    }

    fn value(&mut self, key: &str) -> Result<Value> {
        match self.u32(key)? {
            STRING => Ok(Value::String(self.string(key)?)),
            ARRAY => self.array(key),
            id => {
                let kind = Scalar::from_id(id).ok_or_else(|| self.fail(key, format!("value type {id} is unknown")))?;
                Ok(kind.value(&self.take(key, kind.size())?))
            }
        }
    }

    fn array(&mut self, key: &str) -> Result<Value> {
        let id = self.u32(key)?;
        if id == STRING {
            let count = self.count(key, 8)?;
            return Ok(Value::Strings((0..count).map(|_| self.string(key)).collect::<Result<_>>()?));
        }
        let kind = Scalar::from_id(id).ok_or_else(|| self.fail(key, format!("an array of type {id} cannot be read")))?;
        let count = self.count(key, kind.size() as u64)?;
        Ok(Value::Numbers { kind, bytes: self.take(key, count * kind.size())?.into_owned() })
    }

    /// An entry of the table of tensors; its offset is still relative to the data.
    fn tensor(&mut self, i: usize) -> Result<TensorInfo> {
        let name = self.string(&format!("name of tensor {i}"))?;
        let dims = self.u32(&name)?;
        if !(1..=4).contains(&dims) {
            return Err(self.fail(&name, format!("has {dims} dimensions: 1 to 4 are possible")));
        }
        let mut shape = Vec::new();
        let mut weights = 1u64;
        for _ in 0..dims {
            let n = self.u64(&name)?;
            let product = weights.checked_mul(n).filter(|&w| w > 0);
            weights = product.ok_or_else(|| self.fail(&name, format!("a dimension of {n} is not possible")))?;
            shape.push(usize::try_from(n).map_err(|_| self.fail(&name, "is too large for this machine"))?);
        }
        let id = self.u32(&name)?;
        let ty = GgmlType::from_id(id).ok_or_else(|| self.fail(&name, format!("GGML type {id} is unknown")))?;
        if !shape[0].is_multiple_of(ty.block_len()) {
            return Err(self.fail(&name, format!("rows of {} are no whole blocks of {} ({})", shape[0], ty.block_len(), ty.name())));
        }
        let bytes = ty.bytes_of(weights).ok_or_else(|| self.fail(&name, format!("{weights} weights are too many")))?;
        let offset = self.u64(&name)?;
        shape.reverse();
        Ok(TensorInfo { name, ty, shape, offset, bytes })
    }
}
