//! `test` and `ci`.

use crate::command::{cargo, run};
use crate::stages::Stages;
use crate::{adapter, fetch};
use anyhow::{Context, Result};
use std::path::Path;
use std::process::Command;

pub(crate) fn test(args: &[String]) -> Result<()> {
    test_stages(&mut Stages::default(), args)
}

fn test_stages(stages: &mut Stages, args: &[String]) -> Result<()> {
    let (no_models, args): (Vec<&String>, Vec<&String>) = args.iter().partition(|arg| *arg == "--no-models");
    stages.run("adapter", adapter::ensure)?;
    if no_models.is_empty() {
        stages
            .run("fetch models", || fetch::models().context("the real models could not be fetched (`--no-models` tests without them)"))?;
    } else {
        eprintln!("\n*** --no-models: the tests of the real models are SKIPPED ***\n");
    }
    let mut command = cargo(&["test", "--workspace"]);
    if !no_models.is_empty() {
        command.env("ETALON_NO_MODELS", "1");
    }
    stages.run("cargo test", || run(command.args(args)))
}

pub(crate) fn ci() -> Result<()> {
    let stages = &mut Stages::default();
    stages.run("cargo fmt", || run(&mut cargo(&["fmt", "--all", "--check"])))?;
    stages.run("cargo clippy", || run(&mut cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])))?;
    stages.run("cargo doc", || run(cargo(&["doc", "--no-deps", "--workspace"]).env("RUSTDOCFLAGS", "-D warnings")))?;
    stages.run("cargo check --no-default-features", || run(&mut cargo(&["check", "--no-default-features"])))?;
    if wasm_is_installed() {
        let args = ["check", "--no-default-features", "--target", WASM];
        stages.run("cargo check for browsers", || run(&mut cargo(&args)))?;
    } else {
        eprintln!("\n*** the check for browsers is SKIPPED; `rustup target add {WASM}` switches it on ***\n");
    }
    test_stages(stages, &[])
}

/// What a browser runs.
const WASM: &str = "wasm32-unknown-unknown";

/// Asks the compiler rather than rustup, as distributions' toolchains come without it.
fn wasm_is_installed() -> bool {
    let output = Command::new("rustc").args(["--print", "target-libdir", "--target", WASM]).output();
    output.is_ok_and(|output| Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir())
}
