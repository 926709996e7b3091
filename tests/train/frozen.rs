//! Weights that are stored packed while they are not trained.

use super::digits::{data, digits};
use super::files::Folder;
use super::tiny::trainer;
use crate::kernels::context;
use etalon::format::{NewTensor, Safetensors, write_safetensors};
use etalon::train::{Export, Frozen, Initial, Linear, Method, Options, Round, Schedule, Spec, Sst, Trainer, checkpoint};
use std::borrow::Cow;
use std::path::Path;

/// How far packing may move W, relative. Halves: each factor is off by 2^-11 / sqrt 3 of itself at random, 2.8e-4, both together by
/// 4e-4. Codes: by 1 / sqrt 12 of a step, which is 1/127 of the largest of a row, 3.5 times its mean magnitude: 0.8 %, together 1.1 %.
const BOUNDS: [(Frozen, f64); 2] = [(Frozen::F16, 1e-3), (Frozen::Int8, 2e-2)];

/// Re-SVDs before steps 6 and 12.
fn sst() -> Sst {
    Sst { rank: 4, steps: 3, iterations: 2, warmup: 2, ..Sst::default() }
}

fn options(method: Method, frozen: Frozen) -> Options {
    let schedule = Schedule::Constant;
    Options { method, frozen, steps: 14, rate: 2e-3, schedule, warmup: 0, sequences: 2, context: 23, ..Options::default() }
}

fn relative(got: &[f32], want: &[f32]) -> f64 {
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    let moved = norm(&mut got.iter().zip(want).map(|(g, w)| f64::from(*g) - f64::from(*w)));
    moved / norm(&mut want.iter().map(|w| f64::from(*w)))
}

fn merged(t: &Trainer, l: &Linear) -> Vec<f32> {
    context().block_on(t.merged(l)).unwrap()
}

fn steps(t: &mut Trainer, n: usize) {
    (0..n).for_each(|_| context().block_on(t.submit_step()).unwrap());
}

#[test]
fn initial_weights_stay_what_they_are() {
    for method in [Method::Sst(sst()), Method::Lora { rank: 4, scale: 1.0 }] {
        let plain = trainer("opt-preln", &options(method, Frozen::F32));
        for (frozen, bound) in BOUNDS {
            for round in [Round::Nearest, Round::Stochastic] {
                let t = trainer("opt-preln", &Options { round, ..options(method, frozen) });
                for (l, of_plain) in t.linears().into_iter().zip(plain.linears()) {
                    let moved = relative(&merged(&t, l), &merged(&plain, of_plain));
                    // Rounding up or down at random doubles the mean square.
                    let bound = if round == Round::Stochastic { 1.5 * bound } else { bound };
                    assert!(moved <= bound && moved > bound / 50.0, "{} {frozen:?} {round:?}: {moved:e}", l.name);
                }
            }
        }
    }
}

/// A classifier of four layers of four shapes, each measured at five re-SVDs of a training that works.
#[test]
fn re_svds_keep_w_in_a_training() {
    let c = context();
    let rows = digits(0);
    for (frozen, bound) in BOUNDS.into_iter().chain([(Frozen::F32, 1e-5)]) {
        let method = Method::Sst(Sst { rank: 8, steps: 20, iterations: 2, warmup: 5, ..Sst::default() });
        let o = Options { steps: 210, rate: 3e-3, sequences: 64, context: 1, ..options(method, frozen) };
        let spec = Spec::Mlp(vec![64, 128, 96, 32, 10]);
        let mut t = c.block_on(Trainer::new(&c, &spec, &o, &data(&rows, 210, 0), &Initial::Random)).unwrap();
        steps(&mut t, 210);
        let losses: Vec<f32> = c.block_on(t.reports()).unwrap().iter().map(|r| r.loss).collect();
        assert!(losses[209] < 0.5 * losses[0], "{frozen:?}: {} to {}", losses[0], losses[209]);
        let drifts = t.drifts();
        assert_eq!(drifts.iter().map(|d| d.step).collect::<Vec<_>>(), [40, 80, 120, 160, 200]);
        for d in drifts {
            println!("{frozen:?} {d:?}");
            assert!(d.relative <= bound && (frozen == Frozen::F32 || d.relative > bound / 20.0), "{frozen:?} {d:?}");
        }
    }
}

