//! The `etalon` command: thin; what it does, a user of the library can do too.

mod bench;
mod common;
mod compress;
mod devices;
mod embed;
mod generate;
mod graph;
mod hub;
mod inspect;
mod logits;
mod perplexity;
mod plot;
mod selftest;
mod stop;
mod train;
mod translate;
mod verify;
mod wgsl;

use clap::{Parser, Subcommand};
use common::Global;
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "etalon", version, about = "Quantised language models on any GPU that wgpu reaches")]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the adapters and what they can do
    Devices,
    /// Try the kernels that are tuned for this adapter against their CPU twins
    Selftest,
    /// Show what is in a model's files; needs no device
    Inspect(inspect::Args),
    /// Continue a text, or answer in a model's chat format
    Generate(generate::Args),
    /// Turn each line of a text into a vector, or rank the lines by closeness to a query
    Embed(embed::Args),
    /// Measure how well a model predicts a text
    Perplexity(perplexity::Args),
    /// Write the logits of given tokens
    Logits(logits::Args),
    /// Run a short prompt on the device and compare every dispatch with its CPU twin
    Verify(verify::Args),
    /// Measure what rounding each part of a model costs
    Sensitivity(compress::sensitivity::Args),
    /// Quantise a model: as many bits for each part as a budget allows
    Quantize(Box<compress::quantize::Args>),
    /// Compare ways of choosing widths and of rounding: size against loss
    Frontier(Box<compress::frontier::Args>),
    /// Train a decoder on plain text
    Train(train::Args),
    /// Train by several methods on the same text, and compare them
    Compare(train::compare::Args),
    /// Train a network for the nodes or links of a graph, hyperbolic or not
    Graph(graph::Args),
    /// Train translators, translate, score translations
    Translate(translate::Args),
    /// Write what was trained as a model: whole weights or factors, with all singular values or fewer
    Merge(train::merge::Args),
    /// Show a model's singular values, and what is lost without the small ones
    Spectrum(train::spectrum::Args),
    /// Show what a training run would take in memory, without allocating it
    Memory(train::memory::Args),
    /// Measure the kernels against the device's own copy bandwidth and arithmetic
    Bench(bench::Args),
}

fn main() -> ExitCode {
    quiet_mesa();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("off,etalon=warn,etalon_cli=warn"))
        .format_target(false)
        .format_timestamp(None)
        .init();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) if !e.use_stderr() => e.exit(), // --help and --version
        Err(e) => {
            eprintln!("{}", usage_line(&e.to_string()));
            return ExitCode::from(2);
        }
    };
    if let Err(e) = common::watch_interrupts() {
        log::warn!("Ctrl-C will end the program at once: {e}");
    }
    match run(&cli) {
        Ok(()) if common::interrupted() => ExitCode::from(common::INTERRUPTED),
        Ok(()) => ExitCode::SUCCESS,
        // The reader of a pipe went away, as `head` does: nobody is left to tell.
        Err(e) if e.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {}", one_line(&format!("{e:#}")));
            ExitCode::FAILURE
        }
    }
}

/// Without a desktop, Mesa's device-select layer complains on stderr that it cannot ask the compositor for its GPU; nothing is
/// lost without that layer then.
fn quiet_mesa() {
    let set = |name| std::env::var_os(name).is_some();
    if cfg!(target_os = "linux") && !["XDG_RUNTIME_DIR", "DISPLAY", "MESA_VK_DEVICE_SELECT", "NODEVICE_SELECT"].into_iter().any(set) {
        // SAFETY: the program has no other thread yet that could read the environment.
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    let g = &cli.global;
    match &cli.command {
        Command::Devices => devices::run(g),
        Command::Selftest => selftest::run(g),
        Command::Inspect(args) => inspect::run(g, args),
        Command::Translate(args) => translate::run(g, args),
        Command::Graph(args) => graph::run(g, args),
        Command::Generate(args) => generate::run(g, args),
        Command::Embed(args) => embed::run(g, args),
        Command::Perplexity(args) => perplexity::run(g, args),
        Command::Logits(args) => logits::run(g, args),
        Command::Verify(args) => verify::run(g, args),
        Command::Sensitivity(args) => compress::sensitivity::run(g, args),
        Command::Quantize(args) => compress::quantize::run(g, args),
        Command::Frontier(args) => compress::frontier::run(g, args),
        Command::Train(args) => train::run(g, args),
        Command::Compare(args) => train::compare::run(g, args),
        Command::Merge(args) => train::merge::run(g, args),
        Command::Spectrum(args) => train::spectrum::run(g, args),
        Command::Memory(args) => train::memory::run(g, args),
        Command::Bench(args) => bench::run(g, args),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The complaint of the argument parser without the usage that follows it.
fn usage_line(text: &str) -> String {
    let complaint = text.split("\n\nUsage:").next().unwrap_or(text);
    format!("{} (see --help)", one_line(complaint.split("\n\nFor more").next().unwrap_or(complaint)))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn arguments_are_consistent() {
        super::Cli::command().debug_assert();
    }
}
