//! `spectrum`: singular values of a model's linear layers, and what is lost without the small ones.

use super::merge::{beside, decomposed, folder};
use crate::common::{Global, open_checkpoint, open_device, print, print_json, read_text};
use crate::{perplexity, plot};
use anyhow::{Context as _, Result};
use etalon::Context;
use etalon::format::{Checkpoint, write_atomically};
use etalon::model::Model;
use etalon::train::prune::{Decomposed, Form, Keep, decompose, reaching, write_pruned};
use etalon::train::random::Random;
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Parts of the sum of all singular values that the paper's appendix G keeps.
const ENERGIES: [f64; 11] = [1.0, 0.99, 0.98, 0.97, 0.96, 0.95, 0.94, 0.93, 0.92, 0.91, 0.9];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A model: a folder, a file, or a Hugging Face repository id
    #[arg(value_name = "MODEL")]
    model: String,
    /// Measure the perplexity of this text without the small values too
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Folder for plots and numbers
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// What is left of a model at one energy.
#[derive(Serialize)]
struct Point {
    energy: f64,
    /// Part of the singular values that stays.
    kept: f64,
    perplexity: f64,
}

pub(crate) fn run(g: &Global, args: &Args) -> Result<()> {
    let text = args.text.as_ref().map(|p| read_text(p)).transpose()?;
    let checkpoint = open_checkpoint(&args.model)?;
    let context = open_device(g)?;
    std::fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let layers = decomposed(&context, &checkpoint, Keep::Energy(1.0))?;
    let untrained = untrained(&context, &layers)?;
    let curve = match text {
        Some(text) => pruned(&context, &checkpoint, &layers, &text, &args.out)?,
        None => Vec::new(),
    };
    draw(&args.out, &layers, &curve)?;
    let values: BTreeMap<&str, &[f32]> = layers.iter().map(|d| (d.name.as_str(), d.sigma.as_slice())).collect();
    let all = json!({ "singular_values": values, "curve": curve, "untrained_reaching_90": parts(&untrained) });
    write_atomically(&args.out.join("spectrum.json"), serde_json::to_string(&all)?.as_bytes())?;
    if g.json { print_json(&all) } else { print(&table(&layers, &untrained, &curve)) }
}

/// Gaussian matrices of the same shapes: what any matrix has without training.
fn untrained(context: &Context, layers: &[Decomposed]) -> Result<Vec<Decomposed>> {
    let mut shapes: Vec<(String, usize, usize)> = layers.iter().map(|d| (format!("{} x {}", d.m, d.n), d.m, d.n)).collect();
    shapes.sort();
    shapes.dedup();
    let weight = |_: &str, m: usize, n: usize| {
        let mut random = Random::new(0, (m * n) as u64);
        Ok((0..m * n).map(|_| random.normal() as f32).collect())
    };
    Ok(context.block_on(decompose(context, &shapes, Keep::Energy(1.0), &weight))?)
}

/// The part of its values that reaches 90 % of their sum, by name.
fn parts(layers: &[Decomposed]) -> BTreeMap<&str, f64> {
    layers.iter().map(|d| (d.name.as_str(), part(d))).collect()
}

fn part(d: &Decomposed) -> f64 {
    reaching(&d.sigma, 0.9) as f64 / d.sigma.len() as f64
}

/// Perplexities of a text with fewer and fewer values, each model written to a folder that is removed in the end.
fn pruned(context: &Context, checkpoint: &Checkpoint, layers: &[Decomposed], text: &str, out: &Path) -> Result<Vec<Point>> {
    let from = folder(checkpoint)?;
    let folder = out.join("pruned");
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    beside(&from, &folder)?;
    let mut points = Vec::new();
    for energy in ENERGIES {
        let kept = write_pruned(checkpoint, layers, Keep::Energy(energy), Form::Factors, &folder.join("model.safetensors"))?;
        let (stay, all) = kept.iter().fold((0, 0), |(a, b), k| (a + k.values.1, b + k.values.0));
        let model = Model::load(context, &open_checkpoint(&folder.display().to_string())?, &|_, _| ())?;
        points.push(Point { energy, kept: stay as f64 / all as f64, perplexity: perplexity::of_text(&model, text)? });
    }
    std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    Ok(points)
}

fn draw(out: &Path, layers: &[Decomposed], curve: &[Point]) -> Result<()> {
    let points = |d: &Decomposed| d.sigma.iter().enumerate().map(|(i, s)| ((i + 1) as f64, f64::from(*s))).collect();
    // A curve for each kind of layer: that of the block in the middle.
    let middle = layers.get(layers.len() / 2).map(|d| block(&d.name)).unwrap_or_default();
    let series: Vec<plot::Series> = layers.iter().filter(|d| block(&d.name) == middle).map(|d| (d.name.clone(), points(d))).collect();
    plot::lines(&out.join("spectrum.svg"), "singular values", "number", "value", true, &series)?;
    if !curve.is_empty() {
        let series = [("pruned".to_owned(), curve.iter().map(|p| (100.0 * (1.0 - p.kept), p.perplexity)).collect())];
        plot::lines(
            &out.join("pruning.svg"),
            "perplexity without small singular values",
            "per cent left out",
            "perplexity",
            false,
            &series,
        )?;
    }
    Ok(())
}

/// The number of the block that a layer is part of.
fn block(name: &str) -> Option<usize> {
    name.split('.').find_map(|p| p.parse().ok())
}

fn table(layers: &[Decomposed], untrained: &[Decomposed], curve: &[Point]) -> String {
    let mut text = format!("{:48} {:>11} {:>9} {:>9} {:>9} {:>7}\n", "layer", "shape", "largest", "median", "least", "90 % by");
    for d in layers.iter().chain(untrained) {
        let (k, at) = (d.sigma.len(), |i: usize| d.sigma.get(i).copied().unwrap_or(0.0));
        let name = if untrained.iter().any(|u| std::ptr::eq(u, d)) { "Gaussian, untrained" } else { &d.name };
        let shape = format!("{}x{}", d.m, d.n);
        let (first, middle, last) = (at(0), at(k / 2), at(k.saturating_sub(1)));
        text += &format!("{name:48} {shape:>11} {first:>9.4} {middle:>9.4} {last:>9.4} {:>5.1} %\n", 100.0 * part(d));
    }
    if !curve.is_empty() {
        text += "\nsum kept  values kept  perplexity\n";
    }
    for p in curve {
        text += &format!("{:>6.0} %  {:>9.1} %  {:>10.3}\n", 100.0 * p.energy, 100.0 * p.kept, p.perplexity);
    }
    text
}