/// Gradients are those of the weights in f32 but for rounding, by either strategy.
#[test]
fn gradients_are_those_of_weights_in_f32() {
    let c = context();
    let dense = Method::Sst(Sst { strategy: etalon::autograd::Strategy::Dense, ..sst() });
    for method in [Method::Sst(sst()), dense, Method::Lora { rank: 4, scale: 1.0 }] {
        let first = |frozen| {
            // The third step of plain descent: active rows have moved, and none by the sign of what is next to nothing.
            let mut t = trainer("llama-gqa", &Options { sgd: true, rate: 0.1, ..options(method, frozen) });
            steps(&mut t, 3);
            t
        };
        let (plain, t) = (first(Frozen::F32), first(Frozen::F16));
        let mut worst = 0.0f64;
        let ids = plain.ids();
        for (name, id) in t.ids() {
            let Some(got) = c.block_on(t.gradient(id)).unwrap() else { continue };
            let want = c.block_on(plain.gradient(ids[name.trim_end_matches("_active")])).unwrap().unwrap();
            // Zero in exact arithmetic.
            if !name.ends_with("k_proj.bias") && want.iter().any(|g| *g != 0.0) {
                worst = worst.max(relative(&got, &want));
                assert!(relative(&got, &want) <= 2e-2, "{} {name}: {:e}", method.name(), relative(&got, &want));
            }
        }
        println!("{}: {worst:e}", method.name());
    }
}

/// Training brings the loss down as it does with weights in f32.
#[test]
fn training_goes_on_as_with_f32() {
    let c = context();
    for method in [Method::Sst(sst()), Method::Relora { rank: 4, scale: 1.0, every: 4, warmup: 1 }] {
        let losses = |frozen, round| {
            let mut t = trainer("opt-preln", &Options { round, ..options(method, frozen) });
            steps(&mut t, 14);
            c.block_on(t.reports()).unwrap().iter().map(|r| r.loss).collect::<Vec<f32>>()
        };
        let plain = losses(Frozen::F32, Round::Nearest);
        for (frozen, round) in [(Frozen::F16, Round::Nearest), (Frozen::Int8, Round::Nearest), (Frozen::Int8, Round::Stochastic)] {
            let packed = losses(frozen, round);
            println!("{} {frozen:?} {round:?}: {} to {}, in f32 {} to {}", method.name(), packed[0], packed[13], plain[0], plain[13]);
            // Draws follow sigma and are others after a while: the packed run must learn as much, but for a fifth.
            assert!(packed[0] - packed[13] > 0.8 * (plain[0] - plain[13]), "{} {frozen:?}: {packed:?} {plain:?}", method.name());
        }
    }
}

fn words(folder: &Path, step: usize, name: &str) -> Vec<u32> {
    Safetensors::open(&checkpoint::folder(folder, step).join("state.safetensors")).unwrap().words(name).unwrap()
}

#[test]
fn frozen_rows_keep_their_bits_but_for_those_put_back() {
    let (c, folder) = (context(), Folder::new("frozen"));
    for frozen in [Frozen::F16, Frozen::Int8] {
        let mut t = trainer("opt-preln", &Options { round: Round::Stochastic, ..options(Method::Sst(sst()), frozen) });
        for _ in 0..=5 {
            steps(&mut t, 1);
            c.block_on(t.save(&folder.0, 10)).unwrap();
        }
        // Draws before the first and the fourth step.
        let name = "model.decoder.layers.1.fc1.u";
        let first = words(&folder.0, 1, name);
        assert_eq!(first, words(&folder.0, 3, name));
        assert_ne!(words(&folder.0, 1, &format!("{name}_active")), words(&folder.0, 3, &format!("{name}_active")));
        let fourth = words(&folder.0, 4, name);
        assert_eq!(fourth, words(&folder.0, 6, name));
        let active = t.linears().into_iter().find(|l| name.starts_with(&l.name)).map(|l| match l.weight {
            etalon::train::Stand::Spectral { active, .. } => active,
            _ => unreachable!(),
        });
        let active = &words(&folder.0, 3, ":active")[active.unwrap()..][..4];
        let row = first.len() / 64;
        let changed: Vec<u32> = (0..64).filter(|r| first[r * row..][..row] != fourth[r * row..][..row]).map(|r| r as u32).collect();
        assert_eq!(changed, active, "{frozen:?}");
    }
}

