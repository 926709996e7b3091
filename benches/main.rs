//! Kernel benchmarks, one binary: `cargo bench --bench main [-- FILTER]`. Throughput is real traffic in bytes.
//!
//! `etalon bench` prints the same kernels in % of what the device can do.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "a benchmark that cannot run should stop")]

mod activate;
mod adam;
mod add;
mod attention;
mod attention_backward;
mod batch;
mod columns;
mod cross_entropy;
mod dots;
mod draw;
mod dropout;
mod edges;
mod embedding;
mod fill;
mod freeze;
mod gate;
mod grad_norm;
mod hinge;
mod kl;
mod linear;
mod lorentz;
mod lorentz_adam;
mod matmul;
mod negatives;
mod nll;
mod norm;
mod progress;
mod roof;
mod rope;
mod rows;
mod sample;
mod scatter;
mod select;
mod spmm;
mod thaw;
mod turn;

use criterion::{Criterion, Throughput, criterion_main};
use etalon::gpu::Buffer;
use etalon::plan::{Builder, SlotId};
use etalon::tensor::{Format, Matrix, PackedRows, Packing, Segment, Tensor};
use etalon::{Context, ContextOptions};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// A plan under construction and the buffers for its slots.
struct Bed {
    context: Context,
    builder: Builder,
    bound: Vec<(SlotId, Arc<Buffer>)>,
}

impl Bed {
    fn new() -> Self {
        static CONTEXT: OnceLock<Context> = OnceLock::new();
        let context = CONTEXT.get_or_init(|| pollster::block_on(Context::new(&ContextOptions::default())).expect("an adapter")).clone();
        Self { builder: Builder::new("bench", context.facts()), context, bound: Vec::new() }
    }

    fn words(&mut self, words: &[u32]) -> SlotId {
        let slot = self.builder.external("operand", words.len());
        self.bound.push((slot, self.context.upload("bench", words).unwrap()));
        slot
    }

    /// Numbers between -1 and 1 that no compiler or cache can foresee.
    fn tensor(&mut self, rows: usize, cols: usize) -> Tensor {
        let value = |i: usize| ((i * 2_654_435_761) as u32 as i32 as f32 / 2f32.powi(31)).to_bits();
        let slot = self.words(&(0..rows * cols).map(value).collect::<Vec<_>>());
        Tensor { slot, offset: 0, rows, cols, stride: cols }
    }

    fn packed(&mut self, packing: Packing, rows: usize, cols: usize) -> PackedRows {
        let slot = self.words(&vec![0x1234_3456; rows * packing.row_words(cols)]);
        PackedRows { slot, offset: 0, rows, cols, packing }
    }

    /// A weight matrix; scales are halves of about 1/1000 twice over, or as f32 some number near that.
    fn matrix(&mut self, format: Format, rows: usize, cols: usize) -> Matrix {
        let data: Vec<u32> = match format {
            Format::F32 => (0..rows * cols).map(|i| (0.5 + (i % 97) as f32 / 97.0).to_bits()).collect(),
            Format::F16 | Format::Bf16 => vec![0x2c00_2c00; rows * format.row_words(cols)],
            Format::Quant(_) => (0..rows * format.row_words(cols)).map(|i| (i * 2_654_435_761) as u32).collect(),
        };
        let data = self.words(&data);
        let words = rows * format.scale_words(cols);
        let scales = (words > 0).then(|| self.words(&vec![0x1400_1400; words]));
        Matrix { rows, cols, format, segments: vec![Segment { rows: 0..rows, data, offset: 0, scales }] }
    }

    /// Times runs of the plan; a batch is one submission with one wait at its end.
    fn measure(self, c: &mut Criterion, group: &str, name: &str) {
        let plan = Arc::new(self.builder.finish().unwrap());
        let bound = plan.bind(&self.context, &self.bound).unwrap();
        let bytes: u64 = plan.ops().iter().map(|o| o.bytes()).sum();
        let mut g = c.benchmark_group(group);
        g.throughput(Throughput::Bytes(bytes)).sample_size(10);
        g.bench_function(name, |b| {
            b.iter_custom(|n| {
                let start = Instant::now();
                bound.run(n as usize).unwrap();
                self.context.device().poll(wgpu::PollType::wait_indefinitely()).unwrap();
                start.elapsed()
            });
        });
        g.finish();
    }
}

fn all() {
    let mut c = Criterion::default().configure_from_args();
    for family in [
        activate::bench,
        adam::bench,
        add::bench,
        attention::bench,
        attention_backward::bench,
        batch::bench,
        columns::bench,
        cross_entropy::bench,
        dots::bench,
        draw::bench,
        dropout::bench,
        edges::bench,
        embedding::bench,
        fill::bench,
        freeze::bench,
        gate::bench,
        grad_norm::bench,
        hinge::bench,
        kl::bench,
        linear::bench,
        lorentz::bench,
        lorentz_adam::bench,
        matmul::bench,
        negatives::bench,
        nll::bench,
        norm::bench,
        progress::bench,
        roof::bench,
        rope::bench,
        rows::bench,
        sample::bench,
        scatter::bench,
        select::bench,
        spmm::bench,
        thaw::bench,
        turn::bench,
    ] {
        family(&mut c);
    }
}

criterion_main!(all);
