//! `translate` on sentences of a made-up language: train, run, bleu.

#[allow(dead_code, reason = "no files of the library's tests are wanted")]
mod common;

use common::{etalon, fail, scratch, succeed};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Sentences of a few words, and the same words of another language backwards.
fn pairs(dir: &Path) -> PathBuf {
    let folder = dir.join("pairs");
    fs::create_dir_all(&folder).unwrap();
    let words = [("red", "rot"), ("green", "gruen"), ("blue", "blau"), ("house", "haus"), ("tree", "baum"), ("sees", "sieht")];
    let sentence = |i: usize| (0..2 + i % 3).map(|k| words[(i * 5 + k * k + i / 7 * k) % 6]).collect::<Vec<_>>();
    for (part, range) in [("train", 0..80), ("valid", 80..90), ("test", 90..96)] {
        let (mut source, mut target) = (String::new(), String::new());
        for i in range {
            let all = sentence(i);
            source += &format!("{}\n", all.iter().map(|w| w.0).collect::<Vec<_>>().join(" "));
            target += &format!("{}\n", all.iter().rev().map(|w| w.1).collect::<Vec<_>>().join(" "));
        }
        fs::write(folder.join(format!("{part}.en")), source).unwrap();
        fs::write(folder.join(format!("{part}.de")), target).unwrap();
    }
    folder
}

#[test]
fn translators_are_trained_kept_and_run() {
    let dir = scratch("translate");
    let (data, out) = (pairs(&dir), dir.join("out"));
    let shape =
        "--steps 12 --warmup 2 --width 16 --layers 1 --vocabulary 290 --tokens 160 --longest 16 --rank 2 --evaluate-every 6 --beams 2";
    let train = |more: &[&str]| {
        let mut c = etalon(&["translate", "train", "--data", text(&data), "--methods", "full,sst", "--out", text(&out)]);
        c.args(shape.split(' ')).args(more);
        c
    };
    let table = succeed(train(&["--rates", "1e-2,5e-3", "--trial-steps", "4"]));
    assert!(table.contains("| full | 0 |") && table.contains("| sst | 2 |"), "{table}");
    // Beside the two of them, a line for each trial.
    assert_eq!(table.lines().filter(|l| l.contains("| 4 |")).count(), 4, "{table}");
    assert!(fs::read_to_string(out.join("curves.svg")).unwrap().contains("sst"));
    let runs: Vec<PathBuf> = fs::read_dir(&out).unwrap().map(|f| f.unwrap().path()).filter(|p| text(p).contains("-rate-")).collect();
    // Two trials and a final run of either method.
    assert_eq!(runs.len(), 6, "{runs:?}");
    for run in &runs {
        let v: Value = serde_json::from_slice(&fs::read(run).unwrap()).unwrap();
        assert!(v["outcome"]["valid_loss"].is_f64() && v["bleu"].is_array(), "{v}");
    }
    // What is there is not trained again.
    let begun = fs::metadata(&runs[0]).unwrap().modified().unwrap();
    assert_eq!(succeed(train(&["--rates", "1e-2,5e-3", "--trial-steps", "4"])), table);
    assert_eq!(fs::metadata(&runs[0]).unwrap().modified().unwrap(), begun);
    let mut compare = etalon(&["compare", "translate", "--data", text(&data), "--methods", "full,sst", "--out", text(&out)]);
    compare.args(shape.split(' ')).args(["--rates", "1e-2,5e-3", "--trial-steps", "4"]);
    assert_eq!(succeed(compare), table);
    let e = fail(train(&["--rates", "1e-2,5e-3", "--trial-steps", "4", "--smoothing", "0.2"]));
    assert!(e.contains("other options or sentences"), "{e}");
    // Nor are runs on other sentences, however many.
    let target = data.join("valid.de");
    let before = fs::read_to_string(&target).unwrap();
    fs::write(&target, before.replacen("rot", "blau", 1)).unwrap();
    let e = fail(train(&["--rates", "1e-2,5e-3", "--trial-steps", "4"]));
    assert!(e.contains("other options or sentences"), "{e}");
    fs::write(&target, before).unwrap();

    let model = out.join("full");
    let lines = succeed(etalon(&[
        "translate",
        "run",
        "--model",
        text(&model),
        "--text",
        text(&data.join("test.en")),
        "--longest",
        "16",
        "--beams",
        "2",
    ]));
    assert_eq!(lines, fs::read_to_string(model.join("test.de")).unwrap());
    // The same model in fewer bits translates too.
    let small = dir.join("small");
    let mut quantize =
        etalon(&["quantize", "--model", text(&model), "--out", text(&small), "--bpw", "5", "--granularity", "row", "--refine", "1"]);
    quantize.args(["--calibration", text(&data.join("valid.en")), "--targets", text(&data.join("valid.de"))]);
    quantize.args(["--check", text(&data.join("test.en")), "--check-targets", text(&data.join("test.de"))]);
    let told = succeed(quantize);
    assert!(
        told.contains("bits per linear weight") && told.contains("0 qkv") && told.contains("1 cross-kv") && told.contains("--check"),
        "{told}"
    );
    let report: Value = serde_json::from_slice(&fs::read(small.join("report.json")).unwrap()).unwrap();
    assert!(report["bits_per_weight"].as_f64().unwrap() <= 5.0 && report["loss_after"].is_f64(), "{report}");
    let few = succeed(etalon(&["translate", "run", "--model", text(&small), "--text", text(&data.join("test.en")), "--longest", "16"]));
    assert_eq!(few.lines().count(), lines.lines().count());
    let mut blind = etalon(&["quantize", "--model", text(&model), "--out", text(&small), "--bpw", "5"]);
    blind.args(["--calibration", text(&data.join("valid.en"))]);
    assert!(fail(blind).contains("--targets"));
    let file = dir.join("lines.de");
    fs::write(&file, &lines).unwrap();
    let reference = data.join("test.de");
    let score = |a: &Path| succeed(etalon(&["translate", "bleu", "--text", text(a), "--reference", text(&reference)]));
    assert!(score(&reference).starts_with("BLEU 100.00") && score(&file).starts_with("BLEU "));
}

#[test]
fn what_does_not_fit_is_named() {
    let dir = scratch("translate-bad");
    let (data, out) = (pairs(&dir), dir.join("out"));
    let train = || etalon(&["translate", "train", "--data", text(&data), "--out", text(&out), "--steps", "1"]);
    fs::write(data.join("valid.de"), "nur eine\n").unwrap();
    assert!(fail(train()).contains("valid.en has 10 lines"));
    fs::write(data.join("valid.de"), "\n".repeat(10)).unwrap();
    assert!(fail(train()).contains("valid.de line 1: an empty sentence"));
    fs::remove_file(data.join("train.en")).unwrap();
    assert!(fail(train()).contains("train.en"));
    assert!(fail(etalon(&["translate", "run", "--model", text(&dir)])).contains("config.json"));
    let short = dir.join("short");
    fs::write(&short, "a\n").unwrap();
    assert!(fail(etalon(&["translate", "bleu", "--text", text(&short), "--reference", text(&data.join("test.de"))])).contains("1 lines"));
}
