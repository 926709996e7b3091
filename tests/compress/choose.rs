//! Widths within budgets.

use super::{checkpoint, open, options, probe, scored, texts};
use crate::kernels::context;
use etalon::compress::HALF;
use etalon::compress::choose::{Budget, Chosen, Search, choose, joint, refine};
use etalon::compress::round::Codes;
use etalon::compress::score::{Score, Scores};
use etalon::compress::{Unit, units};
use etalon::model::Keep;

const WIDTHS: [u32; 4] = [2, 3, 4, 8];

fn any(_: &Unit, _: u32) -> bool {
    true
}

fn chosen(name: &str, scores: &Scores, budget: Budget, search: &Search) -> Result<Chosen, etalon::Error> {
    choose(&checkpoint(name), scores, (&WIDTHS, &any), (budget, (1000, 50)), search)
}

#[test]
fn budgets_are_kept_in_every_unit_that_they_come_in() {
    let scores = scored(&checkpoint("opt-preln"), &options(Score::Pruning { sparsity: Some(0.3) }));
    let of = |budget, search: &Search| chosen("opt-preln", &scores, budget, search).unwrap();
    let weights = of(Budget::Uniform(3), &Search::Exact).weights();
    let uniform = of(Budget::Uniform(3), &Search::Uniform);
    assert!(uniform.bits.iter().all(|b| *b == 3));
    // Groups of 32 with halves and zero points of 3 bits: (16 + 3) / 32 bits beside the codes.
    assert!((uniform.bits_per_weight() - 3.59375).abs() < 1e-12);
    for search in [Search::Exact, Search::Lagrange, Search::Greedy, Search::Random(1), Search::EndsFirst, Search::Clusters(vec![8, 4, 2])] {
        let found = of(Budget::Uniform(3), &search);
        assert!(found.cost <= uniform.cost, "{search:?}");
        if search == Search::Exact {
            assert!(found.expected(&scores).unwrap() <= uniform.expected(&scores).unwrap() && found.exact);
        }
        let bits = found.bits_per_weight();
        assert!(of(Budget::Linears { bits, metadata: true }, &search).cost <= found.cost, "{search:?}");
    }
    let codes = of(Budget::Linears { bits: 3.0, metadata: false }, &Search::Exact);
    assert!(codes.members().map(|(l, b)| u64::from(b) * l.weights()).sum::<u64>() <= 3 * weights);
    assert!(of(Budget::Model { bits: 4.0 }, &Search::Exact).cost + 1000 <= 4 * (weights + 50));
    assert!(of(Budget::Bytes(weights / 2), &Search::Exact).cost + 1000 <= 4 * weights);
    // Other seeds, other orders; each from the width below and the one above.
    let random = |seed| of(Budget::Uniform(3), &Search::Random(seed)).bits;
    assert!((1..6).any(|s| random(s) != random(0)));
    assert!(random(0).iter().all(|b| [2, 4].contains(b)) && random(0).contains(&4));
    let ends = of(Budget::Uniform(3), &Search::EndsFirst);
    assert_eq!(ends.bits[0], 4, "{:?}", ends.bits);
}

#[test]
fn impossible_budgets_name_what_is_needed() {
    let scores = scored(&checkpoint("opt-preln"), &options(Score::Pruning { sparsity: Some(0.3) }));
    let why = |budget| chosen("opt-preln", &scores, budget, &Search::Exact).unwrap_err().to_string();
    assert!(why(Budget::Linears { bits: 1.0, metadata: true }).contains("cheapest choices take"));
    assert!(why(Budget::Linears { bits: f64::NAN, metadata: true }).contains("NaN"));
    assert!(why(Budget::Bytes(10)).contains("stored beside"));
    assert!(why(Budget::Uniform(7)).contains("uniform:7"));
    let other = chosen("llama-gqa", &scores, Budget::Uniform(3), &Search::Exact).unwrap_err().to_string();
    assert!(other.contains("another model"), "{other}");
}

