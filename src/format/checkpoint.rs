//! One view of a model, whatever files it comes in.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value as Json;

use super::compressed;
use super::config::{self, Config};
use super::ggml::{self, GgmlType};
use super::gguf::Gguf;
use super::names;
use super::safetensors;
use super::source::Source;
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::quant::Packed;

/// Which elements of a query or key head are rotated together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopePairing {
    /// Element `i` with element `i + head_dim / 2`: Hugging Face.
    Half,
    /// Element `2 i` with element `2 i + 1`: GGUF, whose rows of q and k are ordered for it.
    Interleaved,
}

/// How a tensor is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// bfloat16.
    Bf16,
    /// GGML blocks.
    Ggml(GgmlType),
    /// A type that is listed but cannot be loaded as weights, by name.
    Other(&'static str),
}

/// A tensor of a checkpoint.
#[derive(Debug, Clone)]
pub struct TensorEntry {
    /// Its name, in Hugging Face's convention.
    pub name: String,
    /// How it is stored.
    pub encoding: Encoding,
    /// Its shape, rows first.
    pub shape: Vec<usize>,
    source: usize,
    offset: u64,
    bytes: u64,
}

impl TensorEntry {
    /// Bytes in the file.
    pub fn file_bytes(&self) -> u64 {
        self.bytes
    }

    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().map(|&n| n as u64).product()
    }
}

/// A matrix as it came out of the file: floats as they are, quantised blocks repacked.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the names say it all")]
pub enum HostMatrix {
    F32(Vec<f32>),
    F16(Vec<u16>),
    Bf16(Vec<u16>),
    Packed(Packed),
}

impl HostMatrix {
    /// Its elements, row after row; quantised ones decoded.
    pub fn into_f32(self) -> Vec<f32> {
        match self {
            Self::F32(v) => v,
            Self::F16(v) => v.into_iter().map(|x| half::f16::from_bits(x).to_f32()).collect(),
            Self::Bf16(v) => v.into_iter().map(|x| half::bf16::from_bits(x).to_f32()).collect(),
            Self::Packed(p) => p.decode(),
        }
    }
}

/// Where the tokenizer is.
#[derive(Debug)]
pub(super) enum TokenizerFile {
    None,
    /// Name and contents of a `tokenizer.json`.
    Json(String, Vec<u8>),
    Gguf(Arc<Gguf>),
}

/// A model's configuration, tensors and tokenizer.
#[derive(Debug)]
pub struct Checkpoint {
    /// What errors call it: the file or folder.
    pub name: String,
    /// The hyper-parameters.
    pub config: Config,
    /// The order of rotary pairs.
    pub rope: RopePairing,
    entries: BTreeMap<String, TensorEntry>,
    sources: Vec<Arc<dyn Source>>,
    tokenizer: TokenizerFile,
    /// Special tokens that `tokenizer_config.json` names.
    bos: Option<String>,
    eos: Option<String>,
    chat_template: Option<String>,
    /// The text of a `config.json`.
    config_text: Option<Vec<u8>>,
    /// The file, if it is one of these.
    gguf: Option<Arc<Gguf>>,
}

impl Checkpoint {
    /// Reads a GGUF file.
    pub fn from_gguf(source: Arc<dyn Source>) -> Result<Self> {
        let gguf = Arc::new(Gguf::parse(source.clone())?);
        const TEMPLATE: &str = "tokenizer.chat_template";
        let mut checkpoint = Self {
            name: source.name().into(),
            config: Config::from_gguf(&gguf)?,
            rope: RopePairing::Interleaved,
            entries: BTreeMap::new(),
            sources: vec![source],
            tokenizer: if gguf.has("tokenizer.ggml.tokens") { TokenizerFile::Gguf(gguf.clone()) } else { TokenizerFile::None },
            bos: None,
            eos: None,
            chat_template: if gguf.has(TEMPLATE) { Some(gguf.str(TEMPLATE)?.into()) } else { None },
            config_text: None,
            gguf: Some(gguf.clone()),
        };
        for info in gguf.tensors.values() {
            let encoding = match info.ty {
                GgmlType::F32 => Encoding::F32,
                GgmlType::F16 => Encoding::F16,
                GgmlType::Bf16 => Encoding::Bf16,
                ty => Encoding::Ggml(ty),
            };
            let name = names::from_gguf(&info.name);
            checkpoint.add(TensorEntry { name, encoding, shape: info.shape.clone(), source: 0, offset: info.offset, bytes: info.bytes })?;
        }
        Ok(checkpoint)
    }

