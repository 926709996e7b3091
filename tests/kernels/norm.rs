use super::{Bench, all_facts};
use etalon::kernel::norm::{Norm, Rows, norm};
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
