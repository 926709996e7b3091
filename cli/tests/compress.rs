//! `sensitivity`, `quantize` and `frontier` on a small trained model.

mod common;

use common::{etalon, fail, fixture, scratch, succeed};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

fn nano(file: &str) -> String {
    fixture("nano").join(file).to_str().unwrap().to_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A command on the model, calibrated on its own text in windows that it takes.
fn on_nano(command: &str, more: &[&str]) -> Command {
    let mut c = etalon(&[command, "--json", "--model", &nano(""), "--calibration", &nano("calibration.txt"), "--window", "128"]);
    c.args(more);
    c
}

fn json(c: Command) -> Value {
    serde_json::from_str(&succeed(c)).unwrap()
}

#[test]
fn a_model_is_quantised_to_a_budget_and_runs() {
    let dir = scratch("quantize");
    let (scores, out) = (dir.join("scores.json"), dir.join("model"));
    let check = nano("check.txt");
    let quantize = |budget: &str, out: &Path, more: &[&str]| {
        let mut c = on_nano("quantize", &["--bpw", budget, "--score", "pmpq", "--tokens", "1024", "--refine", "1"]);
        c.args(["--scores", text(&scores), "--check", &check, "--check-tokens", "1024", "--out", text(out)]).args(more);
        json(c)
    };
    let report = quantize("4.25", &out, &[]);
    let number = |path: &str| report.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} of {report}"));
    assert!(number("/bits_per_linear_weight") <= 4.25 && number("/bits_per_linear_weight") > 4.0);
    assert!(number("/refinement/after") <= number("/refinement/uniform"));
    let (kl, before, after) = (number("/quality/mean_kl"), number("/quality/perplexity_before"), number("/quality/perplexity"));
    // A perplexity may fall by chance; what is said differs in any case.
    assert!(kl > 0.0 && kl < 0.1 && after != before && (after / before - 1.0).abs() < 0.1, "{report}");
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("Bits by layer") && page.contains("<svg") && !page.contains("http"));
    // The written folder is a model like any other.
    let perplexity = |model: &str| {
        json(etalon(&["perplexity", "--json", "--model", model, "--text", &check, "--window", "128", "--against", &nano("")]))
    };
    let (own, other) = (perplexity(text(&out)), perplexity(&nano("")));
    assert!(own["mean_kl"].as_f64().unwrap() > 0.0 && other["mean_kl"] == 0.0);
    assert!(own["perplexity"] != other["perplexity"]);
    assert!(!succeed(etalon(&["generate", "--model", text(&out), "--prompt", "It was", "--max-tokens", "8"])).trim().is_empty());
    assert!(succeed(etalon(&["inspect", text(&out)])).contains("weight_packed"));
    // Scores serve other budgets, and are those of this model and calibration only.
    let measured = std::fs::read(&scores).unwrap();
    assert!(quantize("6", &dir.join("six"), &["--rounding", "nearest"])["quality"]["mean_kl"].as_f64().unwrap() < kl);
    assert_eq!(std::fs::read(&scores).unwrap(), measured);
    let mut c = on_nano("quantize", &["--bpw", "4", "--score", "tdmpq", "--scores", text(&scores), "--out", text(&out)]);
    c.arg("--range-search");
    assert!(fail(c).contains("measure anew"));
}

/// Killed after any unit, the same command ends with the same scores.
#[test]
fn scores_that_were_cut_short_go_on() {
    let out = scratch("sensitivity").join("scores.json");
    let run = || json(on_nano("sensitivity", &["--score", "tdmpq", "--pairs", "1", "--score-tokens", "256", "--out", text(&out)]));
    let whole = run();
    assert_eq!(whole["units"].as_array().unwrap().len(), 16);
    let mut cut: Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    cut["units"].as_array_mut().unwrap().truncate(5);
    std::fs::write(&out, cut.to_string()).unwrap();
    assert_eq!(run(), whole);
}

