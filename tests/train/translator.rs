//! The tiny Marian against what PyTorch recorded, and translators that learn.

use crate::kernels::context;
use crate::models::fixture;
use etalon::format::{MarianConfig, Npy, NpyData, Safetensors};
use etalon::train::{Data, Geometry, Initial, Method, Options, Schedule, SentenceBatch, Spec, Sst, Trainer, TranslatorSpec};

const NAME: &str = "tiny/marian-encdec";

fn config() -> MarianConfig {
    MarianConfig::from_json("config.json", &std::fs::read(fixture(&format!("{NAME}/config.json"))).unwrap()).unwrap()
}

/// Rows of a recorded matrix of integers, as far as `keep` says.
fn rows(file: &str, keep: impl Fn(usize, i64) -> bool) -> Vec<Vec<u32>> {
    let npy = Npy::read(&fixture(&format!("{NAME}/{file}"))).unwrap();
    let NpyData::I64(values) = &npy.data else { panic!("{file}") };
    let cols = npy.shape[1];
    values.chunks(cols).enumerate().map(|(r, row)| row.iter().filter(|v| keep(r, **v)).map(|v| *v as u32).collect()).collect()
}

fn pairs() -> Vec<(Vec<u32>, Vec<u32>)> {
    let counts: Vec<usize> = rows("attention_mask.npy", |_, v| v == 1).iter().map(Vec::len).collect();
    let sources = rows("input_ids.npy", |_, _| true).into_iter().zip(counts).map(|(row, n)| row[..n].to_vec());
    sources.zip(rows("labels.npy", |_, v| v != -100)).collect()
}

fn borrowed(pairs: &[(Vec<u32>, Vec<u32>)]) -> Vec<(&[u32], &[u32])> {
    pairs.iter().map(|(s, t)| (s.as_slice(), t.as_slice())).collect()
}

fn options(steps: usize) -> Options {
    Options { steps, rate: 1e-3, schedule: Schedule::Constant, warmup: 0, clip: None, ..Options::default() }
}

fn trainer_in(
    geometry: Geometry,
    c: &MarianConfig,
    batch: SentenceBatch,
    o: &Options,
    batches: Vec<Vec<u32>>,
    initial: &Initial<'_>,
) -> Trainer {
    let starts = (0..batches.len()).map(|i| (i * batch.len()) as u32).collect();
    // The window after the last one: a word of it is asked for.
    let tokens = [batches.concat(), vec![0]].concat();
    let spec = Spec::Translator(TranslatorSpec { config: c.clone(), geometry, batches: vec![batch] });
    let data = Data { tokens, starts, ..Data::default() };
    let context = context();
    context.block_on(Trainer::new(&context, &spec, o, &data, initial)).unwrap()
}

fn trainer(c: &MarianConfig, batch: SentenceBatch, o: &Options, batches: Vec<Vec<u32>>, initial: &Initial<'_>) -> Trainer {
    trainer_in(Geometry::Euclidean, c, batch, o, batches, initial)
}

fn tiny(batch: SentenceBatch) -> Trainer {
    let (c, pairs) = (config(), pairs());
    let count = pairs.iter().map(|p| p.1.len()).sum();
    let words = batch.words(&borrowed(&pairs), &c, count).unwrap();
    let weights = Safetensors::open(&fixture(&format!("{NAME}/model.safetensors"))).unwrap();
    let named = |tensor: &str, _: usize| Ok(Some(bytemuck::cast_vec(weights.words(tensor)?)));
    trainer(&c, batch, &options(1), vec![words], &Initial::Named(&named))
}

/// Loss and gradients, with batches that are as long as their sentences, and longer ones; some sentences missing.
#[test]
fn gradients_of_the_tiny_marian_are_those_recorded() {
    let c = context();
    for batch in [SentenceBatch { sentences: 2, source: 24, target: 17 }, SentenceBatch { sentences: 3, source: 27, target: 33 }] {
        let mut t = tiny(batch);
        c.block_on(t.submit_step()).unwrap();
        let loss = c.block_on(t.reports()).unwrap()[0].loss;
        assert!((loss - 7.247_245).abs() <= 1e-5, "loss {loss} where 7.247245 is recorded");
        super::tiny::check_recorded(&t, "marian-encdec", |tensor| tensor != "final_logits_bias");
    }
}

