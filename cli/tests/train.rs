//! Training on the command line: killed at any moment, a run goes on to the same bytes.

mod common;

use common::{etalon, fail, fixture, scratch, succeed};
use serde_json::Value;
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
    // Whoever only looks at a run, which may be going on, leaves its log alone, lines beyond the checkpoint too.
    let log = || std::fs::read_to_string(killed.join("log.jsonl")).unwrap();
    let before = log() + "{\"step\":100000,\"loss\":1.0,\"norm\":1.0}\n";
    std::fs::write(killed.join("log.jsonl"), &before).unwrap();
    succeed(etalon(&["merge", killed.to_str().unwrap(), "--out", folder.join("looked").to_str().unwrap()]));
    assert!(log() == before, "merge changed the log");
    succeed(etalon(&["train", "--resume", killed.to_str().unwrap()]));
    assert!(!log().contains("100000"), "steps that the checkpoint does not know stay in the log of a run that goes on");
    let model = |folder: &Path| std::fs::read(folder.join("model.safetensors")).unwrap();
    assert!(model(&whole) == model(&killed), "the models differ");
    // What was trained is a model that the other commands load.
    let (whole, text) = (whole.to_str().unwrap(), text.to_str().unwrap());
    succeed(etalon(&["generate", "--model", whole, "--prompt", "a plan", "--max-tokens", "3"]));
    let out = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    for (name, how) in [("merged", &["--factors"][..]), ("pruned", &["--energy", "0.6"]), ("rank", &["--rank", "4", "--whole"])] {
        succeed(etalon(&[&["merge", whole, "--out", &out(name)], how].concat()));
        succeed(etalon(&["perplexity", "--model", &out(name), "--text", text, "--max-tokens", "60", "--window", "16"]));
    }
    // Training goes on with a trained model's weights, by another method too.
    let more = ["--method", "lora", "--steps", "1", "--context", "16", "--sequences", "2", "--evaluate-batches", "2"];
    succeed(etalon(&[&["train", "--init", whole, "--text", text, "--out", &out("more")], &more[..]].concat()));
    let short = out("short.txt");
    std::fs::write(&short, "a plan is a list of dispatches, and a dispatch is a kernel with its operands").unwrap();
    let shown = succeed(etalon(&["spectrum", whole, "--text", &short, "--out", &out("spectrum")]));
    assert!(shown.contains("Gaussian, untrained") && shown.contains("fc1") && shown.contains("100.0 %"), "{shown}");
    assert!(folder.join("spectrum/spectrum.svg").exists());
}

/// Runs are kept: the same command again trains nothing, and another folder takes over what was chosen.
#[test]
fn a_comparison_tunes_full_rank_first_and_is_kept() {
    let folder = scratch("compare");
    let text = folder.join("text.txt");
    std::fs::copy(fixture("../../docs/ARCHITECTURE.md"), &text).unwrap();
    let compare = |out: &Path, more: &[&str]| {
        let shape = ["--vocabulary", "400", "--context", "8", "--sequences", "2", "--steps", "6", "--rank", "2", "--t3", "2"];
        let mut c = etalon(&["compare", "--text", text.to_str().unwrap(), "--out", out.to_str().unwrap()]);
        c.args(shape).args(["--evaluate-batches", "1", "--extend", "0", "--warmup", "0"]).args(more);
        succeed(c)
    };
    let first = folder.join("first");
    let methods = ["--methods", "sst,lora,full", "--rates", "1e-9,1e-3", "--seeds", "0,1"];
    let table = compare(&first, &methods);
    let lines: Vec<&str> = table.lines().collect();
    let rate = lines[2].strip_prefix("| full | ").and_then(|l| l.split(' ').next()).unwrap();
    assert!(lines[3].starts_with("| sst |") && lines[4].starts_with("| lora x1 |"), "{table}");
    let results = || std::fs::read_dir(first.join("results")).unwrap().count();
    assert_eq!(results(), 9);
    let kept = |name: &str| std::fs::read_to_string(first.join("results").join(name)).unwrap();
    // What was found for full rank is the rate of what all methods train alike.
    for other in ["0.001", "0.000000001"] {
        let sst: Value = serde_json::from_str(&kept(&format!("sst-rate-{other}-seed-0.json"))).unwrap();
        assert_eq!(sst["settings"]["options"]["rate_rest"].as_f64(), rate.parse().ok());
    }
    let svg = std::fs::read(first.join("curves.svg")).unwrap();
    assert!(!svg.is_empty());
    let again = Instant::now();
    assert_eq!(compare(&first, &methods), table);
    assert!(results() == 9 && again.elapsed() < Duration::from_secs(60));
    // Results of one text are not taken for another's.
    std::fs::write(&text, std::fs::read_to_string(&text).unwrap() + "more").unwrap();
    let mut other = etalon(&["compare", "--text", text.to_str().unwrap(), "--out", first.to_str().unwrap()]);
    other.args(["--vocabulary", "400", "--context", "8"]);
    assert!(fail(other).contains("another text or model"));
    // Or rates of their own are tried for those.
    let third = folder.join("third");
    let table = compare(&third, &["--methods", "sst,full", "--rates", "1e-3", "--rests", "1e-4,2e-3"]);
    let rest = table.lines().find_map(|l| l.strip_prefix("| full rest ")).and_then(|l| l.split(' ').next()).unwrap();
    let sst = std::fs::read(third.join("results/sst-rate-0.001-seed-0.json")).unwrap();
    let sst: Value = serde_json::from_slice(&sst).unwrap();
    assert_eq!(sst["settings"]["options"]["rate_rest"].as_f64(), rest.parse().ok());
    let second = folder.join("second");
    let like = compare(&second, &["--like", first.to_str().unwrap(), "--seeds", "2"]);
    assert!(like.contains(&format!("| full | {rate} |")) && std::fs::read_dir(second.join("results")).unwrap().count() == 3, "{like}");
}

/// Every variant of the ablation trains, and differs from the method as it is.
#[test]
fn an_ablation_runs_every_variant() {
    let folder = scratch("ablate");
    let text = folder.join("text.txt");
    std::fs::copy(fixture("../../docs/ARCHITECTURE.md"), &text).unwrap();
    let mut c = etalon(&["compare", "--ablate", "--text", text.to_str().unwrap(), "--out", folder.to_str().unwrap()]);
    c.args(["--vocabulary", "400", "--context", "8", "--sequences", "2", "--steps", "4", "--rank", "2", "--t3", "2", "--t2", "1"]);
    c.args(["--evaluate-batches", "1", "--extend", "0", "--warmup", "0"]);
    succeed(c);
    let found: Value = serde_json::from_slice(&std::fs::read(folder.join("comparison.json")).unwrap()).unwrap();
    let losses: Vec<f64> = found.as_array().unwrap().iter().map(|f| f["runs"][0]["valid_loss"].as_f64().unwrap()).collect();
    assert_eq!(losses.len(), 14);
    assert!(losses[1..].iter().all(|l| *l != losses[0]), "{losses:?}");
}

#[test]
fn bad_input_is_one_line() {
    let folder = scratch("bad");
    let text = folder.join("short.txt");
    std::fs::write(&text, "too short").unwrap();
    fail(train(&text, &folder.join("run")));
    fail(etalon(&["train", "--resume", folder.join("none").to_str().unwrap()]));
}