#[test]
fn pins_and_floors_hold() {
    let checkpoint = checkpoint("opt-preln");
    let scores = scored(&checkpoint, &options(Score::Pruning { sparsity: Some(0.3) }));
    let keep = |u: &Unit, bits: u32| if u.name == "0 down" { bits == HALF } else { bits >= 3 };
    let widths = [2, 3, 4, 8, HALF];
    let found =
        choose(&checkpoint, &scores, (&widths, &keep), (Budget::Linears { bits: 6.0, metadata: true }, (0, 0)), &Search::Exact).unwrap();
    for (u, bits) in found.units.iter().zip(&found.bits) {
        assert!(if u.name == "0 down" { *bits == HALF } else { *bits >= 3 }, "{} {bits}", u.name);
    }
}

/// The paper's way: three classes of layers, the most sensitive with the most bits.
#[test]
fn classes_of_layers() {
    let checkpoint = checkpoint("opt-preln");
    let mut o = options(Score::Pruning { sparsity: Some(0.3) });
    o.unit = etalon::compress::UnitKind::Block;
    let scores = scored(&checkpoint, &o);
    let budget = Budget::Linears { bits: 16.0, metadata: true };
    let found = choose(&checkpoint, &scores, (&[4, HALF], &any), (budget, (0, 0)), &Search::Classes(vec![16, 4])).unwrap();
    let most = (0..found.bits.len()).max_by(|a, b| scores.units[*a].score.total_cmp(&scores.units[*b].score)).unwrap();
    assert_eq!(found.bits[most], HALF);
    assert!(found.bits.contains(&4));
}

/// What is measured as a whole never gets worse, keeps to the budget, and leaves the model as it was.
#[test]
fn refinement_improves_what_is_measured() {
    let (c, checkpoint, texts) = (context(), checkpoint("opt-preln"), texts());
    let o = options(Score::Pruning { sparsity: Some(0.3) });
    let mut scores = scored(&checkpoint, &o);
    // Scores that mislead: turned round.
    let all: Vec<_> = scores.units.iter().rev().map(|u| u.losses.clone()).collect();
    scores.units.iter_mut().zip(all).for_each(|(u, l)| u.losses = l);
    let model = open(&checkpoint);
    let probe = probe(&model, &texts, Keep::All);
    let budget = Budget::Uniform(3);
    let start = choose(&checkpoint, &scores, (&WIDTHS, &any), (budget, (0, 0)), &Search::Exact).unwrap();
    let before = c.block_on(joint(&probe, &checkpoint, &Codes::Nearest(o.spec), &start)).unwrap().change;
    let found = c.block_on(refine(&probe, &checkpoint, &Codes::Nearest(o.spec), std::slice::from_ref(&start), (&WIDTHS, &any, 4))).unwrap();
    assert_eq!(found.before, [before]);
    assert!(found.loss < before && found.chosen.cost <= start.cost && found.measured > units(&checkpoint.config, o.unit).len());
    assert_eq!(c.block_on(joint(&probe, &checkpoint, &Codes::Nearest(o.spec), &found.chosen)).unwrap().change, found.loss);
    assert!(c.block_on(probe.measure(0)).unwrap().change.abs() < 1e-12);
}

/// Where scales do not count, halves, which have none, are cheaper than they look: refinement keeps to the budget's own count.
#[test]
fn refinement_counts_as_the_budget_does() {
    let (c, checkpoint, texts) = (context(), checkpoint("opt-preln"), texts());
    let o = options(Score::Pruning { sparsity: Some(0.3) });
    let scores = scored(&checkpoint, &o);
    let model = open(&checkpoint);
    let probe = probe(&model, &texts, Keep::All);
    let (widths, budget) = ([2, 3, 4, 8, HALF], Budget::Linears { bits: 5.0, metadata: false });
    let start = choose(&checkpoint, &scores, (&widths, &any), (budget, (0, 0)), &Search::Exact).unwrap();
    let codes = |chosen: &Chosen| chosen.members().map(|(l, b)| u64::from(b) * l.weights()).sum::<u64>();
    assert!(codes(&start) <= 5 * start.weights() && start.cost > codes(&start));
    let found = c.block_on(refine(&probe, &checkpoint, &Codes::Nearest(o.spec), std::slice::from_ref(&start), (&widths, &any, 3))).unwrap();
    assert!(codes(&found.chosen) <= codes(&start), "{:?} from {:?}", found.chosen.bits, start.bits);
}