/// Sentences of digits and the same backwards: more than words apart are to be learnt.
#[test]
fn translators_learn_to_turn_sentences_round() {
    let context = context();
    let c = MarianConfig {
        vocab: 16,
        hidden: 32,
        encoder_layers: 1,
        decoder_layers: 1,
        encoder_heads: 4,
        decoder_heads: 4,
        encoder_ffn: 64,
        decoder_ffn: 64,
        ..config()
    };
    let batch = SentenceBatch { sentences: 16, source: 6, target: 6 };
    let sentence = |i: u32| (0..3 + i % 3).map(|k| 4 + (i * 7 + k * k * 3 + i / 5 * k) % 12).collect::<Vec<u32>>();
    let pair = |i: u32| {
        let (mut s, mut t) = (sentence(i), sentence(i));
        t.reverse();
        [&mut s, &mut t].into_iter().for_each(|v| v.push(c.eos));
        (s, t)
    };
    let of = |range: std::ops::Range<u32>| {
        let pairs: Vec<_> = range.map(pair).collect();
        batch.words(&borrowed(&pairs), &c, pairs.iter().map(|p| p.1.len()).sum()).unwrap()
    };
    let batches: Vec<_> = (0..20).map(|b| of(16 * b..16 * b + 16)).collect();
    for method in [Method::Full, Method::Sst(Sst { rank: 4, steps: 20, warmup: 3, ..Sst::default() }), Method::Lora { rank: 4, scale: 1.0 }]
    {
        let o = Options { rate: 1e-2, clip: Some(1.0), dropout: 0.02, method, ..options(240) };
        let mut t = trainer(&c, batch, &o, batches.clone(), &Initial::Random);
        for _ in 0..240 {
            context.block_on(t.submit_step()).unwrap();
        }
        let losses = context.block_on(t.reports()).unwrap();
        let (first, last) = (losses[0].loss, losses[239].loss);
        // Without order a word of at most five is a guess: 1.3 nats or more.
        assert!(first > 2.0 && last < 1.0, "{}: {first} to {last}", method.name());
    }
}

/// Batches of a short shape and of a long one give what those of the long one give, whichever steps have them: losses, and what
/// GaLore projects on.
#[test]
fn windows_meet_the_plans_of_their_shapes() {
    let (context, c) = (context(), config());
    let shapes = [SentenceBatch { sentences: 5, source: 4, target: 6 }, SentenceBatch { sentences: 3, source: 11, target: 9 }];
    let sentence = |n: usize, i: usize| [(0..n - 1).map(|k| 4 + ((i * 37 + k * 11) % 500) as u32).collect(), vec![c.eos]].concat();
    // Three pairs a batch, which either shape holds where they are short.
    let pairs = |i: usize, most: (usize, usize)| {
        (0..3).map(|k| (sentence(1 + (i + k) % most.0, i + k), sentence(1 + (i + 2 * k) % most.1, 9 * i + k))).collect::<Vec<_>>()
    };
    let batches: Vec<(usize, Vec<_>)> = [0, 1, 1, 0, 0].into_iter().enumerate().map(|(i, s)| (s, pairs(i, [(4, 6), (11, 9)][s]))).collect();
    let data = |long: bool| {
        let mut d = Data::default();
        for (shape, pairs) in &batches {
            let shape = if long { 1 } else { *shape };
            d.starts.push(d.tokens.len() as u32);
            d.shapes.push(shape as u32);
            d.tokens.extend(shapes[shape].words(&borrowed(pairs), &c, pairs.iter().map(|p| p.1.len()).sum()).unwrap());
        }
        d.tokens.push(0);
        d
    };
    let spec = |batches: &[SentenceBatch]| {
        Spec::Translator(TranslatorSpec { config: c.clone(), geometry: Geometry::Euclidean, batches: batches.to_vec() })
    };
    let made = |d: &Data, o: &Options| context.block_on(Trainer::new(&context, &spec(&shapes), o, d, &Initial::Random));
    for (method, batches) in [(Method::Full, 1), (Method::Full, 2), (Method::Galore { rank: 4, every: 3, scale: 1.0 }, 1)] {
        let o = Options { method, batches, ..options(8) };
        let [a, b] = [false, true].map(|long| {
            let mut t = made(&data(long), &o).unwrap();
            t.evaluate_on(&data(long), 5).unwrap();
            (0..8).for_each(|_| context.block_on(t.submit_step()).unwrap());
            let losses: Vec<f32> = context.block_on(t.reports()).unwrap().iter().map(|s| s.loss).collect();
            (losses, context.block_on(t.evaluate()).unwrap())
        });
        // Sums over rows go in another order where there are more rows; eight steps let that grow.
        let worst = a.0.iter().zip(&b.0).fold((a.1 - b.1).abs(), |m, (x, y)| m.max((x - y).abs()));
        assert!(worst <= 2e-3 && a.0[0] > 5.0, "{}: {a:?} and {b:?}", method.name());
    }
    let o = options(8);
    let refused = |d: Data| made(&d, &o).map(drop).unwrap_err().to_string();
    let good = || data(false);
    assert!(refused(Data { shapes: vec![0; 3], ..good() }).contains("3 windows where there are 5"));
    assert!(refused(Data { shapes: vec![2; 5], ..good() }).contains("shape 2 of 2"));
    let last = good().starts[4] + 1;
    assert!(refused(Data { starts: vec![0, 0, 0, 0, last], ..good() }).contains("past the end"));
    assert!(context.block_on(Trainer::new(&context, &spec(&[]), &o, &data(false), &Initial::Random)).is_err());
}

