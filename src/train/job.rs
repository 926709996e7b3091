//! A run in a folder: its options and data, a log, checkpoints, and at the end the trained model.
//!
//! | file | holds |
//! |---|---|
//! | `job.json` | options, how often to evaluate and to save |
//! | `config.json`, `tokenizer.json` | the model's, in Hugging Face's form |
//! | `data.safetensors` | the tokens, so that a run goes on although its text has moved |
//! | `log.jsonl` | a line a step: `step`, `loss`, `norm`; a line an evaluation: `step`, `valid`; a line a re-SVD: `step`, `drift`, `layer` |
//! | `checkpoints/` | the newest checkpoints |
//! | `model.safetensors`, `result.json` | written last |

use super::checkpoint;
use super::data::{Corpus, starts, valid_starts};
use super::export::Export;
use super::feed::Data;
use super::initial::Initial;
use super::network::Spec;
use super::options::Options;
use super::run::Trainer;
use crate::format::Config;
use crate::format::{NewTensor, Safetensors, SafetensorsWriter, write_atomically};
use crate::gpu::Context;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Steps between reads of the device's log, which wait for it.
const REPORT_EVERY: usize = 10;

/// How a run is watched and saved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// What is computed.
    pub options: Options,
    /// Steps between evaluations; 0: only at the end.
    pub evaluate_every: usize,
    /// Batches of the validation text that count; fewer where it is shorter.
    pub evaluate_batches: usize,
    /// Steps between checkpoints; 0: none but on request.
    pub checkpoint_every: usize,
    /// Checkpoints that are kept.
    pub keep: usize,
}

/// What a finished run gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The method's name.
    pub method: String,
    /// Steps done.
    pub steps: usize,
    /// Mean loss of the last tenth of the steps, in nats.
    pub train_loss: f64,
    /// Loss on the validation text after the last step; infinite (`null` in JSON) for a run that diverged.
    #[serde(deserialize_with = "null_is_infinite")]
    pub valid_loss: f64,
    /// Its exponential.
    #[serde(deserialize_with = "null_is_infinite")]
    pub perplexity: f64,
    /// Re-SVDs done.
    pub re_svds: usize,
    /// Elements that have a gradient.
    pub trained: usize,
    /// Bytes of stored weights.
    pub stored_bytes: u64,
    /// Seconds of training in the last sitting, evaluations and checkpoints included.
    pub seconds: f64,
    /// What it ran on.
    pub adapter: String,
    /// Settings of the run.
    pub settings: Settings,
    /// Evaluations: steps done, loss.
    pub evaluations: Vec<(usize, f64)>,
    /// Losses of the steps, each the mean of a hundredth of the run.
    pub losses: Vec<(usize, f64)>,
    /// Norms of all gradients, step by step.
    pub norms: Vec<f32>,
}

/// A loss that a diverged run has no number for.
pub(crate) fn null_is_infinite<'de, D: serde::Deserializer<'de>>(d: D) -> std::result::Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(d)?.unwrap_or(f64::INFINITY))
}

/// What happens in a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event {
    /// Steps were done; the loss is the last one's.
    Steps {
        /// Steps done.
        done: usize,
        /// The last loss.
        loss: f32,
    },
    /// An evaluation.
    Evaluated {
        /// Steps done.
        done: usize,
        /// Mean loss on the validation text.
        loss: f32,
    },
    /// A checkpoint was written.
    Saved {
        /// Steps done.
        done: usize,
    },
}

/// Whether a run is to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Yes.
    Continue,
    /// No: save a checkpoint and return.
    Stop,
}

/// A run and its folder.
#[derive(Debug)]
pub struct Job {
    folder: PathBuf,
    settings: Settings,
    trainer: Trainer,
    /// Losses and norms of the steps so far, and evaluations.
    steps: Vec<(f32, f32)>,
    evaluations: Vec<(usize, f64)>,
    /// The part of the log that the checkpoint knows of, until the run goes on: whoever only looks at a run leaves its files alone.
    kept: Option<String>,
}

/// A line of the log.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Line {
    step: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    loss: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    norm: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    valid: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    drift: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    layer: Option<String>,
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
    move |source| Error::Io { path: path.display().to_string(), source }
}

fn json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::Request(e.to_string()))?;
    write_atomically(path, text.as_bytes())
}

fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T> {
    let text = std::fs::read(path).map_err(io(path))?;
    serde_json::from_slice(&text).map_err(|e| Error::format(path.display().to_string(), "JSON", e.to_string()))
}

