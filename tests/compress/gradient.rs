//! Squares of gradients, against differences of the likelihood.

use super::{checkpoint, open, options};
use crate::format::tiny_llama;
use crate::kernels::context;
use etalon::compress::gradient::fisher;
use etalon::compress::measure::measure;
use etalon::compress::round::Codes;
use etalon::compress::score::{Score, Scores};
use etalon::format::{Bytes, Checkpoint};
use etalon::model::{Keep, Linear, Model, Probe, Sequence, linears};
use std::sync::Arc;

/// The mean over texts of `T g^2`, g from central differences of the mean likelihood.
fn by_differences(model: &Arc<Model>, c: &Checkpoint, l: &Linear, at: usize, texts: &[Vec<u32>]) -> f64 {
    let weights = c.matrix(&l.name, l.rows, l.cols).unwrap().into_f32();
    // Losses of about 5 in f32 are off by some 1e-6: with a step of 1e-2 a gradient by 1e-4.
    let step = 1e-2;
    let with = |sign: f32| {
        let mut w = weights.clone();
        w[at] += sign * step;
        model.set_weight(&l.name, &w).unwrap();
        let of = |t: &Vec<u32>| {
            let nll = context().block_on(model.nll(t)).unwrap();
            nll.iter().map(|v| f64::from(*v)).sum::<f64>() / nll.len() as f64
        };
        texts.iter().map(of).collect::<Vec<f64>>()
    };
    let (up, down) = (with(1.0), with(-1.0));
    model.set_weight(&l.name, &weights).unwrap();
    let of = |((u, d), t): ((&f64, &f64), &Vec<u32>)| (t.len() - 1) as f64 * ((u - d) / (2.0 * f64::from(step))).powi(2);
    up.iter().zip(&down).zip(texts).map(of).sum::<f64>() / texts.len() as f64
}

/// The three weights of largest square in every layer that is wanted: a square is off by twice what the gradient is, and by the third
/// derivative.
fn check(c: &Checkpoint, texts: &[Vec<u32>], wanted: impl Fn(&Linear) -> bool) {
    let model = open(c);
    let slices: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
    let all = context().block_on(fisher(&context(), c, &slices)).unwrap();
    assert_eq!(all.len(), linears(&c.config).len());
    let layers: Vec<Linear> = linears(&c.config).into_iter().filter(wanted).collect();
    let mut tried = 0;
    for l in &layers {
        let f = &all[&l.name];
        let mut places: Vec<usize> = (0..f.len()).collect();
        places.sort_by(|a, b| f[*b].total_cmp(&f[*a]));
        // A gradient of 3e-3 is known to some percent.
        for at in places.into_iter().take(3).filter(|at| f[*at] >= 1e-4) {
            let (got, want) = (f64::from(f[at]), by_differences(&model, c, l, at, texts));
            assert!((got - want).abs() <= 0.08 * want, "{} at {at}: {got:.4e}, by differences {want:.4e}", l.name);
            tried += 1;
        }
    }
    assert!(2 * tried >= 3 * layers.len(), "{tried} weights of {} layers have gradients to speak of", layers.len());
}

#[test]
fn squares_of_gradients_are_those_of_differences() {
    // Of two lengths, so of two plans.
    let texts: Vec<Vec<u32>> =
        [17, 9, 17].into_iter().zip(0..).map(|(n, q)| (0..n).map(|i| (3 + 37 * i + 101 * q) as u32 % 500).collect()).collect();
    for name in ["opt-preln", "opt-350m-like", "llama-gqa"] {
        check(&checkpoint(name), &texts, |_| true);
    }
}

/// Queries and keys of a GGUF model lie in another order than those that are trained.
#[test]
fn squares_of_gradients_lie_where_the_weights_do() {
    let c = Checkpoint::from_gguf(Arc::new(Bytes::new("tiny.gguf", tiny_llama().build()))).unwrap();
    check(&c, &[vec![0, 2, 3, 4, 7, 5, 6], vec![6, 6, 2, 5, 3]], |l| l.name.contains(".q_proj.") || l.name.contains(".k_proj."));
}

#[test]
fn gradients_need_a_decoder_and_a_text() {
    let mine = options(Score::Gradient);
    for (name, texts, says) in [("bert-mlm", vec![vec![1, 2, 3].into()], "decoder"), ("opt-preln", vec![vec![5].into()], "two tokens")] {
        let texts: Vec<Sequence> = texts;
        let c = checkpoint(name);
        let probe = context().block_on(Probe::new(&open(&c), &texts, Keep::All)).unwrap();
        let mut scores = Scores::new(&c, &texts, mine.clone()).unwrap();
        let found = context().block_on(measure((&probe, &c, &Codes::Nearest(mine.spec)), &mut scores, &mut |_| Ok(true)));
        let e = found.unwrap_err().to_string();
        assert!(e.contains(says), "{e}");
    }
}
