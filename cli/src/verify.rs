//! `verify`: a short prompt on the device, every dispatch against its CPU twin.

use crate::common::{Global, load, print, print_json};
use anyhow::Result;
use serde_json::{Value, json};
use std::collections::BTreeMap;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A folder, a file, or a Hugging Face repository id
    #[arg(long)]
    model: String,
    /// The text; short, since the twins are slow
    #[arg(long, default_value = "The etalon is a reference.", allow_hyphen_values = true)]
    prompt: String,
}

/// The largest deviations of a kernel.
#[derive(Default)]
struct Worst {
    dispatches: usize,
    relative_l2: f64,
    of_allowed: f64,
}

pub(crate) fn run(g: &Global, args: &Args) -> Result<()> {
    let loaded = load(g, &args.model)?;
    let model = &loaded.model;
    let tokens = match model.tokenizer() {
        Ok(t) => t.encode(&args.prompt, true)?,
        // Any ids do: the arithmetic is compared, not the language.
        Err(_) => (0..8).map(|i| (i * 7 + 3) % model.dimensions().vocabulary as u32).collect(),
    };
    let verified = loaded.context.block_on(model.verify(&tokens))?;
    let mut kernels: BTreeMap<&str, Worst> = BTreeMap::new();
    for v in &verified {
        let w = kernels.entry(v.variant.split('[').next().unwrap_or_default()).or_default();
        w.dispatches += 1;
        w.relative_l2 = w.relative_l2.max(v.relative_l2);
        w.of_allowed = w.of_allowed.max(v.worst);
    }
    let adapter = loaded.context.facts().summary();
    if g.json {
        let kernels: Vec<Value> = kernels
            .iter()
            .map(|(k, w)| json!({ "kernel": k, "dispatches": w.dispatches, "relative_l2": w.relative_l2, "of_allowed": w.of_allowed }))
            .collect();
        return print_json(&json!({ "tokens": tokens.len(), "dispatches": verified.len(), "kernels": kernels, "adapter": adapter }));
    }
    print(&format!("{:16} {:>10} {:>12} {:>24}\n", "kernel", "dispatches", "relative L2", "worst element / allowed"))?;
    for (kernel, w) in kernels {
        print(&format!("{kernel:16} {:>10} {:>12.2e} {:>24.3}\n", w.dispatches, w.relative_l2, w.of_allowed))?;
    }
    print(&format!("{} dispatches over {} tokens agree with their CPU twins on {adapter}\n", verified.len(), tokens.len()))
}
