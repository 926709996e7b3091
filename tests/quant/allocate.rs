//! Searches for widths against brute force, bounds and each other; classes against published ones.

use etalon::quant::allocate::{Allocation, Choice, Unit, bits_per_weight, budget, by_class, clusters, dp, dual, greedy, lagrange};
use etalon::quant::kmeans;
use proptest::prelude::*;

/// A unit whose losses are those of widths 2, 3, 4 …
fn unit(name: &str, weights: u64, losses: &[f64]) -> Unit {
    let choice = |(i, loss): (usize, &f64)| {
        let bits = i as u32 + 2;
        // Group 128, with an f16 scale and a zero point of the codes' width.
        Choice { bits, cost: weights * u64::from(bits) + weights.div_ceil(128) * u64::from(16 + bits), loss: *loss }
    };
    Unit::new(name, weights, losses.iter().enumerate().map(choice).collect()).unwrap()
}

/// Units with losses that fall by some factor for each bit, and now and then do not.
fn units(most: usize) -> impl Strategy<Value = Vec<Unit>> {
    let one = (1u64..2000, prop::collection::vec(-0.2f64..1.0, 1..5), 2.0f64..6.0);
    prop::collection::vec(one, 1..=most).prop_map(|all| {
        let of = |(i, (n, noise, fall)): (usize, (u64, Vec<f64>, f64))| {
            let losses: Vec<f64> = noise.iter().enumerate().map(|(b, v)| v * f64::powi(fall, -(b as i32))).collect();
            unit(&format!("unit {i}"), n, &losses)
        };
        all.into_iter().enumerate().map(of).collect()
    })
}

/// Tries everything.
fn best(units: &[Unit], budget: u64) -> Option<f64> {
    let Some((first, rest)) = units.split_first() else { return Some(0.0) };
    let of = |c: &Choice| best(rest, budget.checked_sub(c.cost)?).map(|l| l + c.loss);
    first.choices().iter().filter_map(of).reduce(f64::min)
}

fn least(units: &[Unit]) -> u64 {
    units.iter().map(|u| u.choices()[0].cost).sum()
}

/// Whether costs and losses are what was chosen, within the budget.
fn sound(a: &Allocation, units: &[Unit], budget: u64) {
    let sum: u64 = units.iter().zip(&a.chosen).map(|(u, c)| u.choices()[*c].cost).sum();
    let loss: f64 = units.iter().zip(&a.chosen).map(|(u, c)| u.choices()[*c].loss).sum();
    assert!(a.cost == sum && sum <= budget && a.loss == loss, "{a:?} of {budget}");
}

proptest! {
    #[test]
    fn the_exact_search_finds_what_trying_everything_finds(units in units(7), part in 0.0f64..1.2) {
        let most: u64 = units.iter().map(|u| u.choices().last().unwrap().cost).sum();
        let budget = least(&units) + (part * (most - least(&units)) as f64) as u64;
        let found = dp(&units, budget).unwrap();
        sound(&found, &units, budget);
        let want = best(&units, budget).unwrap();
        // Sums of the same terms in another order.
        prop_assert!((found.loss - want).abs() <= 1e-12 && found.exact, "{} where {want} is possible", found.loss);
    }

    #[test]
    fn searches_keep_their_order(units in units(40), part in 0.0f64..1.0) {
        let most: u64 = units.iter().map(|u| u.choices().last().unwrap().cost).sum();
        let budget = least(&units) + (part * (most - least(&units)) as f64) as u64;
        let exact = dp(&units, budget).unwrap();
        let bound = dual(&units, budget).unwrap();
        prop_assert!(bound <= exact.loss + 1e-9, "{bound} is no lower bound of {}", exact.loss);
        for other in [lagrange(&units, budget).unwrap(), greedy(&units, budget).unwrap()] {
            sound(&other, &units, budget);
            prop_assert!(exact.loss <= other.loss + 1e-9);
        }
        // More room never costs.
        let more = dp(&units, budget + budget / 50).unwrap();
        prop_assert!(more.loss <= exact.loss + 1e-9);
        prop_assert_eq!(dp(&units, budget).unwrap(), exact);
    }

    #[test]
    fn classes_within_a_budget_are_the_best_that_fit(units in units(9), scores in prop::collection::vec(0.0f64..1.0, 9), part in 0.0f64..1.0) {
        let all: Vec<Unit> = units.iter().filter(|u| u.choices().len() == 4).cloned().collect();
        let scores = &scores[..all.len()];
        let at = |bits: u32| all.iter().map(|u| u.choices().iter().find(|c| c.bits == bits).unwrap().cost).sum::<u64>();
        let budget = at(2) + (part * (at(5) - at(2)) as f64) as u64;
        let found = clusters(&all, scores, &[5, 3, 2], budget).unwrap();
        sound(&found, &all, budget);
        let mut order: Vec<usize> = (0..all.len()).collect();
        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        let bits = found.bits(&all);
        prop_assert!(order.windows(2).all(|w| bits[w[0]] >= bits[w[1]]), "{bits:?} by {scores:?}");
        let mut want = f64::INFINITY;
        for i in 0..=all.len() {
            for j in i..=all.len() {
                let width = |p: usize| if p < i { 5 } else if p < j { 3 } else { 2 };
                let chosen = || order.iter().enumerate().map(|(p, u)| all[*u].choices().iter().find(|c| c.bits == width(p)).unwrap());
                if chosen().map(|c| c.cost).sum::<u64>() <= budget {
                    want = want.min(chosen().map(|c| c.loss).sum());
                }
            }
        }
        prop_assert!((found.loss - want).abs() <= 1e-12, "{} where {want} is possible", found.loss);
    }
}

