//! The whole way on a trained model: the nano preset by full rank on Jane Austen (tests/fixtures/README.md). Scores on one novel, judged
//! on another.

use super::{open, probe};
use crate::kernels::context;
use crate::models::fixture;
use etalon::compress::choose::{Budget, Chosen, Search, choose, joint, refine};
use etalon::compress::measure::measure;
use etalon::compress::round::Codes;
use etalon::compress::score::{Options, Score, Scores, WIDTHS};
use etalon::compress::{Unit, UnitKind};
use etalon::format::Checkpoint;
use etalon::model::{Keep, Model, Probe, Sequence};
use etalon::quant::round::{Granularity, Spec};
use etalon::quant::similarity::{Scope, Similarity, spearman};
use std::sync::Arc;

/// Windows of 128 tokens.
fn windows(model: &Arc<Model>, file: &str, count: usize) -> Vec<Sequence> {
    let text = std::fs::read_to_string(fixture(&format!("nano/{file}"))).unwrap();
    let tokens = model.tokenizer().unwrap().encode(&text, true).unwrap();
    let all: Vec<Sequence> = tokens.chunks_exact(128).take(count).map(|w| w.to_vec().into()).collect();
    assert_eq!(all.len(), count, "{file}");
    all
}

struct House {
    checkpoint: Checkpoint,
    calibration: Vec<Sequence>,
    probe: Probe,
    judge: Probe,
}

impl House {
    fn new() -> Self {
        let checkpoint = Checkpoint::open(&fixture("nano")).unwrap();
        let model = open(&checkpoint);
        let (calibration, check) = (windows(&model, "calibration.txt", 8), windows(&model, "check.txt", 16));
        let (probe, judge) = (probe(&model, &calibration, Keep::All), probe(&model, &check, Keep::All));
        Self { checkpoint, calibration, probe, judge }
    }

    fn scores(&self, score: Score, unit: UnitKind) -> Scores {
        // The widths of this model are multiples of 32 only.
        let spec = Spec { granularity: Granularity::Group(32), ..Spec::default() };
        let options = Options { score, unit, spec, ..Options::default() };
        let mut scores = Scores::new(&self.checkpoint, &self.calibration, options).unwrap();
        context().block_on(measure((&self.probe, &self.checkpoint, &Codes::Nearest(spec)), &mut scores, &mut |_| Ok(true))).unwrap();
        scores
    }

    fn choose(&self, scores: &Scores, budget: Budget, search: &Search) -> Chosen {
        choose(&self.checkpoint, scores, (&WIDTHS, &any), (budget, (0, 0)), search).unwrap()
    }

    /// The divergence on the other novel, with nearest codes.
    fn judge(&self, scores: &Scores, chosen: &Chosen) -> f64 {
        context().block_on(joint(&self.judge, &self.checkpoint, &Codes::Nearest(scores.options.spec), chosen)).unwrap().change
    }
}

fn any(_: &Unit, _: u32) -> bool {
    true
}

/// Test 9 and 10 of the specification, its 3.5 bits at groups of 128 being 0.3516 above uniform 3 bits there, so here: 3.9453. What is
/// measured and then improved as a whole loses no more than 1.05 times what any score's choice does, and every choice less than 3 bits
/// for all.
#[test]
fn what_is_measured_and_improved_is_best() {
    let (house, budget) = (House::new(), Budget::Linears { bits: 3.59375 + 0.3516, metadata: true });
    let cmpq = Score::Correlation { measure: Similarity::R2, scope: Scope::All, components: 64, corrected: true };
    let measured = house.scores(Score::Measured, UnitKind::Site);
    let uniform = house.judge(&measured, &house.choose(&measured, Budget::Uniform(3), &Search::Uniform));
    let starts = [Search::Exact, Search::Uniform].map(|search| house.choose(&measured, budget, &search));
    let first = &starts[0];
    let widths = (&WIDTHS[..], &any as &dyn Fn(&Unit, u32) -> bool, 3);
    let refined =
        context().block_on(refine(&house.probe, &house.checkpoint, &Codes::Nearest(measured.options.spec), &starts, widths)).unwrap();
    assert!(refined.before.iter().all(|b| refined.loss <= *b) && refined.chosen.cost <= first.cost);
    let best = house.judge(&measured, &refined.chosen);
    println!("uniform 3 bits {uniform:.4e}, measured {:.4e}, improved {best:.4e}", house.judge(&measured, first));
    assert!(best <= uniform);
    let losses = |s: &Scores| s.units.iter().map(|u| u.losses[&3]).collect::<Vec<f64>>();
    let others = [
        ("PMPQ", Score::Pruning { sparsity: Some(0.3) }, 0.8),
        ("TDMPQ, weights", Score::WeightNoise { pairs: 2, bits: 3 }, 0.8),
        ("TDMPQ, inputs", Score::InputNoise { pairs: 1, epsilon: 0.05 }, 0.5),
        ("TDMPQ, gradients", Score::Gradient, 0.8),
        // It has no unit of loss; how it ranks is reported, not promised.
        ("CMPQ", cmpq, -1.0),
    ];
    for (name, score, least) in others {
        let scores = house.scores(score, UnitKind::Site);
        let rho = spearman(&losses(&scores), &losses(&measured));
        let lost = house.judge(&scores, &house.choose(&scores, budget, &Search::Exact));
        println!("{name}: {lost:.4e}, rank correlation with the measured loss {rho:.3}");
        assert!(best <= 1.05 * lost, "{name}: {lost:.4e}, improved {best:.4e}");
        assert!(lost <= uniform, "{name}: {lost:.4e}, uniform {uniform:.4e}");
        assert!(rho >= least, "{name}: {rho}");
    }
}

/// The random residual net of the specification's test 3 is a matter of `quant::similarity`; here CMPQ runs on a model's own layers, and its
/// value for layers that have nothing in common is told.
#[test]
fn correlations_are_of_layers() {
    let house = House::new();
    for measure in [Similarity::First, Similarity::Mean, Similarity::R2, Similarity::Pwcca, Similarity::Cka] {
        for scope in [Scope::All, Scope::Adjacent] {
            let scores = house.scores(Score::Correlation { measure, scope, components: 64, corrected: true }, UnitKind::Block);
            assert_eq!(scores.units.len(), 4);
            assert!(scores.units.iter().all(|u| (0.0..=1.0).contains(&u.score)), "{measure:?} {scope:?}: {:?}", scores.units);
            assert!((0.0..=1.0).contains(&scores.chance.unwrap()));
        }
    }
}
