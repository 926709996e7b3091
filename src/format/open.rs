//! Finding a model's files in a folder.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value as Json;

use super::checkpoint::Checkpoint;
use super::names;
use super::source::{Mapped, Source};
use crate::error::{Error, Result};

const SHARDS: &str = "model.safetensors.index.json";

impl Checkpoint {
    /// Opens a model: a folder with `config.json` and safetensors files, a GGUF file, a folder with one, or a safetensors
    /// file beside a `config.json`. Files are mapped and must not change while the model is in use.
    pub fn open(path: &Path) -> Result<Self> {
        let fail = |field: &str, message: &str| Err(Error::format(path.display().to_string(), field, message));
        if !path.is_dir() {
            return match extension(path) {
                "gguf" => Self::from_gguf(Arc::new(Mapped::open(path)?)),
                "safetensors" => open_folder(path.parent().unwrap_or(Path::new("")), vec![path.to_owned()], None),
                _ => match std::fs::metadata(path) {
                    Ok(_) => fail("file", "is neither .gguf nor .safetensors"),
                    Err(source) => Err(Error::Io { path: path.display().to_string(), source }),
                },
            };
        }
        let files = list(path)?;
        let with = |ext: &str| files.iter().filter(|f| extension(f) == ext).cloned().collect::<Vec<_>>();
        if !path.join("config.json").exists() {
            return match with("gguf").as_slice() {
                [file] => Self::from_gguf(Arc::new(Mapped::open(file)?)),
                [] => fail("folder", "holds neither config.json nor a .gguf file"),
                _ => fail("folder", "holds several .gguf files: name one of them"),
            };
        }
        if path.join(SHARDS).exists() {
            let index = Index::read(path)?;
            return open_folder(path, index.files.iter().map(|f| path.join(f)).collect(), Some(index));
        }
        let whole = path.join("model.safetensors");
        let tensors = if whole.exists() { vec![whole] } else { with("safetensors") };
        if tensors.is_empty() {
            return fail("folder", "holds no .safetensors file: convert the model (`save_pretrained(..., safe_serialization=True)`)");
        }
        open_folder(path, tensors, None)
    }
}

fn extension(path: &Path) -> &str {
    path.extension().and_then(|e| e.to_str()).unwrap_or("")
}

fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let io = |source| Error::Io { path: folder.display().to_string(), source };
    let entries = std::fs::read_dir(folder).map_err(io)?;
    let mut files = entries.map(|entry| Ok(entry.map_err(io)?.path())).collect::<Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

fn open_folder(folder: &Path, tensors: Vec<PathBuf>, index: Option<Index>) -> Result<Checkpoint> {
    let read = |name: &str| {
        let path = folder.join(name);
        std::fs::read(&path).map_err(|source| Error::Io { path: path.display().to_string(), source })
    };
    let optional = |name: &str| if folder.join(name).exists() { read(name).map(Some) } else { Ok(None) };
    let sources = tensors.iter().map(|path| Ok(Arc::new(Mapped::open(path)?) as Arc<dyn Source>)).collect::<Result<Vec<_>>>()?;
    // With an empty last part: "folder/".
    let prefix = folder.join("").display().to_string();
    let tokenizer_config = optional("tokenizer_config.json")?;
    let mut checkpoint =
        Checkpoint::from_files(&prefix, &read("config.json")?, optional("tokenizer.json")?, tokenizer_config.as_deref(), sources)?;
    if let [one] = tensors.as_slice() {
        checkpoint.name = one.display().to_string();
    } else {
        checkpoint.name = folder.display().to_string();
    }
    if let Some(template) = optional("chat_template.jinja")? {
        let file = format!("{prefix}chat_template.jinja");
        checkpoint.set_chat_template(String::from_utf8(template).map_err(|e| Error::format(file, "text", e.to_string()))?);
    }
    for name in index.iter().flat_map(|index| &index.tensors) {
        checkpoint.tensor(&names::normalise(&checkpoint.config, name))?;
    }
    Ok(checkpoint)
}

/// The index of a model in several files.
struct Index {
    files: BTreeSet<String>,
    tensors: Vec<String>,
}

impl Index {
    fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(SHARDS);
        let file = path.display().to_string();
        let fail = |message: String| Error::format(&file, "weight_map", message);
        let bytes = std::fs::read(&path).map_err(|source| Error::Io { path: file.clone(), source })?;
        let json: Json = serde_json::from_slice(&bytes).map_err(|e| fail(e.to_string()))?;
        let map = json.get("weight_map").and_then(Json::as_object).ok_or_else(|| fail("is missing or no object".into()))?;
        let mut index = Self { files: BTreeSet::new(), tensors: Vec::new() };
        for (tensor, shard) in map {
            // Only a plain name: the index may not lead out of the folder.
            match shard.as_str() {
                Some(name) if !name.is_empty() && !name.contains(['/', '\\']) && name.ends_with(".safetensors") => {
                    index.files.insert(name.into());
                    index.tensors.push(tensor.clone());
                }
                _ => return Err(fail(format!("`{tensor}` lies in {shard}, which is no .safetensors file of this folder"))),
            }
        }
        if index.files.is_empty() { Err(fail("is empty".into())) } else { Ok(index) }
    }
}
