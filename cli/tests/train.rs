//! Training on the command line: killed at any moment, a run goes on to the same bytes.

mod common;

use common::{etalon, fail, fixture, scratch, succeed};
use std::path::Path;
use std::time::{Duration, Instant};

fn train(text: &Path, out: &Path) -> std::process::Command {
    let (text, out) = (text.to_str().unwrap(), out.to_str().unwrap());
    let shape = ["--vocabulary", "400", "--context", "16", "--sequences", "2", "--steps", "24", "--checkpoint-every", "4"];
    let sst = ["--method", "sst", "--t3", "4", "--t2", "2", "--sst-warmup", "2", "--evaluate-every", "0", "--evaluate-batches", "2"];
    let mut c = etalon(&["train", "--preset", "nano", "--text", text, "--out", out]);
    c.args(shape).args(sst);
    c
}

#[test]
fn a_killed_run_goes_on_to_the_same_bytes() {
    let folder = scratch("killed");
    let text = folder.join("text.txt");
    std::fs::copy(fixture("../../docs/ARCHITECTURE.md"), &text).unwrap();
    let (whole, killed) = (folder.join("whole"), folder.join("killed"));
    succeed(train(&text, &whole));
    let mut child = train(&text, &killed).spawn().unwrap();
    let began = Instant::now();
    while !killed.join("checkpoints/step-00000008").exists() {
        assert!(began.elapsed() < Duration::from_secs(300) && child.try_wait().unwrap().is_none(), "no checkpoint");
        std::thread::sleep(Duration::from_millis(20));
    }
    // SIGKILL: nothing of the program runs any more.
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!killed.join("model.safetensors").exists());
    succeed(etalon(&["train", "--resume", killed.to_str().unwrap()]));
    let model = |folder: &Path| std::fs::read(folder.join("model.safetensors")).unwrap();
    assert!(model(&whole) == model(&killed), "the models differ");
    // What was trained is a model that the other commands load.
    succeed(etalon(&["generate", "--model", whole.to_str().unwrap(), "--prompt", "a plan", "--max-tokens", "3"]));
}

#[test]
fn bad_input_is_one_line() {
    let folder = scratch("bad");
    let text = folder.join("short.txt");
    std::fs::write(&text, "too short").unwrap();
    fail(train(&text, &folder.join("run")));
    fail(etalon(&["train", "--resume", folder.join("none").to_str().unwrap()]));
}