impl Job {
    /// Writes a run's files and begins it. `tokenizer` and `config` are the texts of the files.
    ///
    /// # Errors
    /// [`Error::Request`] where the folder holds a run already; as [`Trainer::new`].
    pub async fn create(
        context: &Context,
        folder: &Path,
        settings: &Settings,
        config: &str,
        tokenizer: Option<&str>,
        corpus: &Corpus,
        initial: &Initial<'_>,
    ) -> Result<Self> {
        let about = folder.join("job.json");
        if about.exists() {
            return Err(Error::Request(format!("{}: holds a run already: resume it, or choose another folder", folder.display())));
        }
        settings.options.check()?;
        std::fs::create_dir_all(folder.join("checkpoints")).map_err(io(folder))?;
        write_atomically(&folder.join("config.json"), config.as_bytes())?;
        if let Some(t) = tokenizer {
            write_atomically(&folder.join("tokenizer.json"), t.as_bytes())?;
        }
        save_corpus(&folder.join("data.safetensors"), corpus)?;
        let job = Self::begin(context, folder, settings.clone(), config, corpus, initial).await?;
        if let Initial::Named(_) = initial {
            // Where the weights came from may be gone when the run goes on.
            job.trainer.save(&folder.join("checkpoints"), settings.keep).await?;
        }
        json(&about, settings)?;
        Ok(job)
    }

    /// Takes a run up where its newest checkpoint left it, or from its beginning.
    ///
    /// # Errors
    /// [`Error::Io`] where the folder holds no run; [`Error::Format`] where its files are damaged.
    pub async fn resume(context: &Context, folder: &Path) -> Result<Self> {
        let settings: Settings = read_json(&folder.join("job.json"))?;
        let config_path = folder.join("config.json");
        let config = std::fs::read_to_string(&config_path).map_err(io(&config_path))?;
        let corpus = load_corpus(&folder.join("data.safetensors"))?;
        let newest = checkpoint::latest(&folder.join("checkpoints"))?;
        let initial = if newest.is_some() { Initial::Restored } else { Initial::Random };
        let mut job = Self::begin(context, folder, settings, &config, &corpus, &initial).await?;
        if let Some(newest) = newest {
            job.trainer.restore(&newest)?;
        }
        job.reread_log()?;
        Ok(job)
    }

    async fn begin(
        context: &Context,
        folder: &Path,
        settings: Settings,
        config: &str,
        corpus: &Corpus,
        initial: &Initial<'_>,
    ) -> Result<Self> {
        let o = &settings.options;
        let spec = Spec::Decoder(Config::from_json(&folder.join("config.json").display().to_string(), config.as_bytes())?);
        let windows = o.steps * o.sequences * o.batches;
        let data = Data { starts: starts(corpus.train.len(), o.context, windows, o.seed), tokens: corpus.train.clone(), ..Data::default() };
        let mut trainer = Trainer::new(context, &spec, o, &data, initial).await?;
        let starts = valid_starts(corpus.valid.len(), o.context);
        let batches = (starts.len() / o.sequences).clamp(1, settings.evaluate_batches.max(1));
        trainer.evaluate_on(&Data { tokens: corpus.valid.clone(), starts, ..Data::default() }, batches)?;
        Ok(Self { folder: folder.into(), settings, trainer, steps: Vec::new(), evaluations: Vec::new(), kept: None })
    }

    /// The run.
    pub fn trainer(&self) -> &Trainer {
        &self.trainer
    }

    /// Does one step, without log or checkpoint.
    ///
    /// # Errors
    /// As [`Trainer::submit_step`].
    pub async fn step(&mut self) -> Result<()> {
        self.trainer.submit_step().await
    }

