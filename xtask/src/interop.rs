//! `interop`: what etalon writes, read by the programs that it is for.

use crate::command::{cargo, output, run, succeeds};
use crate::{adapter, fetch};
use anyhow::{Context as _, Result};
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

const PROMPT: &str = "The history of the lighthouse begins";

pub(crate) fn interop() -> Result<()> {
    adapter::ensure()?;
    fetch::models()?;
    fetch::wiki()?;
    std::fs::create_dir_all(FOLDER)?;
    run(&mut cargo(&["build", "--release", "--package", "etalon-cli"]))?;
    compressed_tensors()?;
    llama()
}

fn etalon() -> Command {
    cargo(&["run", "--quiet", "--release", "--package", "etalon-cli", "--"])
}

/// A GGUF file of mixed types in llama.cpp.
fn llama() -> Result<()> {
    let (model, wiki) = (format!("{FOLDER}/smollm2.gguf"), format!("{}/wiki/test.txt", fetch::DATA));
    let mut quantize = etalon();
    quantize.args(["quantize", "--model", fetch::SMOLLM2, "--alloc", "random:1", "--bpw", "6", "--rounding", "nearest", "--out", &model]);
    run(&mut quantize)?;
    let perplexity = ["perplexity", "--json", "--model", &model, "--text", &wiki, "--window", "512", "--max-tokens", "2048"];
    let generate = ["generate", "--json", "--model", &model, "--prompt", PROMPT, "--max-tokens", "32"];
    let [said, made] = ["perplexity", "generated"].map(|name| format!("{FOLDER}/{name}.json"));
    std::fs::write(&said, output(etalon().args(perplexity))?)?;
    let mut json: serde_json::Value = serde_json::from_slice(&output(etalon().args(generate))?)?;
    json["prompt"] = PROMPT.into();
    std::fs::write(&made, json.to_string())?;
    if !Path::new(FOLDER).join("node_modules/node-llama-cpp").exists() {
        run(Command::new("npm").args(["install", "--silent", "--prefix", FOLDER, "node-llama-cpp"]))?;
    }
    let here = |path: &str| std::fs::canonicalize(path).with_context(|| path.to_owned());
    let mut check = Command::new("node");
    check.arg(here("tests/interop/llama_check.mjs")?).args([here(&model)?, here(&wiki)?, here(&said)?, here(&made)?]);
    run(check.current_dir(FOLDER))
}

/// Folders of safetensors in the compressed-tensors package.
fn compressed_tensors() -> Result<()> {
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
