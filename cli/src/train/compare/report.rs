//! What a comparison found: table, curves, JSON.

use crate::plot;
use anyhow::Result;
use etalon::format::write_atomically;
use etalon::train::Method;
use etalon::train::job::Outcome;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use std::fmt::Write as _;
use std::path::Path;

/// A run of a sweep; no perplexity where it diverged.
#[derive(Serialize, Deserialize)]
pub(super) struct Swept {
    pub(super) way: String,
    pub(super) rate: f64,
    pub(super) perplexity: Option<f64>,
}

/// What was found for a method: its best way, and its runs at the best rate.
#[derive(Serialize, Deserialize)]
pub(super) struct Found {
    pub(super) way: String,
    pub(super) rate: f64,
    /// The first run chose the rate: where there are others, they alone count.
    pub(super) tuned: bool,
    pub(super) runs: Vec<Outcome>,
    pub(super) swept: Vec<Swept>,
}

impl Found {
    fn counted(&self) -> &[Outcome] {
        &self.runs[usize::from(self.tuned && self.runs.len() > 1)..]
    }

    fn perplexity(&self) -> (f64, f64) {
        spread(self.counted().iter().map(|o| o.perplexity))
    }

    fn is(&self, method: &str) -> bool {
        self.runs.first().is_some_and(|o| o.method == method)
    }
}

pub(super) fn json(found: &[Found]) -> Json {
    json!(found)
}

pub(super) fn parse(text: &[u8]) -> Result<Vec<Found>> {
    Ok(serde_json::from_slice(text)?)
}

/// Writes `table.md`, `curves.svg` and `comparison.json`; returns the table.
pub(super) fn write(folder: &Path, found: &[Found]) -> Result<String> {
    let text = table(found)?;
    write_atomically(&folder.join("table.md"), text.as_bytes())?;
    let curve = |f: &Found| {
        let last = f.runs.last()?;
        Some((f.way.clone(), last.evaluations.iter().map(|(step, loss)| (*step as f64, *loss)).collect()))
    };
    let series: Vec<plot::Series> = found.iter().filter_map(curve).collect();
    plot::lines(&folder.join("curves.svg"), "validation loss", "step", "nats a token", false, &series)?;
    write_atomically(&folder.join("comparison.json"), serde_json::to_string(found)?.as_bytes())?;
    Ok(text)
}

fn table(found: &[Found]) -> Result<String> {
    let mut text = String::from(
        "| method | rate | perplexity | ± | train loss | trained | re-SVDs | norm corr. | s |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    for f in found {
        let (mean, deviation) = f.perplexity();
        let Some(last) = f.runs.last() else { continue };
        let seconds = spread(f.runs.iter().map(|o| o.seconds)).0;
        let alike = alike(f, found).map_or_else(|| "-".into(), |r| format!("{r:.2}"));
        writeln!(
            text,
            "| {} | {} | {mean:.2} | {deviation:.2} | {:.4} | {} | {} | {alike} | {seconds:.0} |",
            f.way, f.rate, last.train_loss, last.trained, last.re_svds
        )?;
    }
    let of = |method: &str| found.iter().find(|f| f.is(method)).map(|f| f.perplexity().0);
    let low = [of("lora"), of("relora")].into_iter().flatten().reduce(f64::min);
    if let (Some(full), Some(sst), Some(low)) = (of("full"), of("sst"), low) {
        let gap = 100.0 * (low - full) / low;
        match closure(full, low, sst) {
            Some(c) => writeln!(
                text,
                "\nSST closes {:.1} % of the gap between full rank and the better of LoRA and ReLoRA (a gap of {gap:.1} %).",
                100.0 * c
            )?,
            None => writeln!(text, "\nThere is no gap between full rank and the low-rank methods.")?,
        }
    }
    if let Some(dip) = found.iter().find(|f| f.is("relora")).and_then(dip) {
        writeln!(text, "\nAfter a merge of ReLoRA the gradient's norm is {dip:.2} times what it was (ten steps beside ten).")?;
    }
    if found.iter().any(|f| !f.swept.is_empty()) {
        text += "\n| tried with the first seed | rate | perplexity |\n|---|---|---|\n";
    }
    for s in found.iter().flat_map(|f| &f.swept) {
        let perplexity = s.perplexity.map_or_else(|| "diverged".into(), |p| format!("{p:.2}"));
        writeln!(text, "| {} | {} | {perplexity} |", s.way, s.rate)?;
    }
    Ok(text)
}