/// The linear layers of OPT-125M: 72 tensors, all costs multiples of 4,608 bits.
#[test]
fn a_budget_of_a_real_model_is_met_closely() {
    let mut all = Vec::new();
    for block in 0..12 {
        for (name, n) in [("q", 768 * 768), ("k", 768 * 768), ("v", 768 * 768), ("o", 768 * 768), ("fc1", 768 * 3072), ("fc2", 768 * 3072)]
        {
            let scale = 1.0 + f64::from((block * 7 + n / 768) % 13);
            let losses: Vec<f64> = (2..=8).map(|b| scale * n as f64 * 1e-6 * f64::powi(4.6, -b)).collect();
            all.push(unit(&format!("{block}.{name}"), n as u64, &losses).restricted(|b| [2, 3, 4, 8].contains(&b)).unwrap());
        }
    }
    let wanted = budget(&all, 3.5).unwrap();
    let found = dp(&all, wanted).unwrap();
    sound(&found, &all, wanted);
    let got = bits_per_weight(&all, found.cost);
    // As near as the costs come: 84.9 M weights in steps of 4,608 bits.
    assert!(found.exact && got > 3.5 - 0.01, "{got}");
    assert!(found.loss <= lagrange(&all, wanted).unwrap().loss);
    // The whole budget of a uniform width is that width's.
    let uniform: u64 = all.iter().map(|u| u.choices()[1].cost).sum();
    assert_eq!(budget(&all, bits_per_weight(&all, uniform)).unwrap(), uniform);
    let error = dp(&all, budget(&all, 2.0).unwrap()).unwrap_err().to_string();
    assert!(error.contains("2.1406"), "{error}");
}

#[test]
fn units_are_tied_pinned_and_bounded() {
    let [q, k] = [unit("q", 128, &[4.0, 1.0, 0.25]), unit("k", 256, &[2.0, 0.5])];
    let both = Unit::tied("q + k", &[q.clone(), k.clone()]).unwrap();
    assert_eq!(both.weights(), 384);
    let costs = |u: &Unit| u.choices().iter().map(|c| (c.bits, c.cost, c.loss)).collect::<Vec<_>>();
    assert_eq!(costs(&both), [(2, 384 * 2 + 3 * 18, 6.0), (3, 384 * 3 + 3 * 19, 1.5)]);
    let pinned = q.restricted(|b| b == 3).unwrap();
    assert_eq!(dp(&[pinned, k], u64::MAX / 2).unwrap().chosen, [0, 1]);
    assert_eq!(costs(&q.restricted(|b| b >= 3).unwrap()).len(), 2);
    assert!(q.restricted(|b| b == 7).unwrap_err().to_string().contains("2, 3, 4"));
}

