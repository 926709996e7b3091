//! Models from a hub of Hugging Face's kind: fetched once into its usual cache (`HF_HOME`), from `HF_ENDPOINT`.

use anyhow::{Result, anyhow, bail};
use hf_hub::api::Progress;
use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use indicatif::ProgressBar;
use std::path::PathBuf;

/// `organisation/name`, or `organisation/name/file.gguf`, either with `@revision`.
pub(crate) struct Repository {
    id: String,
    revision: String,
    file: Option<String>,
}

/// Files of a model beside its tensors.
const SMALL: [&str; 5] = ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", INDEX];
const INDEX: &str = "model.safetensors.index.json";

impl Repository {
    /// Reads an id; `None` where the text can be none.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (path, revision) = text.split_once('@').unwrap_or((text, "main"));
        let parts: Vec<&str> = path.split('/').collect();
        let plain = |s: &&str| !s.is_empty() && !s.starts_with('.') && s.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        let file = match parts.as_slice() {
            [_, name] if !name.ends_with(".gguf") && !name.ends_with(".safetensors") => None,
            [_, _, file] if file.ends_with(".gguf") => Some((*file).to_owned()),
            _ => return None,
        };
        let whole = parts.iter().all(plain) && !revision.is_empty();
        whole.then(|| Self { id: parts[..2].join("/"), revision: revision.into(), file })
    }

    /// Fetches what is missing; the folder (or GGUF file) of the model.
    pub(crate) fn fetch(&self) -> Result<PathBuf> {
        let repo = Repo::with_revision(self.id.clone(), RepoType::Model, self.revision.clone());
        let cached = Cache::from_env().repo(repo.clone());
        let api = ApiBuilder::from_env().with_progress(false).build().map_err(|e| self.fault(&e))?.repo(repo);
        let names: Vec<String> = match api.info() {
            Ok(info) => info.siblings.into_iter().map(|s| s.rfilename).collect(),
            // Without a network, what was fetched before still serves.
            Err(e) => match cached.get(self.file.as_deref().unwrap_or("config.json")) {
                Some(path) if !refused(&e) => return Ok(self.place(path)),
                _ => return Err(self.fault(&e)),
            },
        };
        let wanted = self.wanted(&names)?;
        let mut first = None;
        for name in wanted {
            let path = self.file(&api, &cached, name)?;
            first.get_or_insert(path);
        }
        first.map(|p| self.place(p)).ok_or_else(|| anyhow!("{}: the repository is empty", self.id))
    }

    /// The files to fetch, of those that there are.
    fn wanted<'a>(&'a self, names: &'a [String]) -> Result<Vec<&'a str>> {
        if let Some(file) = &self.file {
            if !names.contains(file) {
                bail!("{}: has no file {file}", self.id);
            }
            return Ok(vec![file]);
        }
        let here = |ext: &str| names.iter().map(String::as_str).filter(|n| n.ends_with(ext) && !n.contains('/')).collect::<Vec<_>>();
        let (tensors, gguf) = (here(".safetensors"), here(".gguf"));
        let has = |n: &str| names.iter().any(|m| m == n);
        if has("config.json") && !tensors.is_empty() {
            let mut wanted: Vec<&str> = SMALL.into_iter().filter(|n| has(n)).collect();
            let whole = "model.safetensors";
            wanted.extend(if has(whole) { vec![whole] } else { tensors });
            return Ok(wanted);
        }
        match gguf.as_slice() {
            [] => bail!("{}: holds neither safetensors nor GGUF files", self.id),
            [one] => Ok(vec![one]),
            _ => bail!("{}: holds {} GGUF files: name one, e.g. {}/{}", self.id, gguf.len(), self.id, gguf[0]),
        }
    }

    /// What is to be opened, given the first file: the file itself if it is a GGUF, else its folder.
    fn place(&self, path: PathBuf) -> PathBuf {
        match path.extension().is_some_and(|e| e == "gguf") {
            true => path,
            false => path.parent().map(PathBuf::from).unwrap_or(path),
        }
    }

    fn file(&self, api: &ApiRepo, cached: &CacheRepo, name: &str) -> Result<PathBuf> {
        match cached.get(name) {
            Some(path) => Ok(path),
            None => api.download_with_progress(name, Download(ProgressBar::hidden())).map_err(|e| self.fault(&e)),
        }
    }

    fn fault(&self, e: &ApiError) -> anyhow::Error {
        let id = &self.id;
        match refused(e) {
            true => anyhow!(
                "{id}@{}: no such file or folder here, and the hub has no such model, or asks for an access token: check the name, or fetch it and give its folder",
                self.revision
            ),
            false => anyhow!("{id}: {e}: check the network and HF_ENDPOINT, or fetch the model by other means and give its folder"),
        }
    }
}

/// True where the hub answered that there is no such thing, or none for this user.
fn refused(e: &ApiError) -> bool {
    let ApiError::RequestError(e) = e else { return false };
    let text = e.to_string();
    ["401", "403", "404"].iter().any(|code| text.contains(&format!("status code {code}")))
}

/// A bar for the bytes of a file.
struct Download(ProgressBar);

impl Progress for Download {
    fn init(&mut self, size: usize, filename: &str) {
        // Called twice for a file that is fetched from its beginning.
        if self.0.is_hidden() {
            self.0 = ProgressBar::new(size as u64);
            if let Ok(style) = indicatif::ProgressStyle::with_template("{msg} {bar:40} {bytes}/{total_bytes} {bytes_per_sec} eta {eta}") {
                self.0.set_style(style);
            }
        }
        self.0.set_message(filename.to_owned());
        self.0.set_position(0);
    }

    fn update(&mut self, size: usize) {
        self.0.inc(size as u64);
    }

    fn finish(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_from_paths() {
        let ok = |t: &str| Repository::parse(t).map(|r| (r.id, r.revision, r.file));
        assert_eq!(ok("a/b"), Some(("a/b".into(), "main".into(), None)));
        assert_eq!(ok("a/b-1.5@v1"), Some(("a/b-1.5".into(), "v1".into(), None)));
        assert_eq!(ok("a/b/c.gguf"), Some(("a/b".into(), "main".into(), Some("c.gguf".into()))));
        for path in ["model", "./a", "/a/b", "../a", "a/b/c", "a/model.gguf", "a//b", "a/b@", "a b/c"] {
            assert!(ok(path).is_none(), "{path}");
        }
    }
}
