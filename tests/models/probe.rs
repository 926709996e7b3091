//! Probes: what they measure is what whole models say.

use super::{fixture, ids};
use crate::kernels::context;
use etalon::format::{Checkpoint, Config};
use etalon::model::{Keep, Linear, Model, Probe, Sequence, Site, linears};
use std::sync::Arc;

const NAMES: [&str; 5] = ["opt-preln", "opt-350m-like", "llama-gqa", "bert-mlm", "bert-seqcls"];

fn checkpoint(name: &str) -> Checkpoint {
    Checkpoint::open(&fixture(&format!("tiny/{name}"))).unwrap()
}

fn open(name: &str) -> Arc<Model> {
    Model::load_open(&context(), &checkpoint(name), &|_, _| {}).unwrap()
}

/// Texts of lengths that fall into several shapes.
fn texts() -> Vec<Sequence> {
    [3usize, 17, 40, 16, 9]
        .iter()
        .enumerate()
        .map(|(q, n)| (0..*n).map(|i| (3 + 37 * i + 11 * q) as u32 % 500).collect::<Vec<u32>>().into())
        .collect()
}

fn probe(model: &Arc<Model>, texts: &[Sequence], keep: Keep) -> Probe {
    context().block_on(Probe::new(model, texts, keep)).unwrap()
}

fn changed(checkpoint: &Checkpoint, linear: &Linear) -> Vec<f32> {
    let own = checkpoint.matrix(&linear.name, linear.rows, linear.cols).unwrap().into_f32();
    own.iter().enumerate().map(|(i, w)| w * (0.9 + 0.2 * (i % 3) as f32) + 0.01).collect()
}

#[test]
fn linear_layers_are_those_of_the_files() {
    for name in NAMES {
        let checkpoint = checkpoint(name);
        let all = linears(&checkpoint.config);
        for l in &all {
            assert_eq!(checkpoint.tensor(&l.name).unwrap().shape, [l.rows, l.cols], "{name}: {}", l.name);
        }
        let gated = matches!(checkpoint.config, Config::Llama(_));
        let blocks = all.last().unwrap().block + 1;
        assert_eq!(all.len(), blocks * if gated { 7 } else { 6 }, "{name}");
    }
}

/// Every single layer, once changed, is seen: by as much as by comparing two whole models token by token; and from the layer on that
/// it stands in, what was kept will do.
#[test]
fn a_changed_layer_is_seen_as_by_whole_models() {
    let c = context();
    for name in NAMES {
        let (before, model, checkpoint) = (open(name), open(name), checkpoint(name));
        let texts = texts();
        let probe = probe(&model, &texts, Keep::All);
        assert_eq!(probe.tokens(), 85);
        let same = c.block_on(probe.measure(0)).unwrap();
        assert!(same.change.abs() < 1e-12, "{name}: {:e} without a change", same.change);
        if model.is_decoder() {
            let all: Vec<f32> = texts.iter().flat_map(|t| c.block_on(model.nll(&t.tokens)).unwrap()).collect();
            let want = all.iter().map(|v| f64::from(*v)).sum::<f64>() / all.len() as f64;
            assert!((same.nll.unwrap() - want).abs() < 1e-6 * want, "{name}: {:?} for {want}", same.nll);
        }
        for linear in linears(&checkpoint.config) {
            model.set_weight(&linear.name, &changed(&checkpoint, &linear)).unwrap();
            let got = c.block_on(probe.measure(linear.block)).unwrap().change;
            let from_first = c.block_on(probe.measure(0)).unwrap().change;
            assert_eq!(got, from_first, "{name}: {}", linear.name);
            if name == "bert-seqcls" {
                let logits = |m: &Model| c.block_on(m.logits(&texts)).unwrap();
                let rows = logits(&before).into_iter().zip(logits(&model));
                let wide = |v: Vec<f32>| v.into_iter().map(f64::from).collect::<Vec<_>>();
                let want = rows.map(|(p, q)| etalon::reference::kl::row(&wide(p), &wide(q))).sum::<f64>() / texts.len() as f64;
                assert!((got - want).abs() <= 1e-3 * want + 1e-9 && got > 0.0, "{name}: {}: {got:e} for {want:e}", linear.name);
            } else {
                let all: Vec<f32> = texts.iter().flat_map(|t| c.block_on(before.divergence(&model, &t.tokens)).unwrap()).collect();
                let want = all.iter().map(|v| f64::from(*v)).sum::<f64>() / all.len() as f64;
                // Other batches may take other variants of a product.
                assert!((got - want).abs() <= 1e-3 * want + 1e-9 && got > 0.0, "{name}: {}: {got:e} for {want:e}", linear.name);
            }
            model.set_weight(&linear.name, &checkpoint.matrix(&linear.name, linear.rows, linear.cols).unwrap().into_f32()).unwrap();
        }
        assert!(c.block_on(probe.measure(0)).unwrap().change.abs() < 1e-12, "{name}: not as it was");
    }
}

