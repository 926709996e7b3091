//! What a later run can take over from an earlier one: pipelines as the driver compiled them, and which variants failed the
//! self-test. Files lie in one folder; a file that is missing, damaged or of another adapter only costs the work again.

use crate::{Error, Result};
use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};

/// The driver's own pipeline cache, and where it is kept.
#[derive(Debug, Clone)]
pub(crate) struct DriverCache {
    pub(crate) cache: wgpu::PipelineCache,
    file: PathBuf,
}

impl DriverCache {
    /// `None` where the backend has no such cache.
    pub(crate) fn open(device: &wgpu::Device, folder: &Path) -> Option<Self> {
        if !device.features().contains(wgpu::Features::PIPELINE_CACHE) {
            return None;
        }
        let file = folder.join(wgpu::util::pipeline_cache_key(&device.adapter_info())?);
        let data = fs::read(&file).ok().and_then(|sealed| Some(unseal(&sealed)?.to_vec()));
        let descriptor = wgpu::PipelineCacheDescriptor { label: Some("etalon"), data: data.as_deref(), fallback: true };
        // SAFETY: the data came from `PipelineCache::get_data` for an adapter of the same key: only `save` writes files of that
        // name, and their checksum shows that they are whole. What others put into the folder is the folder's owner's affair,
        // as `ContextOptions::cache` says.
        let cache = unsafe { device.create_pipeline_cache(&descriptor) };
        Some(Self { cache, file })
    }

    pub(crate) fn save(&self) -> Result<()> {
        match self.cache.get_data() {
            Some(data) => replace(&self.file, &[&checksum(&data), &data[..]].concat()),
            None => Ok(()),
        }
    }
}

/// The classes that failed the self-test of this fingerprint, if it was run before.
pub(crate) fn read_refused(folder: &Path, fingerprint: u64) -> Option<BTreeSet<String>> {
    let sealed = fs::read(self_test_file(folder, fingerprint)).ok()?;
    let text = std::str::from_utf8(unseal(&sealed)?).ok()?;
    Some(text.lines().map(String::from).collect())
}

pub(crate) fn write_refused(folder: &Path, fingerprint: u64, refused: &BTreeSet<String>) -> Result<()> {
    let text: String = refused.iter().map(|class| format!("{class}\n")).collect();
    replace(&self_test_file(folder, fingerprint), &[&checksum(text.as_bytes()), text.as_bytes()].concat())
}

fn self_test_file(folder: &Path, fingerprint: u64) -> PathBuf {
    folder.join(format!("self_test_{fingerprint:016x}"))
}

fn checksum(data: &[u8]) -> [u8; 8] {
    let mut h = DefaultHasher::new();
    h.write(data);
    h.finish().to_le_bytes()
}

/// What follows the checksum, if it is right.
fn unseal(sealed: &[u8]) -> Option<&[u8]> {
    let (sum, data) = sealed.split_first_chunk::<8>()?;
    (*sum == checksum(data)).then_some(data)
}

/// Writes under another name first, so that a reader sees the old file or the new one and never a part.
fn replace(file: &Path, bytes: &[u8]) -> Result<()> {
    let io = |path: &Path| {
        let path = path.display().to_string();
        move |source| Error::Io { path, source }
    };
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).map_err(io(folder))?;
    }
    let new = file.with_extension(format!("{}.new", std::process::id()));
    fs::write(&new, bytes).map_err(io(&new))?;
    fs::rename(&new, file).map_err(io(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_files_are_not_used() {
        let folder = std::env::temp_dir().join(format!("etalon-cache-{}", std::process::id()));
        let refused = BTreeSet::from(["norm/8".to_string(), "nll/8".to_string()]);
        assert_eq!(read_refused(&folder, 7), None);
        write_refused(&folder, 7, &refused).unwrap();
        assert_eq!(read_refused(&folder, 7), Some(refused));
        write_refused(&folder, 8, &BTreeSet::new()).unwrap();
        assert_eq!(read_refused(&folder, 8), Some(BTreeSet::new()));
        let file = self_test_file(&folder, 7);
        let mut bytes = fs::read(&file).unwrap();
        bytes[9] ^= 1;
        fs::write(&file, &bytes).unwrap();
        assert_eq!(read_refused(&folder, 7), None);
        fs::write(&file, &bytes[..4]).unwrap();
        assert_eq!(read_refused(&folder, 7), None);
        fs::remove_dir_all(&folder).unwrap();
    }
}