    /// Reads the files of a Hugging Face model: `config.json`, `tokenizer.json`, `tokenizer_config.json` and one or more
    /// safetensors files.
    pub fn from_safetensors(
        config: &[u8],
        tokenizer: Option<Vec<u8>>,
        tokenizer_config: Option<&[u8]>,
        sources: Vec<Arc<dyn Source>>,
    ) -> Result<Self> {
        Self::from_files("", config, tokenizer, tokenizer_config, sources)
    }

    /// The same; `folder` (empty, or ending in a separator) goes before the file names in errors.
    pub(super) fn from_files(
        folder: &str,
        config: &[u8],
        tokenizer: Option<Vec<u8>>,
        tokenizer_config: Option<&[u8]>,
        sources: Vec<Arc<dyn Source>>,
    ) -> Result<Self> {
        let special = match tokenizer_config {
            Some(json) => special(&format!("{folder}tokenizer_config.json"), json)?,
            None => Special::default(),
        };
        let mut checkpoint = Self {
            name: sources.first().map_or(folder, |s| s.name()).into(),
            config: Config::from_json(&format!("{folder}config.json"), config)?,
            rope: RopePairing::Half,
            entries: BTreeMap::new(),
            sources: Vec::new(),
            tokenizer: tokenizer.map_or(TokenizerFile::None, |json| TokenizerFile::Json(format!("{folder}tokenizer.json"), json)),
            bos: special.bos,
            eos: special.eos,
            chat_template: special.chat_template,
            config_text: Some(config.to_vec()),
            gguf: None,
        };
        for (index, source) in sources.iter().enumerate() {
            for entry in safetensors::read_header(&**source)? {
                let encoding = match entry.dtype {
                    "F32" => Encoding::F32,
                    "F16" => Encoding::F16,
                    "BF16" => Encoding::Bf16,
                    other => Encoding::Other(other),
                };
                let name = names::normalise(&checkpoint.config, &entry.name);
                checkpoint.add(TensorEntry {
                    name,
                    encoding,
                    shape: entry.shape,
                    source: index,
                    offset: entry.offset,
                    bytes: entry.bytes,
                })?;
            }
        }
        checkpoint.sources = sources;
        Ok(checkpoint)
    }

    fn add(&mut self, entry: TensorEntry) -> Result<()> {
        match self.entries.insert(entry.name.clone(), entry) {
            None => Ok(()),
            Some(twice) => Err(Error::format(&self.name, twice.name, "two tensors have this name")),
        }
    }

    /// Sets the chat template, as from a file of its own.
    pub(super) fn set_chat_template(&mut self, template: String) {
        self.chat_template = Some(template);
    }