/// Mean and standard deviation.
fn spread(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let values: Vec<f64> = values.collect();
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / (n - 1.0).max(1.0);
    (mean, variance.sqrt())
}

/// The part of the gap between the better of LoRA and ReLoRA and full rank that SST closes, at most 1; `None` without a gap.
pub(crate) fn closure(full: f64, low: f64, sst: f64) -> Option<f64> {
    (low > full).then(|| ((low - sst) / (low - full)).min(1.0))
}

/// Pearson's correlation of two series.
fn correlation(a: &[f32], b: &[f32]) -> Option<f64> {
    let n = a.len().min(b.len());
    let wide = |v: &[f32]| -> Vec<f64> { v[..n].iter().map(|x| f64::from(*x)).collect() };
    let (a, b) = (wide(a), wide(b));
    let centred = |v: &[f64]| -> Vec<f64> {
        let mean = v.iter().sum::<f64>() / n as f64;
        v.iter().map(|x| x - mean).collect()
    };
    let (a, b) = (centred(&a), centred(&b));
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let scale = (dot(&a, &a) * dot(&b, &b)).sqrt();
    (scale > 0.0 && scale.is_finite()).then(|| dot(&a, &b) / scale)
}

/// How the norms of a method's gradients go with those of full rank at the same seeds.
fn alike(f: &Found, found: &[Found]) -> Option<f64> {
    let full = found.iter().find(|f| f.is("full")).filter(|_| !f.is("full"))?;
    let of = |o: &Outcome| {
        let same = full.runs.iter().find(|r| r.settings.options.seed == o.settings.options.seed)?;
        correlation(&o.norms, &same.norms)
    };
    let all: Vec<f64> = f.counted().iter().filter_map(of).collect();
    (!all.is_empty()).then(|| spread(all.into_iter()).0)
}

/// The gradient's norm in the ten steps after a merge, over that in the ten before.
fn dip(f: &Found) -> Option<f64> {
    const STEPS: usize = 10;
    let mut ratios = Vec::new();
    for o in f.counted() {
        let Method::Relora { every, .. } = o.settings.options.method else { return None };
        for at in (every..o.norms.len()).step_by(every.max(1)).filter(|at| *at >= STEPS && at + STEPS <= o.norms.len()) {
            let sum = |part: &[f32]| part.iter().map(|v| f64::from(*v)).sum::<f64>();
            ratios.push(sum(&o.norms[at..at + STEPS]) / sum(&o.norms[at - STEPS..at]));
        }
    }
    (!ratios.is_empty()).then(|| spread(ratios.into_iter()).0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closure_counts_at_most_one() {
        assert_eq!(closure(70.0, 80.0, 75.0), Some(0.5));
        assert_eq!(closure(70.0, 80.0, 65.0), Some(1.0));
        assert_eq!(closure(80.0, 80.0, 75.0), None);
    }

    #[test]
    fn the_spread_of_one_value_is_zero() {
        assert_eq!(spread([3.0].into_iter()), (3.0, 0.0));
        assert!((spread([1.0, 3.0].into_iter()).1 - 2f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn correlation_is_that_of_pearson() {
        assert!((correlation(&[1.0, 2.0, 3.0], &[2.0, 4.0, 6.5]).unwrap() - 0.997_949).abs() < 1e-6);
        assert!((correlation(&[1.0, 2.0], &[5.0, 1.0]).unwrap() + 1.0).abs() < 1e-12);
        assert_eq!(correlation(&[1.0, 1.0], &[5.0, 1.0]), None);
    }
}
