use super::{Bench, all_facts};
use etalon::kernel::fill::{fill, zero};
use etalon::tensor::Tensor;

#[test]
fn every_element_and_nothing_else_is_written() {
    for (_, facts) in all_facts() {
        for (rows, cols) in [(1, 1), (3, 65), (7, 576), (5, 577), (1, 1023), (2, 1024), (1, 1025), (700, 577), (700, 576), (0, 4)] {
            for value in [0.0, -1.5] {
                for dense in [true, false] {
                    let mut t = Bench::new(&facts, 1);
                    let y = if dense { t.poisoned("y", rows, cols) } else { t.random("y", rows, cols) };
                    fill(&mut t.builder, "fill", &y, value).unwrap();
                    assert!(t.verify(&y).iter().all(|v| v.to_bits() == value.to_bits()));
                }
            }
        }
    }
}

#[test]
fn a_part_of_the_columns_is_cleared() {
    for (offset, cols) in [(4, 8), (5, 8), (4, 7)] {
        let mut t = Bench::new(&all_facts()[0].1, 1);
        let all = t.random_dense("y", 9, 32);
        let part = Tensor { offset, cols, ..all };
        zero(&mut t.builder, "zero", &part).unwrap();
        assert!(t.verify(&part).iter().all(|v| *v == 0.0));
    }
    let mut t = Bench::new(&all_facts()[0].1, 1);
    let overlapping = Tensor { stride: 5, ..t.poisoned("y", 3, 6) };
    zero(&mut t.builder, "zero", &overlapping).unwrap_err();
}
