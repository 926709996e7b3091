use super::{Bench, all_facts};
use etalon::kernel::embedding::{Ids, embedding};
use etalon::kernel::linear::{Activation, Fused, Residual, fuses_gate, fuses_norm, linear};
use etalon::quant::{QuantFormat, Scales};
use etalon::tensor::{Format, Matrix, Segment, Tensor};

pub fn quant(bits: u32, group: u32, scales: Scales) -> Format {
    Format::Quant(QuantFormat { bits, group, scales, table: None, per_tensor: false })
}

/// Every element format: all widths, all scale layouts, the table, per row and per tensor.
pub fn formats() -> Vec<Format> {
    let mut out = vec![Format::F32, Format::F16, Format::Bf16];
    for bits in [2, 3, 4, 5, 6, 8] {
        let zero = 1u8 << (bits - 1);
        out.push(quant(bits, 16, Scales::F16 { zero }));
        out.push(quant(bits, 32, Scales::F16Min));
        out.push(quant(bits, 64, Scales::F16Zero));
        out.push(quant(bits, 48, Scales::F32 { zero }));
        out.push(quant(bits, 128, Scales::F32Zero));
        out.push(quant(bits, 1 << 20, Scales::F32Min));
    }
    let table = Some(std::array::from_fn(|i| (i * i) as f32 / 60.0 - 2.0));
    out.push(Format::Quant(QuantFormat { bits: 4, group: 32, scales: Scales::F16 { zero: 0 }, table, per_tensor: false }));
    out.push(Format::Quant(QuantFormat { bits: 4, group: 1 << 20, scales: Scales::F32 { zero: 8 }, table: None, per_tensor: true }));
    out
}

pub fn k_quants() -> Vec<Format> {
    vec![quant(2, 16, Scales::K2), quant(3, 16, Scales::K3), quant(4, 32, Scales::K4), quant(5, 32, Scales::K4), quant(6, 16, Scales::K6)]
}

/// The whole output, whatever it was cut into, against the plain product.
fn check(values: &[f32], x: &[f32], w: &[f32], (m, k, n): (usize, usize, usize)) {
    for r in 0..m {
        for c in 0..n {
            let pairs = (0..k).map(|i| f64::from(x[r * k + i]) * f64::from(w[c * k + i]));
            let (want, size) = pairs.fold((0.0, 0.0), |(s, t), p| (s + p, t + p.abs()));
            let got = f64::from(values[r * n + c]);
            assert!((got - want).abs() <= 1e-5 * size, "({r}, {c}): {got} where {want} is expected");
        }
    }
}

#[test]
fn every_format_and_shape_matches_the_twin() {
    for (name, facts) in all_facts().into_iter().take(2) {
        for (i, format) in formats().into_iter().chain(k_quants()).enumerate() {
            let k_quant = i >= formats().len();
            // A vector and a tile for every format; the widths between for some of them, since compiling takes most of the time.
            for (j, (m, k, n)) in [(1, 65, 7), (11, 80, 37), (2, 96, 33), (5, 64, 9)].into_iter().enumerate() {
                if j >= 2 && i % 5 != 0 {
                    continue;
                }
                let k = if k_quant { 256 * (1 + j % 2) } else { k };
                let mut t = Bench::new(&facts, 100 * i as u64 + j as u64);
                let values = t.random_values(m * k);
                let x = t.floats("x", &values);
                let x = Tensor { slot: x, offset: 0, rows: m, cols: k, stride: k };
                let (w, decoded) = t.weights(format, n, k);
                let y = t.poisoned("y", m, n);
                linear(&mut t.builder, &format!("{name} {format:?}"), &x, &w, &y, &Fused::default()).unwrap();
                check(&t.verify(&y), &values, &decoded, (m, k, n));
            }
        }
    }
}

#[test]
fn epilogues_match_the_twin() {
    let acts = [Activation::None, Activation::Relu, Activation::GeluErf, Activation::GeluTanh, Activation::Silu, Activation::Tanh];
    for (name, facts) in all_facts().into_iter().take(2) {
        for (i, activation) in acts.into_iter().enumerate() {
            for m in [1, 3, 12] {
                for residual in 0..3 {
                    let mut t = Bench::new(&facts, i as u64);
                    let x = t.random("x", m, 70);
                    let (w, _) = t.weights(quant(4, 32, Scales::F16 { zero: 8 }), 41, 70);
                    let bias = t.random_values(45);
                    let bias = t.floats("bias", &bias);
                    let y = if residual == 2 { t.random("y", m, 41) } else { t.poisoned("y", m, 41) };
                    let residual = match residual {
                        0 => Residual::None,
                        1 => Residual::Add(t.random("r", m, 41)),
                        _ => Residual::InPlace,
                    };
                    let e = Fused { bias: Some((bias, 3)), activation, residual, ..Default::default() };
                    linear(&mut t.builder, &format!("{name} {activation:?}"), &x, &w, &y, &e).unwrap();
                    t.verify(&y);
                }
            }
        }
    }
}

