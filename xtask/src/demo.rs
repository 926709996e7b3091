//! `demo`: two real models on this machine's adapter.

use crate::command::{cargo, run};
use crate::{adapter, fetch};
use anyhow::Result;
use std::path::Path;
use std::process::Command;

const QUESTION: &str = "What is the capital of France, and what is it famous for?";
const QUERY: &str = "How do plants get their energy?";
const SENTENCES: &str = "\
Photosynthesis turns sunlight, water and carbon dioxide into sugar.
The stock market fell sharply after the announcement.
Leaves look green because chlorophyll reflects green light.
He plays the violin in a chamber orchestra.
Solar panels convert light into electricity.
The recipe needs two eggs and a cup of flour.
";

pub(crate) fn demo() -> Result<()> {
    adapter::ensure()?;
    fetch::models()?;
    run(&mut cargo(&["build", "--release", "--package", "etalon-cli"]))?;

    println!("\nSmolLM2-135M-Instruct (4 bits a weight) answers: {QUESTION}\n");
    let generate = ["generate", "--model", fetch::SMOLLM2, "--chat", "--prompt", QUESTION, "--max-tokens", "96"];
    run(etalon().args(generate))?;

    println!("\nall-MiniLM-L6-v2 ranks six sentences by closeness to: {QUERY}\n");
    let text = Path::new(fetch::DATA).join("demo.txt");
    std::fs::write(&text, SENTENCES)?;
    run(etalon().args(["embed", "--model", fetch::MINILM, "--rank", QUERY, "--text"]).arg(&text))
}

/// The command line as a user may repeat it, wherever cargo put the binary.
fn etalon() -> Command {
    cargo(&["run", "--quiet", "--release", "--package", "etalon-cli", "--"])
}
