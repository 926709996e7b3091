use super::{Bench, all_facts};
use etalon::kernel::dots::row_dots;

#[test]
fn products_of_rows_match_the_twin() {
    for (_, facts) in all_facts() {
        for (i, (rows, cols)) in [(1, 1), (3, 65), (7, 576), (96, 96), (2, 2053), (0, 5)].into_iter().enumerate() {
            for accumulate in [false, true] {
                let mut t = Bench::new(&facts, i as u64);
                let (a, b) = if cols % 4 == 0 {
                    (t.random_dense("a", rows, cols), t.random_dense("b", rows, cols))
                } else {
                    (t.random("a", rows, cols), t.random("b", rows, cols))
                };
                let y = if accumulate { t.random_dense("y", 1, rows.max(1)) } else { t.poisoned("y", 1, rows.max(1)) };
                let y = y.slice_cols(0..rows);
                row_dots(&mut t.builder, "dots", &a, &b, &y, accumulate).unwrap();
                t.verify(&y);
            }
        }
    }
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let (_, facts) = all_facts().remove(0);
    let mut t = Bench::new(&facts, 0);
    let (a, b, y) = (t.random("a", 3, 5), t.random("b", 3, 4), t.poisoned("y", 1, 3));
    assert!(row_dots(&mut t.builder, "dots", &a, &b, &y, false).is_err());
    assert!(row_dots(&mut t.builder, "dots", &a, &a, &y.slice_cols(0..2), false).is_err());
}
