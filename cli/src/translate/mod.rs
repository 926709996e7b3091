//! `translate`: train translators by several methods, translate with one, score translations.

use crate::common::{self, Global, bar, interrupted, open_device, print, print_json, read_text};
use crate::graph::GeometryName;
use crate::train::options::MethodName;
use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use etalon::Context;
use etalon::format::{Activation, MarianConfig, Safetensors, Tokenizer, write_atomically};
use etalon::train::data::{tokenizer_config, train_bpe};
use etalon::train::job::Control;
use etalon::train::{Export, Geometry, Initial, Method, Options, Schedule, SentenceBatch, Spec, Sst, Trainer, TranslatorSpec};
use etalon::translation::{self, Bleu, Corpus, Outcome, Pair, Request, Search, bleu, encode, read_pairs, shape_of, translate};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// `model_type` of a translator whose values are points of the Lorentz model; else it is a Marian.
const HYPERBOLIC: &str = "etalon-hyperbolic-translator";

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train translators by several methods on the same pairs of sentences, and score them
    Train(Box<TrainArgs>),
    /// Translate the lines of a text
    Run(RunArgs),
    /// Score translations against references
    Bleu(BleuArgs),
}

#[derive(clap::Args)]
struct TrainArgs {
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

#[derive(clap::Args)]
struct RunArgs {
    /// Folder of a model of type marian, with a tokenizer.json
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Text, a sentence a line [default: standard input]
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Prefixes that are kept; 1: greedy
    #[arg(long, default_value_t = 4)]
    beams: usize,
    /// A translation of n tokens is worth its log-probability over n to this power
    #[arg(long, default_value_t = 1.0)]
    length_penalty: f32,
    /// Longest sentence, in tokens
    #[arg(long, default_value_t = 64)]
    longest: usize,
    /// Prefixes that are lengthened together
    #[arg(long, default_value_t = 32)]
    lanes: usize,
}

#[derive(clap::Args)]
struct BleuArgs {
    /// Translations, a sentence a line
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// References, as many lines
    #[arg(long, value_name = "FILE")]
    reference: PathBuf,
}

pub(crate) fn run(g: &Global, args: &Args) -> Result<()> {
    match &args.command {
        Command::Train(a) => train(g, a),
        Command::Run(a) => translate_lines(g, a),
        Command::Bleu(a) => score(g, a),
    }
}

fn score(g: &Global, a: &BleuArgs) -> Result<()> {
    let lines = |p: &Path| Ok::<_, anyhow::Error>(read_text(p)?.lines().map(str::to_owned).collect::<Vec<_>>());
    let (texts, references) = (lines(&a.text)?, lines(&a.reference)?);
    if texts.len() != references.len() {
        bail!("{} has {} lines, {} has {}", a.text.display(), texts.len(), a.reference.display(), references.len());
    }
    let b = bleu(&texts, &references);
    if g.json { print_json(&json!(b)) } else { print(&format!("{}\n", told(&b))) }
}

fn told(b: &Bleu) -> String {
    let p: Vec<String> = b.precisions.iter().map(|p| format!("{p:.1}")).collect();
    format!("BLEU {:.2} ({}, brevity {:.3}, {} words for {})", b.score, p.join("/"), b.brevity, b.words, b.reference_words)
}

/// Everything that the runs share.
struct Prepared {
    context: Context,
    tokenizer: Tokenizer,
    config: MarianConfig,
    batch: SentenceBatch,
    corpus: Corpus,
    left_out: [usize; 3],
}

fn prepare(g: &Global, a: &TrainArgs) -> Result<Prepared> {
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
    let batch = shape_of(a.tokens, a.longest);
    let kept = |pairs: &[(String, String)]| encode(&tokenizer, pairs, &config, &batch);
    let ((train, a0), (valid, a1)) = (kept(&train)?, kept(&valid)?);
    let fits = |(s, _): &&(String, String)| tokenizer.encode(s, false).is_ok_and(|ids| ids.len() < batch.source);
    let tested: Vec<&(String, String)> = test.iter().filter(fits).collect();
    let sources = tested.iter().map(|(s, _)| Ok([tokenizer.encode(s, false)?, vec![config.eos]].concat())).collect::<Result<Vec<_>>>()?;
    let a2 = test.len() - tested.len();
    let references = tested.iter().map(|p| p.1.clone()).collect();
    let corpus = Corpus { train, valid, sources, references };
    Ok(Prepared { context: open_device(g)?, tokenizer, config, batch, corpus, left_out: [a0, a1, a2] })
}

fn train(g: &Global, a: &TrainArgs) -> Result<()> {
    let p = prepare(g, a)?;
    common::stop_gracefully();
    let c = &p.corpus;
    let [x, y, z] = p.left_out;
    let mut rows = Vec::new();
    for name in &a.methods {
        let sst = Sst { rank: a.rank, steps: a.t3, iterations: a.t2, warmup: a.sst_warmup, ..Sst::default() };
        let method = name.of_rank(a.rank, Method::Sst(sst));
        let mut rate = a.rates.first().copied().unwrap_or(5e-3);
        if a.rates.len() > 1 {
            let mut best = f64::INFINITY;
            for r in &a.rates {
                let steps = a.trial_steps.unwrap_or(a.steps.div_ceil(3));
                let Some((trial, _)) = one(&p, a, method, (*r, steps), false)? else { return Ok(()) };
                let loss = trial.valid_loss;
                if loss < best {
                    (best, rate) = (loss, *r);
                }
                if interrupted() {
                    return Ok(());
                }
            }
        }
        match one(&p, a, method, (rate, a.steps), true)? {
            Some(row) => rows.push(row),
            None => return Ok(()),
        }
    }
    if g.json {
        return print_json(&json!(rows.iter().map(|(o, b)| json!({ "outcome": o, "bleu": b })).collect::<Vec<_>>()));
    }
    let mut text = format!(
        "| method | rank | rate | validation loss | BLEU greedy | BLEU {} beams | s | trained |\n|---|---|---|---|---|---|---|---|\n",
        a.beams
    );
    for (o, b) in &rows {
        let score = |i: usize| b.get(i).map_or("-".into(), |b| format!("{:.2}", b.score));
        text += &format!(
            "| {} | {} | {} | {:.4} | {} | {} | {:.0} | {} |\n",
            o.method,
            o.rank,
            o.rate,
            o.valid_loss,
            score(0),
            score(1),
            o.seconds,
            o.trained
        );
    }
    let (train, valid, test) = (c.train.len(), c.valid.len(), c.sources.len());
    text += &format!("\nPairs to train on, to validate by, to translate: {train}, {valid}, {test}; longer ones left out: {x}, {y}, {z}.\n");
    write_atomically(&a.out.join("table.md"), text.as_bytes())?;
    print(&text)
}

/// A run, or what is kept of it; a final one with its scores: greedy, and by beams. Nothing if it was interrupted.
fn one(p: &Prepared, a: &TrainArgs, method: Method, (rate, steps): (f64, usize), last: bool) -> Result<Option<(Outcome, Vec<Bleu>)>> {
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
    let request = Request { options, config: p.config.clone(), geometry: a.geometry.get(), batch: p.batch, evaluate_every };
    let asked = format!("{request:?}, {} pairs, {} beams", p.corpus.train.len(), a.beams);
    let name = format!("{}-r{}-rate-{rate}-steps-{steps}-s{}", method.name(), method.rank(), a.seed);
    let path = a.out.join(format!("{name}.json"));
    if path.exists() {
        let kept: Value = serde_json::from_str(&read_text(&path)?).with_context(|| format!("{}", path.display()))?;
        if kept["request"].as_str() != Some(&asked) {
            bail!("{} is of a run with other options: choose another --out, or remove the file", path.display());
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
fn save(p: &Prepared, a: &TrainArgs, t: &Trainer, name: &str, texts: &[String]) -> Result<()> {
    let folder = a.out.join(name);
    std::fs::create_dir_all(&folder).with_context(|| format!("{}", folder.display()))?;
    p.context.block_on(t.export(&folder.join("model.safetensors"), Export::Merged))?;
    let mut config: Value = serde_json::from_str(&p.config.to_json())?;
    if a.geometry.get() == Geometry::Lorentz {
        // Other programs must not take it for a Marian.
        (config["model_type"], config["architectures"]) = (json!(HYPERBOLIC), json!(["EtalonHyperbolicMT"]));
    }
    write_atomically(&folder.join("config.json"), config.to_string().as_bytes())?;
    write_atomically(&folder.join("tokenizer.json"), read_text(&a.out.join("tokenizer.json"))?.as_bytes())?;
    write_atomically(&folder.join("tokenizer_config.json"), tokenizer_config(p.config.max_positions).as_bytes())?;
    write_atomically(&folder.join(format!("test.{}", a.target)), (texts.join("\n") + "\n").as_bytes())?;
    Ok(())
}

fn translate_lines(g: &Global, a: &RunArgs) -> Result<()> {
    let path = a.model.join("config.json");
    let mut json: Value = serde_json::from_str(&read_text(&path)?).with_context(|| format!("{}", path.display()))?;
    let hyperbolic = json["model_type"] == HYPERBOLIC;
    if hyperbolic {
        json["model_type"] = json!("marian");
    }
    let config = MarianConfig::from_json(&path.display().to_string(), json.to_string().as_bytes())?;
    let geometry = if hyperbolic { Geometry::Lorentz } else { Geometry::Euclidean };
    let tokenizer = Tokenizer::from_json(read_text(&a.model.join("tokenizer.json"))?.as_bytes())?;
    let text = match &a.text {
        Some(p) => read_text(p)?,
        None => std::io::read_to_string(std::io::stdin())?,
    };
    if a.beams == 0 || a.lanes < a.beams {
        bail!("--beams {} of --lanes {}: at least 1, and no more than lanes", a.beams, a.lanes);
    }
    let longest = a.longest.min(config.max_positions);
    let batch = SentenceBatch { sentences: 1, source: longest, target: longest };
    let sources = text.lines().map(|l| Ok([tokenizer.encode(l.trim(), false)?, vec![config.eos]].concat())).collect::<Result<Vec<_>>>()?;
    if let Some((i, s)) = sources.iter().enumerate().find(|(_, s)| s.len() > longest) {
        bail!("line {}: {} tokens, --longest is {longest}", i + 1, s.len());
    }
    let context = open_device(g)?;
    let weights = Safetensors::open(&a.model.join("model.safetensors"))?;
    let named = |tensor: &str, _: usize| Ok(Some(weights.words(tensor)?.into_iter().map(f32::from_bits).collect()));
    let one: Vec<Pair> = vec![(vec![config.eos], vec![config.eos])];
    let (data, _) = translation::batches(&one, &config, &batch, None)?;
    let options = Options { method: Method::Full, steps: 1, sequences: 1, context: batch.len(), ..Options::default() };
    let spec = Spec::Translator(TranslatorSpec { config, geometry, batch });
    let trainer = context.block_on(Trainer::new(&context, &spec, &options, &data, &Initial::Named(&named)))?;
    let translating = trainer.translating(Some(a.lanes))?;
    let search = Search { beams: a.beams, length_penalty: a.length_penalty };
    let tokens = context.block_on(translate(&translating, &sources, &search))?;
    let texts = tokens.iter().map(|ids| Ok(tokenizer.decode(ids, true)?.trim().to_owned())).collect::<Result<Vec<_>>>()?;
    if g.json { print_json(&json!(texts)) } else { print(&(texts.join("\n") + "\n")) }
}
