use super::{Bench, POISON, all_facts};
use crate::portability::adapters;
use etalon::Facts;
use etalon::kernel::columns::{Columns, column_sums};
use etalon::plan::Builder;
use etalon::tensor::Tensor;

/// Runs each kind of sum, compares every op with its twin, and the whole with the plain sum.
fn check(facts: &Facts, rows: usize, cols: usize, kind: usize, accumulate: bool) {
    let mut t = Bench::new(facts, (rows + cols) as u64);
    // Whole vectors where rows are multiples of 4.
    let mut random = |label, cols| if cols % 4 == 0 { t.random_dense(label, rows, cols) } else { t.random(label, rows, cols) };
    let (a, b, saved) = (random("a", cols), random("b", cols), random("saved", 2));
    let before = if accumulate { t.random_values(cols) } else { vec![POISON; cols] };
    let y = Tensor { slot: t.floats("y", &before), offset: 0, rows: 1, cols, stride: cols };
    let what = match kind {
        0 => Columns::Sum(&a),
        1 => Columns::Dot(&a, &b),
        _ => Columns::Normed { dy: &a, x: &b, saved: &saved, rms: kind == 3 },
    };
    let label = format!("({rows}, {cols}) of kind {kind}");
    column_sums(&mut t.builder, &label, &what, &y, accumulate).unwrap();
    let read = |t: &Bench, m: &Tensor| {
        let buffer = &t.bound.iter().find(|(s, _)| *s == m.slot).unwrap().1;
        let words = t.context.block_on(t.context.read_ranges(&[(buffer, 0..buffer.size())]).unwrap().words()).unwrap().remove(0);
        let at = |r: usize, c: usize| f64::from(f32::from_bits(words[m.offset + r * m.stride + c]));
        (0..m.rows).flat_map(|r| (0..m.cols).map(move |c| (r, c))).map(|(r, c)| at(r, c)).collect::<Vec<_>>()
    };
    let (a, b, saved) = (read(&t, &a), read(&t, &b), read(&t, &saved));
    let got = t.verify(&y);
    for c in 0..cols {
        let term = |r: usize| {
            let (a, b) = (a[r * cols + c], b[r * cols + c]);
            match kind {
                0 => a,
                1 => a * b,
                2 => a * (b - saved[2 * r]) * saved[2 * r + 1],
                _ => a * b * saved[2 * r + 1],
            }
        };
        let want = (0..rows).map(term).sum::<f64>() + if accumulate { f64::from(before[c]) } else { 0.0 };
        let bound = 1e-6 * (1.0 + 2.0 * rows as f64);
        assert!((f64::from(got[c]) - want).abs() <= bound, "{label}: column {c}: {} where {want} is expected", got[c]);
    }
}

#[test]
fn sums_of_columns_match_the_twin() {
    let mut gpu = all_facts().remove(1).1; // what a GPU gets
    gpu.info.device_type = wgpu::DeviceType::DiscreteGpu;
    for facts in all_facts().into_iter().map(|f| f.1).chain([gpu]) {
        let sizes = [(1, 1), (5, 3), (64, 65), (577, 96), (130, 256), (31, 260), (100, 160), (0, 8), (2, 0)];
        for (i, (rows, cols)) in sizes.into_iter().enumerate() {
            for kind in 0..4 {
                check(&facts, rows, cols, kind, (i + kind) % 2 == 0);
            }
        }
        // Several bindings of 1 MiB; a sum longer than one accumulator makes.
        check(&facts, 600, 577, 1, false);
        check(&facts, 520, 1024, 3, true);
        check(&facts, 20_001, 4, 0, false);
        check(&facts, 9_001, 1, 2, true);
    }
}

#[test]
fn operands_that_do_not_fit_are_errors() {
    let mut t = Bench::new(&all_facts()[0].1, 0);
    let (a, b, saved, y) = (t.random("a", 3, 8), t.random("b", 3, 9), t.random("saved", 3, 3), t.poisoned("y", 1, 8));
    assert!(column_sums(&mut t.builder, "rows", &Columns::Sum(&a), &a, false).is_err());
    assert!(column_sums(&mut t.builder, "cols", &Columns::Dot(&a, &b), &y, false).is_err());
    assert!(column_sums(&mut t.builder, "saved", &Columns::Normed { dy: &a, x: &a, saved: &saved, rms: false }, &y, false).is_err());
}

#[test]
fn few_columns_of_many_rows_fill_a_gpu() {
    for facts in adapters().iter().filter(|f| !f.is_software()) {
        for cols in [96, 768, 3072] {
            let mut b = Builder::new("columns", facts);
            let (a, y) = (b.external_tensor("a", 2048, cols), b.external_tensor("y", 1, cols));
            column_sums(&mut b, "sums", &Columns::Sum(&a), &y, false).unwrap();
            let plan = b.finish().unwrap();
            let groups: u32 = plan.ops()[0].cuts().iter().map(|(_, size)| size.iter().product::<u32>()).sum();
            assert!(plan.ops().len() == 2 && groups >= 43, "{cols}: {groups} workgroups");
        }
    }
}
