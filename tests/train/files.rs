//! Files are written whole or not at all.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use etalon::Error;
use etalon::format::{Bytes, Checkpoint, Encoding, HostMatrix, NewTensor, Safetensors, write_atomically, write_safetensors};

/// A folder of its own that is removed at the end.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("etalon-train-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(&self.0).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Tensors of all sizes of element, with odd shapes, in no order; and their bytes.
fn tensors() -> (Vec<NewTensor>, Vec<Vec<u8>>) {
    let list = [
        ("model.b", "F16", vec![3], 2),
        ("model.c", "F32", vec![2, 3], 4),
        ("model.a", "U32", vec![5], 4),
        ("flags", "BOOL", vec![3], 1),
        ("step", "I64", vec![], 8),
        ("empty", "BF16", vec![0, 7], 2),
        ("a \"quoted\"\n name", "BF16", vec![1], 2),
        ("signed", "I32", vec![2], 4),
    ];
    let bytes = list.iter().enumerate().map(|(i, (_, _, shape, size))| {
        let n = shape.iter().product::<usize>() * size;
        (0..n).map(|b| (b * 7 + i * 31) as u8).collect()
    });
    let bytes = bytes.collect();
    (list.into_iter().map(|(name, dtype, shape, _)| NewTensor::new(name, dtype, shape)).collect(), bytes)
}

fn metadata() -> BTreeMap<String, String> {
    [("format", "pt"), ("a key", "\"quoted\" \u{e9}")].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
}

fn write(path: &Path) -> etalon::Result<()> {
    let (tensors, bytes) = tensors();
    write_safetensors(path, &tensors, &metadata(), |i| Ok(Cow::Borrowed(&bytes[i][..])))
}

#[test]
fn what_is_written_reads_back() {
    let folder = Folder::new("round");
    let path = folder.0.join("x.safetensors");
    write(&path).unwrap();
    let first = std::fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(first[..8].try_into().unwrap()) as usize;
    assert!(header.is_multiple_of(8), "{header}");
    let file = Safetensors::parse(Arc::new(Bytes::new("x", first.clone()))).unwrap();
    assert_eq!(file.metadata(), &metadata());
    let (tensors, bytes) = tensors();
    let mut names: Vec<_> = tensors.iter().map(|t| t.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(file.names().collect::<Vec<_>>(), names);
    for (tensor, bytes) in tensors.iter().zip(&bytes) {
        let raw = file.raw(&tensor.name).unwrap();
        assert_eq!((raw.dtype, raw.shape, &*raw.bytes), (tensor.dtype, &tensor.shape[..], &bytes[..]));
        let words = file.words(&tensor.name);
        match tensor.dtype {
            "U32" | "I32" | "F32" => assert_eq!(words.unwrap().iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>(), *bytes),
            _ => assert!(words.unwrap_err().to_string().contains(tensor.dtype)),
        }
    }
    assert!(matches!(file.raw("nothing"), Err(Error::MissingTensor { .. })));

    // Over the old file, and the same bytes.
    write(&path).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), first);
    assert_eq!(folder.names(), ["x.safetensors"]);
}

#[test]
fn a_written_model_opens() {
    let folder = Folder::new("model");
    write_atomically(&folder.0.join("config.json"), etalon::train::presets::preset("nano", 300, 32).unwrap().as_bytes()).unwrap();
    let name = "model.decoder.embed_tokens.weight";
    let values: Vec<f32> = (0..300 * 96).map(|i| i as f32 / 8.0).collect();
    let tensor = [NewTensor::new(name, "F32", [300, 96])];
    write_safetensors(&folder.0.join("model.safetensors"), &tensor, &metadata(), |_| Ok(Cow::Borrowed(bytemuck::cast_slice(&values))))
        .unwrap();
    let checkpoint = Checkpoint::open(&folder.0).unwrap();
    let entry = checkpoint.tensors().next().unwrap();
    assert_eq!((entry.encoding, &entry.shape[..]), (Encoding::F32, &[300, 96][..]));
    match checkpoint.matrix(&entry.name, 300, 96).unwrap() {
        HostMatrix::F32(read) => assert_eq!(read, values),
        other => panic!("{other:?}"),
    }
}

#[test]
fn no_tensors_and_no_metadata_are_a_file_too() {
    let folder = Folder::new("none");
    let path = folder.0.join("x.safetensors");
    write_safetensors(&path, &[], &BTreeMap::new(), |_| panic!("there is no tensor")).unwrap();
    let file = Safetensors::parse(Arc::new(Bytes::new("x", std::fs::read(&path).unwrap()))).unwrap();
    assert_eq!((file.names().count(), file.metadata().len()), (0, 0));
}

#[test]
fn a_failure_leaves_the_old_file() {
    let folder = Folder::new("failure");
    let path = folder.0.join("x.safetensors");
    write_atomically(&path, b"old").unwrap();
    let all = BTreeMap::new();
    let one = |name: &str, dtype| vec![NewTensor::new(name, dtype, [3])];
    let given = |tensors: &[NewTensor], bytes: usize| write_safetensors(&path, tensors, &all, |_| Ok(Cow::Owned(vec![0; bytes])));
    let twice = [one("a", "F32"), one("a", "F16")].concat();
    let huge = [NewTensor::new("a", "F32", [usize::MAX, 2])];
    for (result, word) in [
        (given(&one("a", "F32"), 13), "13 bytes"),
        (given(&one("a", "F33"), 12), "F33"),
        (given(&one("__metadata__", "F32"), 12), "reserved"),
        (given(&twice, 12), "two tensors"),
        (given(&huge, 12), "too many"),
        (write_safetensors(&path, &one("a", "F32"), &all, |_| Err(Error::Request("stopped".into()))), "stopped"),
    ] {
        let message = result.unwrap_err().to_string();
        assert!(message.contains(word), "{word}: {message}");
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(folder.names(), ["x.safetensors"], "{word}");
    }
    // A panic too.
    let panics = || write_safetensors(&path, &one("a", "F32"), &all, |_| std::panic::resume_unwind(Box::new("silently")));
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
    assert_eq!(folder.names(), ["x.safetensors"]);
}

#[test]
fn a_file_that_cannot_be_written_is_named() {
    let folder = Folder::new("named");
    let missing = folder.0.join("no folder").join("x.json");
    let message = write_atomically(&missing, b"{}").unwrap_err().to_string();
    assert!(message.contains(missing.to_str().unwrap()), "{message}");
    // A folder stands in the way.
    let taken = folder.0.join("taken");
    std::fs::create_dir_all(taken.join("inside")).unwrap();
    assert!(matches!(write_atomically(&taken, b"{}"), Err(Error::Io { path, .. }) if path == taken.display().to_string()));
    assert_eq!(folder.names(), ["taken"]);
    assert!(write_atomically(Path::new("/"), b"{}").is_err());
}

/// Where ETALON_SMALL_DISK names a folder on a disk of less than 4 MiB (`mount -t tmpfs -o size=2m`).
#[test]
fn a_full_disk_leaves_the_old_file() {
    let Some(folder) = std::env::var_os("ETALON_SMALL_DISK").map(PathBuf::from) else { return };
    let path = folder.join("x.safetensors");
    write_atomically(&path, b"old").unwrap();
    let tensors: Vec<_> = (0..8).map(|i| NewTensor::new(format!("t{i}"), "U8", [1 << 19])).collect();
    let error = write_safetensors(&path, &tensors, &BTreeMap::new(), |_| Ok(Cow::Owned(vec![1; 1 << 19]))).unwrap_err();
    assert!(matches!(&error, Error::Io { path: named, .. } if *named == path.display().to_string()), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
}
