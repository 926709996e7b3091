//! `translate train`: the same pairs of sentences, several methods.

use super::report::{self, Found};
use crate::common::{self, Global, bar, interrupted, open_device, print, print_json, read_text};
use crate::graph::GeometryName;
use crate::train::options::MethodName;
use anyhow::{Context as _, Result, bail};
use etalon::Context;
use etalon::format::{Activation, MarianConfig, Tokenizer, write_atomically};
use etalon::train::data::{tokenizer_config, train_bpe};
use etalon::train::job::Control;
use etalon::train::{Export, Geometry, Method, Options, Schedule, SentenceBatch, Sst, Trainer};
use etalon::translation::{self, Bleu, Corpus, Outcome, Request, Search, encode, read_pairs, shapes_of};
use serde_json::{Value, json};
use std::path::PathBuf;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder with train.SOURCE, train.TARGET, valid.… and test.…, a sentence a line
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Ending of the files to translate from
    #[arg(long, default_value = "en")]
    source: String,
    /// Ending of the files to translate to
    #[arg(long, default_value = "de")]
    target: String,
    /// Methods, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "full,lora,relora,sst")]
    methods: Vec<MethodName>,
    /// Rank of all methods but full rank
    #[arg(long, default_value_t = 8)]
    rank: usize,
    /// Learning rates, separated by commas: with several, each method is tried with each of them for --trial-steps and goes on with its best
    #[arg(long, value_delimiter = ',', default_value = "5e-3")]
    rates: Vec<f64>,
    /// Learning rate of embeddings, norms and biases [default: that of the linear layers]
    #[arg(long)]
    lr_rest: Option<f64>,
    /// Steps of a trial [default: a third of --steps]
    #[arg(long)]
    trial_steps: Option<usize>,
    /// Optimiser steps
    #[arg(long, default_value_t = 2400)]
    steps: usize,
    /// Steps of the learning rate's first rise
    #[arg(long, default_value_t = 100)]
    warmup: usize,
    /// Tokens of a batch, of either language
    #[arg(long, default_value_t = 2048)]
    tokens: usize,
    /// Longest sentence, in tokens; longer ones are left out, and counted
    #[arg(long, default_value_t = 32)]
    longest: usize,
    /// Tokens of the vocabulary of both languages together
    #[arg(long, default_value_t = 4000)]
    vocabulary: usize,
    /// Where values lie
    #[arg(long, value_enum, default_value = "euclidean")]
    geometry: GeometryName,
    /// Width
    #[arg(long, default_value_t = 64)]
    width: usize,
    /// Layers of the encoder, and of the decoder
    #[arg(long, default_value_t = 3)]
    layers: usize,
    /// SST: steps of an iteration (T3)
    #[arg(long, default_value_t = 25)]
    t3: usize,
    /// SST: iterations of a round (T2); 0: width / rank
    #[arg(long, default_value_t = 0)]
    t2: usize,
    /// SST: steps of the learning rate's rise in an iteration
    #[arg(long, default_value_t = 3)]
    sst_warmup: usize,
    /// Label smoothing
    #[arg(long, default_value_t = 0.1)]
    smoothing: f32,
    /// Probability of dropping elements of residual branches
    #[arg(long, default_value_t = 0.0)]
    dropout: f32,
    /// Seed
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Steps between evaluations; 0: only at the end
    #[arg(long, default_value_t = 200)]
    evaluate_every: usize,
    /// Beams of the second of two translations of the test part, the first being greedy
    #[arg(long, default_value_t = 4)]
    beams: usize,
    /// Folder that keeps a JSON file for each finished run, and a model for each method
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Everything that the runs share.
struct Prepared {
    context: Context,
    tokenizer: Tokenizer,
    config: MarianConfig,
    shapes: Vec<SentenceBatch>,
    corpus: Corpus,
    left_out: [usize; 3],
}

