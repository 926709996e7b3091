//! The folder form: what it holds, and what is wrong with it.

use etalon::graphs::{Graph, adjacency, lifted, with_degrees};
use etalon::hyperbolic::inner;
use std::path::{Path, PathBuf};

fn folder(name: &str, files: &[(&str, &str)]) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("etalon-graph-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let good = [
        ("edges.txt", "0 1\n1 2\n"),
        ("features.svm", "0:0.5 2:1\n1:-2\n\n0:1\n"),
        ("labels.txt", "0\n1\n-1\n1\n"),
        ("split_nc.json", r#"{"train": [0], "valid": [1], "test": [3, 3]}"#),
        ("lp_train.txt", "0 1\n"),
        ("lp_valid.txt", "1 2\n"),
        ("lp_test.txt", "1 2\n"),
        ("lp_valid_neg.txt", "0 3\n"),
        ("lp_test_neg.txt", "0 2\n"),
    ];
    for (file, text) in good.iter().chain(files) {
        std::fs::write(folder.join(file), text).unwrap();
    }
    folder
}

/// What reading all of a folder says.
fn read(folder: &Path) -> Result<Graph, String> {
    let all = || {
        let g = Graph::load(folder)?;
        g.node_split(folder, "nc")?;
        g.link_split(folder)?;
        Ok(g)
    };
    let result = all().map_err(|e: etalon::Error| e.to_string());
    std::fs::remove_dir_all(folder).unwrap();
    result
}

#[test]
fn a_folder_is_read() {
    let g = read(&folder("good", &[])).unwrap();
    assert_eq!((g.nodes, g.features.cols, g.classes, g.labels[2]), (4, 3, 2, None));
    // The last node has no edge: it keeps itself. The third has no features: it is the origin.
    let a = adjacency(g.nodes, &g.edges).unwrap();
    assert_eq!(a.row(3).collect::<Vec<_>>(), [(3, 1.0)]);
    assert_eq!(a.row(0).collect::<Vec<_>>(), [(0, 0.5), (1, 0.5)]);
    let points = lifted(&g.features);
    assert_eq!(points.row(2).collect::<Vec<_>>(), [(0, 1.0)]);
    let mut dense = vec![0.0; 4];
    points.row(0).for_each(|(c, v)| dense[c as usize] = f64::from(v));
    assert!((inner(&dense, &dense) + 1.0).abs() < 1e-6);
    let degrees = with_degrees(&g.features, &g.edges).unwrap();
    assert_eq!(degrees.row(1).collect::<Vec<_>>(), [(1, -2.0), (5, 1.0), (9, 1.0)]);
}

#[test]
fn what_is_wrong_is_named() {
    let cases: &[(&str, &str, &str, &[&str])] = &[
        ("edge-beyond", "edges.txt", "0 1\n1 4\n", &["edges.txt line 2", "node 4"]),
        ("edge-short", "edges.txt", "0 1\n1\n", &["edges.txt line 2"]),
        ("edge-word", "edges.txt", "0 -1\n", &["edges.txt line 1"]),
        ("no-features", "features.svm", "", &["features.svm", "no features"]),
        ("empty-features", "features.svm", "\n\n\n\n", &["features.svm", "no features"]),
        ("feature-word", "features.svm", "0:1\n1:x\n\n\n", &["features.svm line 2", "1:x"]),
        ("feature-nan", "features.svm", "0:NaN\n\n\n\n", &["features.svm line 1"]),
        ("feature-far", "features.svm", "4000000000:1\n\n\n\n", &["features.svm line 1"]),
        ("labels-few", "labels.txt", "0\n1\n", &["labels.txt", "2 labels for 4 nodes"]),
        ("label-negative", "labels.txt", "0\n1\n-2\n1\n", &["labels.txt line 3"]),
        ("label-huge", "labels.txt", "0\n1\n99999999999\n1\n", &["labels.txt line 3"]),
        ("split-beyond", "split_nc.json", r#"{"train": [4], "valid": [1], "test": [3]}"#, &["split_nc.json", "node 4"]),
        ("split-unlabelled", "split_nc.json", r#"{"train": [0], "valid": [2], "test": [3]}"#, &["node 2", "valid"]),
        ("split-empty", "split_nc.json", r#"{"train": [0], "valid": [], "test": [3]}"#, &["valid"]),
        ("split-broken", "split_nc.json", r#"{"train": [0], "val"#, &["split_nc.json"]),
        ("links-none", "lp_test_neg.txt", "\n", &["lp_test_neg.txt", "no pairs"]),
        ("links-beyond", "lp_valid.txt", "1 9\n", &["lp_valid.txt line 1", "node 9"]),
    ];
    for (name, file, text, parts) in cases {
        let e = read(&folder(name, &[(file, text)])).unwrap_err();
        assert!(parts.iter().all(|p| e.contains(p)), "{name}: {e}");
    }
    let missing = folder("missing", &[]);
    std::fs::remove_file(missing.join("edges.txt")).unwrap();
    assert!(read(&missing).unwrap_err().contains("edges.txt"));
}

#[test]
fn planetoid_files_are_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/planetoid");
    let g = Graph::load(&folder).unwrap();
    assert_eq!((g.name.as_str(), g.nodes, g.classes), ("tiny", 8, 3));
    assert_eq!(g.edges, [[0, 1], [0, 2], [1, 3], [4, 5], [6, 7]]);
    assert_eq!(g.labels, [Some(0), Some(1), Some(2), Some(0), Some(1), Some(0), None, Some(2)]);
    assert_eq!(g.features.row(1).collect::<Vec<_>>(), [(1, 0.5), (3, 2.0)]);
    assert_eq!(g.features.row(5).collect::<Vec<_>>(), [(1, 5.0)]);
    assert_eq!(g.features.row(7).collect::<Vec<_>>(), [(3, 7.0)]);
    let split = g.node_split(&folder, "nc").unwrap();
    assert_eq!((split.train, split.valid, split.test), (vec![0, 1], vec![2, 3, 4], vec![5, 7]));
    assert!(g.node_split(&folder, "other").is_err());
    // Five edges are too few for a division.
    assert!(g.link_split(&folder).unwrap_err().to_string().contains("lp_train.txt"));
}

/// Whatever a pickle says, reading it is an error or a graph, never a panic.
#[test]
fn hostile_pickles_are_errors() {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/planetoid");
    let to = std::env::temp_dir().join(format!("etalon-pickle-{}", std::process::id()));
    std::fs::create_dir_all(&to).unwrap();
    for f in std::fs::read_dir(&from).unwrap() {
        let f = f.unwrap();
        std::fs::copy(f.path(), to.join(f.file_name())).unwrap();
    }
    let system = b"\x80\x02cos\nsystem\nU\x02id\x85R.".to_vec();
    for part in ["allx", "ally", "graph", "y"] {
        let path = to.join(format!("ind.tiny.{part}"));
        let good = std::fs::read(&path).unwrap();
        let cut = (0..good.len()).step_by(3).map(|n| good[..n].to_vec());
        let flipped = (0..good.len()).map(|i| {
            let mut bytes = good.clone();
            bytes[i] ^= 0x41;
            bytes
        });
        for bytes in cut.chain([system.clone()]) {
            std::fs::write(&path, bytes).unwrap();
            let e = Graph::load(&to).unwrap_err().to_string();
            assert!(e.contains("ind.tiny."), "{e}");
        }
        for bytes in flipped {
            std::fs::write(&path, bytes).unwrap();
            drop(Graph::load(&to));
        }
        std::fs::write(&path, good).unwrap();
    }
    std::fs::remove_dir_all(&to).unwrap();
}
