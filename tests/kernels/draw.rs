use super::{Bench, all_facts};
use etalon::Facts;
use etalon::kernel::draw::{Draw, Law, Layer, bitmap_words, draw, draw_layers, draw_table};
use etalon::kernel::progress::Progress;
use etalon::reference::draw::{keys, probabilities, smallest};
use etalon::tensor::Tensor;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const RUN: Progress =
    Progress { step: 4, micro: 0, draws: 5, fault: 0, seed: 0x1234_5678_9abc_def0, norm: 0.0, clip: 1.0, loss: 0.0, bad_loss: false };

/// Layers one behind another, with gaps.
fn layers(shapes: &[(usize, usize)]) -> Vec<Layer> {
    let (mut sigma, mut indices) = (5, 2);
    let place = |&(k, r): &(usize, usize)| {
        let l = Layer { sigma, k, r, indices };
        (sigma, indices) = (sigma + k + 1, indices + r + 3);
        l
    };
    shapes.iter().map(place).collect()
}

/// What is drawn for each layer, after the comparison with the twin.
fn drawn(facts: &Facts, values: &[f32], layers: &[Layer], law: Law, before: &Progress, round: Option<(&[u32], usize)>) -> Vec<Vec<u32>> {
    let mut t = Bench::new(facts, 1);
    let values = t.floats("values", values);
    let words = layers.iter().map(|l| l.indices + l.r).max().unwrap();
    let indices = t.poisoned("indices", 1, words);
    let table = t.words("table", &draw_table(layers));
    let progress = t.words("progress", &before.words());
    match round {
        None => draw(&mut t.builder, "draw", values, indices.slot, table, layers, progress, law).unwrap(),
        Some((bits, draws)) => {
            let round = Some((t.words("used", bits), draws));
            let d = Draw { values, indices: indices.slot, table, progress, law, round };
            draw_layers(&mut t.builder, "draw", layers, &d).unwrap();
        }
    }
    let got = t.verify(&indices);
    layers.iter().map(|l| got[l.indices..l.indices + l.r].iter().map(|v| v.to_bits()).collect()).collect()
}

#[test]
fn every_law_matches_the_twin() {
    let sizes = [1usize, 2, 3, 31, 32, 33, 64, 255, 256, 257, 577, 1000, 8192];
    let shapes: Vec<_> = sizes.iter().flat_map(|k| [(*k, 1), (*k, k.div_ceil(3)), (*k, *k)]).collect();
    let all = layers(&shapes);
    for (_, facts) in all_facts() {
        for law in Law::ALL {
            let mut t = Bench::new(&facts, 3);
            let mut values: Vec<f32> = t.random_values(40_000).iter().map(|v| v.abs() + 0.01).collect();
            // What counts as 0, and equal values.
            for (i, v) in values.iter_mut().enumerate().skip(400) {
                *v = match i % 13 {
                    0 => [-1.0, f32::NAN, f32::INFINITY, 1e-40, 0.0, f32::NEG_INFINITY][i / 13 % 6],
                    1..4 => 0.5,
                    _ => *v,
                };
            }
            let marks: Vec<u32> = (0..bitmap_words(&all)).map(|_| t.rng.random()).collect();
            for round in [None, Some((&marks[..], 4)), Some((&marks[..], 5))] {
                let got = drawn(&facts, &values, &all, law, &RUN, round);
                for (l, indices) in all.iter().zip(got) {
                    assert!(indices.windows(2).all(|w| w[0] < w[1]) && indices.iter().all(|i| (*i as usize) < l.k), "{indices:?}");
                }
            }
        }
    }
}

#[test]
fn values_further_apart_than_a_binding_are_read() {
    let facts = &all_facts()[2].1;
    let mut all = layers(&[(60, 7), (80, 80), (3, 1)]);
    (all[1].sigma, all[2].sigma) = (300_000, 599_990);
    let values: Vec<f32> = Bench::new(facts, 3).random_values(600_000).iter().map(|v| v.abs()).collect();
    for law in Law::ALL {
        drawn(facts, &values, &all, law, &RUN, None);
    }
}

/// Layers that all have these singular values.
fn same(sigma: &[f32], r: usize, n: usize) -> Vec<Layer> {
    (0..n).map(|i| Layer { sigma: 0, k: sigma.len(), r, indices: i * r }).collect()
}