#[test]
fn nonsense_is_refused() {
    let c = |bits, loss| Choice { bits, cost: u64::from(bits), loss };
    for (choices, why) in [(vec![], "no width"), (vec![c(2, f64::NAN)], "NaN"), (vec![c(2, 1.0), c(2, 2.0)], "twice")] {
        assert!(Unit::new("layer", 1, choices).unwrap_err().to_string().contains(why));
    }
    assert_eq!(Unit::new("layer", 1, vec![c(4, -0.1)]).unwrap().choices()[0].loss, 0.0);
    let units = [unit("a", 100, &[1.0, 0.5]), unit("b", 100, &[1.0, 0.5])];
    for bits in [f64::NAN, -1.0, f64::INFINITY] {
        assert!(budget(&units, bits).is_err());
    }
    assert!(clusters(&units, &[1.0], &[3, 2], 1000).is_err() && clusters(&units, &[1.0, f64::NAN], &[3, 2], 1000).is_err());
    assert!(clusters(&units, &[1.0, 2.0], &[2, 3], 1000).is_err() && by_class(&units, &[1.0, 2.0], &[]).is_err());
    assert!(clusters(&units, &[1.0, 2.0], &[16, 3], 1000).unwrap_err().to_string().contains("16 bits"));
    let none = clusters(&units, &[1.0, 2.0], &[3], least(&units)).unwrap_err().to_string();
    assert!(none.contains("smaller last width"), "{none}");
    assert!(kmeans(&[1.0], 0).is_err() && kmeans(&[f64::NAN], 1).is_err());
    assert!(dp(&[], 0).unwrap().chosen.is_empty());
}

const PWCCA: [f64; 12] =
    [0.024479, 0.021585, 0.019146, 0.016482, 0.014728, 0.014347, 0.014593, 0.015239, 0.017558, 0.022948, 0.029274, 0.040099];

/// Published scores of BERT on IMDB and of OPT-125M on HellaSwag, whose exact partitions are the allocations in CPTQuant's logs.
#[test]
fn classes_are_the_published_ones() {
    let svcca = [0.285518, 0.258081, 0.239222, 0.226970, 0.214387, 0.215943, 0.218790, 0.234290, 0.262097, 0.287567, 0.331742, 0.373276];
    let opt = [0.027518, 0.021264, 0.024099, 0.020330, 0.017067, 0.015486, 0.015236, 0.014565, 0.014876, 0.015951, 0.019316, 0.023838];
    assert_eq!(kmeans(&PWCCA, 3).unwrap(), [1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2]);
    assert_eq!(kmeans(&PWCCA, 4).unwrap(), [1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 2, 3]);
    assert_eq!(kmeans(&svcca, 3).unwrap(), [1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 2, 2]);
    assert_eq!(kmeans(&opt, 4).unwrap(), [3, 1, 2, 1, 0, 0, 0, 0, 0, 0, 1, 2]);
    assert_eq!(kmeans(&[2.0, 1.0, 2.0], 3).unwrap(), [1, 0, 1]);
    assert!(kmeans(&[], 2).unwrap().is_empty());
}

/// The class of the most sensitive units gets the most bits, also where there are fewer classes than widths.
#[test]
fn the_papers_classes_become_widths() {
    let choices = || [16, 8, 4].map(|bits| Choice { bits, cost: 100 * u64::from(bits), loss: 1.0 / f64::from(bits) }).to_vec();
    let all: Vec<Unit> = (0..12).map(|i| Unit::new(format!("block {i}"), 100, choices()).unwrap()).collect();
    let found = by_class(&all, &PWCCA, &[16, 8, 4]).unwrap();
    assert_eq!(found.bits(&all), [8, 8, 4, 4, 4, 4, 4, 4, 4, 8, 8, 16]);
    assert_eq!(found.cost, 100 * (16 + 4 * 8 + 7 * 4));
    assert_eq!(by_class(&all[..2], &[1.0, 2.0], &[16, 8, 4]).unwrap().bits(&all[..2]), [8, 16]);
}

proptest! {
    /// Against every partition into runs.
    #[test]
    fn classes_have_the_least_spread(mut numbers in prop::collection::vec(-1.0f64..1.0, 1..9), k in 1usize..4) {
        let spread = |parts: &[&[f64]]| parts.iter().map(|p| {
            let mean = p.iter().sum::<f64>() / p.len().max(1) as f64;
            p.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>()
        }).sum::<f64>();
        numbers.sort_by(f64::total_cmp);
        let n = numbers.len();
        let cuts = |ends: &[usize]| spread(&ends.windows(2).map(|w| &numbers[w[0]..w[1]]).collect::<Vec<_>>());
        let mut want = f64::INFINITY;
        for a in 0..=n {
            for b in a..=n {
                let ends = match k { 1 => vec![0, n], 2 => vec![0, a, n], _ => vec![0, a, b, n] };
                want = want.min(cuts(&ends));
            }
        }
        let classes = kmeans(&numbers, k).unwrap();
        prop_assert!(classes.is_sorted());
        let mut ends: Vec<usize> = (0..=classes.last().copied().unwrap()).map(|c| classes.partition_point(|x| *x < c)).collect();
        ends.push(n);
        prop_assert!(cuts(&ends) <= want + 1e-12);
    }
}
