use super::{Bench, all_facts};
use etalon::kernel::spmm::{Spmm, spmm};
use etalon::tensor::{Csr, NONE, Sparse, SparseData, SparsePair, Tensor};
use rand::RngExt;

/// A random matrix with `per_row` entries a row in the mean: some rows are empty.
fn random(t: &mut Bench, rows: usize, cols: usize, per_row: usize) -> Csr {
    let mut entries = Vec::new();
    for r in 0..rows {
        let n = if cols == 0 { 0 } else { t.rng.random_range(0..2 * per_row + 1) };
        entries.extend((0..n).map(|_| (r as u32, t.rng.random_range(0..cols as u32), t.rng.random_range(-1.0f32..1.0))));
    }
    Csr::from_entries(rows, cols, entries).unwrap()
}

fn pair(t: &mut Bench, m: &Csr) -> SparsePair {
    let data = SparseData::from(m);
    let (pair, slots) = SparsePair::external(&mut t.builder, "matrix", &data.extent);
    for (slot, words) in slots.into_iter().zip(&data.words) {
        let buffer = t.context.upload("matrix", words).unwrap();
        t.bound.push((slot, buffer));
    }
    pair
}

#[test]
fn products_match_the_twin() {
    for (_, facts) in all_facts() {
        let sizes = [(1, 1, 1, 1), (7, 5, 16, 2), (65, 64, 3, 4), (130, 33, 64, 3), (64, 200, 576, 5), (9, 70, 577, 30), (0, 3, 4, 1)];
        for (i, (rows, k, cols, per_row)) in sizes.into_iter().enumerate() {
            for options in 0..8 {
                let mut t = Bench::new(&facts, 8 * i as u64 + options);
                let m = random(&mut t, rows, k, per_row);
                let p = pair(&mut t, &m);
                let a = if options & 1 == 0 { p.matrix } else { p.transpose };
                let accumulate = options & 2 != 0;
                let bias = (options & 4 != 0).then(|| {
                    let v = t.random_values(cols + 4);
                    (t.floats("bias", &v), 4)
                });
                let x = if cols % 4 == 0 { t.random_dense("b", a.cols, cols) } else { t.random("b", a.cols, cols) };
                let y = if accumulate { t.random_dense("y", a.rows.max(1), cols) } else { t.poisoned("y", a.rows.max(1), cols) };
                let y = y.slice_rows(0..a.rows);
                let o = Spmm { accumulate, bias, alpha: 1.5 - options as f32, flip: options > 4, ..Spmm::default() };
                spmm(&mut t.builder, "spmm", &a, &x, &y, &o).unwrap();
                t.verify(&y);
            }
        }
    }
}

#[test]
fn transposed_operands_match_the_twin() {
    for (_, facts) in all_facts() {
        for (i, (b_t, y_t)) in [(true, false), (false, true), (true, true)].into_iter().enumerate() {
            for cols in [1, 16, 17] {
                let mut t = Bench::new(&facts, i as u64);
                let m = random(&mut t, 37, 29, 4);
                let a = pair(&mut t, &m).matrix;
                let x = if b_t { t.random("b", cols, a.cols) } else { t.random_dense("b", a.cols, cols) };
                let y = if y_t { t.poisoned("y", cols, a.rows) } else { t.poisoned("y", a.rows, cols) };
                spmm(&mut t.builder, "spmm", &a, &x, &y, &Spmm { b_t, y_t, ..Spmm::default() }).unwrap();
                t.verify(&y);
            }
        }
    }
}

/// A row of more entries than a dispatch adds, and values that are elsewhere or nowhere.
#[test]
fn long_rows_and_absent_entries_match_the_twin() {
    let (_, facts) = all_facts().remove(0);
    let mut t = Bench::new(&facts, 5);
    let n = 70_000u32;
    let columns: Vec<u32> = (0..n + 3).map(|e| e % 50).collect();
    let entries: Vec<u32> = (0..n + 3).map(|e| if e % 7 == 0 { NONE } else { e % 11 }).collect();
    let values = t.random_values(11);
    let (offsets, columns, entries) = (t.words("offsets", &[0, 0, n, n + 3]), t.words("columns", &columns), t.words("entries", &entries));
    let values = (t.floats("values", &values), 0, 11);
    let len = n as usize + 3;
    let a = Sparse { rows: 3, cols: 50, len, longest: n as usize, offsets, columns, values, entries: Some(entries) };
    let (x, y) = (t.random_dense("b", 50, 8), t.poisoned("y", 3, 8));
    spmm(&mut t.builder, "spmm", &a, &x, &y, &Spmm { flip: true, ..Spmm::default() }).unwrap();
    let (got, ops) = t.verify_ops(&y);
    assert!(ops.len() == 70_000usize.div_ceil(4096) && got[..8].iter().all(|v| *v == 0.0), "{ops:?} {:?}", &got[..8]);
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let (_, facts) = all_facts().remove(0);
    let mut t = Bench::new(&facts, 0);
    let m = random(&mut t, 5, 4, 2);
    let a = pair(&mut t, &m).matrix;
    let (x, y) = (t.random_dense("b", 4, 8), t.poisoned("y", 5, 8));
    let mut refused = |a: &Sparse, x: &Tensor, y: &Tensor, p: &Spmm| spmm(&mut t.builder, "bad", a, x, y, p).unwrap_err();
    refused(&a, &x.slice_rows(0..3), &y, &Spmm::default());
    refused(&a, &x, &y.slice_cols(0..7), &Spmm::default());
    refused(&a, &x, &y, &Spmm { b_t: true, ..Spmm::default() });
    refused(&Sparse { values: (a.values.0, 0, a.len - 1), ..a }, &x, &y, &Spmm::default());
    refused(&a, &x, &y, &Spmm { bias: Some((x.slot, 1 << 20)), ..Spmm::default() });
}
