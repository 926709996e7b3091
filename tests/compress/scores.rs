//! Scores: against whole models where they are measured, among each other where they are estimates.

use super::{checkpoint, open, options, probe, scored, texts};
use crate::kernels::context;
use etalon::compress::measure::measure;
use etalon::compress::round::Codes;
use etalon::compress::score::{Metric, Options, Score, Scores};
use etalon::compress::{UnitKind, units, weights};
use etalon::model::Keep;
use etalon::quant::round::{Spec, nearest};
use etalon::quant::similarity::{Scope, Similarity, spearman};

const INPUTS: Score = Score::InputNoise { pairs: 1, epsilon: 0.05 };
const NOISE: Score = Score::WeightNoise { pairs: 2, bits: 4 };

fn correlation() -> Score {
    Score::Correlation { measure: Similarity::R2, scope: Scope::All, components: 8, corrected: true }
}

#[test]
fn measured_losses_are_those_of_whole_models() {
    let c = context();
    for name in ["opt-preln", "llama-gqa", "bert-mlm"] {
        let checkpoint = checkpoint(name);
        let options = options(Score::Measured);
        let scores = scored(&checkpoint, &options);
        assert!(scores.complete(&checkpoint) && scores.tokens == 96);
        let (before, after, texts) = (open(&checkpoint), open(&checkpoint), texts());
        for (unit, found) in units(&checkpoint.config, UnitKind::Site).iter().zip(&scores.units).step_by(3) {
            for bits in [3, 8] {
                for l in &unit.linears {
                    let w = nearest(&weights(&checkpoint, l).unwrap(), l.rows, l.cols, &Spec { bits, ..options.spec }).unwrap().decode();
                    after.set_weight(&l.name, &w).unwrap();
                }
                let all: Vec<f32> = texts.iter().flat_map(|t| c.block_on(before.divergence(&after, &t.tokens)).unwrap()).collect();
                let want = all.iter().map(|v| f64::from(*v)).sum::<f64>() / all.len() as f64;
                let got = found.losses[&bits];
                assert!(got > 0.0 && got <= want * 1.001, "{name} {}, {bits} bits: {got:e} for {want:e}", unit.name);
                // Only where fewer bits were better by chance is less said than was measured.
                assert!((got - want).abs() <= 1e-3 * want || found.losses.range(..bits).any(|(_, l)| *l == got), "{name} {}", unit.name);
            }
            for l in &unit.linears {
                after.set_weight(&l.name, &weights(&checkpoint, l).unwrap()).unwrap();
            }
        }
    }
}

/// The order of the losses that are estimated is that of the measured ones, as far as estimates can: over units of a random model.
#[test]
fn estimates_follow_what_is_measured() {
    let checkpoint = checkpoint("opt-preln");
    let of = |score| scored(&checkpoint, &options(score)).units.iter().map(|u| u.losses[&4]).collect::<Vec<f64>>();
    let measured = of(Score::Measured);
    for score in [Score::Pruning { sparsity: Some(0.3) }, Score::Pruning { sparsity: None }, NOISE, INPUTS] {
        let found = of(score.clone());
        let rho = spearman(&found, &measured);
        assert!(rho > 0.7, "{score:?}: {rho} of {found:?} and {measured:?}");
        // In the same unit too: nats.
        for (f, m) in found.iter().zip(&measured) {
            assert!((0.1..10.0).contains(&(f / m)), "{score:?}: {f:e} for {m:e}");
        }
    }
    assert!(of(correlation()).iter().all(|v| *v >= 0.0));
}

/// Stopped after each unit and taken up again from what was kept, scores are the same to the bit.
#[test]
fn stopped_scores_go_on() {
    let (c, checkpoint, texts) = (context(), checkpoint("llama-gqa"), texts());
    for score in [NOISE, INPUTS, correlation()] {
        let options = options(score);
        let whole = scored(&checkpoint, &options);
        let model = open(&checkpoint);
        let probe = probe(&model, &texts, Keep::All);
        let mut kept = serde_json::to_string(&Scores::new(&checkpoint, &texts, options.clone()).unwrap()).unwrap();
        for done in 1..=whole.units.len() {
            let mut scores = Scores::new(&checkpoint, &texts, options.clone()).unwrap();
            scores.resume(serde_json::from_str(&kept).unwrap()).unwrap();
            c.block_on(measure((&probe, &checkpoint, &Codes::Nearest(options.spec)), &mut scores, &mut |s| {
                kept = serde_json::to_string(s).unwrap();
                Ok(false)
            }))
            .unwrap();
            assert_eq!(scores.units.len(), done);
        }
        assert_eq!(serde_json::from_str::<Scores>(&kept).unwrap(), whole);
    }
}

#[test]
fn scores_of_something_else_are_refused() {
    let (checkpoint, texts) = (checkpoint("opt-preln"), texts());
    let new = |o: &Options| Scores::new(&checkpoint, &texts, o.clone());
    let mine = options(Score::Measured);
    let mut scores = new(&mine).unwrap();
    let why = |s: &mut Scores, before| s.resume(before).unwrap_err().to_string();
    assert!(why(&mut scores, new(&options(NOISE)).unwrap()).contains("score or its options"));
    assert!(why(&mut scores, Scores::new(&checkpoint, &texts[1..], mine.clone()).unwrap()).contains("calibration"));
    assert!(why(&mut scores, Scores::new(&super::checkpoint("llama-gqa"), &texts, mine.clone()).unwrap()).contains("model"));
    for bad in [
        Options { widths: vec![7], ..mine.clone() },
        options(Score::Pruning { sparsity: Some(1.5) }),
        options(Score::WeightNoise { pairs: 0, bits: 3 }),
        options(Score::InputNoise { pairs: 1, epsilon: f64::NAN }),
    ] {
        assert!(new(&bad).is_err(), "{bad:?}");
    }
    // Likelihoods of an encoder.
    let bert = super::checkpoint("bert-mlm");
    let model = open(&bert);
    let mut scores = Scores::new(&bert, &texts, Options { metric: Metric::Likelihood, ..mine.clone() }).unwrap();
    let found =
        context().block_on(measure((&probe(&model, &texts, Keep::All), &bert, &Codes::Nearest(mine.spec)), &mut scores, &mut |_| Ok(true)));
    assert!(found.unwrap_err().to_string().contains("decoder"));
}
