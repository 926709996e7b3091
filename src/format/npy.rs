//! NumPy's `.npy` arrays: f32, i32 and i64, 1 to 3 dimensions, C order, little-endian.

use std::borrow::Cow;

use crate::error::{Error, Result};

/// An array's elements.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the names say it all")]
pub enum NpyData {
    F32(Vec<f32>),
    I32(Vec<i32>),
    I64(Vec<i64>),
}

/// An array.
#[derive(Debug, Clone, PartialEq)]
pub struct Npy {
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its elements, row by row.
    pub data: NpyData,
}

const MAGIC: &[u8] = b"\x93NUMPY";

impl NpyData {
    fn len(&self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::I32(v) => v.len(),
            Self::I64(v) => v.len(),
        }
    }

    fn descr(&self) -> &'static str {
        match self {
            Self::F32(_) => "<f4",
            Self::I32(_) => "<i4",
            Self::I64(_) => "<i8",
        }
    }
}

impl Npy {
    /// An array of floats.
    pub fn f32(shape: &[usize], data: Vec<f32>) -> Self {
        Self { shape: shape.to_vec(), data: NpyData::F32(data) }
    }

    /// The elements, if they are floats.
    pub fn as_f32(&self) -> Option<&[f32]> {
        if let NpyData::F32(v) = &self.data { Some(v) } else { None }
    }

    /// The elements as integers, if they are.
    pub fn to_i64(&self) -> Option<Cow<'_, [i64]>> {
        match &self.data {
            NpyData::I32(v) => Some(v.iter().map(|&x| i64::from(x)).collect::<Vec<_>>().into()),
            NpyData::I64(v) => Some(v.as_slice().into()),
            NpyData::F32(_) => None,
        }
    }

    /// Reads the contents of a file; `file` appears in errors.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Self> {
        let fail = |field: &str, message: &str| Error::format(file, field, message);
        let cut = || fail("length", "the file is cut off or damaged");
        let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| fail("magic", "not a .npy file"))?;
        let (header_len, rest) = match rest {
            [1, _, a, b, rest @ ..] => (usize::from(u16::from_le_bytes([*a, *b])), rest),
            [2 | 3, _, a, b, c, d, rest @ ..] => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, rest),
            _ => return Err(fail("version", "is unknown, or the file is cut off")),
        };
        let (header, data) = rest.split_at_checked(header_len).ok_or_else(cut)?;
        let header = std::str::from_utf8(header).map_err(|_| fail("header", "is not text"))?;
        if field(header, "fortran_order").is_none_or(|v| !v.starts_with("False")) {
            return Err(fail("fortran_order", "is not False: save the array in C order"));
        }
        let shape = field(header, "shape").and_then(shape).ok_or_else(|| fail("shape", "is not a tuple of 1 to 4 sizes"))?;
        let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or_else(cut)?;
        let descr = field(header, "descr").and_then(|v| v.get(1..4)).unwrap_or_default();
        let (size, read): (usize, fn(&[u8]) -> NpyData) = match descr {
            "<f4" => (4, |b| NpyData::F32(words(b).map(f32::from_le_bytes).collect())),
            "<i4" => (4, |b| NpyData::I32(words(b).map(i32::from_le_bytes).collect())),
            "<i8" => (8, |b| NpyData::I64(words(b).map(i64::from_le_bytes).collect())),
            _ => return Err(fail("descr", "is none of <f4, <i4, <i8")),
        };
        if count.checked_mul(size) != Some(data.len()) {
            return Err(cut());
        }
        Ok(Self { shape, data: read(data) })
    }

    /// The array as the contents of a file.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        if !(1..=4).contains(&self.shape.len()) || self.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)) != Some(self.data.len()) {
            return Err(Error::shape("npy", format!("{} elements for shape {:?}", self.data.len(), self.shape)));
        }
        let sizes: Vec<String> = self.shape.iter().map(usize::to_string).collect();
        // A tuple of one keeps its comma.
        let comma = if sizes.len() == 1 { "," } else { "" };
        let mut header = format!("{{'descr': '{}', 'fortran_order': False, 'shape': ({}{comma}), }}", self.data.descr(), sizes.join(", "));
        // Magic, version, length and header together fill a multiple of 64 bytes and end in a line feed.
        while (10 + header.len() + 1) % 64 != 0 {
            header.push(' ');
        }
        header.push('\n');
        let mut out = [MAGIC, &[1, 0], &(header.len() as u16).to_le_bytes(), header.as_bytes()].concat();
        match &self.data {
            NpyData::F32(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
            NpyData::I32(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
            NpyData::I64(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        }
        Ok(out)
    }

    /// Reads a file.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn read(path: &std::path::Path) -> Result<Self> {
        let name = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|source| Error::Io { path: name.clone(), source })?;
        Self::parse(&name, &bytes)
    }

    /// Writes a file, whole or not at all: under a temporary name first.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn write(&self, path: &std::path::Path) -> Result<()> {
        let bytes = self.to_bytes()?;
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{}.tmp", std::process::id()));
        let written = std::fs::write(&temporary, bytes).and_then(|()| std::fs::rename(&temporary, path));
        written.map_err(|source| {
            // Nothing is left behind; that this may fail too changes nothing.
            let _ = std::fs::remove_file(&temporary);
            Error::Io { path: path.display().to_string(), source }
        })
    }
}

/// What follows a key of the header, a Python dictionary.
fn field<'a>(header: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = header.split_once(&format!("'{key}'"))?;
    Some(rest.trim_start().strip_prefix(':')?.trim_start())
}

fn shape(value: &str) -> Option<Vec<usize>> {
    let (inside, _) = value.strip_prefix('(')?.split_once(')')?;
    let sizes = inside.split(',').map(str::trim).filter(|s| !s.is_empty());
    let sizes = sizes.map(|s| s.parse().ok()).collect::<Option<Vec<usize>>>()?;
    (1..=4).contains(&sizes.len()).then_some(sizes)
}

/// Arrays of `N` bytes, one after another.
fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.chunks_exact(N).map(|chunk| std::array::from_fn(|i| chunk[i]))
}
