//! Shader text, for people and for other compilers.

use crate::common::{Global, print as show, print_json};
use anyhow::{Context as _, Result, bail};
use etalon::Context;
use etalon::kernel::{self, Variant};
use serde_json::json;
use std::collections::{BTreeSet, HashSet};
use std::path::Path;

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
pub(crate) enum Target {
    Native,
    Browser,
}

impl Target {
    /// What this adapter may get, or any browser.
    fn variants(self, context: &Context) -> Vec<Variant> {
        match self {
            Self::Native => kernel::variants(context.facts()),
            Self::Browser => kernel::browser_variants(),
        }
    }

    fn text(self, v: &Variant) -> Result<String> {
        let target = match self {
            Self::Native => kernel::Target::Native,
            Self::Browser => kernel::Target::Browser,
        };
        Ok(v.wgsl(target)?)
    }
}

/// Prints every variant of one kernel that this adapter may get.
pub(crate) fn print(context: &Context, name: &str, target: Target) -> Result<()> {
    let all = target.variants(context);
    let mut found = false;
    for v in all.iter().filter(|v| v.kernel == name) {
        show(&format!("// {}\n{}\n", v.name(), target.text(v)?))?;
        found = true;
    }
    if !found {
        let names: BTreeSet<&str> = all.iter().map(|v| v.kernel).collect();
        bail!("no kernel `{name}`: there are {}", names.into_iter().collect::<Vec<_>>().join(", "));
    }
    Ok(())
}

/// Writes every variant that this adapter may get into a file of its own.
pub(crate) fn dump(g: &Global, context: &Context, folder: &Path, target: Target) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let mut names = HashSet::new();
    for v in target.variants(context) {
        let file = format!("{}.wgsl", sanitised(&v.name()));
        let path = folder.join(&file);
        if !names.insert(file) {
            bail!("two variants would be written to {}", path.display());
        }
        let text = format!("// {}\n{}", v.name(), target.text(&v)?);
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    let folder = folder.display().to_string();
    match g.json {
        true => print_json(&json!({ "files": names.len(), "folder": folder })),
        false => show(&format!("{} files in {folder}\n", names.len())),
    }
}

/// A variant's name as the stem of a file: `gate[ACT=4]` becomes `gate-ACT4`.
fn sanitised(name: &str) -> String {
    let kept = name.chars().filter(|c| !matches!(c, ']' | '='));
    kept.map(|c| {
        if c.is_ascii_alphanumeric() {
            c
        } else if c == '_' {
            '_'
        } else {
            '-'
        }
    })
    .collect()
}
