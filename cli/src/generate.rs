//! `generate`: text from a prompt, as it comes.

use crate::common::{self, Global, Loaded, load, memory_json, memory_text, print, print_json};
use crate::stop::StopTexts;
use anyhow::{Context as _, Result, bail};
use etalon::format::{Message, TextStream};
use etalon::model::{Model, Sampling, Session};
use serde_json::json;
use std::time::Instant;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A folder, a file, or a Hugging Face repository id
    #[arg(long)]
    model: String,
    /// The text to go on from, or with --chat the question
    #[arg(long, allow_hyphen_values = true)]
    prompt: String,
    /// Wrap the prompt in the model's own chat template
    #[arg(long)]
    chat: bool,
    /// A system message before the question
    #[arg(long, requires = "chat", allow_hyphen_values = true)]
    system: Option<String>,
    /// Tokens to make at most
    #[arg(long, default_value_t = 256)]
    max_tokens: usize,
    /// 0 takes the likeliest token
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Choose among this many tokens only; 0: all
    #[arg(long, default_value_t = 0)]
    top_k: u32,
    /// Choose among the fewest tokens that hold this much probability
    #[arg(long, default_value_t = 1.0)]
    top_p: f32,
    /// Leave out tokens less likely than this fraction of the likeliest
    #[arg(long, default_value_t = 0.0)]
    min_p: f32,
    /// The same seed gives the same text
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// End where this text appears; may be given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,
}

/// What came out, and how long it took.
#[derive(Default)]
struct Run {
    text: String,
    tokens: Vec<u32>,
    prefill_s: f64,
    decode_s: f64,
    reason: &'static str,
}

pub(crate) fn run(g: &Global, args: &Args) -> Result<()> {
    let sampling = sampling(args)?;
    let loaded = load(g, &args.model)?;
    let model = &loaded.model;
    if !model.is_decoder() {
        bail!("{}: an encoder generates no text: use `etalon embed` or `etalon logits`", args.model);
    }
    let tokenizer = model.tokenizer()?;
    let prompt = prompt(model, args)?;
    let sampling = Sampling { stops: tokenizer.eos.clone(), ..sampling };
    let compile = Instant::now();
    let mut session = Session::new(model, 1)?;
    session.warm_up(prompt.len())?;
    let compile_s = compile.elapsed().as_secs_f64();
    common::stop_gracefully();
    let run = stream(g, args, &mut session, &prompt, &sampling)?;
    report(g, &loaded, prompt.len(), compile_s, &run)
}

fn sampling(args: &Args) -> Result<Sampling> {
    let range = |name: &str, v: f32, ok: bool| if ok { Ok(()) } else { Err(anyhow::anyhow!("--{name} {v}: out of range")) };
    range("temperature", args.temperature, args.temperature >= 0.0 && args.temperature.is_finite())?;
    range("top-p", args.top_p, args.top_p > 0.0 && args.top_p <= 1.0)?;
    range("min-p", args.min_p, (0.0..=1.0).contains(&args.min_p))?;
    if args.max_tokens == 0 {
        bail!("--max-tokens 0: ask for at least one token");
    }
    Ok(Sampling {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        seed: args.seed,
        max_tokens: args.max_tokens,
        stops: Vec::new(),
    })
}

fn prompt(model: &Model, args: &Args) -> Result<Vec<u32>> {
    let tokenizer = model.tokenizer()?;
    if !args.chat {
        // Special tokens as the tokenizer itself adds them: BOS where the model was trained with it.
        let tokens = tokenizer.encode(&args.prompt, true)?;
        // An empty prompt begins a text.
        return Ok(if tokens.is_empty() { tokenizer.bos.into_iter().collect() } else { tokens });
    }
    let mut messages: Vec<Message> = args.system.iter().map(|s| Message::new("system", s.as_str())).collect();
    messages.push(Message::new("user", args.prompt.as_str()));
    let text = model.chat(&messages)?.context("the model has no chat template: leave --chat out")?;
    Ok(tokenizer.encode(&text, false)?)
}

fn stream(g: &Global, args: &Args, session: &mut Session, prompt: &[u32], sampling: &Sampling) -> Result<Run> {
    let model = session.model().clone();
    let tokenizer = model.tokenizer()?;
    let mut run = Run { reason: "length", ..Run::default() };
    let (mut text, mut stops) = (TextStream::new(true), StopTexts::new(&args.stop));
    let show = |run: &mut Run, piece: String| {
        let shown = if g.json { Ok(()) } else { print(&piece) };
        run.text.push_str(&piece);
        shown
    };
    let start = Instant::now();
    for token in session.generate(&[prompt.to_vec()], sampling)?.blocking() {
        let token = token?;
        if run.tokens.is_empty() {
            run.prefill_s = start.elapsed().as_secs_f64();
        }
        run.tokens.push(token.id);
        if token.stop {
            run.reason = "end of text";
            break;
        }
        let (piece, stopped) = stops.push(&text.push(tokenizer, token.id)?);
        show(&mut run, piece)?;
        if stopped || common::interrupted() {
            run.reason = if stopped { "stop text" } else { "interrupted" };
            break;
        }
    }
    run.decode_s = start.elapsed().as_secs_f64() - run.prefill_s;
    if run.reason != "stop text" {
        let (piece, _) = stops.push(&text.finish(tokenizer)?);
        show(&mut run, piece + &stops.finish())?;
    }
    Ok(run)
}

fn report(g: &Global, loaded: &Loaded, prompt: usize, compile_s: f64, run: &Run) -> Result<()> {
    let made = run.tokens.len();
    let per_second = |n: usize, s: f64| if n == 0 || s <= 0.0 { 0.0 } else { n as f64 / s };
    let (prefill, decode) = (per_second(prompt, run.prefill_s), per_second(made.saturating_sub(1), run.decode_s));
    let adapter = loaded.context.facts().summary();
    if g.json {
        return print_json(&json!({
            "text": run.text, "tokens": run.tokens, "finish_reason": run.reason, "prompt_tokens": prompt,
            "prefill_s": run.prefill_s, "prefill_tokens_per_s": prefill, "decode_s": run.decode_s, "decode_tokens_per_s": decode,
            "load_s": loaded.seconds, "compile_s": compile_s, "memory": memory_json(&loaded.context), "adapter": adapter,
        }));
    }
    if !run.text.ends_with('\n') {
        print("\n")?;
    }
    eprintln!("\nprompt   {prompt} tokens, prefill {prefill:.1} tokens/s ({:.3} s to the first token)", run.prefill_s);
    eprintln!("answer   {made} tokens, decode {decode:.1} tokens/s; ended by {}", run.reason);
    eprintln!("start    load {:.2} s, compile {compile_s:.2} s", loaded.seconds);
    eprintln!("memory   {}", memory_text(&loaded.context));
    eprintln!("adapter  {adapter}");
    Ok(())
}