    /// Its settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Runs to the end, or until `watch` stops it, when a checkpoint is written and nothing is returned.
    ///
    /// # Errors
    /// [`Error::Diverged`]: the newest checkpoint is intact; [`Error::Io`].
    pub async fn run(&mut self, watch: &mut (dyn FnMut(Event) -> Control + Send)) -> Result<Option<Outcome>> {
        let began = std::time::Instant::now();
        let path = self.folder.join("log.jsonl");
        if let Some(text) = self.kept.take() {
            write_atomically(&path, text.as_bytes())?;
        }
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&path).map_err(io(&path))?;
        let mut log = std::io::BufWriter::new(file);
        let total = self.settings.options.steps;
        while self.trainer.step() < total {
            self.trainer.submit_step().await?;
            let done = self.trainer.step();
            let due = |every: usize| every > 0 && done.is_multiple_of(every);
            let (evaluate, save) = (due(self.settings.evaluate_every) || done == total, due(self.settings.checkpoint_every));
            if !(done.is_multiple_of(REPORT_EVERY) || evaluate || save) {
                continue;
            }
            let mut control = Control::Continue;
            for d in self.trainer.drifts() {
                self.write_line(&mut log, &path, &Line { step: d.step, drift: Some(d.relative), layer: Some(d.layer), ..Line::default() })?;
            }
            for r in self.trainer.reports().await? {
                self.steps.push((r.loss, r.norm));
                self.write_line(&mut log, &path, &Line { step: r.step, loss: Some(r.loss), norm: Some(r.norm), ..Line::default() })?;
            }
            let mut tell = |e: Event, control: &mut Control| {
                if watch(e) == Control::Stop {
                    *control = Control::Stop;
                }
            };
            tell(Event::Steps { done, loss: self.steps.last().map_or(f32::NAN, |s| s.0) }, &mut control);
            if evaluate {
                let loss = self.trainer.evaluate().await?;
                tell(Event::Evaluated { done, loss }, &mut control);
                self.evaluations.push((done, f64::from(loss)));
                self.write_line(&mut log, &path, &Line { step: done, valid: Some(f64::from(loss)), ..Line::default() })?;
            }
            log.flush().map_err(io(&path))?;
            if save || (control == Control::Stop && done < total) {
                self.trainer.save(&self.folder.join("checkpoints"), self.settings.keep).await?;
                tell(Event::Saved { done }, &mut control);
            }
            if control == Control::Stop && done < total {
                return Ok(None);
            }
        }
        self.finish(began.elapsed().as_secs_f64()).await.map(Some)
    }

    fn write_line(&self, log: &mut impl std::io::Write, path: &Path, line: &Line) -> Result<()> {
        let text = serde_json::to_string(line).map_err(|e| Error::Request(e.to_string()))?;
        writeln!(log, "{text}").map_err(io(path))
    }

    async fn finish(&self, seconds: f64) -> Result<Outcome> {
        self.trainer.export(&self.folder.join("model.safetensors"), Export::Merged).await?;
        let outcome = self.outcome(self.evaluations.last().map_or(f64::NAN, |e| e.1), seconds);
        json(&self.folder.join("result.json"), &outcome)?;
        Ok(outcome)
    }

    /// The outcome of a run that diverged: its losses so far, and no validation loss.
    pub fn diverged(&self) -> Outcome {
        self.outcome(f64::INFINITY, 0.0)
    }

    fn outcome(&self, valid_loss: f64, seconds: f64) -> Outcome {
        let mean = |part: &[(f32, f32)]| part.iter().map(|s| f64::from(s.0)).sum::<f64>() / part.len().max(1) as f64;
        let n = self.steps.len();
        let hundredth = (n / 100).max(1);
        Outcome {
            method: self.settings.options.method.name().into(),
            steps: self.trainer.step(),
            train_loss: mean(&self.steps[n - (n / 10).max(1).min(n)..]),
            valid_loss,
            perplexity: valid_loss.exp(),
            re_svds: self.trainer.re_svds(),
            trained: self.trainer.layout().trained_elements().0,
            stored_bytes: self.trainer.layout().buffers().iter().filter(|(label, _)| *label == "weights").map(|(_, bytes)| bytes).sum(),
            seconds,
            adapter: self.trainer.context().facts().summary(),
            settings: self.settings.clone(),
            evaluations: self.evaluations.clone(),
            losses: self.steps.chunks(hundredth).enumerate().map(|(i, part)| (((i + 1) * hundredth).min(n), mean(part))).collect(),
            norms: self.steps.iter().map(|s| s.1).collect(),
        }
    }

    /// Reads the part of the log that the checkpoint knows of.
    fn reread_log(&mut self) -> Result<()> {
        let path = self.folder.join("log.jsonl");
        let text = match std::fs::read_to_string(&path) {
            Ok(t) => t,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(io(&path)(e)),
        };
        let done = self.trainer.step();
        let mut kept = String::new();
        // The last line may be cut off.
        for line in text.lines() {
            let Ok(l) = serde_json::from_str::<Line>(line) else { continue };
            match (l.loss, l.norm, l.valid) {
                (Some(loss), Some(norm), _) if l.step < done => self.steps.push((loss, norm)),
                (_, _, Some(valid)) if l.step <= done => self.evaluations.push((l.step, valid)),
                _ if l.drift.is_some() && l.step < done => {}
                _ => continue,
            }
            kept += line;
            kept.push('\n');
        }
        self.kept = Some(kept);
        Ok(())
    }
}

/// A finished run's outcome; `None` where there is none yet.
///
/// # Errors
/// [`Error::Format`] where the file is damaged.
pub fn outcome(folder: &Path) -> Result<Option<Outcome>> {
    let path = folder.join("result.json");
    if path.exists() { read_json(&path).map(Some) } else { Ok(None) }
}

fn save_corpus(path: &Path, c: &Corpus) -> Result<()> {
    let parts = [("train", &c.train), ("valid", &c.valid)];
    let entries = parts.map(|(name, t)| NewTensor { name: name.into(), dtype: "U32", shape: vec![t.len()] });
    let mut writer = SafetensorsWriter::create(path, &entries, &BTreeMap::new())?;
    for name in writer.order() {
        for (_, tokens) in parts.iter().filter(|(n, _)| *n == name) {
            writer.push(bytemuck::cast_slice(tokens))?;
        }
    }
    writer.finish()
}

fn load_corpus(path: &Path) -> Result<Corpus> {
    let file = Safetensors::open(path)?;
    Ok(Corpus { train: file.words("train")?, valid: file.words("valid")? })
}