fn prepare(g: &Global, a: &Args) -> Result<Prepared> {
    let part = |name: &str| {
        let path = |language: &str| a.data.join(format!("{name}.{language}"));
        read_pairs(&path(&a.source), &path(&a.target))
    };
    let [train, valid, test] = [part("train")?, part("valid")?, part("test")?];
    std::fs::create_dir_all(&a.out).with_context(|| format!("{}", a.out.display()))?;
    let path = a.out.join("tokenizer.json");
    if !path.exists() {
        let text: String = train.iter().flat_map(|(s, t)| [s.as_str(), "\n", t, "\n"]).collect();
        write_atomically(&path, train_bpe(&[&text], a.vocabulary)?.as_bytes())?;
    }
    let json = read_text(&path)?;
    let tokenizer = Tokenizer::from_json(json.as_bytes())?;
    let vocab = serde_json::from_str::<Value>(&json)?["model"]["vocab"].as_object().map_or(a.vocabulary, serde_json::Map::len);
    let config = MarianConfig {
        vocab,
        hidden: a.width,
        encoder_layers: a.layers,
        decoder_layers: a.layers,
        encoder_heads: 4,
        decoder_heads: 4,
        encoder_ffn: 4 * a.width,
        decoder_ffn: 4 * a.width,
        max_positions: 512,
        activation: Activation::Relu,
        scale_embedding: true,
        init_std: 1.0 / (a.width as f64).sqrt(),
        start: 1,
        eos: 2,
        pad: 1,
    };
    let shapes = shapes_of(a.tokens, a.longest);
    let kept = |pairs: &[(String, String)]| encode(&tokenizer, pairs, &config, &shapes);
    let ((train, a0), (valid, a1)) = (kept(&train)?, kept(&valid)?);
    let fits = |(s, _): &&(String, String)| tokenizer.encode(s, false).is_ok_and(|ids| ids.len() < a.longest);
    let tested: Vec<&(String, String)> = test.iter().filter(fits).collect();
    let sources = tested.iter().map(|(s, _)| Ok([tokenizer.encode(s, false)?, vec![config.eos]].concat())).collect::<Result<Vec<_>>>()?;
    let a2 = test.len() - tested.len();
    let references = tested.iter().map(|p| p.1.clone()).collect();
    let corpus = Corpus { train, valid, sources, references };
    Ok(Prepared { context: open_device(g)?, tokenizer, config, shapes, corpus, left_out: [a0, a1, a2] })
}

pub(crate) fn run(g: &Global, a: &Args) -> Result<()> {
    let p = prepare(g, a)?;
    common::stop_gracefully();
    let mut found = Vec::new();
    for name in &a.methods {
        let sst = Sst { rank: a.rank, steps: a.t3, iterations: a.t2, warmup: a.sst_warmup, ..Sst::default() };
        let method = name.of_rank(a.rank, Method::Sst(sst));
        let mut tried = Vec::new();
        if a.rates.len() > 1 {
            let steps = a.trial_steps.unwrap_or(a.steps.div_ceil(3));
            for rate in &a.rates {
                let Some((trial, _)) = one(&p, a, method, (*rate, steps), false)? else { return Ok(()) };
                tried.push(trial);
                if interrupted() {
                    return Ok(());
                }
            }
        }
        let best = tried.iter().min_by(|a, b| a.valid_loss.total_cmp(&b.valid_loss));
        let rate = best.map(|b| b.rate).or(a.rates.first().copied()).context("--rates: one at least")?;
        let Some((last, bleu)) = one(&p, a, method, (rate, a.steps), true)? else { return Ok(()) };
        found.push(Found { tried, last, bleu });
    }
    let c = &p.corpus;
    let [x, y, z] = p.left_out;
    let (train, valid, test) = (c.train.len(), c.valid.len(), c.sources.len());
    let of = format!("Pairs to train on, to validate by, to translate: {train}, {valid}, {test}; longer ones left out: {x}, {y}, {z}.");
    let text = report::write(&a.out, &found, a.beams, &of)?;
    if g.json { print_json(&json!(found)) } else { print(&text) }
}

