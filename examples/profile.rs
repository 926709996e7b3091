//! Where a model's time goes, by kernel: `cargo run --release --example profile -- MODEL [PROMPT_TOKENS]`.
//!
//! Prints, for a decode step and for a prompt, the device time of each kernel permutation.

use etalon::format::Checkpoint;
use etalon::model::{Model, Sampling, Session};
use etalon::plan::OpTime;
use etalon::{Context, ContextOptions};
use std::collections::BTreeMap;
use std::time::Instant;

fn table(title: &str, times: &[OpTime]) {
    let mut by: BTreeMap<&str, (f64, u64, u64, u32)> = BTreeMap::new();
    for t in times {
        let e = by.entry(&t.variant).or_default();
        *e = (e.0 + t.us, e.1 + t.bytes, e.2 + t.flops, e.3 + 1);
    }
    println!("{title}: {} dispatches, {:.2} ms", times.len(), times.iter().map(|t| t.us).sum::<f64>() / 1e3);
    let mut rows: Vec<_> = by.into_iter().collect();
    rows.sort_by(|a, b| b.1.0.total_cmp(&a.1.0));
    for (name, (us, bytes, flops, n)) in rows {
        println!(
            "{n:5} x {:9.1} us {:8.2} GB/s {:9.2} GFLOP/s  {name}",
            us / f64::from(n),
            bytes as f64 / us / 1e3,
            flops as f64 / us / 1e3
        );
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: profile MODEL [PROMPT_TOKENS]")?;
    let prompt: usize = args.next().map_or(Ok(64), |n| n.parse())?;
    let context = pollster::block_on(Context::new(&ContextOptions::default()))?;
    println!("{}", context.facts().summary());
    let model = Model::load(&context, &Checkpoint::open(path.as_ref())?, &|_, _| {})?;
    let tokens: Vec<u32> = (0..prompt as u32).map(|i| 100 + i % 1000).collect();
    if model.is_decoder() {
        let mut session = Session::new(&model, 1)?;
        let sampling = Sampling { max_tokens: 17, ..Sampling::default() };
        // The first run compiles.
        for timed in [false, true] {
            session.truncate(0, 0);
            let start = Instant::now();
            let mut made = session.generate(std::slice::from_ref(&tokens), &sampling)?.blocking();
            made.next().transpose()?;
            let first = start.elapsed().as_secs_f64();
            let rest = made.collect::<Result<Vec<_>, _>>()?.len();
            if timed {
                let decode = rest as f64 / (start.elapsed().as_secs_f64() - first);
                println!("prefill of {prompt} tokens {:.2} tokens/s, decode {decode:.2} tokens/s", prompt as f64 / first);
            }
        }
        let times = context.block_on(session.profile(1))?;
        table("decode step", &times);
    }
    let times = context.block_on(model.profile(&tokens))?;
    table("prompt without the head", &times);
    Ok(())
}
