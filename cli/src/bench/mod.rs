//! `bench`: the kernels one by one, against the device's own copy bandwidth and arithmetic.

mod bed;
mod cases;
mod roof;
mod steps;
mod timing;

use crate::common::{self, Global, open_device, print, print_json};
use crate::wgsl;
use anyhow::{Result, bail};
use bed::Bed;
use cases::Case;
use etalon::Context;
use roof::Roof;
use serde_json::{Value, json};
use std::path::PathBuf;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only cases whose name has this in it
    #[arg(long, value_name = "NAME")]
    kernel: Option<String>,
    /// Fewer samples
    #[arg(long)]
    quick: bool,
    /// The large cases on a software adapter too
    #[arg(long)]
    full: bool,
    /// Training steps of full rank, LoRA and SST instead, in turn: of this preset, with a vocabulary of 2,048
    #[arg(long, value_name = "PRESET", conflicts_with = "kernel")]
    training: Option<String>,
    /// Blocks of the model that is trained [default: the preset's]
    #[arg(long, requires = "training")]
    layers: Option<usize>,
    /// Its rank
    #[arg(long, requires = "training", default_value_t = 64)]
    rank: usize,
    /// Tokens of a step
    #[arg(long, requires = "training", default_value_t = 2048)]
    tokens: usize,
    /// Print the shader text of a kernel's variants instead
    #[arg(long, value_name = "KERNEL", conflicts_with = "dump_wgsl")]
    print_wgsl: Option<String>,
    /// Write the shader text of every variant into this folder instead, a file each
    #[arg(long, value_name = "DIR")]
    dump_wgsl: Option<PathBuf>,
    /// For whose compiler: a browser's asks for `enable` lines that naga does not know
    #[arg(long, value_enum, default_value = "native")]
    target: wgsl::Target,
}

/// What was measured of one case.
struct Row {
    name: String,
    variant: String,
    us: f64,
    bytes: u64,
    flops: u64,
}

pub(crate) fn run(g: &Global, args: &Args) -> Result<()> {
    let context = open_device(g)?;
    if let Some(kernel) = &args.print_wgsl {
        return wgsl::print(&context, kernel, args.target);
    }
    if let Some(folder) = &args.dump_wgsl {
        return wgsl::dump(g, &context, folder, args.target);
    }
    if let Some(preset) = &args.training {
        let steps = if args.quick { 5 } else { 20 };
        return steps::run(g, &context, &steps::What { preset, layers: args.layers, rank: args.rank, tokens: args.tokens, steps });
    }
    let large = args.full || !context.facts().is_software();
    let wanted = |c: &Case| args.kernel.as_ref().is_none_or(|k| c.name.contains(k.as_str())) && (large || !c.large);
    let cases: Vec<Case> = cases::all().into_iter().filter(wanted).collect();
    if cases.is_empty() {
        bail!("no case has `{}` in its name", args.kernel.as_deref().unwrap_or_default());
    }
    let samples = if args.quick { 3 } else { 7 };
    let roof = roof::measure(&context, samples)?;
    if !g.json {
        header(&context, &roof)?;
    }
    let bar = common::bar(cases.len() as u64, "measuring", "cases");
    let mut rows = Vec::new();
    for case in &cases {
        let row = measure(&context, case, samples)?;
        if !g.json {
            bar.suspend(|| print(&line(&row, &roof)))?;
        }
        rows.push(row);
        bar.inc(1);
    }
    bar.finish_and_clear();
    if g.json {
        return print_json(&as_json(&context, &roof, &rows));
    }
    Ok(())
}

fn measure(context: &Context, case: &Case, samples: usize) -> Result<Row> {
    let mut bed = Bed::new(context);
    (case.build)(&mut bed)?;
    let n = bed.repeats() as u64;
    let bound = bed.bind()?;
    let us = timing::median_us(context, &bound, samples)?;
    // Every dispatch of a case does the same work; a large operand may take more than one.
    let ops = bound.plan().ops();
    let variant = ops[0].variant().name();
    let (bytes, flops) = ops.iter().fold((0, 0), |(b, f), op| (b + op.bytes(), f + op.flops()));
    Ok(Row { name: case.name.clone(), variant, us: us / n as f64, bytes: bytes / n, flops: flops / n })
}

fn header(context: &Context, roof: &Roof) -> Result<()> {
    print(&format!(
        "{}\ncopy {:.1} GB/s (read and written), multiply-adds {:.1} GFLOP/s, timed by {}; host time of a replayed dispatch {:.2} us\n\n{:34} {:>11} {:>9} {:>10} {:>7} {:>7}  variant\n",
        context.facts().summary(),
        roof.bytes_s / 1e9,
        roof.flop_s / 1e9,
        timing::clock(context),
        roof.replay_us,
        "case",
        "us",
        "GB/s",
        "GFLOP/s",
        "% copy",
        "% FMA",
    ))
}

fn line(r: &Row, roof: &Roof) -> String {
    let (gb, gf) = (r.bytes as f64 / r.us / 1e3, r.flops as f64 / r.us / 1e3);
    let (copy, fma) = (1e11 * gb / roof.bytes_s, 1e11 * gf / roof.flop_s);
    format!("{:34} {:>11.2} {gb:>9.2} {gf:>10.2} {copy:>7.1} {fma:>7.1}  {}\n", r.name, r.us, r.variant)
}

fn as_json(context: &Context, roof: &Roof, rows: &[Row]) -> Value {
    let rows: Vec<Value> = rows
        .iter()
        .map(|r| {
            let (bytes_s, flop_s) = (r.bytes as f64 / r.us * 1e6, r.flops as f64 / r.us * 1e6);
            json!({
                "case": r.name, "variant": r.variant, "us": r.us, "bytes": r.bytes, "flops": r.flops, "bytes_per_s": bytes_s,
                "flop_per_s": flop_s, "of_copy": bytes_s / roof.bytes_s, "of_fma": flop_s / roof.flop_s,
            })
        })
        .collect();
    json!({
        "adapter": context.facts().summary(), "clock": timing::clock(context), "copy_bytes_per_s": roof.bytes_s,
        "fma_flop_per_s": roof.flop_s, "replay_us": roof.replay_us, "cases": rows,
    })
}