#[test]
fn the_fused_gate_matches_the_twin() {
    for (_, facts) in all_facts().into_iter().take(2) {
        for m in [1, 2, 4] {
            assert!(fuses_gate(&facts, m));
            let mut t = Bench::new(&facts, m as u64);
            let x = t.random_dense("x", m, 96);
            let (w, _) = t.weights(quant(4, 32, Scales::F16Min), 2 * 29, 96);
            let y = t.poisoned("y", m, 29);
            linear(&mut t.builder, "gate", &x, &w, &y, &Fused { gate: true, ..Default::default() }).unwrap();
            t.verify(&y);
        }
    }
}

#[test]
fn the_fused_norm_matches_the_twin() {
    for (_, facts) in all_facts().into_iter().take(2) {
        let formats = [Format::F32, quant(4, 32, Scales::F16Min), quant(8, 32, Scales::F16 { zero: 128 }), quant(3, 16, Scales::F32Zero)];
        for (i, format) in formats.into_iter().enumerate() {
            for (m, k, gate) in [(1, 577, false), (1, 64, true), (4, 96, true), (2, 65, false), (3, 1, false)] {
                assert!(fuses_norm(&facts, m));
                let mut t = Bench::new(&facts, i as u64);
                let x = if k % 2 == 0 { t.random_dense("x", m, k) } else { t.random("x", m, k) };
                let (w, _) = t.weights(format, if gate { 2 * 29 } else { 29 }, k);
                let gain = t.random_values(k);
                let norm = Some((t.floats("gain", &gain), 1e-5));
                let bias = t.random_values(29);
                let bias = (!gate).then(|| (t.floats("bias", &bias), 0));
                let y = t.poisoned("y", m, 29);
                linear(&mut t.builder, "normed", &x, &w, &y, &Fused { norm, gate, bias, ..Default::default() }).unwrap();
                t.verify(&y);
            }
        }
    }
    let facts = &all_facts()[0].1;
    let mut t = Bench::new(facts, 1);
    let (x, y) = (t.random_dense("x", 100, 32), t.poisoned("y", 100, 8));
    let (w, _) = t.weights(Format::F32, 8, 32);
    let norm = Some((t.floats("gain", &[1.0; 32]), 1e-5));
    let e = linear(&mut t.builder, "many", &x, &w, &y, &Fused { norm, ..Default::default() }).unwrap_err().to_string();
    assert!(e.contains("the norm cannot be fused"), "{e}");
}

#[test]
fn scales_of_many_blocks_match_the_twin() {
    for (_, facts) in all_facts().into_iter().take(2) {
        for scales in [Scales::F16 { zero: 3 }, Scales::F32 { zero: 3 }, Scales::F16Min, Scales::F16Zero] {
            for (m, bits, k) in [(1, 4, 192), (2, 8, 320), (1, 3, 130)] {
                let mut t = Bench::new(&facts, k as u64);
                let x = t.random_dense("x", m, k);
                let (w, _) = t.weights(quant(bits, 32, scales), 37, k);
                let y = t.poisoned("y", m, 37);
                linear(&mut t.builder, "blocks", &x, &w, &y, &Fused::default()).unwrap();
                t.verify(&y);
            }
        }
    }
}

/// No optional feature, so that the variants of GPUs run, and codes become numbers by their bits.
fn like_nvidia() -> etalon::Facts {
    let mut facts = all_facts().remove(1).1;
    facts.info.vendor = 0x10de;
    facts
}

#[test]
fn codes_by_their_bits_match_the_twin() {
    for scales in [Scales::F16 { zero: 8 }, Scales::F16Min, Scales::F32Zero] {
        for (m, k, n) in [(1, 96, 7), (3, 65, 9), (6, 96, 5), (11, 80, 37)] {
            let mut t = Bench::new(&like_nvidia(), m as u64);
            let values = t.random_values(m * k);
            let x = etalon::tensor::Tensor { slot: t.floats("x", &values), offset: 0, rows: m, cols: k, stride: k };
            let (w, decoded) = t.weights(quant(4, 32, scales), n, k);
            let y = t.poisoned("y", m, n);
            linear(&mut t.builder, "bits", &x, &w, &y, &Fused::default()).unwrap();
            let (got, ops) = t.verify_ops(&y);
            assert!(ops[0].contains("MANTISSA=1"), "{ops:?}");
            check(&got, &values, &decoded, (m, k, n));
        }
    }
}

