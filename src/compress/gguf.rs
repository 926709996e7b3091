//! Writing a rounded model as a GGUF file of mixed types, for llama.cpp and what is built on it.

use super::round::Rounded;
use super::{halves, weights};
use crate::format::{Checkpoint, Draft, GgmlType, gguf_name, unpack};
use crate::quant::round::{Granularity, Spec};
use crate::{Error, Result};
use std::path::Path;

/// How weights must be rounded for such a file: blocks of 32 without zero points. The types are Q4_0, Q5_0 and Q8_0, and F16.
pub const SPEC: Spec = Spec { bits: 4, granularity: Granularity::Group(32), symmetric: true, f16_scales: true, search: true };

/// Widths that there are types for.
pub const WIDTHS: [u32; 3] = [4, 5, 8];

/// Bits of what such a file stores beside linear layers' weights, and the number of these elements.
pub fn beside(c: &Checkpoint) -> (u64, u64) {
    let linear = crate::model::linears(&c.config);
    let rest = c.tensors().filter(|t| !linear.iter().any(|l| l.name == t.name));
    rest.fold((0, 0), |(bits, n), t| (bits + 8 * t.file_bytes(), n + t.elements()))
}

/// Writes a model that was read from a GGUF file as another one: metadata and vocabulary are the same, codes of linear layers those of
/// `rounded` (F16 where that has none), every other tensor as it was. The file appears when it is complete.
///
/// # Errors
/// [`Error::Unsupported`] for a model from another kind of file, or codes that no GGML type holds as they are; [`Error::Io`].
pub fn write(c: &Checkpoint, rounded: &Rounded, path: &Path) -> Result<()> {
    let Some(file) = c.gguf() else {
        return Err(Error::Unsupported {
            what: format!("{}: a GGUF file of a model that did not come from one", c.name),
            advice: "convert it to GGUF in F16 or F32 first, and quantise that; or write a folder of safetensors".into(),
        });
    };
    let linear = crate::model::linears(&c.config);
    let mut tensors = Vec::new();
    for t in file.tensors.values() {
        let own = linear.iter().find(|l| gguf_name(&t.name) == l.name);
        let ty = match own.map(|l| rounded.get(&l.name)) {
            None => t.ty,
            Some(None) => GgmlType::F16,
            Some(Some(p)) => unpack(p)?.0,
        };
        tensors.push((t, own, ty));
    }
    let list: Vec<_> = tensors.iter().map(|(t, _, ty)| (t.name.clone(), t.shape.clone(), *ty)).collect();
    let mut draft = Draft::new(path)?;
    draft.write(&file.header_for(&list)?)?;
    let align = file.alignment()? as usize;
    for (t, own, _) in tensors {
        let bytes = match own.map(|l| (l, rounded.get(&l.name))) {
            None => file.bytes(t)?.into_owned(),
            Some((_, Some(p))) => unpack(p)?.1,
            Some((l, None)) => halves(&l.name, &weights(c, l)?)?,
        };
        let padding = bytes.len().next_multiple_of(align) - bytes.len();
        draft.write(&bytes)?;
        draft.write(&vec![0; padding])?;
    }
    draft.finish()
}
