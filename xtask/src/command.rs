//! Running other programs: each is printed before it starts, and a failure names it.

use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::{Command, Stdio};

pub(crate) fn repository_root() -> PathBuf {
    // Cargo sets the variable when it runs us; the built-in value serves a binary that is started by hand.
    let manifest = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").into());
    PathBuf::from(manifest).join("..")
}

/// The cargo that runs us, so that `cargo +toolchain xtask …` stays on its toolchain.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    command.args(args);
    command
}

/// Prints and runs a command without standard input; fails when it does.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = describe(command);
    eprintln!("$ {line}");
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed ({status})");
    }
    Ok(())
}

/// The same, and returns what it writes to standard output.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let line = describe(command);
    eprintln!("$ {line}");
    let found = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().with_context(|| format!("cannot start `{line}`"))?;
    if !found.status.success() {
        bail!("`{line}` failed ({})", found.status);
    }
    Ok(found.stdout)
}

/// Whether `program args` can be started and succeeds; its output is dropped.
pub(crate) fn succeeds(program: &str, args: &[&str]) -> bool {
    let status = Command::new(program).args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

pub(crate) fn describe(command: &Command) -> String {
    let program = PathBuf::from(command.get_program());
    let program = program.file_name().unwrap_or(command.get_program()).to_string_lossy().into_owned();
    let quote = |arg: &std::ffi::OsStr| {
        let arg = arg.to_string_lossy();
        if arg.is_empty() || arg.contains(char::is_whitespace) { format!("\"{arg}\"") } else { arg.into_owned() }
    };
    std::iter::once(program).chain(command.get_args().map(quote)).collect::<Vec<_>>().join(" ")
}

/// Whether this is Debian or one of its descendants, with apt.
pub(crate) fn has_apt() -> bool {
    std::path::Path::new("/etc/debian_version").exists() && succeeds("apt-get", &["--version"])
}

/// Installs Debian packages when running as root; otherwise fails with the command to type.
pub(crate) fn apt_install(packages: &[&str], why: &str) -> Result<()> {
    let list = packages.join(" ");
    if !is_root() {
        bail!("{why}; run `sudo apt-get update && sudo apt-get install -y {list}`");
    }
    eprintln!("{why}: installing {list}");
    run(apt().args(["-q", "update"]))?;
    run(apt().args(["-q", "install", "-y", "--no-install-recommends"]).args(packages))
}

pub(crate) fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

pub(crate) fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output();
    output.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
