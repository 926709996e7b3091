//! `cargo xtask COMMAND`: set-up, data, tests, demo and measurements of the repository.

mod adapter;
mod bench;
mod check;
mod command;
mod demo;
mod fetch;
mod interop;
mod packages;
mod stages;
mod tint;

use anyhow::{Result, bail};
use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask COMMAND

  demo                          quantise a real model to a budget, ask it a question; rank sentences with another
  test [--no-models] [ARGS]     every test of the workspace; ARGS go to `cargo test`
  ci                            what the continuous integration runs: format, lints, docs, tests
  fetch [models|wiki|austen|text|graphs|pairs|all]
                                bring models, texts, graphs and pairs of sentences (by 280 MB of packages) into target/data
                                (default: all)
  bench [ARGS]                  criterion benchmarks, then the kernel table; ARGS go to criterion
  interop                       quantise models, and read the results with other programs (downloads some GB)
  tint [FOLDER]                 compile the shaders that a browser may get in headless Chromium
  adapter                       make sure that there is a Vulkan driver (demo, test, bench do so too)";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    std::env::set_current_dir(command::repository_root())?;
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((name, rest)) = args.split_first() else {
        println!("{USAGE}");
        return Ok(());
    };
    match name.as_str() {
        "demo" => demo::demo(),
        "test" => check::test(rest),
        "ci" => check::ci(),
        "fetch" => fetch::fetch(rest),
        "bench" => bench::bench(rest),
        "interop" => interop::interop(),
        "tint" => tint::tint(rest),
        "adapter" => adapter::ensure(),
        "help" | "-h" | "--help" => {
            println!("{USAGE}");
            Ok(())
        }
        _ => bail!("no command `{name}`\n{USAGE}"),
    }
}
