use super::{Bench, all_facts};
use etalon::kernel::rope::{Angles, Pairing};
use etalon::kernel::turn::turn;
use etalon::tensor::Tensor;

fn angles(t: &mut Bench, positions: usize, d: usize) -> Angles {
    let table: Vec<f32> = (0..positions * d / 2).flat_map(|i| [(i as f32).cos(), (i as f32).sin()]).collect();
    Angles { slot: t.floats("angles", &table), positions }
}

#[test]
fn rotations_match_the_twin_and_turn_back() {
    for (_, facts) in all_facts() {
        for pairing in [Pairing::Half, Pairing::Interleaved] {
            for (d, heads, rows, sequence) in
                [(2, 1, 1, 1), (64, 3, 9, 3), (16, 9, 8, 5), (20, 2, 7, 64), (80, 1, 6, 6), (64, 9, 500, 130), (64, 2, 0, 4), (8, 0, 3, 3)]
            {
                let mut t = Bench::new(&facts, d as u64);
                let cols = d * heads;
                // Aligned for vectors, but for one of the sizes.
                let x = if d == 16 { t.random("x", rows, cols) } else { t.random_dense("x", rows, cols) };
                let (y, z) = (t.poisoned("y", rows, cols), t.poisoned("z", rows, cols));
                // More positions than a sequence has rows, unless it is longer than x.
                let angles = angles(&mut t, sequence.min(rows + 2), d);
                turn(&mut t.builder, "turn", &x, &y, &angles, d, sequence, pairing, false).unwrap();
                turn(&mut t.builder, "back", &y, &z, &angles, d, sequence, pairing, true).unwrap();
                let buffer = t.bound[0].1.clone();
                let words = t.context.block_on(t.context.read_ranges(&[(&buffer, 0..buffer.size())]).unwrap().words()).unwrap().remove(0);
                let got = t.verify(&z);
                for (i, v) in got.iter().enumerate() {
                    let want = f32::from_bits(words[x.offset + i / cols * x.stride + i % cols]);
                    assert!((v - want).abs() <= 1e-6, "{pairing:?} {i}: {v} where {want} is expected");
                }
            }
        }
    }
}

#[test]
fn operands_that_do_not_fit_are_errors() {
    let mut t = Bench::new(&all_facts()[0].1, 0);
    let (x, y) = (t.random("x", 6, 12), t.poisoned("y", 6, 12));
    let angles = angles(&mut t, 3, 4);
    let mut fails = |y: &Tensor, d, sequence, pairing| turn(&mut t.builder, "turn", &x, y, &angles, d, sequence, pairing, false).is_err();
    assert!(!fails(&y, 4, 3, Pairing::Half));
    assert!(fails(&y.slice_rows(0..5), 4, 3, Pairing::Half));
    assert!(fails(&x, 4, 3, Pairing::Half), "in place");
    assert!(fails(&y, 8, 3, Pairing::Half) && fails(&y, 3, 3, Pairing::Half) && fails(&y, 0, 3, Pairing::Half));
    assert!(fails(&y, 4, 4, Pairing::Half) && fails(&y, 4, 0, Pairing::Half) && fails(&y, 4, 3, Pairing::None));
}
