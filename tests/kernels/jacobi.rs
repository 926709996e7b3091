use super::{Bench, POISON, all_facts};
use etalon::kernel::jacobi::sweep;
use etalon::kernel::polar::{keep, restore, step, transfer};
use etalon::kernel::svd::{
    Dense, STATE_WORDS, Side, Size, Source, Work, complete, load, measure, normalise, norms, order, store, store_values, times_norms,
};
use etalon::tensor::Tensor;
use rand::RngExt;

/// Scratch with random rows, padded with zeros; every third row of `main` is nearly another, every seventh is zero.
fn scratch(t: &mut Bench, size: Size, main: Side) -> Work {
    let work = Work::new(&mut t.builder, size);
    let words = size.words();
    let mut state = vec![0u32; words[3]];
    for (layer, own) in state.chunks_mut(STATE_WORDS).enumerate() {
        own[0] = u32::from(layer == 1); // this one is done
        own[2] = 2f32.to_bits();
        own[8..11].copy_from_slice(&[0.5f32, 0.25, 8.0].map(f32::to_bits));
    }
    for (side, slot) in [(Side::X, work.x), (Side::Y, work.y)] {
        let mut values = vec![0f32; size.step(side) * size.layers];
        for (i, row) in values.chunks_mut(size.stride(side)).enumerate().filter(|(i, _)| i % size.padded() < size.k()) {
            if side == main && i % 7 == 6 {
                continue;
            }
            row[..size.cols(side)].iter_mut().for_each(|v| *v = t.rng.random_range(-1.0f32..1.0));
        }
        let stride = size.stride(side);
        for i in (2..size.k()).step_by(3).filter(|_| side == main) {
            for c in 0..size.cols(side) {
                values[i * stride + c] = values[(i - 1) * stride + c] + 0.01 * values[i * stride + c];
            }
        }
        let buffer = t.context.upload("rows", bytemuck::cast_slice(&values)).unwrap();
        t.bound.push((slot, buffer));
    }
    let poison = |n: usize| vec![POISON.to_bits(); n];
    for (slot, words) in [
        (work.turns, poison(words[2])),
        (work.state, state),
        (work.rows, poison(words[4])),
        (work.coefs, poison(words[5])),
        (work.peaks, vec![0; words[6]]),
        (work.kept, poison(words[7])),
    ] {
        t.bound.push((slot, t.context.upload("scratch", &words).unwrap()));
    }
    work
}

fn all(work: &Work, side: Side) -> Tensor {
    let (slot, stride) = (if side == Side::X { work.x } else { work.y }, work.size.stride(side));
    Tensor { slot, offset: 0, rows: work.size.padded() * work.size.layers, cols: stride, stride }
}

#[test]
fn sweeps_match_the_twin() {
    for (_, facts) in all_facts() {
        for (i, (layers, m, n)) in [(3, 1, 1), (1, 7, 40), (3, 33, 9), (2, 40, 50)].into_iter().enumerate() {
            for side in [Side::X, Side::Y] {
                let mut t = Bench::new(&facts, i as u64);
                let work = scratch(&mut t, Size::new(layers, m, n), side);
                for _ in 0..2 {
                    sweep(&mut t.builder, "sweep", &work, side, 2e-6).unwrap();
                }
                t.verify(&all(&work, side));
            }
        }
    }
}

#[test]
fn layers_are_cut_where_bindings_are_small() {
    let (_, mut facts) = all_facts().remove(0);
    facts.max_binding = 16 << 10;
    let mut t = Bench::new(&facts, 5);
    let work = scratch(&mut t, Size::new(5, 12, 40), Side::X);
    norms(&mut t.builder, "norms", &work, Side::X).unwrap();
    sweep(&mut t.builder, "sweep", &work, Side::X, 2e-6).unwrap();
    normalise(&mut t.builder, "unit", &work, Side::X).unwrap();
    times_norms(&mut t.builder, "times", &work, Side::Y).unwrap();
    complete(&mut t.builder, "complete", &work, Side::X).unwrap();
    order(&mut t.builder, "order", &work).unwrap();
    t.verify(&all(&work, Side::X));
}

