use super::{Bench, all_facts};
use etalon::kernel::norm::{Norm, NormGradient, Rows, norm, norm_backward, norm_saving};
use etalon::kernel::state::State;

#[test]
fn both_norms_match_the_twin() {
    for (_, facts) in all_facts() {
        for (i, (rows, cols)) in [(1, 1), (3, 65), (7, 576), (2, 577), (1, 2053), (2, 2052), (5, 4), (600, 577)].into_iter().enumerate() {
            for rms in [false, true] {
                let mut t = Bench::new(&facts, i as u64);
                // Whole vectors where rows are multiples of 4.
                let x = if cols % 4 == 0 { t.random_dense("x", rows, cols) } else { t.random("x", rows, cols) };
                let y = t.poisoned("y", rows, cols);
                let (gain, bias) = (t.random_values(cols), t.random_values(cols));
                let (gain, bias) = (t.floats("gain", &gain), t.floats("bias", &bias));
                let n = Norm { gain, bias: (!rms).then_some(bias), rms, eps: 1e-5 };
                norm(&mut t.builder, "norm", &x, &y, &n, Rows::All).unwrap();
                t.verify(&y);
            }
        }
    }
}

#[test]
fn the_last_valid_row_of_each_sequence_is_taken() {
    for (_, facts) in all_facts() {
        let mut t = Bench::new(&facts, 9);
        let x = t.random("x", 3 * 5, 64);
        let y = t.poisoned("y", 3, 64);
        let gain = t.floats("gain", &[1.0; 64]);
        let states: Vec<u32> = [5, 1, 3].iter().flat_map(|c| State { count: *c, ..State::default() }.words()).collect();
        let state = t.words("state", &states);
        let n = Norm { gain, bias: None, rms: true, eps: 1e-5 };
        norm(&mut t.builder, "last", &x, &y, &n, Rows::LastOf { state, sequence_rows: 5 }).unwrap();
        t.verify(&y);
    }
}

#[test]
fn gradients_and_what_is_saved_for_them_match_the_twins() {
    for (_, facts) in all_facts() {
        let sizes = [(1, 1), (3, 65), (7, 576), (2, 577), (1, 2053), (2, 2052), (5, 4), (0, 8), (600, 577)];
        for (i, (rows, cols)) in sizes.into_iter().enumerate() {
            for rms in [false, true] {
                let mut t = Bench::new(&facts, i as u64);
                let mut random = |label| if cols % 4 == 0 { t.random_dense(label, rows, cols) } else { t.random(label, rows, cols) };
                let (x, dy) = (random("x"), random("dy"));
                let (y, dx, saved) = (t.poisoned("y", rows, cols), t.random_dense("dx", rows, cols), t.random("saved", rows, 2));
                let (gain, bias) = (t.random_values(cols), t.random_values(cols));
                let (gain, bias) = (t.floats("gain", &gain), t.floats("bias", &bias));
                // The gradient of a row without a direction is that of eps alone: what is left where nearly all cancels.
                let eps = if cols < 8 { 0.1 } else { 1e-5 };
                let n = Norm { gain, bias: (!rms).then_some(bias), rms, eps };
                norm_saving(&mut t.builder, "norm", &x, &y, &n, &saved).unwrap();
                let mut p = NormGradient { x: &x, dy: &dy, saved: &saved, n: &n, dx: &dx, accumulate: i % 2 == 0 };
                norm_backward(&mut t.builder, "backward", &p).unwrap();
                (p.accumulate, p.dx) = (!p.accumulate, &y);
                norm_backward(&mut t.builder, "backward of the other kind", &p).unwrap();
                t.verify(&dx);
            }
        }
    }
}

#[test]
fn operands_that_do_not_fit_are_errors() {
    let mut t = Bench::new(&all_facts()[0].1, 0);
    let (x, y, saved, gain) = (t.random("x", 3, 8), t.poisoned("y", 3, 8), t.random("saved", 3, 2), t.floats("gain", &[1.0; 8]));
    let n = Norm { gain, bias: None, rms: true, eps: 1e-5 };
    assert!(norm_saving(&mut t.builder, "norm", &x, &y, &n, &saved.slice_rows(0..2)).is_err());
    assert!(norm_saving(&mut t.builder, "norm", &x, &y, &n, &x).is_err());
    let p = NormGradient { x: &x, dy: &x, saved: &saved, n: &n, dx: &y, accumulate: false };
    assert!(norm_backward(&mut t.builder, "norm", &NormGradient { dx: &x, ..p }).is_err(), "in place");
    assert!(norm_backward(&mut t.builder, "norm", &NormGradient { dy: &y.slice_rows(1..3), ..p }).is_err());
    assert!(norm_backward(&mut t.builder, "norm", &NormGradient { saved: &x, ..p }).is_err());
}
