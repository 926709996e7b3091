use super::{Bench, all_facts};
use etalon::kernel::embedding::Ids;
use etalon::kernel::fill::zero;
use etalon::kernel::scatter::scatter_add;
use etalon::kernel::state::State;
use etalon::tensor::Tensor;
use rand::RngExt;

/// Rows of the id that is skipped are added to nothing, wherever they stand among others.
#[test]
fn a_skipped_id_keeps_its_row() {
    for (_, facts) in all_facts() {
        for rows in [1, 6, 67] {
            let mut t = Bench::new(&facts, 9);
            let ids: Vec<u32> = (0..rows as u32).map(|r| r * r % 5).collect();
            let ids = Ids::Buffer(t.words("ids", &ids), 0);
            let dy = t.random_dense("dy", rows, 8);
            let dw = Tensor { slot: t.floats("dw", &[0.0; 40]), offset: 0, rows: 5, cols: 8, stride: 8 };
            scatter_add(&mut t.builder, "scatter", &ids, &dy, &dw, Some(1)).unwrap();
            let got = t.verify(&dw);
            assert!(got[8..16].iter().all(|v| *v == 0.0) && (rows == 1 || got[32..].iter().any(|v| *v != 0.0)), "{rows}");
        }
    }
}

#[test]
fn rows_are_added_by_their_ids() {
    let sizes = [(1, 1, 1), (3, 2, 65), (7, 3, 576), (130, 11, 63), (65, 100, 257), (64, 5, 4), (63, 1, 8), (1000, 40, 68), (0, 3, 4)];
    for (_, facts) in all_facts() {
        for (i, (rows, vocabulary, cols)) in sizes.into_iter().enumerate() {
            for dense in [true, false] {
                let mut t = Bench::new(&facts, i as u64);
                // Some ids are past the end.
                let ids: Vec<u32> = (0..rows + 5).map(|_| t.rng.random_range(0..vocabulary as u32 + 2)).collect();
                let ids = Ids::Buffer(t.words("ids", &ids), 5);
                let mut tensor = |name, rows| if dense { t.random_dense(name, rows, cols) } else { t.random(name, rows, cols) };
                let (dy, dw) = (tensor("dy", rows), tensor("dw", vocabulary));
                scatter_add(&mut t.builder, "scatter", &ids, &dy, &dw, None).unwrap();
                t.verify(&dw);
            }
        }
    }
}

#[test]
fn hostile_ids_take_the_last_row() {
    let mut t = Bench::new(&all_facts()[0].1, 1);
    let ids = Ids::Buffer(t.words("ids", &[u32::MAX, 2, 5, u32::MAX - 1]), 0);
    let (dy, dw) = (t.floats("dy", &[1.0, 2.0, 4.0, 8.0]), t.poisoned("dw", 3, 1));
    let dy = etalon::tensor::Tensor { slot: dy, offset: 0, rows: 4, cols: 1, stride: 1 };
    zero(&mut t.builder, "zero", &dw).unwrap();
    scatter_add(&mut t.builder, "scatter", &ids, &dy, &dw, None).unwrap();
    assert_eq!(t.verify(&dw), [0.0, 0.0, 15.0]);
}

#[test]
fn many_rows_and_large_tables_are_cut() {
    for (name, facts) in all_facts() {
        for cols in [128, 33] {
            let mut t = Bench::new(&facts, 2);
            // One id is that of a tenth of the rows.
            let ids: Vec<u32> = (0..5000).map(|i| if i % 10 == 0 { 2999 } else { t.rng.random_range(0..3000) }).collect();
            let ids = Ids::Buffer(t.words("ids", &ids), 0);
            let (dy, dw) = (t.random_dense("dy", 5000, cols), t.poisoned("dw", 3000, cols));
            zero(&mut t.builder, "zero", &dw).unwrap();
            scatter_add(&mut t.builder, "scatter", &ids, &dy, &dw, None).unwrap();
            let (_, ops) = t.verify_ops(&dw);
            assert_eq!(ops.len() > 7, name == "1 MiB bindings" && cols == 128, "{ops:?}");
        }
    }
}

#[test]
fn one_id_for_every_row() {
    let mut t = Bench::new(&all_facts()[0].1, 2);
    let ids = Ids::Buffer(t.words("ids", &[1; 8200]), 0);
    let (dy, dw) = (t.random_dense("dy", 8200, 4), t.poisoned("dw", 3, 4));
    zero(&mut t.builder, "zero", &dw).unwrap();
    scatter_add(&mut t.builder, "scatter", &ids, &dy, &dw, None).unwrap();
    t.verify(&dw);
}

#[test]
fn positions_are_shared_by_sequences() {
    for (_, facts) in all_facts() {
        // The last positions of the second sequence are past the end; more rows than are linked at once.
        for (lengths, sequence_rows, cols) in [(vec![0; 3], 5, 64), (vec![0, 4, 1], 7, 33), (vec![0; 9], 1000, 36)] {
            let mut t = Bench::new(&facts, 4);
            let states: Vec<u32> = lengths.iter().flat_map(|l| State { length: *l, ..State::default() }.words()).collect();
            let ids = Ids::Position { state: t.words("state", &states), sequence_rows, add: 2 };
            let (dy, dw) = (t.random("dy", lengths.len() * sequence_rows, cols), t.random_dense("dw", sequence_rows + 3, cols));
            scatter_add(&mut t.builder, "scatter", &ids, &dy, &dw, None).unwrap();
            t.verify(&dw);
        }
    }
}

#[test]
fn bad_operands_are_errors() {
    let mut t = Bench::new(&all_facts()[0].1, 1);
    let (slot, dy, dw) = (t.words("ids", &[0; 4]), t.random("dy", 4, 8), t.random("dw", 3, 8));
    let ids = Ids::Buffer(slot, 0);
    scatter_add(&mut t.builder, "cols", &ids, &dy.slice_cols(0..7), &dw, None).unwrap_err();
    scatter_add(&mut t.builder, "rows", &ids, &dy, &dw.slice_rows(0..0), None).unwrap_err();
    scatter_add(&mut t.builder, "ids", &Ids::Buffer(slot, 1 << 20), &dy, &dw, None).unwrap_err();
    scatter_add(&mut t.builder, "slot", &ids, &dy, &dy, None).unwrap_err();
    scatter_add(&mut t.builder, "sequences", &Ids::Position { state: slot, sequence_rows: 0, add: 0 }, &dy, &dw, None).unwrap_err();
}