#[test]
fn ways_of_choosing_are_compared() {
    let dir = scratch("frontier");
    let run = || {
        let mut c =
            on_nano("frontier", &["--budgets", "3.6,4.7", "--ways", "uniform,random:1,pmpq,refined", "--roundings", "nearest,gptq"]);
        c.args(["--score-tokens", "256", "--tokens", "256", "--refine", "1", "--check", &nano("check.txt"), "--check-tokens", "512"]);
        c.args(["--out", text(&dir)]);
        json(c)
    };
    let found = run();
    let cells = found["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 16);
    assert!(cells.iter().all(|c| c["bits_per_weight"].as_f64() <= c["budget"].as_f64() && c["loss"].as_f64().unwrap() > 0.0));
    assert!(std::fs::read_to_string(dir.join("table.md")).unwrap().contains("Bits for the loss of one width for all, gptq"));
    for rounding in ["nearest", "gptq"] {
        let svg = std::fs::read_to_string(dir.join(format!("frontier-{rounding}.svg"))).unwrap();
        assert!(svg.contains("<svg") && svg.contains("4 times smaller than f16"));
    }
    // What is there is not judged again; nor is it taken for what another text would give.
    assert_eq!(run(), found);
    let mut c = on_nano("frontier", &["--budgets", "3.6", "--ways", "uniform", "--check", &nano("check.txt"), "--check-tokens", "256"]);
    c.args(["--score-tokens", "256", "--tokens", "256", "--refine", "1", "--out", text(&dir)]);
    assert!(fail(c).contains("`judged` is not what"));
    let mut c = on_nano("frontier", &["--budgets", "4", "--check", &nano("calibration.txt"), "--out", text(&dir)]);
    c.args(["--ways", "uniform"]);
    assert!(fail(c).contains("share text"));
}

/// Factors within a budget, that run; more bits for pairs lose less, and what cannot be is said.
#[test]
fn layers_are_rounded_as_factors() {
    let dir = scratch("spectral");
    let check = nano("check.txt");
    let quantize = |budget: &str, more: &[&str]| {
        let mut c = on_nano("quantize", &["--spectral", "--bpw", budget, "--tokens", "1024", "--check", &check, "--check-tokens", "512"]);
        c.args(["--out", text(&dir.join(budget))]).args(more);
        c
    };
    let [few, many] = ["3.5", "6"].map(|b| json(quantize(b, &["--alloc", "uniform"])));
    let number = |j: &Value, path: &str| j.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} of {j}"));
    assert!(number(&few, "/bits_per_linear_weight") <= 3.5 && number(&few, "/bits_per_linear_weight") > 3.0);
    assert!(number(&many, "/quality/mean_kl") < number(&few, "/quality/mean_kl") && number(&many, "/quality/mean_kl") > 0.0);
    assert!(number(&few, "/pairs_left_out") > number(&many, "/pairs_left_out"));
    // Layers that matter more may take more.
    let scored = json(quantize("3.5", &["--score", "tdmpq-gradient", "--rounding", "nearest"]));
    assert!(number(&scored, "/bits_per_linear_weight") <= 3.5, "{scored}");
    assert!(number(&scored, "/quality/mean_kl") < number(&few, "/quality/mean_kl"), "{scored} for {few}");
    let model = dir.join("6");
    assert!(!succeed(etalon(&["generate", "--model", text(&model), "--prompt", "It was", "--max-tokens", "4"])).trim().is_empty());
    assert!(succeed(etalon(&["inspect", text(&model)])).contains("q_proj.v.0.weight_packed"));
    let again = fail(etalon(&["quantize", "--model", text(&model), "--bpw", "4", "--alloc", "uniform", "--out", text(&dir.join("again"))]));
    assert!(again.contains("factors"), "{again}");
    assert!(fail(quantize("0.1", &["--alloc", "uniform"])).contains("too small"));
    let gguf = on_nano("quantize", &["--spectral", "--bpw", "4", "--alloc", "uniform", "--out", text(&dir.join("x.gguf"))]);
    assert!(fail(gguf).contains("holds no factors") && !dir.join("x.gguf").exists());
}

