//! Models with fewer singular values, and models that come as factors.

use crate::kernels::context;
use crate::models::fixture;
use etalon::Error;
use etalon::format::Checkpoint;
use etalon::model::Model;
use etalon::model::linears;
use etalon::train::prune::{Decomposed, Form, Keep, Kept, decompose, write_pruned};
use std::path::{Path, PathBuf};

fn decomposed(checkpoint: &Checkpoint) -> Vec<Decomposed> {
    let layers: Vec<_> = linears(&checkpoint.config).iter().map(|l| (l.stem().to_owned(), l.rows, l.cols)).collect();
    let weight = |name: &str, m, n| Ok(checkpoint.matrix(&format!("{name}.weight"), m, n)?.into_f32());
    context().block_on(decompose(&context(), &layers, Keep::Energy(1.0), &weight)).unwrap()
}

fn write(checkpoint: &Checkpoint, layers: &[Decomposed], keep: Keep, form: Form, model: &str, name: &str) -> (Vec<Kept>, PathBuf) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("pruned-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::copy(fixture(&format!("tiny/{model}/config.json")), folder.join("config.json")).unwrap();
    (write_pruned(checkpoint, layers, keep, form, &folder.join("model.safetensors")).unwrap(), folder)
}

fn losses(folder: &Path) -> Vec<f32> {
    let c = context();
    let model = Model::load(&c, &Checkpoint::open(folder).unwrap(), &|_, _| ()).unwrap();
    c.block_on(model.nll(&(3..20).collect::<Vec<u32>>())).unwrap()
}

fn apart(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// A model as factors computes what the product of the factors does. Losses near 10 from two orders of f32 summation differ by some
/// units in their last place (1e-6) times the layers' condition.
fn factors_are_their_product(model: &str) {
    let folder = fixture(&format!("tiny/{model}"));
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let layers = decomposed(&checkpoint);
    for (rank, differs) in [(8, true), (1, true), (usize::MAX, false)] {
        let of = |form, name: &str| write(&checkpoint, &layers, Keep::Rank(rank), form, model, &format!("{model}-{rank}-{name}"));
        let ((kept, factors), (_, whole)) = (of(Form::Factors, "factors"), of(Form::Whole, "whole"));
        let (a, b, original) = (losses(&factors), losses(&whole), losses(&folder));
        assert!(apart(&a, &b) < 2e-4, "{model} rank {rank}: {}", apart(&a, &b));
        assert_eq!(apart(&a, &original) > 1e-2, differs, "{model} rank {rank}: {}", apart(&a, &original));
        let names = Checkpoint::open(&factors).unwrap();
        for k in &kept {
            let factored = names.has(&format!("{}.sigma", k.name));
            assert_eq!(factored, k.elements.1 < k.elements.0);
            assert_ne!(factored, names.has(&format!("{}.weight", k.name)));
            assert_eq!(k.values.1, k.values.0.min(rank));
        }
        assert_eq!(kept.iter().any(|k| k.elements.1 < k.elements.0), differs);
        for folder in [factors, whole] {
            std::fs::remove_dir_all(folder).unwrap();
        }
    }
}

#[test]
fn factors_of_opt_with_norms_before() {
    factors_are_their_product("opt-preln");
}

#[test]
fn factors_of_opt_with_norms_after() {
    factors_are_their_product("opt-350m-like");
}

#[test]
fn factors_of_llama() {
    factors_are_their_product("llama-gqa");
}

/// The best approximation of rank k misses the square root of the sum of squares that were left out (Eckart and Young).
#[test]
fn the_error_is_what_was_left_out() {
    let checkpoint = Checkpoint::open(&fixture("tiny/opt-preln")).unwrap();
    for d in decomposed(&checkpoint) {
        let w = checkpoint.matrix(&format!("{}.weight", d.name), d.m, d.n).unwrap().into_f32();
        let norm = w.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        for k in [1, d.sigma.len() / 2, d.sigma.len()] {
            let missed = d.product(k).iter().zip(&w).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt();
            let want = d.sigma[k..].iter().map(|s| f64::from(*s).powi(2)).sum::<f64>().sqrt();
            // f32 factors: 1e-5 of W is the bound of the decomposition itself.
            assert!((missed - want).abs() < 1e-5 * norm, "{} k {k}: {missed} where {want} was left out", d.name);
        }
    }
}

#[test]
fn what_cannot_be_pruned_is_refused() {
    let checkpoint = Checkpoint::open(&fixture("tiny/opt-preln")).unwrap();
    let mut layers = decomposed(&checkpoint);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("refused.safetensors");
    let refused = |layers: &[Decomposed], keep| write_pruned(&checkpoint, layers, keep, Form::Factors, &path).unwrap_err();
    assert!(matches!(refused(&layers, Keep::Rank(0)), Error::Request(_)));
    let m = layers[0].m;
    layers[0].ut.truncate(m);
    assert!(refused(&layers, Keep::Rank(2)).to_string().contains(&layers[0].name));
    assert!(!path.exists());
}