/// BERT's queries read hidden states as they are: `H = Xᵀ X` without padding, in every layer, from a probe that keeps all and
/// from one that goes from layer to layer.
#[test]
fn second_moments_leave_padding_out() {
    let c = context();
    let model = open("bert-mlm");
    let texts = texts();
    let (kept, mut moving) = (probe(&model, &texts, Keep::All), probe(&model, &texts, Keep::Current));
    let width = model.dimensions().hidden;
    for i in 0..2 {
        let x = c.block_on(kept.hidden(i, false)).unwrap();
        assert_eq!(x.len(), 85 * width);
        let got = c.block_on(kept.hessians(i)).unwrap();
        assert_eq!(got, c.block_on(moving.hessians(i)).unwrap());
        moving.advance(i).unwrap();
        let h = &got[&Site::Qkv];
        assert_eq!((h.rows(), got.len()), (85, 4));
        for (j, got) in h.diagonal().iter().enumerate() {
            let want: f64 = x.iter().skip(j).step_by(width).map(|v| f64::from(*v) * f64::from(*v)).sum();
            assert!((got - want).abs() <= 1e-5 * want, "layer {i}, input {j}: {got} for {want}");
        }
        // An entry off the diagonal, by tr(D H Dᵀ) with D = e_0 + e_1.
        let mut d = vec![0.0; width];
        (d[0], d[1]) = (1.0, 1.0);
        let want: f64 = x.chunks(width).map(|r| (f64::from(r[0]) + f64::from(r[1])).powi(2)).sum();
        let got = h.error(&d).unwrap();
        assert!((got - want).abs() <= 1e-5 * want, "{got} for {want}");
    }
    let why = moving.advance(0).unwrap_err().to_string();
    assert!(why.contains("stands before layer 2"), "{why}");
}

/// What the feed-forward layer's second product reads, found by a weight that passes its first inputs on.
#[test]
fn second_moments_of_inner_activations() {
    let c = context();
    for name in ["opt-preln", "llama-gqa"] {
        let (model, texts) = (open(name), texts());
        let down = linears(model.config()).into_iter().find(|l| l.block == 0 && l.site == Site::Down).unwrap();
        let pass = |on: bool| {
            let w: Vec<f32> = (0..down.rows * down.cols).map(|i| f32::from(u8::from(on && i / down.cols == i % down.cols))).collect();
            model.set_weight(&down.name, &w).unwrap();
            let p = probe(&model, &texts, Keep::All);
            (c.block_on(p.hidden(1, false)).unwrap(), c.block_on(p.hessians(0)).unwrap().remove(&Site::Down).unwrap().diagonal())
        };
        let ((with, diagonal), (without, _)) = (pass(true), pass(false));
        for (j, got) in diagonal.iter().take(down.rows).enumerate() {
            let inner = with.iter().zip(&without).skip(j).step_by(down.rows);
            let want: f64 = inner.map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
            // The difference of two sums of about 1 has lost some 1e-6 of their size.
            assert!((got - want).abs() <= 1e-4 * want + 1e-4, "{name}, inner activation {j}: {got} for {want}");
        }
    }
}

/// Noise on what a site reads: none changes nothing; twice as much, of either sign, costs four times as much.
#[test]
fn noise_costs_by_its_square() {
    let c = context();
    for name in ["opt-preln", "llama-gqa", "bert-mlm"] {
        let p = probe(&open(name), &texts(), Keep::All);
        let wave = |b: usize, r: usize, k: usize| ((b + 3 * r + 7 * k) as f32 * 1.7).sin();
        for site in Site::ALL {
            let noise = |by: f32| move |b, r, cols| (0..cols).map(|k| by * wave(b, r, k)).collect::<Vec<f32>>();
            let cost = |by: f32| c.block_on(p.disturbed(1, site, &noise(by))).unwrap().change;
            assert_eq!(cost(0.0), 0.0, "{name}, {}", site.name());
            let [one, two] = [0.01, 0.02].map(|by| (cost(by) + cost(-by)) / 2.0);
            assert!((2.5..=6.0).contains(&(two / one)), "{name}, {}: {one:e}, {two:e}", site.name());
        }
    }
}

#[test]
fn what_cannot_be_probed_is_refused() {
    let c = context();
    let model = open("opt-preln");
    let why = |r: Result<(), etalon::Error>| r.unwrap_err().to_string();
    assert!(why(c.block_on(Probe::new(&model, &[], Keep::All)).map(|_| ())).contains("no tokens"));
    assert!(why(c.block_on(Probe::new(&model, &[vec![9_999_999].into()], Keep::All)).map(|_| ())).contains("vocabulary"));
    assert!(why(model.set_weight("nothing.weight", &[])).contains("nothing.weight"));
    let name = &linears(model.config())[0].name;
    assert!(why(model.set_weight(name, &[0.0])).contains("1 values"));
    let p = probe(&model, &ids("tiny/opt-preln/input_ids.npy").into_iter().map(Into::into).collect::<Vec<_>>(), Keep::Current);
    assert!(why(c.block_on(p.measure(0)).map(|_| ())).contains("cannot measure"));
    // A model that was not loaded for changes.
    assert!(why(super::tiny("opt-preln").set_weight(name, &[])).contains("may be changed"));
}