/// What is written has Hugging Face's names and shapes, and the values that were read.
#[test]
fn exported_translators_are_marians() {
    let c = context();
    let t = tiny(SentenceBatch { sentences: 2, source: 24, target: 17 });
    let path = std::env::temp_dir().join(format!("etalon-marian-{}.safetensors", std::process::id()));
    c.block_on(t.export(&path, etalon::train::Export::Merged)).unwrap();
    let (got, want) = (Safetensors::open(&path).unwrap(), Safetensors::open(&fixture(&format!("{NAME}/model.safetensors"))).unwrap());
    assert!(got.names().eq(want.names()));
    for name in want.names() {
        assert_eq!(got.raw(name).unwrap().shape, want.raw(name).unwrap().shape, "{name}");
        assert_eq!(got.words(name).unwrap(), want.words(name).unwrap(), "{name}");
    }
    drop(got);
    std::fs::remove_file(&path).unwrap();
}

/// The hyperbolic twin: derivatives along random directions by differences of the loss, and points that stay on the manifold while it
/// learns.
#[test]
fn hyperbolic_translators_follow_their_gradients() {
    let context = context();
    let c = MarianConfig {
        vocab: 16,
        hidden: 24,
        encoder_layers: 1,
        decoder_layers: 1,
        encoder_heads: 3,
        decoder_heads: 3,
        encoder_ffn: 32,
        decoder_ffn: 32,
        ..config()
    };
    let batch = SentenceBatch { sentences: 4, source: 6, target: 5 };
    let pairs: Vec<(Vec<u32>, Vec<u32>)> = (0..4u32)
        .map(|i| {
            let s: Vec<u32> = (0..2 + i).map(|k| 4 + (5 * i + k * k) % 12).collect();
            let t: Vec<u32> = s.iter().rev().take(4).copied().collect();
            ([s, vec![c.eos]].concat(), [t, vec![c.eos]].concat())
        })
        .collect();
    let words = batch.words(&borrowed(&pairs), &c, pairs.iter().map(|p| p.1.len()).sum()).unwrap();
    let made = |steps: usize, initial: &Initial<'_>| {
        let o = Options { rate: 5e-3, rate_rest: Some(2e-3), clip: Some(1.0), ..options(steps) };
        trainer_in(Geometry::Lorentz, &c, batch, &o, vec![words.clone()], initial)
    };
    let mut t = made(1, &Initial::Random);
    let ids = t.ids();
    let values: std::collections::BTreeMap<String, Vec<f32>> =
        ids.iter().map(|(name, id)| (name.clone(), context.block_on(t.values(*id)).unwrap())).collect();
    context.block_on(t.submit_step()).unwrap();
    let loss_of = |moved: &std::collections::BTreeMap<String, Vec<f32>>| {
        let named = |name: &str, _: usize| Ok(moved.get(name).cloned());
        let mut t = made(1, &Initial::Named(&named));
        context.block_on(t.submit_step()).unwrap();
        f64::from(context.block_on(t.reports()).unwrap()[0].loss)
    };
    for part in [
        "model.encoder.layers.0.self_attn.q_proj.weight",
        "model.decoder.layers.0.encoder_attn",
        "fc1",
        "fc2",
        "positions",
        "scale",
        "classes",
        "shared",
    ] {
        // Along the gradient itself: nothing is as large for its size.
        let chosen: Vec<&String> = values.keys().filter(|name| name.contains(part)).collect();
        let gradients: Vec<Vec<f32>> = chosen.iter().map(|n| context.block_on(t.gradient(ids[*n])).unwrap().unwrap()).collect();
        let square: f64 = gradients.iter().flatten().map(|g| f64::from(*g).powi(2)).sum();
        let step = 0.002 / square.sqrt();
        let at = |sign: f64| {
            let mut moved = values.clone();
            for (name, g) in chosen.iter().zip(&gradients) {
                let v = moved.get_mut(*name).unwrap();
                v.iter_mut().zip(g).for_each(|(v, g)| *v += (sign * step * f64::from(*g)) as f32);
            }
            loss_of(&moved)
        };
        let (got, want) = ((at(1.0) - at(-1.0)) / (2.0 * step), square);
        // Differences of f32 losses, and what is left of the third derivative.
        assert!((got - want).abs() <= 0.03 * want, "{part}: {got} where {want} is expected");
    }
    let mut t = made(240, &Initial::Random);
    for _ in 0..240 {
        context.block_on(t.submit_step()).unwrap();
    }
    let losses = context.block_on(t.reports()).unwrap();
    assert!(losses[239].loss < 0.5 * losses[0].loss, "{} to {}", losses[0].loss, losses[239].loss);
    for name in ["classes.points", "model.shared.points"] {
        for point in context.block_on(t.values(ids[name])).unwrap().chunks(24) {
            let point: Vec<f64> = point.iter().map(|v| f64::from(*v)).collect();
            assert!((etalon::hyperbolic::inner(&point, &point) + 1.0).abs() <= 1e-4 * point[0] * point[0], "{point:?}");
        }
    }
}

