//! `graph` on a small graph: a table, a file for each run, and what is there is not trained again.

mod common;

use common::{etalon, fail, fixture, scratch, succeed};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

const NODES: usize = 60;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A ring, each node linked with the three before it; features tell the part of the ring, and a node's class is its third.
fn ring(dir: &Path) -> PathBuf {
    let folder = dir.join("ring");
    let line = |[a, b]: [usize; 2]| format!("{a} {b}\n");
    let mut edges: Vec<_> = (0..NODES).flat_map(|a| (1..4).map(move |d| [a, (a + d) % NODES])).collect();
    let m = edges.len();
    let lines = |pairs: &[[usize; 2]]| pairs.iter().copied().map(line).collect::<String>();
    let apart = |count: usize, step: usize| (0..count).map(|a| line([a, (a + step) % NODES])).collect::<String>();
    let part = |k: usize| (0..NODES).filter(|n| n % 3 == k).collect::<Vec<_>>();
    let features = |n: usize| format!("{}:1 {}:0.5\n", n / 6, (n + 3) % NODES / 6);
    let listed = lines(&edges);
    (0..m).for_each(|i| edges.swap(i, (i * 31 + 5) % m));
    fs::create_dir_all(&folder).unwrap();
    for (file, text) in [
        ("edges.txt", listed),
        ("features.svm", (0..NODES).map(features).collect()),
        ("labels.txt", (0..NODES).map(|n| format!("{}\n", n / 20)).collect()),
        ("split_nc.json", serde_json::json!({ "train": part(0), "valid": part(1), "test": part(2) }).to_string()),
        ("lp_train.txt", lines(&edges[..m * 7 / 10])),
        ("lp_valid.txt", lines(&edges[m * 7 / 10..m * 8 / 10])),
        ("lp_test.txt", lines(&edges[m * 8 / 10..])),
        ("lp_valid_neg.txt", apart(m / 10, 20)),
        ("lp_test_neg.txt", apart(m / 5, 27)),
    ] {
        fs::write(folder.join(file), text).unwrap();
    }
    folder
}

fn graph(data: &Path, task: &str, out: &Path, more: &[&str]) -> Command {
    let mut c = etalon(&["graph", "--data", text(data), "--task", task, "--epochs", "20", "--patience", "20", "--out", text(out)]);
    c.args(more);
    c
}

/// The files of a folder: when they were written, and what they say.
fn files(folder: &Path) -> BTreeMap<String, (SystemTime, Value)> {
    let file = |f: fs::DirEntry| {
        let value = serde_json::from_slice(&fs::read(f.path()).unwrap()).unwrap();
        (f.file_name().into_string().unwrap(), (f.metadata().unwrap().modified().unwrap(), value))
    };
    fs::read_dir(folder).unwrap().map(|f| file(f.unwrap())).collect()
}

