use super::{Bench, all_facts};
use etalon::kernel::add::{accumulate, add};

#[test]
fn sums_match_the_twin() {
    for (_, facts) in all_facts() {
        for (rows, cols) in [(1, 1), (3, 65), (5, 576), (7, 260), (0, 4), (2, 0), (1, 9001), (600, 577), (300, 1024)] {
            let mut t = Bench::new(&facts, rows as u64);
            // Whole vectors where rows are multiples of 4.
            let mut random = |label| if cols % 4 == 0 { t.random_dense(label, rows, cols) } else { t.random(label, rows, cols) };
            let (x, y) = (random("x"), random("y"));
            let z = t.poisoned("z", rows, cols);
            add(&mut t.builder, "add", &x, &y, &z).unwrap();
            add(&mut t.builder, "twice", &z, &z, &y).unwrap();
            accumulate(&mut t.builder, "accumulate", &x, &y).unwrap();
            accumulate(&mut t.builder, "without gaps", &y, &z).unwrap();
            t.verify(&z);
        }
    }
}

#[test]
fn operands_that_do_not_fit_are_errors() {
    let mut t = Bench::new(&all_facts()[0].1, 0);
    let (x, y) = (t.random("x", 2, 4), t.random("y", 4, 2));
    assert!(add(&mut t.builder, "add", &x, &x, &y).is_err());
    assert!(accumulate(&mut t.builder, "add", &x, &y).is_err());
    assert!(accumulate(&mut t.builder, "add", &x, &x).is_err(), "one slot, twice");
}
