//! What the commands share: options, opening a device and a model, progress, output, Ctrl-C.

use crate::hub;
use anyhow::{Context as _, Result};
use etalon::format::Checkpoint;
use etalon::model::Model;
use etalon::{Context, ContextOptions};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Options of every command.
#[derive(clap::Args)]
pub(crate) struct Global {
    /// The device: its number in `etalon devices`, or a part of its name
    #[arg(long, global = true, value_name = "N|NAME")]
    pub(crate) device: Option<String>,
    /// Print one JSON object instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Use only what a browser gives by default: WebGPU's default limits and no optional feature
    #[arg(long, global = true)]
    pub(crate) webgpu_defaults: bool,
}

/// Exit status after Ctrl-C, by the habit of shells.
pub(crate) const INTERRUPTED: u8 = 130;

/// Set by the first Ctrl-C.
static INTERRUPT: AtomicBool = AtomicBool::new(false);
/// True while a command asks [`interrupted`] by itself.
static GRACEFUL: AtomicBool = AtomicBool::new(false);

pub(crate) fn watch_interrupts() -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(|| {
        let again = INTERRUPT.swap(true, Ordering::SeqCst);
        if again || !GRACEFUL.load(Ordering::SeqCst) {
            std::process::exit(i32::from(INTERRUPTED));
        }
    })
}

/// From now on the first Ctrl-C only sets a flag; the second one ends the program.
pub(crate) fn stop_gracefully() {
    GRACEFUL.store(true, Ordering::SeqCst);
}

pub(crate) fn interrupted() -> bool {
    INTERRUPT.load(Ordering::SeqCst)
}

/// Opens the device; what fails its self-test there, now or by the record of an earlier run, is left out.
pub(crate) fn open_device(g: &Global) -> Result<Context> {
    open(g, ContextOptions { self_test: true, cache: cache_folder(), ..Default::default() })
}

/// The same with every variant that the adapter may get.
pub(crate) fn open_untested(g: &Global) -> Result<Context> {
    open(g, ContextOptions::default())
}

fn open(g: &Global, options: ContextOptions) -> Result<Context> {
    let options = ContextOptions { device: g.device.clone(), webgpu_defaults: g.webgpu_defaults, ..options };
    Ok(pollster::block_on(Context::new(&options))?)
}

/// The user's own folder for what can be made again: results of self-tests, compiled pipelines. `ETALON_CACHE` names another.
fn cache_folder() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(named) = folder("ETALON_CACHE") {
        return Some(named);
    }
    let base = match std::env::consts::OS {
        "windows" => folder("LOCALAPPDATA"),
        "macos" => folder("HOME").map(|h| h.join("Library/Caches")),
        _ => folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|h| h.join(".cache"))),
    };
    base.filter(|b| b.is_absolute()).map(|b| b.join("etalon"))
}

/// Opens a model's files: a folder, a file, or a repository of the hub.
pub(crate) fn open_checkpoint(model: &str) -> Result<Checkpoint> {
    let path = Path::new(model);
    if path.exists() {
        return Ok(Checkpoint::open(path)?);
    }
    match hub::Repository::parse(model) {
        Some(repository) => Ok(Checkpoint::open(&repository.fetch()?)?),
        None => anyhow::bail!("{model}: no such file or folder, and no repository id (`organisation/name`)"),
    }
}

/// A model on a device, and how long that took.
pub(crate) struct Loaded {
    pub(crate) context: Context,
    pub(crate) model: Arc<Model>,
    pub(crate) seconds: f64,
}

impl Drop for Loaded {
    /// Keeps what was compiled for the next time.
    fn drop(&mut self) {
        if let Err(e) = self.context.save_pipelines() {
            log::info!("compiled pipelines are not kept: {e}");
        }
    }
}

pub(crate) fn load(g: &Global, model: &str) -> Result<Loaded> {
    // What is no model is said before a device is asked for.
    let checkpoint = open_checkpoint(model)?;
    let context = open_device(g)?;
    load_checkpoint(&context, &checkpoint, Model::load)
}

/// The same with weights that may be changed.
pub(crate) fn load_open(g: &Global, checkpoint: &Checkpoint) -> Result<Loaded> {
    load_checkpoint(&open_device(g)?, checkpoint, Model::load_open)
}

/// What shows on a bar how many of how many are done.
pub(crate) fn on_bar(bar: &ProgressBar) -> impl Fn(usize, usize) + Sync {
    |done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    }
}

/// Loads another model onto the device of one.
pub(crate) fn load_beside(loaded: &Loaded, model: &str) -> Result<Loaded> {
    load_checkpoint(&loaded.context, &open_checkpoint(model)?, Model::load)
}

type Loader = fn(&Context, &Checkpoint, etalon::model::Progress<'_>) -> etalon::Result<Arc<Model>>;

fn load_checkpoint(context: &Context, checkpoint: &Checkpoint, loader: Loader) -> Result<Loaded> {
    let start = Instant::now();
    let bar = bar(0, "loading", "tensors");
    let model = loader(context, checkpoint, &on_bar(&bar))?;
    bar.finish_and_clear();
    Ok(Loaded { context: context.clone(), model, seconds: start.elapsed().as_secs_f64() })
}

/// A progress bar on stderr; invisible where that is no terminal.
pub(crate) fn bar(length: u64, what: &'static str, unit: &str) -> ProgressBar {
    let bar = ProgressBar::new(length);
    let template = format!("{{msg}} {{bar:40}} {{pos}}/{{len}} {unit} {{elapsed}} eta {{eta}}");
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Writes to stdout at once; unlike `print!`, a closed pipe is an error, not a panic.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

pub(crate) fn print_json(value: &Value) -> Result<()> {
    print(&format!("{value}\n"))
}

/// Bytes held by a context, by purpose.
pub(crate) fn memory_json(context: &Context) -> Value {
    let m = context.memory();
    let parts: Map<String, Value> = m.by_label.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
    json!({ "now": m.now, "peak": m.peak, "by_part": parts })
}

/// The same in words.
pub(crate) fn memory_text(context: &Context) -> String {
    let m = context.memory();
    let parts: Vec<String> = m.by_label.iter().map(|(k, v)| format!("{k} {}", bytes(*v))).collect();
    format!("{} ({}), peak {}", bytes(m.now), parts.join(", "), bytes(m.peak))
}

/// A size in words.
pub(crate) fn bytes(n: u64) -> String {
    match n {
        0..10_000 => format!("{n} B"),
        10_000..10_000_000 => format!("{:.1} kB", n as f64 / 1e3),
        10_000_000..10_000_000_000 => format!("{:.1} MB", n as f64 / 1e6),
        _ => format!("{:.2} GB", n as f64 / 1e9),
    }
}

pub(crate) fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}