/// Panics where counts are not those of the probabilities: chi-square more than 5 deviations above its mean.
fn chi_square(counts: &[usize], p: &[f64], what: &str) {
    let n = counts.iter().sum::<usize>() as f64;
    assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-9);
    let statistic: f64 = counts.iter().zip(p).map(|(c, p)| (*c as f64 - n * p).powi(2) / (n * p)).sum();
    let freedom = (p.len() - 1) as f64;
    let limit = freedom + 5.0 * (2.0 * freedom).sqrt();
    assert!(statistic < limit, "{what}: chi-square {statistic:.1}, at most {limit:.1}: {counts:?}");
}

const SIGMA: [f32; 9] = [5.0, 0.1, 1.0, 1.0, 3.0, 0.5, 8.0, 2.0, 0.25];
const MANY: usize = 4000;

fn own() -> Facts {
    all_facts().remove(0).1
}

#[test]
fn first_draws_have_the_probabilities_of_the_law() {
    for law in [Law::Mixture, Law::Uniform, Law::Sigma] {
        let mut counts = [0; SIGMA.len()];
        for draws in 0..3 {
            let got = drawn(&own(), &SIGMA, &same(&SIGMA, 1, MANY), law, &Progress { draws, ..RUN }, None);
            got.iter().for_each(|d| counts[d[0] as usize] += 1);
        }
        chi_square(&counts, &probabilities(&SIGMA, law), &format!("{law:?}"));
    }
    let flat = drawn(&own(), &[0.0; 7], &same(&[0.0; 7], 1, MANY), Law::Mixture, &RUN, None);
    let counts: Vec<usize> = (0..7).map(|i| flat.iter().filter(|d| d[0] == i).count()).collect();
    chi_square(&counts, &[1.0 / 7.0; 7], "no singular value at all");
}

#[test]
fn pairs_have_the_probabilities_of_two_draws_in_turn() {
    let p = probabilities(&SIGMA, Law::Mixture);
    let pairs: Vec<(usize, usize)> = (0..9).flat_map(|i| (0..9).filter(move |j| *j != i).map(move |j| (i, j))).collect();
    let in_turn = |i: usize, j: usize| p[i] * p[j] / (1.0 - p[i]);
    let mut ordered = vec![0; pairs.len()];
    for layer in 0..200_000 {
        let k = keys(&p, &RUN, layer);
        let mut order: Vec<usize> = (0..9).collect();
        order.sort_by(|a, b| k[*a].total_cmp(&k[*b]));
        ordered[pairs.iter().position(|q| *q == (order[0], order[1])).unwrap()] += 1;
    }
    chi_square(&ordered, &pairs.iter().map(|(i, j)| in_turn(*i, *j)).collect::<Vec<_>>(), "ordered pairs of the twin");
    let unordered: Vec<_> = pairs.into_iter().filter(|(i, j)| i < j).collect();
    let mut counts = vec![0; unordered.len()];
    for draws in 0..3 {
        for d in drawn(&own(), &SIGMA, &same(&SIGMA, 2, MANY), Law::Mixture, &Progress { draws, ..RUN }, None) {
            counts[unordered.iter().position(|q| *q == (d[0] as usize, d[1] as usize)).unwrap()] += 1;
        }
    }
    let want: Vec<f64> = unordered.iter().map(|(i, j)| in_turn(*i, *j) + in_turn(*j, *i)).collect();
    chi_square(&counts, &want, "pairs of the device");
}

#[test]
fn larger_samples_hold_each_index_as_often_as_draws_in_turn() {
    let (p, r, simulated) = (probabilities(&SIGMA, Law::Mixture), 4, 100_000);
    let mut rng = StdRng::seed_from_u64(1);
    let mut want = [0.0; SIGMA.len()];
    for _ in 0..simulated {
        let mut left = p.clone();
        for _ in 0..r {
            let mut u = rng.random_range(0.0..left.iter().sum::<f64>());
            let i = left
                .iter()
                .position(|q| {
                    u -= q;
                    u < 0.0
                })
                .unwrap_or(0);
            left[i] = 0.0;
            want[i] += 1.0 / f64::from(simulated);
        }
    }
    let got = drawn(&own(), &SIGMA, &same(&SIGMA, r, MANY), Law::Mixture, &RUN, None);
    for (i, w) in want.iter().enumerate() {
        let share = got.iter().filter(|d| d.contains(&(i as u32))).count() as f64 / MANY as f64;
        let deviation = (w * (1.0 - w) / MANY as f64).sqrt();
        assert!((share - w).abs() < 5.0 * deviation, "index {i}: {share} of the samples, {w} expected");
    }
}