    /// All tensors, by name.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorEntry> {
        self.entries.values()
    }

    /// True if there is a tensor of this name, whole or as the parts of a compressed one.
    pub fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name) || self.entries.contains_key(&format!("{name}_packed"))
    }

    /// The tensor of this name; an error that names similar ones if there is none.
    pub fn tensor(&self, name: &str) -> Result<&TensorEntry> {
        self.entries.get(name).ok_or_else(|| {
            let near = names::nearest(name, self.entries.keys().map(String::as_str));
            let hint = match near.is_empty() {
                true => format!("none of the file's {} tensors resembles it", self.entries.len()),
                false => format!("the nearest names are {}", near.join(", ")),
            };
            Error::MissingTensor { file: self.name.clone(), tensor: name.into(), hint }
        })
    }

    /// A tensor's bytes as they lie in the file.
    pub fn bytes(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        let entry = self.tensor(name)?;
        let len = usize::try_from(entry.bytes).map_err(|_| self.fail(entry, "is too large for this machine"))?;
        self.sources[entry.source].read(entry.offset, len)
    }

    /// A matrix of this shape; of a compressed layer, from its parts `NAME_packed`, `NAME_scale` and so on.
    pub fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<HostMatrix> {
        if !self.entries.contains_key(name) && self.has(name) {
            return compressed::read(self, name, rows, cols).map(HostMatrix::Packed);
        }
        let entry = self.tensor(name)?;
        self.check_shape(entry, &[rows, cols])?;
        let bytes = self.bytes(name)?;
        match entry.encoding {
            Encoding::F32 => self.floats(entry, &bytes).map(HostMatrix::F32),
            Encoding::F16 => self.halves(entry, &bytes, 0x7c00).map(HostMatrix::F16),
            Encoding::Bf16 => self.halves(entry, &bytes, 0x7f80).map(HostMatrix::Bf16),
            Encoding::Ggml(ty) => self.packed(entry, ty, &bytes, rows, cols).map(HostMatrix::Packed),
            Encoding::Other(_) => Err(self.not_weights(entry)),
        }
    }

    /// Rows of a matrix, as the file has them.
    ///
    /// # Errors
    /// [`Error::MissingTensor`]; [`Error::Format`] for a tensor without dimensions.
    pub fn rows(&self, name: &str) -> Result<usize> {
        let packed = format!("{name}_packed");
        let entry = self.tensor(if self.entries.contains_key(&packed) { &packed } else { name })?;
        entry.shape.first().copied().ok_or_else(|| self.fail(entry, "has no dimensions where a matrix is wanted"))
    }

    /// A vector of this length, in f32.
    pub fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        let entry = self.tensor(name)?;
        self.check_shape(entry, &[len])?;
        let bytes = self.bytes(name)?;
        match entry.encoding {
            Encoding::F32 => self.floats(entry, &bytes),
            Encoding::F16 => Ok(self.halves(entry, &bytes, 0x7c00)?.into_iter().map(|x| half::f16::from_bits(x).to_f32()).collect()),
            Encoding::Bf16 => Ok(self.halves(entry, &bytes, 0x7f80)?.into_iter().map(|x| half::bf16::from_bits(x).to_f32()).collect()),
            Encoding::Ggml(ty) => Ok(self.packed(entry, ty, &bytes, 1, len)?.decode()),
            Encoding::Other(_) => Err(self.not_weights(entry)),
        }
    }

    /// The elements of a vector or matrix of whatever shape, in f32.
    pub fn values(&self, name: &str) -> Result<Vec<f32>> {
        match *self.tensor(name)?.shape.as_slice() {
            [n] => self.vector(name, n),
            [rows, cols] => Ok(self.matrix(name, rows, cols)?.into_f32()),
            ref other => Err(Error::format(&self.name, name, format!("has shape {other:?}: neither a vector nor a matrix"))),
        }
    }

    /// The tokenizer, with the model's special tokens.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let mut tokenizer = match &self.tokenizer {
            TokenizerFile::None => {
                return Err(Error::format(&self.name, "tokenizer", "the model comes without one: put its tokenizer.json beside it"));
            }
            TokenizerFile::Json(file, json) => Tokenizer::from_json_file(file, json)?,
            TokenizerFile::Gguf(gguf) => Tokenizer::from_gguf(gguf)?,
        };
        let bos = match &self.config {
            Config::Llama(c) => c.bos,
            Config::Opt(c) => c.bos,
            Config::Bert(_) | Config::Translator { .. } => None,
        };
        let named = |token: &Option<String>| token.as_ref().and_then(|token| tokenizer.id(token));
        let (named_bos, named_eos) = (named(&self.bos), named(&self.eos));
        tokenizer.bos = named_bos.or(bos);
        tokenizer.eos = self.config.eos().to_vec();
        tokenizer.eos.extend(named_eos.filter(|id| !self.config.eos().contains(id)));
        Ok(tokenizer)
    }

    /// The GGUF file that it was read from.
    pub fn gguf(&self) -> Option<&Gguf> {
        self.gguf.as_deref()
    }

    /// The `config.json` of the model: the one that it came with, or for a GGUF file one with what that says.
    ///
    /// # Errors
    /// [`Error::Format`] for one that is no JSON object; [`Error::Unsupported`] for what such a file cannot say.
    pub fn config_json(&self) -> Result<serde_json::Map<String, Json>> {
        let Some(text) = &self.config_text else { return self.made_config() };
        serde_json::from_slice(text).map_err(|e| Error::format(&self.name, "config.json", e.to_string()))
    }

    fn made_config(&self) -> Result<serde_json::Map<String, Json>> {
        match &self.config {
            Config::Llama(c) if !self.has("rope_freqs.weight") => config::llama_json(c),
            _ => Err(Error::Unsupported {
                what: format!("{}: a config.json from this file", self.name),
                advice: "start from the model's folder of safetensors".into(),
            }),
        }
    }

    /// The model's `tokenizer.json`, if it came with one, or with a vocabulary that can be written as one.
    pub fn tokenizer_json(&self) -> Result<Option<Vec<u8>>> {
        match &self.tokenizer {
            TokenizerFile::None => Ok(None),
            TokenizerFile::Json(_, json) => Ok(Some(json.clone())),
            TokenizerFile::Gguf(gguf) => Tokenizer::from_gguf(gguf)?.to_json().map(Some),
        }
    }

    /// A `tokenizer_config.json` with the model's special tokens and chat template.
    pub fn tokenizer_config_json(&self) -> Json {
        let tokenizer = self.tokenizer().ok();
        let text = |id: Option<u32>| id.and_then(|i| tokenizer.as_ref()?.token(i));
        let ids = tokenizer.as_ref().map(|t| (t.bos, t.eos.first().copied()));
        let mut json = serde_json::json!({ "tokenizer_class": "PreTrainedTokenizerFast" });
        let fields = [
            ("bos_token", self.bos.clone().or_else(|| text(ids?.0))),
            ("eos_token", self.eos.clone().or_else(|| text(ids?.1))),
            ("chat_template", self.chat_template.clone()),
        ];
        fields.into_iter().for_each(|(name, value)| {
            if let Some(value) = value {
                json[name] = value.into();
            }
        });
        json
    }

    /// The template that turns a conversation into text.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    pub(super) fn fail(&self, entry: &TensorEntry, message: impl Into<String>) -> Error {
        Error::format(self.sources[entry.source].name(), &entry.name, message)
    }

    fn not_weights(&self, entry: &TensorEntry) -> Error {
        let what = format!("{}: tensor `{}` of type {:?} as weights", self.sources[entry.source].name(), entry.name, entry.encoding);
        Error::Unsupported { what, advice: "convert it to F32, F16 or BF16".into() }
    }

    pub(super) fn check_shape(&self, entry: &TensorEntry, shape: &[usize]) -> Result<()> {
        if entry.shape == shape && !shape.contains(&0) {
            Ok(())
        } else {
            Err(self.fail(entry, format!("has shape {:?} where the configuration asks for {shape:?}", entry.shape)))
        }
    }

    pub(super) fn floats(&self, entry: &TensorEntry, bytes: &[u8]) -> Result<Vec<f32>> {
        let values: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        match values.iter().position(|x| !x.is_finite()) {
            None => Ok(values),
            Some(at) => Err(self.fail(entry, format!("element {at} is NaN or infinite"))),
        }
    }

    /// 16-bit floats; a value whose `exponent` bits are all set is NaN or infinite.
    pub(super) fn halves(&self, entry: &TensorEntry, bytes: &[u8], exponent: u16) -> Result<Vec<u16>> {
        let values: Vec<u16> = bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect();
        match values.iter().position(|x| x & exponent == exponent) {
            None => Ok(values),
            Some(at) => Err(self.fail(entry, format!("element {at} is NaN or infinite"))),
        }
    }

    fn packed(&self, entry: &TensorEntry, ty: GgmlType, bytes: &[u8], rows: usize, cols: usize) -> Result<Packed> {
        ggml::pack(ty, bytes, rows, cols).map_err(|e| match e {
            Error::Shape { message, .. } => self.fail(entry, message),
            Error::Unsupported { what, advice } => {
                Error::Unsupported { what: format!("{}: tensor `{}`: {what}", self.name, entry.name), advice }
            }
            other => other,
        })
    }
}

/// What `tokenizer_config.json` says.
#[derive(Default)]
struct Special {
    bos: Option<String>,
    eos: Option<String>,
    chat_template: Option<String>,
}

fn special(file: &str, json: &[u8]) -> Result<Special> {
    let json: Json = serde_json::from_slice(json).map_err(|e| Error::format(file, "JSON", e.to_string()))?;
    // A token is a string, or an object with its content.
    let token = |field: &str| {
        let value = json.get(field)?;
        value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
    };
    // A template is a string, or a list of named ones.
    let template = json.get("chat_template").and_then(|value| match value {
        Json::Array(list) => {
            let default = list.iter().find(|t| t.get("name").and_then(Json::as_str) == Some("default"));
            default?.get("template")?.as_str()
        }
        _ => value.as_str(),
    });
    Ok(Special { bos: token("bos_token"), eos: token("eos_token"), chat_template: template.map(str::to_owned) })
}
