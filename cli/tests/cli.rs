//! The command line on tiny models: recorded logits, JSON, and one line for each bad input.

mod common;

use common::{etalon, fail, fixture, scratch, succeed};
use etalon::format::Npy;
use serde_json::Value;
use std::path::{Path, PathBuf};

fn tiny(model: &str) -> String {
    fixture("tiny").join(model).to_str().unwrap().to_owned()
}

fn list(values: &[i64]) -> String {
    values.iter().map(i64::to_string).collect::<Vec<_>>().join(",")
}

/// Runs `logits` on each row of a recorded batch and compares with what was recorded, padding left out.
fn logits_as_recorded(model: &str, prefix: &str, types: bool) {
    let read = |name: &str| Npy::read(&fixture("tiny").join(model).join(format!("{prefix}{name}.npy"))).unwrap();
    let (ids, mask, want) = (read("input_ids"), read("attention_mask"), read("logits"));
    let token_types = types.then(|| Npy::read(&fixture("tiny").join(model).join("token_type_ids.npy")).unwrap());
    let (rows, n) = (ids.shape[0], ids.shape[1]);
    let out = scratch(&format!("{model}{prefix}")).join("logits.npy");
    for row in 0..rows {
        let part = |a: &Npy| a.to_i64().unwrap()[row * n..(row + 1) * n].to_vec();
        let (ids, mask) = (part(&ids), part(&mask));
        let (model, tokens, mask_list, path) = (tiny(model), list(&ids), list(&mask), out.to_str().unwrap());
        let mut c = etalon(&["logits", "--model", &model, "--tokens", &tokens, "--mask", &mask_list, "--out", path]);
        if let Some(t) = &token_types {
            c.args(["--token-types", &list(&part(t))]);
        }
        succeed(c);
        let got = Npy::read(&out).unwrap();
        let size = want.as_f32().unwrap().len() / rows;
        let (got, want) = (got.as_f32().unwrap(), &want.as_f32().unwrap()[row * size..(row + 1) * size]);
        assert_eq!(got.len(), want.len());
        let classifier = want.len() < n;
        let cols = if classifier { want.len() } else { want.len() / n };
        for (i, (g, w)) in got.iter().zip(want).enumerate() {
            if classifier || mask[i / cols] == 1 {
                assert!((g - w).abs() <= 1e-4, "{model} row {row} token {}: {g} where {w} was recorded", i / cols);
            } else {
                assert_eq!(*g, 0.0, "padding has rows of zeros");
            }
        }
    }
}

#[test]
fn logits_equal_the_recorded_ones() {
    logits_as_recorded("opt-preln", "", false);
    logits_as_recorded("opt-preln", "leftpad_", false);
    logits_as_recorded("llama-gqa", "", false);
    logits_as_recorded("bert-mlm", "", true);
    logits_as_recorded("bert-seqcls", "", true);
}

fn json(c: std::process::Command) -> Value {
    serde_json::from_str(&succeed(c)).unwrap()
}

