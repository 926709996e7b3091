//! A plan of one case: the same dispatch many times, over weights that rotate so that no cache holds them.

use anyhow::Result;
use etalon::gpu::Buffer;
use etalon::plan::{Bound, Builder, SlotId};
use etalon::quant::{QuantFormat, Scales};
use etalon::tensor::{Format, Matrix, Segment, Tensor};
use etalon::{Context, Facts};
use std::sync::Arc;

/// Bytes of the outputs of a case.
const OUTPUTS: u64 = 512 << 20;

pub(super) struct Bed {
    context: Context,
    builder: Builder,
    bound: Vec<(SlotId, Arc<Buffer>)>,
    random: u64,
    repeats: usize,
}

impl Bed {
    pub(super) fn new(context: &Context) -> Self {
        // The whole grid at once: cuts for watchdogs are a matter of their own.
        let facts = Facts { max_dispatch_ms: f64::INFINITY, ..context.facts().clone() };
        let builder = Builder::new("bench", &facts);
        Self { context: context.clone(), builder, bound: Vec::new(), random: 0x9E37_79B9_7F4A_7C15, repeats: 1 }
    }

    pub(super) fn builder(&mut self) -> &mut Builder {
        &mut self.builder
    }

    /// How often the plan does the case's work.
    pub(super) fn repeats(&self) -> usize {
        self.repeats
    }

    /// Dispatches by the bytes that each reads: enough to go through all distinct operands, and not too few to measure.
    ///
    /// Each has an output of its own, so that none waits for another, unless outputs (of `out` bytes) would take too much memory.
    pub(super) fn rotation(&mut self, bytes: u64, out: u64) -> Rotation {
        let (distinct, least) = if self.context.facts().is_software() { (32 << 20, 4usize) } else { (256 << 20, 100) };
        let operands = u64::div_ceil(distinct, bytes.max(1)).clamp(1, 256) as usize;
        self.repeats = operands * least.div_ceil(operands);
        Rotation { operands, outputs: self.repeats.min((OUTPUTS / out.max(1)).max(2) as usize), repeats: self.repeats }
    }

    pub(super) fn bind(self) -> Result<Bound> {
        Ok(Arc::new(self.builder.finish()?).bind(&self.context, &self.bound)?)
    }

    pub(super) fn words(&mut self, label: &str, words: &[u32]) -> Result<SlotId> {
        let slot = self.builder.external(label, words.len());
        self.bound.push((slot, self.context.upload(label, words)?));
        Ok(slot)
    }

    /// Contents of a slot that was declared already.
    pub(super) fn bound(&mut self, slot: SlotId, words: &[u32]) -> Result<()> {
        self.bound.push((slot, self.context.upload("input", words)?));
        Ok(())
    }

    /// A matrix of numbers between -1 and 1.
    pub(super) fn input(&mut self, rows: usize, cols: usize) -> Result<Tensor> {
        let values: Vec<u32> = (0..rows * cols).map(|_| (self.next() as i32 as f32 / 2f32.powi(31)).to_bits()).collect();
        Ok(Tensor { slot: self.words("input", &values)?, offset: 0, rows, cols, stride: cols })
    }

    pub(super) fn output(&mut self, rows: usize, cols: usize) -> Result<Tensor> {
        let t = self.builder.external_tensor("output", rows, cols);
        self.bound.push((t.slot, self.context.storage("output", 4 * (rows * cols) as u64)?));
        Ok(t)
    }

    pub(super) fn outputs(&mut self, n: usize, rows: usize, cols: usize) -> Result<Vec<Tensor>> {
        (0..n).map(|_| self.output(rows, cols)).collect()
    }

    /// `n` weight matrices in memory of their own.
    pub(super) fn matrices(&mut self, n: usize, format: Format, rows: usize, cols: usize) -> Result<Vec<Matrix>> {
        let (stride, s_stride) = (format.row_words(cols), format.scale_words(cols));
        let data: Vec<u32> = match format {
            Format::F32 => (0..rows * stride).map(|_| (self.next() as i32 as f32 / 2f32.powi(31)).to_bits()).collect(),
            // Two f16 of 1 to 2; bits that are drawn at random could be NaN.
            Format::F16 | Format::Bf16 => (0..rows * stride).map(|_| self.next() & 0x03ff_03ff | 0x3c00_3c00).collect(),
            Format::Quant(_) => (0..rows * stride).map(|_| self.next()).collect(),
        };
        let scales: Vec<u32> = match &format {
            Format::Quant(q) => (0..rows * s_stride).map(|i| scale_word(q, i, self.next())).collect(),
            _ => Vec::new(),
        };
        let chunks = self.builder.row_chunks(rows, stride.max(s_stride))?;
        let one = |bed: &mut Self| {
            let mut segments = Vec::new();
            for r in &chunks {
                let data = bed.words("codes", &data[r.start * stride..r.end * stride])?;
                let scales = match format {
                    Format::Quant(_) => Some(bed.words("scales", &scales[r.start * s_stride..r.end * s_stride])?),
                    _ => None,
                };
                segments.push(Segment { rows: r.clone(), data, offset: 0, scales });
            }
            Ok(Matrix { rows, cols, format, segments })
        };
        (0..n).map(|_| one(self)).collect()
    }

    /// Numbers that need no quality, only speed: xorshift64.
    fn next(&mut self) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 32) as u32
    }
}

/// How operands rotate.
#[derive(Clone, Copy)]
pub(super) struct Rotation {
    pub(super) operands: usize,
    pub(super) outputs: usize,
    pub(super) repeats: usize,
}

/// A word of a scale plane with ordinary numbers: denormal ones could cost time that real models do not.
fn scale_word(q: &QuantFormat, i: usize, random: u32) -> u32 {
    // Two f16 of 2^-6 to 2^-5.
    let halves = random & 0x03ff_03ff | 0x2400_2400;
    let last_of = match q.scales {
        Scales::K3 => 4,
        Scales::K2 | Scales::K4 | Scales::K6 => 5,
        Scales::F32 { .. } | Scales::F32Min | Scales::F32Zero => return (1.0 / 64.0f32).to_bits(),
        _ => return halves,
    };
    // The last word of each 256 weights holds the f16 super-scales, the others packed integers.
    if i % last_of == last_of - 1 { halves } else { random & 0x3f3f_3f3f }
}
