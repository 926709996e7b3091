use super::thaw::{list, packed};
use super::{Bench, all_facts};
use etalon::Facts;
use etalon::kernel::freeze::{Dither, freeze};
use etalon::kernel::progress::Progress;
use etalon::kernel::thaw::{Rows, thaw};
use etalon::tensor::{PackedRows, Packing, Tensor};
use rand::RngExt;

const HERE: Progress =
    Progress { step: 41, micro: 0, draws: 0, fault: 0, seed: 0x1234_5678_9abc_def0, norm: 0.0, clip: 0.0, loss: 0.0, bad_loss: false };
const BOTH: [Packing; 2] = [Packing::F16, Packing::Int8];

/// Numbers of very different sizes, so that some are halves below 2^-14, and some none at all.
fn rough(t: &mut Bench, rows: usize, cols: usize, dense: bool) -> Tensor {
    let stride = if dense { cols } else { cols + 1 };
    let value = |t: &mut Bench| t.rng.random_range(-1.0f32..1.0) * 2f32.powi(t.rng.random_range(-36..3));
    let values: Vec<f32> = (0..4 + rows * stride).map(|_| value(t)).collect();
    Tensor { slot: t.floats("x", &values), offset: if dense { 4 } else { 3 }, rows, cols, stride }
}

#[test]
fn all_and_listed_rows_match_the_twin() {
    for (_, facts) in all_facts() {
        for (i, (k, n, r)) in
            [(1, 1, 1), (5, 65, 2), (64, 576, 63), (33, 577, 33), (3, 4, 1), (300, 768, 64), (600, 577, 17)].into_iter().enumerate()
        {
            for packing in BOTH {
                for (listed, dithered) in [(false, false), (true, false), (false, true), (true, true)] {
                    let mut t = Bench::new(&facts, (n * r) as u64);
                    let x = rough(&mut t, if listed { r } else { k }, n, i % 2 == 1);
                    let y = packed(&mut t, packing, k, n);
                    let mut chosen = list(&mut t, k, r);
                    if chosen[2 + r] as usize == k - 1 {
                        chosen[2 + r] = 77_777; // counts as the last
                    }
                    let slot = t.words("indices", &chosen);
                    let dither = dithered.then(|| Dither { progress: t.words("progress", &HERE.words()), stream: 9 });
                    freeze(&mut t.builder, "freeze", &x, &y, listed.then_some((slot, 3)), dither).unwrap();
                    t.verify(&x);
                }
            }
        }
    }
}

/// Freezes and thaws rows, any number of times over.
fn there_and_back(facts: &Facts, packing: Packing, rows: &[Vec<f32>], dither: Option<Progress>, times: usize) -> Vec<f32> {
    let mut t = Bench::new(facts, 0);
    let (k, n) = (rows.len(), rows[0].len());
    let x = Tensor { slot: t.floats("x", &rows.concat()), offset: 0, rows: k, cols: n, stride: n };
    let y = PackedRows { slot: t.words("packed", &vec![7; k * packing.row_words(n)]), offset: 0, rows: k, cols: n, packing };
    let dither = dither.map(|at| Dither { progress: t.words("progress", &at.words()), stream: 1 });
    for _ in 0..times {
        freeze(&mut t.builder, "freeze", &x, &y, None, dither).unwrap();
        thaw(&mut t.builder, "thaw", &y, &Rows::All, &x).unwrap();
    }
    t.verify(&x)
}

#[test]
fn what_was_thawed_freezes_to_the_same_bits() {
    let facts = &all_facts()[0].1;
    let mut t = Bench::new(facts, 5);
    let rows: Vec<Vec<f32>> = (0..300).map(|i| t.random_values(131).iter().map(|v| v * 1.1f32.powi(i - 200)).collect()).collect();
    for packing in BOTH {
        for dither in [None, Some(HERE)] {
            let once = there_and_back(facts, packing, &rows, dither, 1);
            assert_eq!(once, there_and_back(facts, packing, &rows, dither, 3));
            assert_ne!(once, rows.concat());
        }
    }
}