/// A run, or what is kept of it; a final one with its scores: greedy, and by beams. Nothing if it was interrupted.
fn one(p: &Prepared, a: &Args, method: Method, (rate, steps): (f64, usize), last: bool) -> Result<Option<(Outcome, Vec<Bleu>)>> {
    let options = Options {
        method,
        steps,
        rate,
        rate_rest: a.lr_rest,
        schedule: Schedule::Cosine { floor: 0.1 },
        warmup: a.warmup.min(steps / 2),
        smoothing: a.smoothing,
        dropout: a.dropout,
        beta2: 0.98,
        seed: a.seed,
        ..Options::default()
    };
    let evaluate_every = if last { a.evaluate_every } else { 0 };
    let request = Request { options, config: p.config.clone(), geometry: a.geometry.get(), batches: p.shapes.clone(), evaluate_every };
    let asked = format!("{request:?}, corpus {:016x}, {} beams", p.corpus.fingerprint(), a.beams);
    let name = format!("{}-r{}-rate-{rate}-steps-{steps}-s{}", method.name(), method.rank(), a.seed);
    let path = a.out.join(format!("{name}.json"));
    if path.exists() {
        let kept: Value = serde_json::from_str(&read_text(&path)?).with_context(|| format!("{}", path.display()))?;
        if kept["request"].as_str() != Some(&asked) {
            bail!("{} is of a run with other options or sentences: choose another --out, or remove the file", path.display());
        }
        let scores: Vec<Bleu> = serde_json::from_value(kept["bleu"].clone())?;
        if !last || !scores.is_empty() || kept["outcome"]["diverged"].is_string() {
            return Ok(Some((serde_json::from_value(kept["outcome"].clone())?, scores)));
        }
    }
    let bar = bar(steps as u64, "training", "steps");
    let mut watch = |done: usize, loss: f32, valid: f64| {
        bar.set_position(done as u64);
        bar.set_message(format!("{name}: loss {loss:.3}, validation {valid:.3}"));
        if interrupted() { Control::Stop } else { Control::Continue }
    };
    let done = p.context.block_on(translation::train(&p.context, &p.corpus, &request, &mut watch))?;
    bar.finish_and_clear();
    let Some((outcome, trained)) = done else { return Ok(None) };
    let mut scores = Vec::new();
    if let (Some(t), true) = (&trained, last) {
        let mut texts = Vec::new();
        for beams in [1, a.beams] {
            let search = Search { beams, length_penalty: 1.0 };
            let (score, lines) = p.context.block_on(translation::test(t, &p.tokenizer, &p.corpus, &search, 64))?;
            scores.push(score);
            texts = lines;
        }
        save(p, a, t, method.name(), &texts)?;
    }
    let kept = json!({ "request": asked, "outcome": outcome, "bleu": scores });
    write_atomically(&path, format!("{kept:#}\n").as_bytes())?;
    Ok(Some((outcome, scores)))
}

/// The model in Hugging Face's form, and its translations.
fn save(p: &Prepared, a: &Args, t: &Trainer, name: &str, texts: &[String]) -> Result<()> {
    let folder = a.out.join(name);
    std::fs::create_dir_all(&folder).with_context(|| format!("{}", folder.display()))?;
    p.context.block_on(t.export(&folder.join("model.safetensors"), Export::Merged))?;
    let config = p.config.to_json(a.geometry.get() == Geometry::Lorentz);
    write_atomically(&folder.join("config.json"), config.as_bytes())?;
    write_atomically(&folder.join("tokenizer.json"), read_text(&a.out.join("tokenizer.json"))?.as_bytes())?;
    write_atomically(&folder.join("tokenizer_config.json"), tokenizer_config(p.config.max_positions).as_bytes())?;
    write_atomically(&folder.join(format!("test.{}", a.target)), (texts.join("\n") + "\n").as_bytes())?;
    Ok(())
}