#[test]
fn norms_order_and_completion_match_the_twin() {
    for (_, facts) in all_facts() {
        for (i, (layers, m, n)) in [(3, 1, 1), (2, 8, 40), (3, 33, 14), (2, 70, 577)].into_iter().enumerate() {
            for side in [Side::X, Side::Y] {
                let mut t = Bench::new(&facts, i as u64);
                let work = scratch(&mut t, Size::new(layers, m, n), side);
                let b = &mut t.builder;
                norms(b, "norms", &work, side).unwrap();
                times_norms(b, "times", &work, side.other()).unwrap();
                normalise(b, "unit", &work, side).unwrap();
                for _ in 0..3 {
                    complete(b, "complete", &work, side).unwrap();
                }
                order(b, "order", &work).unwrap();
                t.verify(&all(&work, side));
            }
        }
    }
}

#[test]
fn loads_and_stores_match_the_twin() {
    for (_, facts) in all_facts() {
        for (i, (m, n)) in [(1, 1), (7, 40), (33, 14), (130, 70)].into_iter().enumerate() {
            let mut t = Bench::new(&facts, i as u64);
            let work = scratch(&mut t, Size::new(2, m, n), Side::X);
            let k = m.min(n);
            let values = t.random_values(64 + m * n + k);
            let slot = t.floats("factors", &values);
            let dense = |offset, rows, cols| Dense { slot, offset, rows, cols };
            let (ut, vt, factor) = (dense(64, k, m), dense(3, k, n), dense(64 + m * n, 1, k));
            let b = &mut t.builder;
            measure(b, "factors", &dense(64, m, n), &work, 5).unwrap();
            load(b, "x", &Source::Rows(ut), &work, Side::X, 1).unwrap();
            load(b, "y", &Source::Times(vt, factor), &work, Side::Y, 1).unwrap();
            load(b, "identity", &Source::Identity, &work, Side::Y, 0).unwrap();
            let wt = if m >= n { (Side::X, Source::Columns(dense(5, m, n))) } else { (Side::Y, Source::Rows(dense(5, m, n))) };
            load(b, "dense", &wt.1, &work, wt.0, 0).unwrap();
            norms(b, "norms", &work, Side::X).unwrap();
            order(b, "order", &work).unwrap();
            let out = t.poisoned("out", 3, 64 + k * m.max(n)).slot;
            let to = |offset, rows, cols| Dense { slot: out, offset, rows, cols };
            let b = &mut t.builder;
            store(b, "ut", &to(64, k, m), &work, Side::X, 1).unwrap();
            store(b, "vt", &to(3, k, n), &work, Side::Y, 0).unwrap();
            store_values(b, "values", &to(1, k, 1), &work, 1).unwrap();
            assert!(store(b, "vt", &to(3, k, n + 1), &work, Side::Y, 0).is_err());
            assert!(store(b, "vt", &to(3, k, n), &work, Side::Y, 2).is_err());
            assert!(load(b, "x", &Source::Rows(dense(0, k + 1, m)), &work, Side::X, 0).is_err());
            assert!(load(b, "x", &Source::Identity, &work, Side::X, 2).is_err());
            assert!(store_values(b, "values", &to(1, k + 1, 1), &work, 1).is_err());
            t.verify(&all(&work, Side::X));
        }
    }
}

#[test]
fn polar_steps_match_the_twin() {
    for (_, facts) in all_facts() {
        for (i, (m, n)) in [(1, 1), (9, 9), (7, 40), (65, 14)].into_iter().enumerate() {
            let size = Size::new(2, m, n);
            let (mut t, side) = (Bench::new(&facts, i as u64), size.square());
            let work = scratch(&mut t, size, side);
            let b = &mut t.builder;
            keep(b, "layer", &work, side, 1).unwrap();
            for at in [0, 2, 4] {
                step(b, "layer", &work, side, 1, at).unwrap();
            }
            transfer(b, "layer", &work, side, 1).unwrap();
            restore(b, "layer", &work, side, 1).unwrap();
            assert!(step(b, "layer", &work, side, 2, 0).is_err());
            t.verify(&all(&work, side));
        }
    }
}
