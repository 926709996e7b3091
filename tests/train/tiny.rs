//! Gradients of the tiny models against those that PyTorch recorded.

use crate::kernels::context;
use crate::models::fixture;
use etalon::format::{Config, Safetensors};
use etalon::train::{Data, Frozen, Initial, Method, Options, Schedule, Spec, Sst, Trainer};

/// The recorded batch: every token but the last of a sequence predicts the next one.
fn data(name: &str) -> Data {
    let tokens = crate::models::ids(&format!("tiny/{name}/input_ids.npy"));
    let starts = (0..tokens.len()).map(|i| (i * tokens[0].len()) as u32).collect();
    Data { tokens: tokens.concat(), starts, ..Data::default() }
}

fn options(steps: usize) -> Options {
    Options {
        steps,
        rate: 1e-3,
        schedule: Schedule::Constant,
        warmup: 0,
        weight_decay: 0.01,
        decay_all: true,
        clip: None,
        sequences: 2,
        context: 23,
        ..Options::default()
    }
}

pub fn spec(name: &str) -> Spec {
    let json = std::fs::read(fixture(&format!("tiny/{name}/config.json"))).unwrap();
    Spec::Decoder(Config::from_json("config.json", &json).unwrap())
}

pub fn trainer(name: &str, o: &Options) -> Trainer {
    trainer_on(&context(), name, o)
}

pub fn trainer_on(c: &etalon::Context, name: &str, o: &Options) -> Trainer {
    let weights = Safetensors::open(&fixture(&format!("tiny/{name}/model.safetensors"))).unwrap();
    let named = |tensor: &str, _: usize| Ok(Some(bytemuck::cast_vec(weights.words(tensor)?)));
    c.block_on(Trainer::new(c, &spec(name), o, &data(name), &Initial::Named(&named))).unwrap()
}

fn check_gradients(name: &str, loss: f32, o: &Options) {
    let mut t = trainer(name, o);
    let c = context();
    c.block_on(t.submit_step()).unwrap();
    let report = c.block_on(t.reports()).unwrap()[0];
    assert!((report.loss - loss).abs() <= 1e-5, "{name}: loss {} where {loss} is recorded", report.loss);
    check_recorded(&t, name, |_| true);
}

/// The gradients of the last step against those recorded, of the tensors that `wanted` says.
pub fn check_recorded(t: &Trainer, name: &str, wanted: impl Fn(&str) -> bool) {
    let c = context();
    let recorded = Safetensors::open(&fixture(&format!("tiny/{name}/grads.safetensors"))).unwrap();
    let mut names: Vec<_> = t.ids().into_iter().filter(|(tensor, _)| wanted(tensor)).collect();
    names.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(names.len(), recorded.names().count(), "{name}");
    for (tensor, id) in names {
        let got = c.block_on(t.gradient(id)).unwrap().unwrap();
        let want: Vec<f32> = bytemuck::cast_vec(recorded.words(&tensor).unwrap());
        let difference: Vec<f64> = got.iter().zip(&want).map(|(g, w)| f64::from(*g) - f64::from(*w)).collect();
        if tensor.ends_with("k_proj.bias") {
            // Zero in exact arithmetic.
            let worst = difference.iter().fold(0.0, |m: f64, d| m.max(d.abs()));
            assert!(worst <= 1e-5, "{name} {tensor}: off by {worst:e}");
            continue;
        }
        let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
        let relative = norm(&mut difference.iter().copied()) / norm(&mut want.iter().map(|w| f64::from(*w)));
        assert!(relative <= 1e-4, "{name} {tensor}: relative {relative:e}");
    }
}

#[test]
fn gradients_of_opt_with_norm_before() {
    check_gradients("opt-preln", 13.115_37, &options(1));
}

#[test]
fn gradients_of_opt_with_norm_after_and_projections() {
    check_gradients("opt-350m-like", 11.818_133, &options(1));
}

#[test]
fn gradients_of_llama_with_grouped_heads() {
    check_gradients("llama-gqa", 7.414_02, &options(1));
}

#[test]
fn six_steps_of_adamw() {
    let mut t = trainer("opt-preln", &options(6));
    let c = context();
    for _ in 0..6 {
        c.block_on(t.submit_step()).unwrap();
    }
    let losses: Vec<f32> = c.block_on(t.reports()).unwrap().iter().map(|r| r.loss).collect();
    let recorded = std::fs::read(fixture("tiny/opt-preln/adamw_losses.json")).unwrap();
    let recorded: serde_json::Value = serde_json::from_slice(&recorded).unwrap();
    for (got, want) in losses.iter().zip(recorded["losses"].as_array().unwrap()) {
        let want = want.as_f64().unwrap() as f32;
        assert!((got - want).abs() <= 1e-4, "{losses:?} where {recorded} is recorded");
    }
    assert_eq!(losses.len(), 6);
}

/// Values of every tensor after some steps.
fn after(o: &Options, steps: usize) -> Vec<(String, Vec<f32>)> {
    let mut t = trainer("opt-preln", o);
    let c = context();
    for _ in 0..steps {
        c.block_on(t.submit_step()).unwrap();
    }
    c.block_on(t.reports()).unwrap();
    let mut all: Vec<_> = t.ids().into_iter().map(|(name, id)| (name, c.block_on(t.values(id)).unwrap())).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

#[test]
fn recomputation_changes_no_bit() {
    let sst = Method::Sst(Sst { rank: 8, steps: 2, iterations: 2, warmup: 1, ..Sst::default() });
    for (method, frozen) in [(Method::Full, Frozen::F32), (sst, Frozen::F32), (sst, Frozen::Int8)] {
        let o = Options { method, frozen, dropout: 0.1, ..options(6) };
        assert_eq!(after(&o, 6), after(&Options { recompute: true, ..o.clone() }, 6));
    }
}

/// Two batches of one sequence each add up to the batch of both.
#[test]
fn accumulated_gradients_are_those_of_the_whole_batch() {
    let whole = options(1);
    let c = context();
    let gradients = |o: &Options| {
        let mut t = trainer("opt-preln", o);
        c.block_on(t.submit_step()).unwrap();
        let loss = c.block_on(t.reports()).unwrap()[0].loss;
        let mut all: Vec<_> = t.ids().into_iter().map(|(name, id)| (name, c.block_on(t.gradient(id)).unwrap().unwrap())).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        (loss, all)
    };
    let (a, b) = (gradients(&whole), gradients(&Options { sequences: 1, batches: 2, ..whole.clone() }));
    assert!((a.0 - b.0).abs() < 1e-5);
    for ((name, x), (_, y)) in a.1.iter().zip(&b.1) {
        // The gradient of a key bias is zero in exact arithmetic: it is judged as the others' are.
        let size = x.iter().fold(1e-2, |m: f32, v| m.max(v.abs()));
        let worst = x.iter().zip(y).fold(0.0, |m: f32, (x, y)| m.max((x - y).abs()));
        assert!(worst <= 1e-5 * size, "{name}: {worst:e} of {size}");
    }
}
