//! `interop`: what etalon writes, read by the programs that it is for.

use crate::command::{cargo, run, succeeds};
use crate::{adapter, fetch};
use anyhow::Result;
use std::path::Path;
use std::process::Command;

const FOLDER: &str = "target/interop";

/// Ways of rounding MiniLM: options, and a width for each of its six layers.
const COMPRESSED: [(&str, &[&str]); 4] = [
    ("group", &["--group", "128"]),
    ("symmetric", &["--group", "32", "--symmetric"]),
    ("row", &["--granularity", "row"]),
    ("tensor", &["--granularity", "tensor"]),
];

pub(crate) fn interop() -> Result<()> {
    adapter::ensure()?;
    fetch::models()?;
    run(&mut cargo(&["build", "--release", "--package", "etalon-cli"]))?;
    let python = python()?;
    for (name, options) in COMPRESSED {
        let out = format!("{FOLDER}/minilm-{name}");
        let mut quantize = cargo(&["run", "--quiet", "--release", "--package", "etalon-cli", "--", "quantize"]);
        quantize
            .args(["--model", fetch::MINILM, "--alloc", "uniform", "--bpw", "16", "--rounding", "nearest", "--out", &out])
            .args(options);
        for (layer, bits) in [2, 3, 4, 5, 6, 8].into_iter().enumerate() {
            quantize.args(["--pin", &format!("layer\\.{layer}\\.={bits}")]);
        }
        run(&mut quantize)?;
        let unpacked = format!("{FOLDER}/{name}.safetensors");
        run(&mut cargo(&["run", "--quiet", "--release", "--example", "unpack", "--", &out, &unpacked]))?;
        run(Command::new(&python).args(["tests/interop/compressed_tensors_check.py", &out, &unpacked]))?;
    }
    Ok(())
}

/// An environment of its own with the packages of the check; one that has them already may be named by `ETALON_PYTHON`.
fn python() -> Result<String> {
    if let Ok(named) = std::env::var("ETALON_PYTHON") {
        return Ok(named);
    }
    let venv = format!("{FOLDER}/venv");
    let python = format!("{venv}/bin/python");
    if !Path::new(&python).exists() {
        std::fs::create_dir_all(FOLDER)?;
        run(Command::new("python3").args(["-m", "venv", &venv]))?;
    }
    if !succeeds(&python, &["-c", "import compressed_tensors, safetensors"]) {
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "compressed-tensors>=0.20", "safetensors", "numpy"]))?;
    }
    Ok(python)
}
