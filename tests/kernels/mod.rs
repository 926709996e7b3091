//! Every kernel against its CPU twin on fresh random inputs, poisoned outputs and awkward shapes.

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
mod jacobi;
mod kl;
mod linear;
mod lorentz;
mod lorentz_adam;
mod matmul;
mod negatives;
mod norm;
mod progress;
mod roof;
mod rope;
mod sample;
mod scatter;
mod select;
mod spmm;
mod thaw;
mod turn;

use etalon::gpu::Buffer;
use etalon::plan::{Builder, SlotId};
use etalon::quant::Packed;
use etalon::tensor::{Format, Matrix, Segment, Tensor};
use etalon::{Context, ContextOptions, Facts};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::{Arc, OnceLock};

/// What an output holds before a kernel runs: it must be overwritten or stay.
pub const POISON: f32 = -7.25e8;

/// The context of all tests. Without an adapter they fail.
pub fn context() -> Context {
    static CONTEXT: OnceLock<Context> = OnceLock::new();
    CONTEXT
        .get_or_init(|| pollster::block_on(Context::new(&ContextOptions::default())).expect("the tests need an adapter: see README"))
        .clone()
}

/// The facts that a kernel must be right under: the adapter's own, no optional feature, and tiny bindings.
pub fn all_facts() -> Vec<(&'static str, Facts)> {
    let own = context().facts().clone();
    let mut plain = own.clone();
    plain.features = wgpu::Features::empty();
    let mut tiny = own.clone();
    tiny.max_binding = 1 << 20;
    vec![("own", own), ("plain", plain), ("1 MiB bindings", tiny)]
}

/// A plan under construction with the buffers for its external slots.
pub struct Bench {
    pub context: Context,
    pub builder: Builder,
    pub bound: Vec<(SlotId, Arc<Buffer>)>,
    pub rng: StdRng,
}

impl Bench {
    pub fn new(facts: &Facts, seed: u64) -> Self {
        let context = context().with_facts(facts.clone());
        let builder = Builder::new("test", facts);
        Self { context, builder, bound: Vec::new(), rng: StdRng::seed_from_u64(seed) }
    }

    pub fn words(&mut self, label: &str, words: &[u32]) -> SlotId {
        let slot = self.builder.external(label, words.len());
        let buffer = self.context.upload(label, words).unwrap();
        self.bound.push((slot, buffer));
        slot
    }

    pub fn floats(&mut self, label: &str, values: &[f32]) -> SlotId {
        self.words(label, bytemuck::cast_slice(values))
    }

    pub fn random_values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.rng.random_range(-1.0f32..1.0)).collect()
    }

    /// A random matrix at an odd offset, with a stride larger than its rows.
    pub fn random(&mut self, label: &str, rows: usize, cols: usize) -> Tensor {
        let values = self.random_values(3 + rows * (cols + 1));
        Tensor { slot: self.floats(label, &values), offset: 3, rows, cols, stride: cols + 1 }
    }

    /// A random matrix aligned for vector loads.
    pub fn random_dense(&mut self, label: &str, rows: usize, cols: usize) -> Tensor {
        let values = self.random_values(rows * cols);
        Tensor { slot: self.floats(label, &values), offset: 0, rows, cols, stride: cols }
    }

    pub fn poisoned(&mut self, label: &str, rows: usize, cols: usize) -> Tensor {
        let values = vec![POISON; rows * cols];
        Tensor { slot: self.floats(label, &values), offset: 0, rows, cols, stride: cols }
    }

    /// A weight matrix, cut into segments that fit the bindings; also its decoded values.
    pub fn weights(&mut self, format: Format, rows: usize, cols: usize) -> (Matrix, Vec<f32>) {
        let (data, scales, values) = random_weights(&mut self.rng, &format, rows, cols);
        let (stride, s_stride) = (format.row_words(cols), format.scale_words(cols));
        let mut segments = Vec::new();
        for r in self.builder.row_chunks(rows, stride.max(s_stride)).unwrap() {
            let scale_words = if s_stride == 0 { scales.clone() } else { scales[r.start * s_stride..r.end * s_stride].to_vec() };
            segments.push(Segment {
                rows: r.clone(),
                data: self.words("codes", &data[r.start * stride..r.end * stride]),
                offset: 0,
                scales: matches!(format, Format::Quant(_)).then(|| self.words("scales", &scale_words)),
            });
        }
        (Matrix { rows, cols, format, segments }, values)
    }

    /// Checks every op against its twin, and returns the contents of `t` afterwards, row by row.
    pub fn verify(self, t: &Tensor) -> Vec<f32> {
        self.verify_ops(t).0
    }

    /// The same, and the variants that were run.
    pub fn verify_ops(self, t: &Tensor) -> (Vec<f32>, Vec<String>) {
        let (mut values, ops) = self.verify_all(&[t]);
        (values.remove(0), ops)
    }

    /// The same for several tensors.
    pub fn verify_all(self, tensors: &[&Tensor]) -> (Vec<Vec<f32>>, Vec<String>) {
        let plan = Arc::new(self.builder.finish().unwrap());
        crate::portability::check(&plan, self.context.facts());
        let bound = plan.bind(&self.context, &self.bound).unwrap();
        if let Err(e) = self.context.block_on(bound.verify()) {
            panic!("{e}\n{}", plan.describe());
        }
        let read = |t: &&Tensor| {
            let buffer = &self.bound.iter().find(|(s, _)| *s == t.slot).unwrap().1;
            let words = self.context.block_on(self.context.read_ranges(&[(buffer, 0..buffer.size())]).unwrap().words()).unwrap().remove(0);
            let values: Vec<f32> = words.into_iter().map(f32::from_bits).collect();
            (0..t.rows).flat_map(|r| values[t.offset + r * t.stride..][..t.cols].to_vec()).collect()
        };
        (tensors.iter().map(read).collect(), plan.ops().iter().map(|op| op.variant().name()).collect())
    }
}

