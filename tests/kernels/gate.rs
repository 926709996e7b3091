use super::{Bench, all_facts};
use etalon::kernel::gate::{gate, gate_backward};
use etalon::kernel::linear::Activation;

#[test]
fn gates_match_the_twin() {
    for (_, facts) in all_facts() {
        for (rows, cols) in [(1, 1), (3, 65), (5, 1536), (2, 4), (7, 260), (1000, 577)] {
            let mut t = Bench::new(&facts, rows as u64);
            // Whole vectors where rows are multiples of 4.
            let (g, u) = if cols % 4 == 0 {
                (t.random_dense("g", rows, cols), t.random_dense("u", rows, cols))
            } else {
                (t.random("g", rows, cols), t.random("u", rows, cols))
            };
            let y = t.poisoned("y", rows, cols);
            gate(&mut t.builder, "gate", Activation::Silu, &g, &u, &y).unwrap();
            t.verify(&y);
        }
    }
}

#[test]
fn gradients_match_the_twin() {
    const ALL: [Activation; 6] =
        [Activation::None, Activation::Relu, Activation::GeluErf, Activation::GeluTanh, Activation::Silu, Activation::Tanh];
    for (_, facts) in all_facts() {
        for (i, (rows, cols)) in [(1, 1), (3, 65), (5, 1536), (7, 260), (0, 4), (1000, 577)].into_iter().enumerate() {
            for stacked in [false, true] {
                for act in if cols == 260 { &ALL[..] } else { &ALL[i % 6..][..1] } {
                    let mut t = Bench::new(&facts, rows as u64);
                    let mut random = |label| if cols % 4 == 0 { t.random_dense(label, rows, cols) } else { t.random(label, rows, cols) };
                    let (g, u, dy) = (random("g"), random("u"), random("dy"));
                    let both = t.poisoned("dg du", rows, 2 * cols);
                    // The gate's half second, as it may be.
                    let (dg, du) = if stacked {
                        (both.slice_cols(cols..2 * cols), both.slice_cols(0..cols))
                    } else {
                        (t.poisoned("dg", rows, cols), t.poisoned("du", rows, cols))
                    };
                    gate_backward(&mut t.builder, "gate", *act, &g, &u, &dy, &dg, &du).unwrap();
                    t.verify(&du);
                }
            }
        }
    }
}

#[test]
fn outputs_that_overlap_are_errors() {
    let mut t = Bench::new(&all_facts()[0].1, 0);
    let (g, both) = (t.random("g", 3, 8), t.poisoned("both", 3, 15));
    let (dg, du) = (both.slice_cols(0..8), both.slice_cols(7..15));
    assert!(gate_backward(&mut t.builder, "gate", Activation::Silu, &g, &g, &g, &dg, &du).is_err());
    assert!(gate_backward(&mut t.builder, "gate", Activation::Silu, &g, &g, &g, &dg, &dg).is_err());
}
