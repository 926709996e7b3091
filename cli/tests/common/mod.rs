//! Running the built binary.

use std::path::PathBuf;
use std::process::{Command, Output};

/// The binary, without what the environment might say of hubs and logs.
pub(crate) fn etalon(args: &[&str]) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_etalon"));
    c.args(args);
    for name in ["HF_ENDPOINT", "HF_HOME", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "RUST_LOG"] {
        c.env_remove(name);
    }
    // Results of self-tests are kept from test to test, away from the user's own.
    c.env("ETALON_CACHE", concat!(env!("CARGO_TARGET_TMPDIR"), "/cache"));
    c
}

/// stdout of a run that must succeed.
pub(crate) fn succeed(mut c: Command) -> String {
    let o = c.output().unwrap();
    assert!(o.status.success(), "{c:?}: {}", String::from_utf8_lossy(&o.stderr));
    String::from_utf8(o.stdout).unwrap()
}

/// The one line of a run that must fail.
pub(crate) fn fail(mut c: Command) -> String {
    let Output { status, stdout, stderr } = c.output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert!(!status.success() && status.code().is_some(), "{c:?} ended with {status}");
    assert!(stdout.is_empty(), "{c:?} printed {}", String::from_utf8_lossy(&stdout));
    assert_eq!(stderr.trim_end().lines().count(), 1, "{c:?}: not one line: {stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    stderr
}

/// A file of the repository's tests.
pub(crate) fn fixture(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/")).join(path)
}

/// A place of this test's own.
pub(crate) fn scratch(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path); // left by an earlier run, perhaps
    std::fs::create_dir_all(&path).unwrap();
    path
}