#[test]
fn sizes_that_fill_a_gpu_match_the_twin() {
    let facts = like_nvidia();
    // A tile of each size, and many weight rows a workgroup.
    for ((m, k, n), define) in [
        ((1409, 17, 1409), "BM=128,BN=128"),
        ((705, 33, 705), "BM=64,BN=64"),
        ((400, 33, 600), "BM=64,BN=32"),
        ((9, 33, 70), "BM=32,BN=32"),
        ((1, 65, 4099), "ROWS=8,COLS=1"),
        ((4, 64, 4099), "ROWS=8,COLS=4"),
        ((7, 65, 4099), "ROWS=4,COLS=7"),
    ] {
        for format in [Format::F32, quant(4, 32, Scales::F16 { zero: 8 }), quant(5, 16, Scales::F16Min)] {
            let mut t = Bench::new(&facts, n as u64);
            let x = t.random_dense("x", m, k);
            let (w, _) = t.weights(format, n, k);
            let y = t.poisoned("y", m, n);
            linear(&mut t.builder, "large", &x, &w, &y, &Fused::default()).unwrap();
            let ops = t.verify_ops(&y).1;
            assert!(ops[0].contains(define), "{define}: {ops:?}");
        }
    }
    let mut t = Bench::new(&facts, 1);
    let x = t.random_dense("x", 1, 64);
    let (w, _) = t.weights(quant(4, 32, Scales::F16Min), 2 * 4099, 64);
    let y = t.poisoned("y", 1, 4099);
    linear(&mut t.builder, "gate", &x, &w, &y, &Fused { gate: true, ..Default::default() }).unwrap();
    let ops = t.verify_ops(&y).1;
    assert!(ops[0].contains("ROWS=4,COLS=1,GATE=1"), "{ops:?}");
}

#[test]
fn weights_and_activations_above_a_binding_are_cut_by_rows() {
    let facts = all_facts().remove(2).1;
    for (m, k, n) in [(1, 577, 1031), (2, 576, 700), (3001, 65, 99), (1, 65, 5000)] {
        let mut t = Bench::new(&facts, 5);
        let values = t.random_values(m * k);
        let x = etalon::tensor::Tensor { slot: t.floats("x", &values), offset: 0, rows: m, cols: k, stride: k };
        let (w, decoded) = t.weights(Format::F32, n, k);
        let y = t.poisoned("y", m, n);
        linear(&mut t.builder, "cut", &x, &w, &y, &Fused::default()).unwrap();
        check(&t.verify(&y), &values, &decoded, (m, k, n));
    }
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let facts = all_facts().remove(0).1;
    let mut t = Bench::new(&facts, 5);
    let x = t.random_dense("x", 2, 32);
    let (w, _) = t.weights(Format::F32, 8, 33);
    let y = t.poisoned("y", 2, 8);
    let e = linear(&mut t.builder, "bad", &x, &w, &y, &Fused::default()).unwrap_err().to_string();
    assert!(e.contains("(2, 32) times (8, 33)"), "{e}");
}

#[test]
fn weights_may_lie_within_one_large_slot() {
    for (_, facts) in all_facts() {
        let (m, k, n) = (3, 65, 20);
        let mut t = Bench::new(&facts, 77);
        // Rows 0..13 after rows 13..20; NaN between and around.
        let values = t.random_values(n * k);
        let (second, first) = (64, 64 + (7 * k).next_multiple_of(64) + 128);
        let mut arena = vec![f32::NAN; first + 13 * k + 9];
        arena[first..first + 13 * k].copy_from_slice(&values[..13 * k]);
        arena[second..second + 7 * k].copy_from_slice(&values[13 * k..]);
        let data = t.floats("arena", &arena);
        let segment = |rows, offset| Segment { rows, data, offset, scales: None };
        let mut w = Matrix { rows: n, cols: k, format: Format::F32, segments: vec![segment(0..13, first), segment(13..n, second)] };
        let x_values = t.random_values(m * k);
        let x = Tensor { slot: t.floats("x", &x_values), offset: 0, rows: m, cols: k, stride: k };
        let y = t.poisoned("y", m, n);
        linear(&mut t.builder, "arena", &x, &w, &y, &Fused::default()).unwrap();
        let ids = t.words("ids", &[0, 12, 13, 19]);
        let rows = t.poisoned("rows", 4, k);
        embedding(&mut t.builder, "arena", &Ids::Buffer(ids, 0), &w, &rows, false).unwrap();
        w.segments[1].offset += 63;
        let e = linear(&mut t.builder, "odd", &x, &w, &y, &Fused::default()).unwrap_err();
        assert!(e.to_string().contains("weight rows 13..20 begin at word 127 of their slot: not a multiple of 64"), "{e}");
        let e = embedding(&mut t.builder, "odd", &Ids::Buffer(ids, 0), &w, &rows, false).unwrap_err();
        assert!(e.to_string().contains("not a multiple of 64"), "{e}");
        check(&t.verify(&y), &x_values, &values, (m, k, n));
    }
}
