//! Translators in fewer bits: their layers, what is measured of them, and what is written.

use super::{config, integers, sources};
use crate::kernels::context;
use crate::models::fixture;
use etalon::compress::choose::{Budget, Search, choose, joint, refine};
use etalon::compress::measure::measure;
use etalon::compress::pack::{Beside, beside, write};
use etalon::compress::round::{Codes, to_nearest};
use etalon::compress::score::{Metric, Options, Score, Scores};
use etalon::compress::subject::{Subject, Weights};
use etalon::compress::translator::Translator;
use etalon::compress::{UnitKind, units, weights};
use etalon::format::Checkpoint;
use etalon::model::{Model, linears};
use etalon::quant::round::{Granularity, Spec};
use etalon::train::{Export, Geometry, Initial, Method, Options as Training, Spec as Network, Trainer, TranslatorSpec};
use etalon::translation::{Pair, all_batches, shapes_of};
use std::path::{Path, PathBuf};

const SPEC: Spec = Spec { bits: 4, granularity: Granularity::Group(32), symmetric: false, f16_scales: true, search: false };

fn tiny() -> Checkpoint {
    Checkpoint::open(&fixture("tiny/marian-encdec")).unwrap()
}

fn pairs() -> Vec<Pair> {
    let labels = integers("labels.npy").into_iter().map(|row| row.into_iter().filter(|v| *v != -100).map(|v| v as u32).collect());
    sources().into_iter().zip(labels).collect()
}

