//! The tiny random models: logits within 1e-4, the recorded f32 values being within 1.5e-5 of f64 themselves.

use super::{fixture, ids, largest_difference, npy, tiny};
use crate::kernels::context;
use etalon::model::{Model, Sequence};
use std::sync::Arc;

const TOLERANCE: f32 = 1e-4;

fn logits(model: &Arc<Model>, sequences: &[Sequence]) -> Vec<Vec<f32>> {
    context().block_on(model.logits(sequences)).unwrap()
}

/// Recorded rows of the unmasked tokens of each sequence.
fn unmasked(all: &[f32], masks: &[Vec<u32>], tokens: usize, cols: usize) -> Vec<Vec<f32>> {
    let row = |q: usize, t: usize| all[(q * tokens + t) * cols..][..cols].to_vec();
    masks.iter().enumerate().map(|(q, m)| (0..tokens).filter(|t| m[*t] != 0).flat_map(|t| row(q, t)).collect()).collect()
}

fn sequences(folder: &str, prefix: &str) -> (Vec<Sequence>, Vec<Vec<u32>>) {
    let tokens = ids(&format!("{folder}/{prefix}input_ids.npy"));
    let masks = ids(&format!("{folder}/{prefix}attention_mask.npy"));
    let types = fixture(&format!("{folder}/token_type_ids.npy")).exists().then(|| ids(&format!("{folder}/token_type_ids.npy")));
    let all = tokens.iter().zip(&masks).enumerate().map(|(i, (t, m))| Sequence {
        tokens: t.clone(),
        mask: m.iter().map(|v| *v != 0).collect(),
        types: types.as_ref().map_or(Vec::new(), |t| t[i].clone()),
    });
    (all.collect(), masks)
}

fn check_logits(name: &str, prefix: &str) {
    let folder = format!("tiny/{name}");
    let (sequences, masks) = sequences(&folder, prefix);
    let (shape, all) = npy(&format!("{folder}/{prefix}logits.npy"));
    let want = unmasked(&all, &masks, shape[1], shape[2]);
    for (got, want) in logits(&tiny(name), &sequences).iter().zip(&want) {
        let d = largest_difference(got, want);
        assert!(d <= TOLERANCE, "{name} {prefix}: off by {d:e}");
    }
}

#[test]
fn opt_with_norm_before() {
    check_logits("opt-preln", "");
    check_logits("opt-preln", "leftpad_");
}

#[test]
fn opt_with_norm_after_and_projections() {
    check_logits("opt-350m-like", "");
    check_logits("opt-350m-like", "leftpad_");
}

#[test]
fn llama_with_grouped_heads() {
    check_logits("llama-gqa", "");
}

#[test]
fn bert_masked_language_model() {
    check_logits("bert-mlm", "");
}

#[test]
fn bert_classifier() {
    let (sequences, _) = sequences("tiny/bert-seqcls", "");
    let (_, want) = npy("tiny/bert-seqcls/logits.npy");
    let got = logits(&tiny("bert-seqcls"), &sequences).concat();
    assert!(largest_difference(&got, &want) <= TOLERANCE);
}

#[test]
fn hidden_states_of_every_layer() {
    for name in ["opt-preln", "llama-gqa", "bert-mlm"] {
        let folder = format!("tiny/{name}");
        let (sequences, masks) = sequences(&folder, "");
        let (shape, all) = npy(&format!("{folder}/hidden_states.npy"));
        let [layers, batch, tokens, width] = shape[..] else { panic!("{shape:?}") };
        let model = tiny(name);
        let wanted: Vec<usize> = (0..layers).collect();
        let got = context().block_on(model.hidden(&sequences, &wanted)).unwrap();
        for layer in 0..layers {
            let size = batch * tokens * width;
            let want = unmasked(&all[layer * size..][..size], &masks, tokens, width);
            for (g, w) in got[layer].iter().zip(&want) {
                let d = largest_difference(g, w);
                assert!(d <= TOLERANCE, "{name} hidden state {layer}: off by {d:e}");
            }
        }
    }
    let (sequences, masks) = sequences("tiny/opt-350m-like", "");
    let got = context().block_on(tiny("opt-350m-like").hidden(&sequences, &[0, 1, 2])).unwrap();
    for (layer, got) in got.iter().enumerate() {
        let (shape, all) = npy(&format!("tiny/opt-350m-like/hidden_state_{layer}.npy"));
        let want = unmasked(&all, &masks, shape[1], shape[2]);
        for (g, w) in got.iter().zip(&want) {
            let d = largest_difference(g, w);
            assert!(d <= TOLERANCE, "opt-350m-like hidden state {layer}: off by {d:e}");
        }
    }
}

#[test]
fn every_dispatch_matches_its_twin() {
    for name in ["opt-preln", "opt-350m-like", "llama-gqa", "bert-mlm", "bert-seqcls"] {
        let done = context().block_on(tiny(name).verify(&[2, 30, 31, 32, 33, 34, 35])).unwrap();
        assert!(done.len() > 10, "{name}: {} dispatches", done.len());
    }
}

/// What the device finds, from logits in f64: of two models that have a vocabulary in common, and of one and itself.
#[test]
fn divergences_are_those_of_the_logits() {
    let c = context();
    let names = ["opt-preln", "llama-gqa", "bert-mlm"];
    let models = names.map(tiny);
    let tokens: Vec<u32> = (0..11).map(|i| 3 + 37 * i).collect();
    for (a, p) in names.iter().zip(&models) {
        for (b, q) in names.iter().zip(&models) {
            let got = c.block_on(p.divergence(q, &tokens)).unwrap();
            let [x, y] = [p, q].map(|m| logits(m, &[tokens.clone().into()]).remove(0));
            for (r, got) in got.iter().enumerate() {
                let [x, y] = [&x, &y].map(|v| v[512 * r..][..512].iter().map(|v| f64::from(*v)).collect::<Vec<_>>());
                let want = etalon::reference::kl::row(&x, &y);
                assert!((f64::from(*got) - want).abs() <= 1e-5 * want + 1e-12, "{b} from {a}, row {r}: {got:e} for {want:e}");
            }
            assert!(got.len() == tokens.len() && (a != b || got.iter().all(|v| *v == 0.0)));
        }
    }
    let why = c.block_on(models[0].divergence(&tiny("bert-seqcls"), &tokens)).unwrap_err().to_string();
    assert!(why.contains("classifier"), "{why}");
}
