//! `demo`: two real models on this machine's adapter, one of them quantised to a budget first.

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

/// What linear layers may take; the file that is quantised has 5 bits.
const BUDGET: &str = "4.75";

pub(crate) fn demo() -> Result<()> {
    adapter::ensure()?;
    fetch::models()?;
    fetch::wiki()?;
    run(&mut cargo(&["build", "--release", "--package", "etalon-cli"]))?;

    println!(
        "\nSmolLM2-135M-Instruct, quantised to {BUDGET} bits per linear weight by CPTQuant's pruning score (some minutes without a GPU):\n"
    );
    let data = |name: &str| Path::new(fetch::DATA).join(name);
    let (scores, out) = (data("demo-scores.json"), data("demo-smollm2"));
    let options =
        ["--bpw", BUDGET, "--score", "pmpq", "--score-tokens", "512", "--tokens", "2048", "--refine", "0", "--check-tokens", "1024"];
    let mut quantize = etalon();
    quantize.args(["quantize", "--model", fetch::SMOLLM2]).args(options);
    quantize.arg("--calibration").arg(data("wiki/train.txt")).arg("--check").arg(data("wiki/test.txt"));
    run(quantize.arg("--scores").arg(scores).arg("--out").arg(&out))?;

    println!("\nIt answers: {QUESTION}\n");
    run(etalon().args(["generate", "--chat", "--prompt", QUESTION, "--max-tokens", "96", "--model"]).arg(&out))?;

    println!("\nall-MiniLM-L6-v2 ranks six sentences by closeness to: {QUERY}\n");
    let text = Path::new(fetch::DATA).join("demo.txt");
    std::fs::write(&text, SENTENCES)?;
    run(etalon().args(["embed", "--model", fetch::MINILM, "--rank", QUERY, "--text"]).arg(&text))
}

/// The command line as a user may repeat it, wherever cargo put the binary.
fn etalon() -> Command {
    cargo(&["run", "--quiet", "--release", "--package", "etalon-cli", "--"])
}