fn scratch(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("etalon-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

#[test]
fn every_layer_of_a_translator_counts() {
    let (c, checkpoint) = (context(), tiny());
    let t = c.block_on(Translator::new(&c, &checkpoint, &pairs())).unwrap();
    assert!((t.base() - 7.247_245).abs() <= 1e-5, "loss {} where 7.247245 is recorded", t.base());
    let all = linears(&checkpoint.config);
    let m = config();
    assert_eq!(all.len(), 6 * m.encoder_layers + 10 * m.decoder_layers);
    for l in &all {
        let own = weights(&checkpoint, l).unwrap();
        t.set_weight(&l.name, &vec![0.0; own.len()]).unwrap();
        let changed = c.block_on(t.measure(0)).unwrap();
        assert!(changed.change.abs() > 1e-6 && changed.nll == Some(t.base() + changed.change), "{}: {changed:?}", l.name);
        t.set_weight(&l.name, &own).unwrap();
    }
    assert_eq!(c.block_on(t.measure(0)).unwrap().change, 0.0);
    assert!(t.set_weight("model.encoder.layers.0.fc1.weight", &[0.0]).is_err() && t.set_weight("none", &[0.0]).is_err());
    let e = Model::load(&c, &checkpoint, &|_, _| {}).unwrap_err().to_string();
    assert!(e.contains("translate run"), "{e}");
}

fn options(score: Score) -> Options {
    Options { score, metric: Metric::Likelihood, unit: UnitKind::Site, spec: SPEC, fitted_to: 0, widths: vec![2, 4, 8], seed: 0 }
}

#[test]
fn translators_are_scored_and_rounded_within_a_budget() {
    let (c, checkpoint) = (context(), tiny());
    let pairs = pairs();
    let t = c.block_on(Translator::new(&c, &checkpoint, &pairs)).unwrap();
    let texts: Vec<_> = pairs.iter().map(|(s, t)| [s.as_slice(), t].concat().into()).collect();
    let codes = Codes::Nearest(SPEC);
    let scored = |score: Score| {
        let mut s = Scores::new(&checkpoint, &texts, options(score)).unwrap();
        c.block_on(measure((&t, &checkpoint, &codes), &mut s, &mut |_| Ok(true))).map(|()| s)
    };
    for score in [Score::Gradient, Score::InputNoise { pairs: 1, epsilon: 0.1 }] {
        let e = scored(score).unwrap_err().to_string();
        assert!(e.contains("looks into layers"), "{e}");
    }
    let folder = scratch("translator-4-bits");
    let free = beside(&checkpoint, &Beside::default()).unwrap();
    for score in [Score::Measured, Score::Pruning { sparsity: Some(0.3) }, Score::WeightNoise { pairs: 1, bits: 4 }] {
        let s = scored(score.clone()).unwrap();
        assert_eq!(s.units.len(), units(&checkpoint.config, UnitKind::Site).len());
        let budget = Budget::Linears { bits: 4.75, metadata: true };
        let chosen = choose(&checkpoint, &s, (&[2, 4, 8], &|_, _| true), (budget, free), &Search::Exact).unwrap();
        assert!(chosen.bits_per_weight() <= 4.75);
        // Improving a choice runs the model for each unit: one score of three is enough.
        let chosen = match score {
            Score::Pruning { .. } => {
                let better = c.block_on(refine(&t, &checkpoint, &codes, &[chosen], (&[2, 4, 8], &|_, _| true, 1))).unwrap();
                assert!(better.loss <= better.before[0]);
                better.chosen
            }
            _ => chosen,
        };
        let expected = c.block_on(joint(&t, &checkpoint, &codes, &chosen)).unwrap();
        write(&checkpoint, &to_nearest(&checkpoint, &chosen.by_name(), &SPEC, &|_, _| {}).unwrap(), &Beside::default(), &folder).unwrap();
        let written = c.block_on(Translator::new(&c, &Checkpoint::open(&folder).unwrap(), &pairs)).unwrap();
        // Beside the codes the file has halves where the fixture has f32: 2^-11 of a weight, on a loss of 7.
        let off = (written.base() - t.base() - expected.change).abs();
        assert!(off <= 5e-3, "{off:e} beside a change of {:e}", expected.change);
    }
    assert_eq!(c.block_on(t.measure(0)).unwrap().change, 0.0);
    std::fs::remove_dir_all(&folder).unwrap();
}

/// A hyperbolic twin with random weights, as a run leaves it.
fn hyperbolic(folder: &Path, pairs: &[Pair]) -> Checkpoint {
    let (c, m) = (context(), config());
    let batches = shapes_of(64, 24);
    let data = all_batches(pairs, &m, &batches).unwrap();
    let o = Training { method: Method::Full, steps: 1, ..Training::default() };
    let spec = Network::Translator(TranslatorSpec { config: m.clone(), geometry: Geometry::Lorentz, batches });
    let t = c.block_on(Trainer::new(&c, &spec, &o, &data, &Initial::Random)).unwrap();
    c.block_on(t.export(&folder.join("model.safetensors"), Export::Merged)).unwrap();
    std::fs::write(folder.join("config.json"), m.to_json(true)).unwrap();
    Checkpoint::open(folder).unwrap()
}

#[test]
fn hyperbolic_translators_keep_their_points() {
    let (c, pairs) = (context(), pairs());
    let (from, to) = (scratch("hyperbolic-translator"), scratch("hyperbolic-translator-8-bits"));
    let checkpoint = hyperbolic(&from, &pairs);
    let t = c.block_on(Translator::new(&c, &checkpoint, &pairs)).unwrap();
    let widths = linears(&checkpoint.config).into_iter().map(|l| (l.name, 8)).collect();
    write(&checkpoint, &to_nearest(&checkpoint, &widths, &SPEC, &|_, _| {}).unwrap(), &Beside::default(), &to).unwrap();
    let written = Checkpoint::open(&to).unwrap();
    for points in ["model.shared.points", "classes.points"] {
        assert_eq!(written.values(points).unwrap(), checkpoint.values(points).unwrap(), "{points}");
    }
    let rounded = c.block_on(Translator::new(&c, &written, &pairs)).unwrap();
    let change = (rounded.base() - t.base()).abs();
    assert!(change > 0.0 && change < 0.05, "{} in f32, {} in 8 bits", t.base(), rounded.base());
    for folder in [from, to] {
        std::fs::remove_dir_all(folder).unwrap();
    }
}