#[test]
fn zeros_come_last_and_fixed_laws_are_fixed() {
    let sigma = [0.0, 2.0, -1.0, 0.0, 7.0, f32::NAN, 0.5, 7.0, 0.0, 0.0];
    let one = |law, r, draws| drawn(&own(), &sigma, &same(&sigma, r, 1), law, &Progress { draws, ..RUN }, None).remove(0);
    assert_eq!(one(Law::Sigma, 4, 9), [1, 4, 6, 7]);
    assert_eq!(one(Law::Sigma, 6, 9), [0, 1, 2, 4, 6, 7]);
    assert_eq!(one(Law::Top, 1, 9), [4]);
    assert_eq!(one(Law::Top, 5, 9), [0, 1, 4, 6, 7]);
    assert_eq!(one(Law::Sequential, 3, 7), [1, 2, 3]);
    assert_eq!(one(Law::Sequential, 4, 2), [0, 1, 8, 9]);
    for law in Law::ALL {
        assert_eq!(one(law, 10, 3), (0..10).collect::<Vec<_>>());
    }
    assert_eq!(smallest(&[3, 1, 3, 0, 3], 3), [0, 1, 3]);
}

#[test]
fn a_round_leaves_no_index_out() {
    for (_, facts) in all_facts() {
        let mut t = Bench::new(&facts, 1);
        let all: Vec<Layer> = (0..5).map(|i| Layer { sigma: 0, k: 70, r: 20, indices: 20 * i }).collect();
        let values = t.floats("values", &(0..70).map(|i| 1.0 + (i * i) as f32).collect::<Vec<_>>());
        let table = t.words("table", &draw_table(&all));
        let progress = t.words("progress", &Progress { draws: 8, ..RUN }.words());
        let used = t.words("used", &vec![u32::MAX; bitmap_words(&all)]);
        let mut slots = Vec::new();
        for _ in 0..8 {
            let indices = t.poisoned("indices", 1, 100);
            let d = Draw { values, indices: indices.slot, table, progress, law: Law::Mixture, round: Some((used, 4)) };
            draw_layers(&mut t.builder, "draw", &all, &d).unwrap();
            slots.push(indices);
        }
        let (context, bound) = (t.context.clone(), t.bound.clone());
        t.verify(&slots[0]);
        let read = |t: &Tensor| {
            let buffer = &bound.iter().find(|b| b.0 == t.slot).unwrap().1;
            context.block_on(context.read_ranges(&[(buffer, 0..400)]).unwrap().words()).unwrap().remove(0)
        };
        let draws: Vec<Vec<u32>> = slots.iter().map(read).collect();
        for (round, l) in (0..2).flat_map(|round| all.iter().map(move |l| (round, l))) {
            let of = |n: usize| draws[4 * round + n][l.indices..l.indices + 20].to_vec();
            let mut three: Vec<u32> = (0..3).flat_map(of).collect();
            three.sort_unstable();
            three.dedup();
            assert_eq!(three.len(), 60, "nothing twice while there is something left");
            assert_eq!(of(3).iter().filter(|i| !three.contains(i)).count(), 10, "then all that is left");
        }
        assert_ne!(draws[0], draws[4]);
    }
}

#[test]
fn impossible_draws_are_refused() {
    let mut t = Bench::new(&all_facts()[0].1, 1);
    let slots = ["values", "indices", "table", "progress"].map(|l| t.words(l, &[0; 64]));
    let mut why = |layers: &[Layer]| {
        draw(&mut t.builder, "draw", slots[0], slots[1], slots[2], layers, slots[3], Law::Mixture).unwrap_err().to_string()
    };
    let l = Layer { sigma: 0, k: 8, r: 4, indices: 0 };
    assert!(why(&[Layer { r: 0, ..l }]).contains("0 of 8"));
    assert!(why(&[Layer { r: 9, ..l }]).contains("9 of 8"));
    assert!(why(&[Layer { k: 1 << 16, ..l }]).contains("65535"));
    assert!(why(&[l, Layer { indices: 3, ..l }]).contains("index 3"));
    assert!(why(&[Layer { sigma: 60, ..l }]).contains("values"));
    assert!(why(&[]).contains("0 layers"));
}