/// The paper's way, and widths that are pinned.
#[test]
fn presets_and_pins() {
    let dir = scratch("preset");
    let paper = json(on_nano("quantize", &["--preset", "cptquant-2024", "--score", "cmpq", "--out", text(&dir.join("paper"))]));
    let bits: Vec<u64> = paper["units"].as_array().unwrap().iter().map(|u| u["bits"].as_u64().unwrap()).collect();
    assert!(bits.len() == 4 && bits.iter().all(|b| [16, 8, 4].contains(b)) && bits.contains(&16) && bits.contains(&4), "{bits:?}");
    assert!(paper["chance"].as_f64().is_some());
    let pinned = json(on_nano(
        "quantize",
        &["--bytes", "700kB", "--score", "pmpq", "--bits", "3,4,6,8", "--pin", r"layers\.0\.fc2=8", "--out", text(&dir.join("pin"))],
    ));
    let unit = pinned["units"].as_array().unwrap().iter().find(|u| u["unit"] == "0 down").unwrap();
    assert!(unit["bits"] == 8 && pinned["bytes"].as_u64().unwrap() <= 700_000, "{unit}");
}

#[test]
fn bad_requests_say_what_to_do_and_write_nothing() {
    let dir = scratch("bad");
    let out = dir.join("model");
    let why = |more: &[&str]| {
        let mut c = on_nano("quantize", more);
        c.args(["--out", text(&out)]);
        fail(c)
    };
    assert!(why(&[]).contains("--bpw"));
    assert!(why(&["--bpw", "1", "--score", "pmpq"]).contains("cheapest choices take"));
    assert!(why(&["--bytes", "1kB", "--score", "pmpq"]).contains("stored beside"));
    assert!(why(&["--bpw", "4", "--bits", "7"]).contains("7 bits"));
    assert!(why(&["--bpw", "4", "--group", "64"]).contains("does not divide"));
    assert!(why(&["--bpw", "4", "--score", "pmpq", "--pin", "nothing=4"]).contains("matches no linear layer"));
    assert!(why(&["--bpw", "4", "--alloc", "magic"]).contains("ends-first"));
    let short = dir.join("short.txt");
    std::fs::write(&short, "A word.").unwrap();
    let of_text =
        |file: &Path| fail(etalon(&["quantize", "--model", &nano(""), "--bpw", "4", "--calibration", text(file), "--out", text(&out)]));
    assert!(of_text(&short).contains("fewer tokens than one window"));
    assert!(of_text(&dir.join("none.txt")).contains("none.txt"));
    // A file stands where the folder should be.
    let blocked = short.join("model");
    assert!(
        fail(on_nano("quantize", &["--alloc", "uniform", "--bpw", "5", "--rounding", "nearest", "--out", text(&blocked)]))
            .contains("short.txt")
    );
    assert!(!out.exists());
    // Weights that are no numbers.
    let damaged = dir.join("nan");
    std::fs::create_dir_all(&damaged).unwrap();
    for file in ["config.json", "tokenizer.json"] {
        std::fs::copy(nano(file), damaged.join(file)).unwrap();
    }
    let mut bytes = std::fs::read(nano("model.safetensors")).unwrap();
    let at = bytes.len() - 1000;
    bytes[at..at + 2].copy_from_slice(&0x7e00u16.to_le_bytes());
    std::fs::write(damaged.join("model.safetensors"), bytes).unwrap();
    let nan = fail(etalon(&[
        "quantize",
        "--model",
        text(&damaged),
        "--alloc",
        "uniform",
        "--bpw",
        "5",
        "--rounding",
        "nearest",
        "--out",
        text(&out),
    ]));
    assert!(nan.contains("NaN or infinite"), "{nan}");
    assert!(!out.exists());
}
