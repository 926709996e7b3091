use super::{Bench, all_facts};
use etalon::kernel::select::{select_columns, select_rows};
use rand::RngExt;

fn indices(t: &mut Bench, n: usize, below: usize) -> Vec<u32> {
    (0..n).map(|_| t.rng.random_range(0..below as u32)).collect()
}

#[test]
fn columns_match_the_twin() {
    for (_, facts) in all_facts() {
        for (rows, k, r) in [(1, 1, 1), (7, 64, 65), (9, 577, 64), (8, 300, 1), (33, 768, 63), (600, 577, 48), (0, 5, 3), (3, 5, 0)] {
            let mut t = Bench::new(&facts, (rows * r) as u64);
            let (x, y) = (t.random("x", rows, k), t.poisoned("y", rows, r));
            let mut chosen = indices(&mut t, 71 + r, k);
            chosen[70] = 77_777; // counts as the last
            let slot = t.words("indices", &chosen);
            select_columns(&mut t.builder, "columns", &x, (slot, 70), &y).unwrap();
            assert_eq!(t.verify(&y).len(), rows * r);
        }
    }
}

#[test]
fn rows_match_the_twin() {
    for (_, facts) in all_facts() {
        for (k, n, r) in [(1, 1, 1), (5, 65, 9), (64, 576, 63), (64, 577, 64), (3, 4, 0), (300, 768, 64), (40, 768, 700)] {
            for odd in [false, true] {
                let mut t = Bench::new(&facts, (n * r) as u64);
                let x = if odd { t.random("x", k, n) } else { t.random_dense("x", k, n) };
                let y = t.poisoned("y", r, n);
                let mut chosen = indices(&mut t, 3 + r, k);
                chosen[2 + r] = 77_777;
                let slot = t.words("indices", &chosen);
                select_rows(&mut t.builder, "rows", &x, (slot, 3), &y).unwrap();
                assert_eq!(t.verify(&y).len(), n * r);
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut t = Bench::new(&all_facts()[2].1, 1);
    let (x, y, wide) = (t.random("x", 4, 8), t.poisoned("y", 4, 3), t.poisoned("wide", 3, 8));
    let slot = t.words("indices", &[0; 64]);
    assert!(select_columns(&mut t.builder, "columns", &x, (slot, 0), &wide).is_err());
    assert!(select_rows(&mut t.builder, "rows", &x, (slot, 0), &y).is_err());
    assert!(select_columns(&mut t.builder, "columns", &x.slice_cols(0..0), (slot, 0), &y).is_err());
    assert!(select_rows(&mut t.builder, "rows", &x.slice_rows(0..0), (slot, 0), &wide).is_err());
    assert!(select_rows(&mut t.builder, "rows", &x, (slot, 62), &wide).unwrap_err().to_string().contains("indices"));
    let (large, part) = (t.random_dense("large", 300, 1024), t.poisoned("part", 2, 1024));
    assert!(select_rows(&mut t.builder, "rows", &large, (slot, 0), &part).unwrap_err().to_string().contains("binding_size"));
}