/// Random planes of a weight matrix and the values that they mean.
pub fn random_weights(rng: &mut StdRng, format: &Format, rows: usize, cols: usize) -> (Vec<u32>, Vec<u32>, Vec<f32>) {
    let values: Vec<f32> = (0..rows * cols).map(|_| rng.random_range(-1.0f32..1.0)).collect();
    let halves = |bits: Vec<u16>| -> Vec<u32> {
        bits.chunks(cols).flat_map(|row| row.chunks(2).map(|p| u32::from(p[0]) | u32::from(p.get(1).copied().unwrap_or(0)) << 16)).collect()
    };
    match format {
        Format::F32 => (values.iter().map(|v| v.to_bits()).collect(), Vec::new(), values),
        Format::F16 => {
            let h: Vec<half::f16> = values.iter().map(|v| half::f16::from_f32(*v)).collect();
            (halves(h.iter().map(|v| v.to_bits()).collect()), Vec::new(), h.iter().map(|v| v.to_f32()).collect())
        }
        Format::Bf16 => {
            let h: Vec<half::bf16> = values.iter().map(|v| half::bf16::from_f32(*v)).collect();
            (halves(h.iter().map(|v| v.to_bits()).collect()), Vec::new(), h.iter().map(|v| v.to_f32()).collect())
        }
        Format::Quant(q) => {
            let codes: Vec<u8> = (0..rows * cols).map(|_| rng.random_range(0..1u32 << q.bits) as u8).collect();
            let words = if q.per_tensor { q.group_words(1, cols) } else { rows * q.scale_words(cols) };
            let packed = Packed::pack(*q, rows, cols, &codes, random_scales(rng, q, words)).unwrap();
            let values = packed.decode();
            (packed.codes, packed.scales, values)
        }
    }
}

/// A scale plane of sensible numbers, whatever its layout.
fn random_scales(rng: &mut StdRng, q: &etalon::quant::QuantFormat, words: usize) -> Vec<u32> {
    use etalon::quant::Scales as S;
    let step = 1.0 / (1u32 << q.bits) as f32;
    let mut half = |lo: f32, hi: f32| u32::from(half::f16::from_f32(rng.random_range(lo..hi) * step).to_bits());
    let per_block = match q.scales {
        S::K3 => 4,
        S::K2 | S::K4 | S::K6 => 5,
        _ => 0,
    };
    (0..words)
        .map(|i| match q.scales {
            S::F16 { .. } => half(0.5, 2.0) | half(0.5, 2.0) << 16,
            S::F16Min => half(0.5, 2.0) | half(-16.0, 0.0) << 16,
            S::F16Zero => half(0.5, 2.0) | (i as u32 % (1 << q.bits)) << 16,
            S::F32 { .. } => (step * (1.0 + (i % 7) as f32 / 9.0)).to_bits(),
            S::F32Min => (if i % 2 == 0 { step * (1.0 + (i % 7) as f32 / 9.0) } else { -0.4 }).to_bits(),
            S::F32Zero if i % 2 == 1 => i as u32 % (1 << q.bits),
            S::F32Zero => (step * (1.0 + (i % 7) as f32 / 9.0)).to_bits(),
            // The last word of each 256 holds d and e, the others packed integers.
            _ if i % per_block == per_block - 1 => half(0.01, 0.05) | half(0.01, 0.05) << 16,
            S::K4 => (half(0.5, 2.0) | half(0.5, 2.0) << 16) & 0x3f3f_3f3f,
            _ => half(0.5, 2.0) | half(0.5, 2.0) << 16,
        })
        .collect()
}