#[test]
fn json_can_be_read() {
    let llama = tiny("llama-gqa");
    let devices = json(etalon(&["--json", "devices"]));
    assert!(devices[0]["name"].is_string() && devices[0]["max_buffer_size"].is_u64());

    let selftest = json(etalon(&["selftest", "--json"]));
    assert!(selftest["refused"].as_array().unwrap().is_empty(), "{selftest}");

    let inspect = json(etalon(&["inspect", &llama, "--json"]));
    assert_eq!(inspect["config"]["family"], "Llama");
    assert_eq!(inspect["format"], "safetensors");
    assert_eq!(inspect["total"]["bits_per_weight"], 32.0);
    assert_eq!(inspect["tensors"].as_array().unwrap().len() as u64, inspect["total"]["tensors"].as_u64().unwrap());

    let verify = json(etalon(&["verify", "--model", &llama, "--json"]));
    assert!(verify["dispatches"].as_u64().unwrap() > 5);
    assert!(verify["kernels"].as_array().unwrap().iter().all(|k| k["of_allowed"].as_f64().unwrap() <= 1.0));

    let ids = fixture("tiny/llama-gqa/input_ids.npy");
    let window = ["--window", "12", "--stride", "6", "--tokens", ids.to_str().unwrap()];
    let mut c = etalon(&["perplexity", "--json", "--model", &llama]);
    c.args(window);
    let p = json(c);
    // 48 tokens: the first window predicts 11, each of the six after it 6.
    assert_eq!((p["windows"].as_u64(), p["predictions"].as_u64()), (Some(7), Some(47)));
    assert!((p["mean_nll"].as_f64().unwrap().exp() / p["perplexity"].as_f64().unwrap() - 1.0).abs() < 1e-9);
    assert!(p["mean_kl"].is_null());
    let against = |model: &str| {
        let mut c = etalon(&["perplexity", "--json", "--model", &llama, "--against", model]);
        c.args(window);
        json(c)["mean_kl"].as_f64().unwrap()
    };
    // Two random models have nothing in common.
    assert_eq!(against(&llama), 0.0);
    assert!((1.0..100.0).contains(&against(&tiny("opt-preln"))));
}

#[test]
fn a_gguf_file_without_a_known_model_is_refused_in_one_line() {
    let file = fixture("gguf/types.gguf");
    fail(etalon(&["inspect", file.to_str().unwrap()]));
}

#[test]
fn bad_inputs_give_one_line() {
    let llama = tiny("llama-gqa");
    let dir = scratch("bad");
    let out = dir.join("x.npy");
    let out = out.to_str().unwrap();
    let logits = |model: &str, more: &[&str]| {
        let mut c = etalon(&["logits", "--model", model, "--out", out]);
        c.args(more);
        fail(c)
    };
    assert!(logits("no/such/file/here", &["--tokens", "1"]).contains("no such file"));
    assert!(logits(&llama, &["--tokens", "1,2,4000000"]).contains("vocabulary has 512"));
    assert!(logits(&llama, &["--tokens", "1,2", "--mask", "1"]).contains("1 values for 2 tokens"));
    assert!(logits(&llama, &["--tokens", "1,2", "--mask", "0,0"]).contains("no token"));
    assert!(logits(&llama, &["--tokens", "1", "--device", "no such device"]).contains("no such device"));
    assert!(logits(&llama, &["--tokens", "1", "--device", "99"]).contains("99"));
    assert!(logits(&llama, &["--tokens", "one"]).contains("--help"));
    assert!(logits(&llama, &[]).contains("--tokens"));
    assert!(fail(etalon(&["generate", "--model", &llama, "--prompt", "a"])).contains("tokenizer"));
    assert!(fail(etalon(&["generate", "--model", &tiny("bert-mlm"), "--prompt", "a"])).contains("embed"));
    assert!(fail(etalon(&["generate", "--model", &llama, "--prompt", "a", "--top-p", "2"])).contains("--top-p"));
    assert!(!Path::new(out).exists());
}

#[test]
fn damaged_files_give_one_line() {
    let dir = scratch("damaged");
    let whole = std::fs::read(fixture("gguf/types.gguf")).unwrap();
    let cut: PathBuf = dir.join("cut.gguf");
    for n in [0, 3, 20, whole.len() / 2] {
        std::fs::write(&cut, &whole[..n]).unwrap();
        assert!(fail(etalon(&["inspect", cut.to_str().unwrap()])).contains("cut.gguf"));
    }
    std::fs::copy(fixture("tiny/llama-gqa/config.json"), dir.join("config.json")).unwrap();
    let tensors = std::fs::read(fixture("tiny/llama-gqa/model.safetensors")).unwrap();
    std::fs::write(dir.join("model.safetensors"), &tensors[..tensors.len() / 2]).unwrap();
    assert!(fail(etalon(&["verify", "--model", dir.to_str().unwrap()])).contains("model.safetensors"));
}