#[test]
fn errors_are_those_of_the_last_place() {
    let facts = &all_facts()[0].1;
    let mut t = Bench::new(facts, 6);
    let rows: Vec<Vec<f32>> = (0..40).map(|_| t.random_values(576)).collect();
    for (dither, places) in [(None, 0.5), (Some(HERE), 1.0)] {
        for (packing, place) in BOTH.into_iter().zip([2f32.powi(-10), 1.0 / 127.0]) {
            let got = there_and_back(facts, packing, &rows, dither, 1);
            for (x, y) in rows.concat().iter().zip(&got) {
                // A half's last place is that of its size, from 2^-14 on; a code's that of its row, here below 1. Its scale is off by
                // up to 2^-16, of 127.
                let size = if packing == Packing::F16 { x.abs().max(2f32.powi(-14)) } else { 1.0 };
                assert!((x - y).abs() <= places * place * size * 1.0001 + 2e-5 * size * places, "{packing:?} {x} to {y}");
            }
        }
    }
}

/// Over many steps the mean is the value; what nearest rounding loses every time.
#[test]
fn dithered_rounding_keeps_the_mean() {
    let facts = &all_facts()[0].1;
    // In units of a code, or of the last place of halves in 1..2: what should be added to a whole number.
    let parts = [0.0, 0.1, 0.25, 0.5, 0.9];
    for (packing, place, base) in [(Packing::F16, 2f32.powi(-10), 1.0), (Packing::Int8, 1.0 / 128.0, 0.25)] {
        let mut row: Vec<f32> = (0..20_000).map(|i| base + place * parts[i % 5]).collect();
        row[0] = 127.0 / 128.0; // makes a scale of 1 / 128
        let got = there_and_back(facts, packing, &[row], Some(HERE), 1);
        for (i, part) in parts.iter().enumerate() {
            let of_part: Vec<f32> = got.iter().skip(i + 5).step_by(5).copied().collect();
            let n = of_part.len() as f64;
            let mean = of_part.iter().map(|v| f64::from((v - base) / place)).sum::<f64>() / n;
            // Five standard deviations, and 2^-12 for the dither's grain.
            let part = f64::from(*part);
            let allowed = 5.0 * (part * (1.0 - part) / n).sqrt() + 2.5e-4;
            assert!((mean - part).abs() <= allowed, "{packing:?}: mean {mean} for {part}");
        }
        let other = there_and_back(facts, packing, std::slice::from_ref(&got), Some(Progress { step: 42, ..HERE }), 1);
        assert_eq!(got, other, "another step moves what is frozen already");
    }
}

#[test]
fn numbers_at_the_edges() {
    let facts = &all_facts()[0].1;
    let inf = f32::INFINITY;
    let row =
        vec![65_504.0, 65_519.9, 65_520.0, 1e30, -inf, f32::NAN, 0.0, -0.0, 6e-8, 2.9e-8, 1.0 + 2f32.powi(-11), 1.0 + 3.0 * 2f32.powi(-11)];
    let want = [65_504.0, 65_504.0, 65_504.0, 65_504.0, -65_504.0, 65_504.0, 0.0, -0.0, 2f32.powi(-24), 0.0, 1.0, 1.0 + 2f32.powi(-9)];
    assert_eq!(there_and_back(facts, Packing::F16, &[row], None, 1), want);
    let rows = [vec![0.0; 5], vec![9e-31, -9e-31, 0.0, 0.0, 0.0], vec![1e-29, -1e-29, 5e-30, 0.0, 1e-32], vec![1e38, -1e38, 1.0, 0.0, 0.0]];
    let got = there_and_back(facts, Packing::Int8, &rows, None, 1);
    assert_eq!(got[..10], [0.0; 10]);
    for (x, y) in rows[2..].concat().iter().zip(&got[10..]) {
        assert!((x - y).abs() <= if x.abs() < 1.0 { 4e-32 } else { 4e35 }, "{x} to {y}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut t = Bench::new(&all_facts()[2].1, 1);
    let y = packed(&mut t, Packing::Int8, 4, 8);
    let (few, wide, many) = (t.random("few", 3, 8), t.random("wide", 4, 9), t.random("many", 5, 8));
    let slot = t.words("indices", &[0; 64]);
    freeze(&mut t.builder, "rows", &few, &y, None, None).unwrap_err();
    freeze(&mut t.builder, "cols", &wide, &y, None, None).unwrap_err();
    freeze(&mut t.builder, "many", &many, &y, Some((slot, 0)), None).unwrap_err();
    assert!(freeze(&mut t.builder, "list", &few, &y, Some((slot, 62)), None).unwrap_err().to_string().contains("indices"));
    let huge = PackedRows { rows: 1 << 20, cols: 1 << 14, ..y };
    freeze(&mut t.builder, "huge", &few.slice_rows(0..0), &huge, Some((slot, 0)), None).unwrap_err();
}
