//! What training by several methods found: table and curves.

use crate::plot;
use crate::train::compare::closure;
use anyhow::Result;
use etalon::format::write_atomically;
use etalon::translation::{Bleu, Outcome};
use serde::Serialize;
use std::fmt::Write as _;
use std::path::Path;

/// A gap between full rank and the low-rank methods that is smaller than so many nats a token says nothing of who closes it.
const GAP: f64 = 0.05;

/// What was found for a method.
#[derive(Serialize)]
pub(super) struct Found {
    /// Short runs at each rate.
    pub(super) tried: Vec<Outcome>,
    /// The run at the best of them.
    pub(super) last: Outcome,
    /// Its scores: greedy, and by beams.
    pub(super) bleu: Vec<Bleu>,
}

/// Writes `table.md` and `curves.svg`; returns the table. `of`: what it is a table of.
pub(super) fn write(folder: &Path, found: &[Found], beams: usize, of: &str) -> Result<String> {
    let text = table(found, beams, of)?;
    write_atomically(&folder.join("table.md"), text.as_bytes())?;
    let curve = |f: &Found| (f.last.method.clone(), f.last.evaluations.iter().map(|(step, loss)| (*step as f64, *loss)).collect());
    let series: Vec<plot::Series> = found.iter().filter(|f| !f.last.evaluations.is_empty()).map(curve).collect();
    if !series.is_empty() {
        plot::lines(&folder.join("curves.svg"), "validation loss", "step", "nats a token", false, &series)?;
    }
    Ok(text)
}

fn loss(o: &Outcome) -> String {
    o.diverged.as_ref().map_or_else(|| format!("{:.4}", o.valid_loss), |what| format!("diverged: {what}"))
}

fn table(found: &[Found], beams: usize, of: &str) -> Result<String> {
    let mut text = format!(
        "| method | rank | rate | validation loss | BLEU greedy | BLEU {beams} beams | s | trained |\n|---|---|---|---|---|---|---|---|\n"
    );
    for Found { last: o, bleu, .. } in found {
        let score = |i: usize| bleu.get(i).map_or("-".into(), |b| format!("{:.2}", b.score));
        let (greedy, beam) = (score(0), score(1));
        writeln!(text, "| {} | {} | {} | {} | {greedy} | {beam} | {:.0} | {} |", o.method, o.rank, o.rate, loss(o), o.seconds, o.trained)?;
    }
    if let Some(told) = told(found) {
        writeln!(text, "\n{told}")?;
    }
    if found.iter().any(|f| !f.tried.is_empty()) {
        text += "\n| tried | steps | rate | validation loss |\n|---|---|---|---|\n";
    }
    for o in found.iter().flat_map(|f| &f.tried) {
        writeln!(text, "| {} | {} | {} | {} |", o.method, o.steps, o.rate, loss(o))?;
    }
    writeln!(text, "\n{of}")?;
    Ok(text)
}

/// What SST closes of the gap between the better low-rank method and full rank.
fn told(found: &[Found]) -> Option<String> {
    let of = |method: &str| found.iter().find(|f| f.last.method == method).map(|f| f.last.valid_loss).filter(|l| l.is_finite());
    let low = [of("lora"), of("relora")].into_iter().flatten().reduce(f64::min)?;
    let (full, sst) = (of("full")?, of("sst")?);
    let gap = low - full;
    let beside = |nats: f64| format!("{:.3} nats {}", nats.abs(), if nats < 0.0 { "behind" } else { "ahead of" });
    let of_full = format!("Full rank is {} the better of LoRA and ReLoRA", beside(gap));
    Some(match closure(full, low, sst).filter(|_| gap >= GAP) {
        Some(part) => format!("{of_full}; SST closes {:.1} % of that.", 100.0 * part),
        None => format!("{of_full}: there is no gap to close. SST is {} it.", beside(low - sst)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(method: &str, valid_loss: f64) -> Found {
        let last = Outcome {
            method: method.into(),
            rank: 8,
            rate: 5e-3,
            seed: 0,
            steps: 9,
            valid_loss,
            evaluations: Vec::new(),
            train_loss: 1.0,
            re_svds: 0,
            trained: 7,
            seconds: 1.0,
            adapter: String::new(),
            diverged: (!valid_loss.is_finite()).then(|| "the loss at step 3".into()),
        };
        Found { tried: Vec::new(), last, bleu: Vec::new() }
    }

    #[test]
    fn only_a_gap_that_is_one_is_closed() {
        let told =
            |losses: [f64; 4]| told(&["full", "lora", "relora", "sst"].into_iter().zip(losses).map(|(m, l)| run(m, l)).collect::<Vec<_>>());
        assert!(told([4.0, 4.5, 4.4, 4.1]).unwrap().contains("0.400 nats ahead of the better of LoRA and ReLoRA; SST closes 75.0 %"));
        assert!(told([4.0, 4.5, 4.4, 3.1]).unwrap().contains("closes 100.0 %"));
        assert!(told([4.0, 4.04, 4.1, 4.02]).unwrap().contains("0.040 nats ahead of the better of LoRA and ReLoRA: there is no gap"));
        assert!(told([4.0, 3.9, 4.1, 4.2]).unwrap().contains("0.100 nats behind"));
        assert!(told([4.0, 3.9, 4.1, 3.8]).unwrap().ends_with("SST is 0.100 nats ahead of it."));
        // What diverged is no rival.
        assert!(told([4.0, f64::INFINITY, 4.4, 4.2]).unwrap().contains("closes 50.0 %"));
        assert_eq!(told([4.0, f64::INFINITY, f64::INFINITY, 4.2]), None);
        assert!(table(&[run("sst", f64::INFINITY)], 4, "what").unwrap().contains("diverged: the loss at step 3"));
    }
}
