//! What quantising an encoder costs a classifier: logistic regression on the embeddings of movie reviews, fitted once before, applied
//! before and after.
//!
//! `cargo run --release --example sentiment -- DATA BEFORE AFTER...`: DATA holds `movie.{train,valid,test}.tsv` (label, rating, text);
//! `BEFORE.{train,valid,test}.npy` and `AFTER.{valid,test}.npy` are embeddings by `etalon embed` of the third columns.
//!
//! With embeddings x of length 1 the model is `P(1) = 1 / (1 + exp(-(10 w x + b)))`, with a penalty of `1e-3 |w|^2 / 2`: what a softmax
//! over two classes with a penalty of 1e-3 on both classes' weights comes to. It is fitted by Newton's method.

use etalon::format::Npy;
use faer::linalg::solvers::Solve as _;
use faer::{Mat, Side};
use std::path::Path;

type Fail = Box<dyn std::error::Error>;

/// Rows of `10 x` and a 1, and labels.
struct Part {
    rows: Vec<Vec<f64>>,
    labels: Vec<bool>,
}

impl Part {
    fn read(data: &str, part: &str, prefix: &str) -> Result<Self, Fail> {
        let npy = Npy::read(Path::new(&format!("{prefix}.{part}.npy")))?;
        let (values, width) = (npy.as_f32().ok_or("embeddings are f32")?, npy.shape[1]);
        let row = |r: &[f32]| r.iter().map(|x| 10.0 * f64::from(*x)).chain([1.0]).collect();
        let rows: Vec<Vec<f64>> = values.chunks_exact(width).map(row).collect();
        let text = std::fs::read_to_string(format!("{data}/movie.{part}.tsv"))?;
        let labels: Vec<bool> = text.lines().map(|l| l.starts_with('1')).collect();
        if labels.len() != rows.len() {
            return Err(format!("{part}: {} labels for {} embeddings", labels.len(), rows.len()).into());
        }
        Ok(Self { rows, labels })
    }
}

fn score(w: &[f64], x: &[f64]) -> f64 {
    w.iter().zip(x).map(|(w, x)| w * x).sum()
}

/// Minimises the mean cross-entropy and the penalty; the last number is the bias, which has none.
fn fit(p: &Part) -> Result<Vec<f64>, Fail> {
    let (n, k) = (p.rows.len() as f64, p.rows[0].len());
    let mut w = vec![0.0; k];
    for _ in 0..50 {
        let mut h = Mat::<f64>::from_fn(k, k, |i, j| if i == j && i + 1 < k { 1e-3 } else { 0.0 });
        let mut g = Mat::<f64>::from_fn(k, 1, |i, _| if i + 1 < k { 1e-3 * w[i] } else { 0.0 });
        for (x, y) in p.rows.iter().zip(&p.labels) {
            let q = 1.0 / (1.0 + (-score(&w, x)).exp());
            let (slope, curve) = ((q - f64::from(u8::from(*y))) / n, q * (1.0 - q) / n);
            for i in 0..k {
                g[(i, 0)] += slope * x[i];
                let by = curve * x[i];
                for j in 0..=i {
                    h[(i, j)] += by * x[j];
                }
            }
        }
        let step = h.llt(Side::Lower).map_err(|e| format!("{e:?}"))?.solve(&g);
        w.iter_mut().enumerate().for_each(|(i, w)| *w -= step[(i, 0)]);
        if (0..k).map(|i| step[(i, 0)].abs()).fold(0.0, f64::max) < 1e-8 {
            return Ok(w);
        }
    }
    Err("the fit does not converge".into())
}

fn main() -> Result<(), Fail> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [data, before, after @ ..] = args.as_slice() else { return Err("usage: sentiment DATA BEFORE AFTER...".into()) };
    let w = fit(&Part::read(data, "train", before)?)?;
    let of = |prefix: &str| -> Result<Vec<(f64, bool)>, Fail> {
        let mut all = Vec::new();
        for part in ["valid", "test"] {
            let p = Part::read(data, part, prefix)?;
            all.extend(p.rows.iter().map(|x| score(&w, x)).zip(p.labels));
        }
        Ok(all)
    };
    let right = |all: &[(f64, bool)]| all.iter().filter(|(s, y)| (*s > 0.0) == *y).count() as f64 / all.len() as f64;
    let first = of(before)?;
    println!("before: accuracy {:.2} % on {} sentences", 100.0 * right(&first), first.len());
    for prefix in after {
        let found = of(prefix)?;
        let n = found.len() as f64;
        let same = first.iter().zip(&found).filter(|(a, b)| (a.0 > 0.0) == (b.0 > 0.0)).count() as f64 / n;
        // Paired: what each sentence lost or won.
        let lost: Vec<f64> = first
            .iter()
            .zip(&found)
            .map(|(a, b)| f64::from(u8::from((a.0 > 0.0) == a.1)) - f64::from(u8::from((b.0 > 0.0) == b.1)))
            .collect();
        let mean = lost.iter().sum::<f64>() / n;
        let deviation = (lost.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
        let kl = first.iter().zip(&found).map(|(a, b)| etalon::reference::kl::row(&[0.0, a.0], &[0.0, b.0])).sum::<f64>() / n;
        println!(
            "{prefix}: accuracy {:.2} %, drop {:.2} +- {:.2} points (95 %, paired), same label {:.2} %, KL {kl:.3e}",
            100.0 * right(&found),
            100.0 * mean,
            196.0 * deviation / n.sqrt(),
            100.0 * same,
        );
    }
    Ok(())
}
