//! Models against the values that other implementations recorded (tests/fixtures/README.md).

mod probe;
mod real;
mod sessions;
mod tiny;

use crate::kernels::context;
use etalon::format::{Checkpoint, Npy};
use etalon::model::Model;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

pub fn tiny(name: &str) -> Arc<Model> {
    let checkpoint = Checkpoint::open(&fixture(&format!("tiny/{name}"))).unwrap();
    Model::load(&context(), &checkpoint, &|_, _| {}).unwrap()
}

pub fn npy(path: &str) -> (Vec<usize>, Vec<f32>) {
    let n = Npy::read(&fixture(path)).unwrap();
    (n.shape.clone(), n.as_f32().unwrap().to_vec())
}

pub fn ids(path: &str) -> Vec<Vec<u32>> {
    let n = Npy::read(&fixture(path)).unwrap();
    let values = n.to_i64().unwrap();
    let width = *n.shape.last().unwrap();
    values.chunks(width).map(|r| r.iter().map(|v| *v as u32).collect()).collect()
}

pub fn relative_l2(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let pairs = || got.iter().zip(want).map(|(g, w)| (f64::from(*g), f64::from(*w)));
    let error: f64 = pairs().map(|(g, w)| (g - w) * (g - w)).sum();
    (error / pairs().map(|(_, w)| w * w).sum::<f64>()).sqrt()
}

pub fn largest_difference(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    // A NaN on either side must not pass.
    got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0.0, |m, d| if d.is_nan() { f32::INFINITY } else { m.max(d) })
}
