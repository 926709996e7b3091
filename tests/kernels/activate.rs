use super::{Bench, all_facts};
use etalon::kernel::activate::{activate, activate_backward};
use etalon::kernel::linear::Activation;
use etalon::tensor::Tensor;

const ALL: [Activation; 6] =
    [Activation::None, Activation::Relu, Activation::GeluErf, Activation::GeluTanh, Activation::Silu, Activation::Tanh];

fn pair(t: &mut Bench, rows: usize, cols: usize) -> (Tensor, Tensor) {
    // Whole vectors where rows are multiples of 4.
    if cols.is_multiple_of(4) {
        (t.random_dense("x", rows, cols), t.random_dense("dy", rows, cols))
    } else {
        (t.random("x", rows, cols), t.random("dy", rows, cols))
    }
}

#[test]
fn activations_and_their_gradients_match_the_twins() {
    for (_, facts) in all_facts() {
        for (i, (rows, cols)) in [(1, 1), (3, 65), (5, 1536), (7, 260), (0, 8), (3, 0), (600, 577)].into_iter().enumerate() {
            // All of them at one size.
            for act in if cols == 260 { &ALL[..] } else { &ALL[i % 6..][..1] } {
                let mut t = Bench::new(&facts, rows as u64);
                let (x, dy) = pair(&mut t, rows, cols);
                let (y, dx) = (t.poisoned("y", rows, cols), t.poisoned("dx", rows, cols));
                activate(&mut t.builder, "forward", *act, &x, &y).unwrap();
                activate_backward(&mut t.builder, "backward", *act, &x, &dy, &dx).unwrap();
                t.verify(&dx);
            }
        }
    }
}

/// Far from 0, where derivatives vanish and exponentials overflow.
#[test]
fn gradients_of_large_numbers_are_right_to_their_last_digits() {
    for (_, facts) in all_facts() {
        for act in ALL {
            let mut t = Bench::new(&facts, 0);
            let values: Vec<f32> = (-60..=60).map(|i| i as f32 / 5.0).chain([-1e30, -1000.0, -88.0, 0.0, 88.0, 1000.0, 1e30]).collect();
            let n = values.len();
            let x = Tensor { slot: t.floats("x", &values), offset: 0, rows: 1, cols: n, stride: n };
            let dy = Tensor { slot: t.floats("dy", &vec![1.0; n]), ..x };
            let dx = t.poisoned("dx", 1, n);
            activate_backward(&mut t.builder, "backward", act, &x, &dy, &dx).unwrap();
            let got = t.verify(&dx);
            let (smallest, largest) = (got[121], got[n - 1]);
            assert_eq!(largest, if act == Activation::Tanh { 0.0 } else { 1.0 }, "{act:?}");
            assert_eq!(smallest, if act == Activation::None { 1.0 } else { 0.0 }, "{act:?}");
        }
    }
}

#[test]
fn operands_of_other_shapes_are_errors() {
    let mut t = Bench::new(&all_facts()[0].1, 0);
    let (x, dy) = pair(&mut t, 2, 4);
    let y = t.poisoned("y", 2, 5);
    assert!(activate(&mut t.builder, "a", Activation::Silu, &x, &y).is_err());
    assert!(activate_backward(&mut t.builder, "a", Activation::Silu, &x, &dy, &y).is_err());
    assert!(activate_backward(&mut t.builder, "a", Activation::Silu, &x, &dy, &x).is_err());
}
