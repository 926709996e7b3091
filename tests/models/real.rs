//! SmolLM2 and MiniLM, which `cargo xtask fetch models` brings. `ETALON_NO_MODELS=1` skips them, and says so.

use super::{fixture, ids, npy, relative_l2};
use crate::kernels::context;
use etalon::format::Checkpoint;
use etalon::model::{Model, Sampling, Sequence, Session};
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// The model in a folder of target/data; `None` where the tests were told to do without.
fn model(folder: &str) -> Option<Arc<Model>> {
    if std::env::var_os("ETALON_NO_MODELS").is_some() {
        eprintln!("skipped: ETALON_NO_MODELS is set");
        return None;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/data").join(folder);
    let checkpoint = Checkpoint::open(&path).unwrap_or_else(|e| panic!("{e}: run `cargo xtask fetch models`, or set ETALON_NO_MODELS=1"));
    Some(Model::load(&context(), &checkpoint, &|_, _| {}).unwrap())
}

fn smollm2() -> Option<Arc<Model>> {
    static MODEL: OnceLock<Option<Arc<Model>>> = OnceLock::new();
    MODEL.get_or_init(|| model("smollm2")).clone()
}

fn json(path: &str) -> serde_json::Value {
    serde_json::from_str(&std::fs::read_to_string(fixture(path)).unwrap()).unwrap()
}

fn list(v: &serde_json::Value) -> Vec<u32> {
    v.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

#[test]
fn smollm2_logits_and_hidden_states() {
    let Some(model) = smollm2() else { return };
    let prompt = list(&json("smollm2/smollm2.json")["prompt_ids"]);
    let sequences = [Sequence::from(prompt)];
    let logits = context().block_on(model.logits(&sequences)).unwrap().remove(0);
    let (shape, want) = npy("smollm2/prompt64_logits_rows_0_31_63.npy");
    let cols = shape[1];
    for (i, row) in [0, 31, 63].into_iter().enumerate() {
        let e = relative_l2(&logits[row * cols..][..cols], &want[i * cols..][..cols]);
        assert!(e <= 1e-5, "logits of row {row}: {e:e}");
    }
    let (shape, want) = npy("smollm2/prompt64_hidden_states_0_1_15_30.npy");
    let size = shape[1] * shape[2];
    let hidden = context().block_on(model.hidden(&sequences, &[0, 1, 15, 30])).unwrap();
    for (i, layer) in [0, 1, 15, 30].into_iter().enumerate() {
        let e = relative_l2(&hidden[i][0], &want[i * size..][..size]);
        assert!(e <= 1e-5, "hidden state {layer}: {e:e}");
    }
}

#[test]
fn smollm2_greedy_tokens() {
    let Some(model) = smollm2() else { return };
    let reference = json("smollm2/smollm2.json");
    let mut session = Session::new(&model, 1).unwrap();
    let sampling = Sampling { max_tokens: 32, ..Sampling::default() };
    let got: Vec<u32> = session.generate(&[list(&reference["prompt_ids"])], &sampling).unwrap().blocking().map(|t| t.unwrap().id).collect();
    assert_eq!(got, list(&reference["greedy_32"]));
}

#[test]
fn smollm2_perplexity() {
    let Some(model) = smollm2() else { return };
    let tokens = ids("smollm2/wiki_test_2048_token_ids.npy").concat();
    let losses = context().block_on(model.nll(&tokens)).unwrap();
    let perplexity = (losses.iter().map(|l| f64::from(*l)).sum::<f64>() / losses.len() as f64).exp();
    assert!((perplexity - 26.989).abs() <= 0.02, "{perplexity}");
    let (_, want) = npy("smollm2/wiki_test_2048_nll.npy");
    let e = relative_l2(&losses, &want);
    assert!(e <= 1e-4, "losses: {e:e}");
}

#[test]
fn minilm_tokens_and_embeddings() {
    let Some(model) = model("minilm") else { return };
    let reference = json("minilm/minilm.json");
    let tokenizer = model.tokenizer().unwrap();
    let mut sequences = Vec::new();
    for (text, want) in reference["sentences"].as_array().unwrap().iter().zip(reference["input_ids"].as_array().unwrap()) {
        let got = tokenizer.encode(text.as_str().unwrap(), true).unwrap();
        assert_eq!(got, list(want));
        sequences.push(Sequence::from(got));
    }
    let got = context().block_on(model.embed(&sequences, true, true)).unwrap();
    let (shape, want) = npy("minilm/embeddings_normalised.npy");
    for (g, w) in got.iter().zip(want.chunks(shape[1])) {
        let cosine: f64 = g.iter().zip(w).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        assert!(cosine >= 0.99999, "cosine {cosine}");
    }
    let (shape, want) = npy("minilm/hidden_states_sentence3.npy");
    let layers: Vec<usize> = (0..shape[0]).collect();
    let hidden = context().block_on(model.hidden(&sequences[3..], &layers)).unwrap();
    for (i, got) in hidden.iter().enumerate() {
        let e = relative_l2(&got[0], &want[i * shape[1] * shape[2]..][..shape[1] * shape[2]]);
        assert!(e <= 1e-5, "hidden state {i}: {e:e}");
    }
}
