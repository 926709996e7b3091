use super::{Bench, all_facts};
use etalon::kernel::gate::gate;
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