#[test]
fn batches_refuse_what_does_not_fit() {
    let (c, batch) = (config(), SentenceBatch { sentences: 2, source: 3, target: 3 });
    let words = |pairs: &[(&[u32], &[u32])]| batch.words(pairs, &c, 4);
    assert_eq!(words(&[(&[5, 2], &[6, 2])]).unwrap().len(), batch.len());
    assert!(words(&[(&[5, 6, 7, 2], &[2])]).is_err() && words(&[(&[2], &[5, 6, 7, 2])]).is_err());
    assert!(words(&[(&[], &[2])]).is_err() && words(&[(&[2], &[])]).is_err());
    let two: (&[u32], &[u32]) = (&[2], &[2]);
    assert!(words(&[two; 3]).is_err());
    let context = context();
    for batch in [SentenceBatch { sentences: 0, ..batch }, SentenceBatch { source: 0, ..batch }, SentenceBatch { target: 999, ..batch }] {
        let spec = Spec::Translator(TranslatorSpec { config: c.clone(), geometry: Geometry::Euclidean, batches: vec![batch] });
        let o = options(1);
        let data = Data { tokens: vec![0; 9], starts: vec![0], ..Data::default() };
        assert!(context.block_on(Trainer::new(&context, &spec, &o, &data, &Initial::Random)).is_err(), "{batch:?}");
    }
}
