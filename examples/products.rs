//! Times products the way other runtimes are timed, with the copy of the input to the device and of the output back:
//! `cargo run --release --example products [-- FORMAT,M,K,N …]`, FORMAT being f32, q4 or q8 (groups of 32, f16 scales; the weights
//! lie as N x K), or ab: a general product of two f32 matrices, both as they stand.
//!
//! One JSON object a line, as the scripts that time the peers print them.

use etalon::kernel::linear::{Fused, linear};
use etalon::kernel::matmul::{Product, matmul};
use etalon::plan::Builder;
use etalon::quant::{QuantFormat, Scales};
use etalon::tensor::{Format, Matrix, Segment, Tensor};
use etalon::{Context, ContextOptions};
use std::sync::Arc;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let context = pollster::block_on(Context::new(&ContextOptions::default()))?;
    eprintln!("{}", context.facts().summary());
    let mut shapes: Vec<String> = std::env::args().skip(1).collect();
    if shapes.is_empty() {
        shapes = ["ab,1024,1024,1024", "f32,1024,1024,1024", "q4,1,4096,4096", "q4,128,2048,2048"].map(str::to_owned).to_vec();
    }
    for shape in shapes {
        let usage = || format!("{shape}: FORMAT,M,K,N with FORMAT ab, f32, q4 or q8");
        let (name, sizes) = shape.split_once(',').ok_or_else(usage)?;
        let sizes = sizes.split(',').map(str::parse).collect::<Result<Vec<usize>, _>>()?;
        let [m, k, n] = sizes[..] else { return Err(usage().into()) };
        let quant =
            |bits, zero| Format::Quant(QuantFormat { bits, group: 32, scales: Scales::F16 { zero }, table: None, per_tensor: false });
        let format = match name {
            "ab" | "f32" => Format::F32,
            "q4" => quant(4, 8),
            "q8" => quant(8, 128),
            _ => return Err(usage().into()),
        };
        let mut b = Builder::new("product", context.facts());
        let (x, y) = (b.external_tensor("x", m, k), b.external_tensor("y", m, n));
        let numbers = |count: usize| (0..count).map(|i| (1.0 + (i % 251) as f32 / 251.0).to_bits()).collect::<Vec<u32>>();
        let (data_words, scale_words) = (n * format.row_words(k), n * format.scale_words(k));
        let mut bound = vec![(x.slot, context.storage("x", 4 * (m * k) as u64)?), (y.slot, context.storage("y", 4 * (m * n) as u64)?)];
        let data = b.external("weights", data_words);
        bound.push((data, context.upload("weights", &numbers(data_words))?));
        let mut scales = None;
        if scale_words > 0 {
            let slot = b.external("scales", scale_words);
            bound.push((slot, context.upload("scales", &vec![0x2c00_2c00; scale_words])?));
            scales = Some(slot);
        }
        if name == "ab" {
            let w = Tensor { slot: data, offset: 0, rows: k, cols: n, stride: n };
            matmul(&mut b, "product", &x.into(), &w.into(), &y.into(), &Product::default())?;
        } else {
            let w = Matrix { rows: n, cols: k, format, segments: vec![Segment { rows: 0..n, data, offset: 0, scales }] };
            linear(&mut b, "product", &x, &w, &y, &Fused::default())?;
        }
        let plan = Arc::new(b.finish()?).bind(&context, &bound)?;
        let input = numbers(m * k);
        let mut ms = Vec::new();
        for i in 0..18 {
            let start = Instant::now();
            context.write(&bound[0].1, 0, &input)?;
            plan.run(1)?;
            let out = context.block_on(context.read_ranges(&[(&bound[1].1, 0..4 * (m * n) as u64)])?.words())?;
            assert_eq!(out[0].len(), m * n);
            if i >= 3 {
                ms.push(start.elapsed().as_secs_f64() * 1e3);
            }
        }
        ms.sort_by(f64::total_cmp);
        let median = ms[ms.len() / 2];
        let gflops = 2.0 * (m * k * n) as f64 / median / 1e6;
        println!(r#"{{"op":"{name}","m":{m},"k":{k},"n":{n},"median_ms":{median:.4},"gflops":{gflops:.2}}}"#);
    }
    Ok(())
}
