use super::{Bench, all_facts};
use etalon::kernel::roof::{copy, fma};

#[test]
fn copies_match_the_twin() {
    for (_, facts) in all_facts() {
        // The last one exceeds a binding of 1 MiB.
        for (rows, cols) in [(1, 4), (3, 68), (5, 1024), (300, 1028)] {
            let mut t = Bench::new(&facts, cols as u64);
            let (x, y) = (t.random_dense("x", rows, cols), t.poisoned("y", rows, cols));
            copy(&mut t.builder, "copy", &x, &y).unwrap();
            t.verify(&y);
        }
    }
}

#[test]
fn chains_of_multiply_adds_match_the_twin() {
    for (_, facts) in all_facts() {
        for (n, rounds) in [(1, 1), (255, 0), (257, 2), (5000, 1)] {
            let mut t = Bench::new(&facts, n as u64);
            let y = t.poisoned("y", 1, n);
            fma(&mut t.builder, "fma", &y, rounds, -0.97, 0.3).unwrap();
            t.verify(&y);
        }
    }
}

#[test]
fn what_is_not_whole_vectors_is_refused() {
    let mut t = Bench::new(&all_facts()[0].1, 1);
    let (x, y) = (t.random_dense("x", 2, 6), t.poisoned("y", 2, 6));
    assert!(copy(&mut t.builder, "copy", &x, &y).unwrap_err().to_string().contains("whole vectors"));
    assert!(fma(&mut t.builder, "fma", &y, 1, 0.5, 0.5).is_err());
}