fn runs_are_kept(task: &str, split: &str, metric: &str) {
    let dir = scratch(task);
    let (data, out) = (ring(&dir), dir.join("out"));
    let all = |more: &[&str]| graph(&data, task, &out, &[&["--methods", "full,lora,sst", "--seeds", "0,1"], more].concat());
    let table = succeed(all(&[]));
    let mut compare = etalon(&["compare", "graph", "--data", text(&data), "--task", task, "--epochs", "20", "--patience", "20"]);
    compare.args(["--out", text(&out), "--methods", "full,lora,sst", "--seeds", "0,1"]);
    assert_eq!(succeed(compare), table);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines.len() == 5 && lines[0].contains(metric), "{table}");
    for (line, start) in lines[2..].iter().zip(["| full | 0 | 2 |", "| lora | 1 | 2 |", "| sst | 1 | 2 |"]) {
        assert!(line.starts_with(start), "{table}");
    }
    let kept = files(&out);
    let name = |method: &str, seed: usize| format!("ring-{task}-{split}-{method}-s{seed}.json");
    let names: Vec<String> = ["full-r0", "lora-r1", "sst-r1"].iter().flat_map(|m| [0, 1].map(|s| name(m, s))).collect();
    assert!(kept.keys().eq(&names), "{:?}", kept.keys());
    for (_, run) in kept.values() {
        let number = |path: &str| run.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} of {run}"));
        assert!(run["request"].as_str().unwrap().contains("epochs: 20"), "{run}");
        assert!(["/outcome/test", "/outcome/valid"].into_iter().all(|p| (0.0..=1.0).contains(&number(p))), "{run}");
        assert!(number("/outcome/epochs") == 20.0 && number("/outcome/loss") > 0.0, "{run}");
    }
    assert_ne!(kept[&names[0]].1["outcome"]["loss"], kept[&names[1]].1["outcome"]["loss"]);
    // What is there is not trained again.
    assert_eq!(succeed(all(&[])), table);
    let json: Value = serde_json::from_str(&succeed(all(&["--json"]))).unwrap();
    assert!(json.as_array().is_some_and(|a| a.len() == 6 && a.iter().all(|o| o["task"] == task)), "{json}");
    // Nor is it taken for what other options would give.
    let other = fail(all(&["--lr", "0.5"]));
    assert!(other.contains(&names[0]) && other.contains("other options"), "{other}");
    assert_eq!(files(&out), kept);
    // A run that is missing is trained alone, and gives what it gave among others.
    let missing = name("sst-r1", 1);
    fs::remove_file(out.join(&missing)).unwrap();
    succeed(all(&[]));
    let mut again = files(&out);
    let seconds = kept[&missing].1["outcome"]["seconds"].clone();
    let (time, run) = again.get_mut(&missing).unwrap();
    (*time, run["outcome"]["seconds"]) = (kept[&missing].0, seconds);
    assert_eq!(again, kept);
}

#[test]
fn classes_of_nodes() {
    runs_are_kept("nc", "nc", "F1");
}

#[test]
fn links() {
    runs_are_kept("lp", "edges", "average precision");
}

#[test]
fn planetoid_files() {
    let out = scratch("planetoid");
    let table = succeed(graph(&fixture("planetoid"), "nc", &out, &["--methods", "full"]));
    assert!(table.contains("| full | 0 | 1 |") && files(&out).keys().eq(["tiny-nc-nc-full-r0-s0.json"]), "{table}");
}

/// A run that ended in numbers that are none is kept like any other.
#[test]
fn what_diverged_is_said_and_kept() {
    let dir = scratch("diverged");
    let (data, out) = (ring(&dir), dir.join("out"));
    let run = || succeed(graph(&data, "nc", &out, &["--methods", "full", "--lr", "1e30", "--clip", "0"]));
    let said = run();
    assert!(said.contains("full seed 0: ended by"), "{said}");
    let kept = files(&out);
    assert_eq!((run(), files(&out)), (said, kept));
}

#[test]
fn bad_requests_say_what_to_do_and_write_nothing() {
    let dir = scratch("bad-graph");
    let (data, out) = (ring(&dir), dir.join("out"));
    let why = |data: &Path, task: &str, more: &[&str]| fail(graph(data, task, &out, more));
    assert!(why(&dir.join("nowhere"), "nc", &[]).contains("nowhere"));
    assert!(why(&data, "lp", &["--geometry", "euclidean"]).contains("Lorentz"));
    assert!(why(&data, "nc", &["--methods", "full,magic"]).contains("magic"));
    assert!(why(&data, "nc", &["--methods", "sst", "--rank", "0"]).contains("rank"));
    assert!(why(&data, "nc", &["--split", "other"]).contains("split_other.json"));
    assert!(why(&data, "nc", &["--evaluate-every", "0"]).contains("evaluations"));
    let edges = data.join("edges.txt");
    fs::write(&edges, fs::read_to_string(&edges).unwrap() + "0 60\n").unwrap();
    let beyond = why(&data, "nc", &[]);
    assert!(beyond.contains("edges.txt line 181") && beyond.contains("node 60"), "{beyond}");
    assert!(!out.exists() || files(&out).is_empty());
}