/// The active rows of the other layers belong to factors that are no more.
#[test]
fn a_failed_re_svd_changes_no_weight() {
    let (c, folder) = (context(), Folder::new("failed"));
    let o = options(Method::Sst(sst()), Frozen::F16);
    let mut t = trainer("opt-preln", &o);
    steps(&mut t, 6);
    let saved = c.block_on(t.save(&folder.0, 10)).unwrap().join("state.safetensors");
    // The last of the shapes cannot be decomposed.
    let file = Safetensors::open(&saved).unwrap();
    let names: Vec<String> = file.names().map(String::from).collect();
    let tensors: Vec<NewTensor> =
        names.iter().map(|n| file.raw(n).map(|r| NewTensor::new(n, r.dtype, r.shape.to_vec())).unwrap()).collect();
    let mut bytes: Vec<Vec<u8>> = names.iter().map(|n| file.raw(n).unwrap().bytes.into_owned()).collect();
    let at = names.iter().position(|n| n == "model.decoder.layers.0.fc1.sigma").unwrap();
    bytes[at][..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    write_safetensors(&saved, &tensors, &Default::default(), |i| Ok(Cow::Borrowed(&bytes[i][..]))).unwrap();
    let mut t = trainer("opt-preln", &o);
    t.restore(&checkpoint::folder(&folder.0, 6)).unwrap();
    let before: Vec<Vec<f32>> = t.linears().into_iter().map(|l| merged(&t, l)).collect();
    let why = c.block_on(t.submit_step()).unwrap_err().to_string();
    assert!(why.contains("layers.0.fc1"), "{why}");
    for (l, before) in t.linears().into_iter().zip(before) {
        let now = merged(&t, l);
        match l.name.ends_with("fc1") {
            true => assert!(before.iter().zip(&now).all(|(a, b)| a.to_bits() == b.to_bits()), "{}", l.name),
            false => assert!(relative(&now, &before) <= 1e-3, "{}: {:e}", l.name, relative(&now, &before)),
        }
    }
}

#[test]
fn packed_factors_are_exported_with_their_active_rows() {
    let (c, folder) = (context(), Folder::new("export"));
    let mut t = trainer("opt-preln", &options(Method::Sst(sst()), Frozen::Int8));
    steps(&mut t, 5);
    let path = folder.0.join("factors.safetensors");
    c.block_on(t.export(&path, Export::Factors)).unwrap();
    let file = Safetensors::open(&path).unwrap();
    assert!(file.names().all(|n| !n.contains("_active")));
    let of = |name: &str| -> Vec<f32> { file.words(name).unwrap().into_iter().map(f32::from_bits).collect() };
    for l in t.linears() {
        let [u, sigma, v] = ["u", "sigma", "v"].map(|p| of(&format!("{}.{p}", l.name)));
        let mut w = vec![0.0f32; l.m * l.n];
        for (i, s) in sigma.iter().enumerate() {
            for (row, u) in w.chunks_mut(l.n).zip(&u[i * l.m..]) {
                row.iter_mut().zip(&v[i * l.n..]).for_each(|(w, v)| *w += s * u * v);
            }
        }
        assert!(relative(&w, &merged(&t, l)) < 1e-5, "{}", l.name);
    }
    let merged_path = folder.0.join("merged.safetensors");
    c.block_on(t.export(&merged_path, Export::Merged)).unwrap();
    assert!(Safetensors::open(&merged_path).unwrap().names().all(|n| !n.contains("_active") && !n.ends_with(".u")));
}

#[test]
fn options_without_it_mean_f32_and_galore_refuses_it() {
    let o = Options::default();
    let mut json = serde_json::to_value(&o).unwrap();
    for field in ["frozen", "round"] {
        assert!(json.as_object_mut().unwrap().remove(field).is_some());
    }
    assert_eq!(serde_json::from_value::<Options>(json).unwrap(), o);
    let packed = Options { frozen: Frozen::Int8, round: Round::Stochastic, ..o };
    assert_eq!(serde_json::from_value::<Options>(serde_json::to_value(&packed).unwrap()).unwrap(), packed);
    packed.check().unwrap();
    let galore = Method::Galore { rank: 4, every: 5, scale: 0.25 };
    assert!(Options { method: galore, ..packed }.check().unwrap_err().to_string().contains("GaLore"));
    Options { method: galore, ..Options::default() }.check().unwrap();
}
