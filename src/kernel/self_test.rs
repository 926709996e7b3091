//! The self-test: tuned variants prove themselves on an adapter before plans there choose them.
//!
//! A tuned variant is one that is right only for some subgroup size. Drivers report that size wrongly, or compile subgroup
//! operations wrongly, more often than anything else; plain variants need no trust.

use super::adam::{Adam, After, Parameters, Rule, Segment as Trained, Update, adam, chunks};
use super::attention::{Keys, attention};
use super::attention_backward::{AttentionGradient, attention_backward};
use super::cross_entropy::{CrossEntropy, cross_entropy};
use super::dots::row_dots;
use super::grad_norm::{Page, grad_norm};
use super::jacobi::sweep;
use super::kl::kl;
use super::linear::{Fused, Residual, fuses_gate, linear};
use super::lorentz::{Map, lorentz, lorentz_backward};
use super::lorentz_adam::lorentz_adam;
use super::matmul::{Operand, Product, matmul};
use super::nll::nll;
use super::norm::{Norm, NormGradient, norm_backward, norm_saving};
use super::progress::Progress;
use super::rope::{Cache, Qkv};
use super::state::State;
use super::svd::{Side, Size, Work};
use crate::gpu::{Context, Facts};
use crate::plan::{Builder, SlotId};
use crate::quant::round::{Granularity, Spec, nearest};
use crate::tensor::{Format, Matrix, Segment, Tensor};
use crate::{Error, Result};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What the self-test found.
#[derive(Debug, Clone, Default)]
pub struct SelfTest {
    /// One entry for each variant that was tried.
    pub tested: Vec<Tested>,
}

/// What the self-test found of one variant.
#[derive(Debug, Clone)]
pub struct Tested {
    /// Kernel and constants.
    pub variant: String,
    /// What fails with it: kernel and subgroup size.
    pub class: String,
    /// The largest element error as a fraction of what is allowed, or what went wrong.
    pub outcome: Result<f64, String>,
}

impl SelfTest {
    /// Classes that failed: for [`Facts::refused`].
    pub fn refused(&self) -> BTreeSet<String> {
        self.tested.iter().filter(|t| t.outcome.is_err()).map(|t| t.class.clone()).collect()
    }
}

impl Context {
    /// Runs every class of tuned variants that this adapter may get on small, awkward shapes and compares with the CPU twins.
    /// The result changes nothing by itself: [`Context::without`] its [`SelfTest::refused`] is a context that leaves the failed
    /// classes out. Takes about a second on a software driver, mostly for compiling.
    ///
    /// On a host's device the future is done once the host has polled or submitted often enough.
    ///
    /// # Errors
    /// [`Error::DeviceLost`], [`Error::OutOfMemory`]; a variant that fails is not an error.
    pub async fn self_test(&self) -> Result<SelfTest> {
        let context = self.without(BTreeSet::new());
        let found = judge(&context, probes(context.facts())?).await?;
        let info = &self.facts().info;
        for t in &found.tested {
            if let Err(why) = &t.outcome {
                let (name, driver, version) = (&info.name, &info.driver, &info.driver_info);
                log::warn!("{name} ({driver} {version}): {} is replaced by a plain variant, since it failed its self-test: {why}", t.class);
            }
        }
        Ok(found)
    }
}

#[cfg(not(target_arch = "wasm32"))]
/// What a self-test result depends on: the adapter, its driver and the text of the shaders.
pub(crate) fn fingerprint(facts: &Facts) -> Result<u64> {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut h = DefaultHasher::new();
    let i = &facts.info;
    (&i.name, &i.driver, &i.driver_info, i.vendor, i.device, i.subgroup_min_size, i.subgroup_max_size).hash(&mut h);
    format!("{:?} {:?}", i.backend, facts.features).hash(&mut h);
    for probe in probes(facts)? {
        for op in probe.b.finish()?.ops() {
            (op.variant().name(), op.variant().wgsl(super::Target::Native)?).hash(&mut h);
        }
    }
    Ok(h.finish())
}

/// A plan of one kernel call and the contents of its slots.
struct Probe {
    b: Builder,
    data: Vec<(SlotId, Vec<u32>)>,
    counter: u32,
}

impl Probe {
    fn new(facts: &Facts) -> Self {
        Self { b: Builder::new("self-test", facts), data: Vec::new(), counter: 0 }
    }

    fn words(&mut self, label: &str, words: Vec<u32>) -> SlotId {
        let slot = self.b.external(label, words.len());
        self.data.push((slot, words));
        slot
    }

    /// Numbers in -1..1 without a pattern.
    fn values(&mut self, n: usize) -> Vec<f32> {
        let mut next = || {
            self.counter = self.counter.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (self.counter >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    fn slot(&mut self, label: &str, n: usize) -> SlotId {
        let values = self.values(n);
        self.words(label, bytemuck::cast_slice(&values).to_vec())
    }

    /// A matrix that begins at an odd word, its rows further apart than they are long.
    fn tensor(&mut self, label: &str, rows: usize, cols: usize) -> Tensor {
        let slot = self.slot(label, 3 + rows * (cols + 1));
        Tensor { slot, offset: 3, rows, cols, stride: cols + 1 }
    }

    /// 0 bits: f32.
    fn weights(&mut self, (bits, group): (u32, u32), rows: usize, cols: usize) -> Result<Matrix> {
        let values = self.values(rows * cols);
        let (format, data, scales) = if bits == 0 {
            (Format::F32, bytemuck::cast_slice(&values).to_vec(), None)
        } else {
            let (granularity, symmetric) = (Granularity::Group(group), bits % 2 == 0);
            let p = nearest(&values, rows, cols, &Spec { bits, granularity, symmetric, f16_scales: group == 32, search: false })?;
            (Format::Quant(p.format), p.codes, Some(p.scales))
        };
        let data = self.words("codes", data);
        let scales = scales.map(|s| self.words("scales", s));
        Ok(Matrix { rows, cols, format, segments: vec![Segment { rows: 0..rows, data, offset: 0, scales }] })
    }
}

/// Every class of tuned variants for such an adapter, in at least one kernel call. Odd row lengths, grids that do not fill their
/// last workgroup, groups of 16 and of 32.
fn probes(facts: &Facts) -> Result<Vec<Probe>> {
    let mut all = Vec::new();
    for format in [(0, 0), (4, 32), (3, 16)] {
        for (m, cols) in [(1, 97), (1, 160), (3, 160), (7, 97), (37, 97), (37, 160)] {
            all.push(linear_probe(facts, format, m, cols, false)?);
        }
    }
    if fuses_gate(facts, 1) {
        all.push(linear_probe(facts, (4, 32), 1, 97, true)?);
    }
    // Every number of columns that a variant is made for, and every way that operands may lie.
    for (i, size, k) in [(0, (39, 37), 97), (3, (7, 39), 97), (5, (3, 37), 100), (6, (39, 1), 100)] {
        let p = Product { batch: 2, a_t: i & 1 > 0, b_t: i & 2 > 0, b_half: i & 4 > 0, alpha: 0.5, accumulate: true, ..Product::default() };
        all.push(matmul_probe(facts, size, k, &p)?);
    }
    for (cols, rms) in [(65, true), (577, false)] {
        let mut p = Probe::new(facts);
        let (x, y) = (p.tensor("x", 3, cols), p.tensor("y", 3, cols));
        let gain = (p.slot("gain", cols), 0);
        let bias = (!rms).then(|| (p.slot("bias", cols), 0));
        let saved = p.tensor("saved", 3, 2);
        norm_saving(&mut p.b, "norm", &x, &y, &Norm { gain, bias, rms, eps: 1e-5 }, &saved)?;
        all.push(p);
        let mut p = Probe::new(facts);
        let (x, dy, saved, dx) = (p.tensor("x", 3, cols), p.tensor("dy", 3, cols), p.tensor("saved", 3, 2), p.tensor("dx", 3, cols));
        let n = Norm { gain: (p.slot("gain", cols), 0), bias: None, rms, eps: 1e-5 };
        norm_backward(&mut p.b, "norm", &NormGradient { x: &x, dy: &dy, saved: &saved, n: &n, dx: &dx, accumulate: true })?;
        all.push(p);
    }
    let mut p = Probe::new(facts);
    let (x, z, y) = (p.tensor("x", 3, 97), p.tensor("z", 3, 97), p.tensor("y", 1, 3));
    row_dots(&mut p.b, "dots", &x, &z, &y, true)?;
    all.push(p);
    for (head_dim, rows, capacity) in [(20, 3, 96), (64, 3, 96), (64, 9, 96), (32, 1, 2048)] {
        all.push(attention_probe(facts, head_dim, rows, capacity)?);
    }
    for (head_dim, causal) in [(24, true), (64, false)] {
        all.push(gradient_probe(facts, head_dim, causal)?);
    }
    let mut p = Probe::new(facts);
    let (x, y) = (p.tensor("x", 2, 577), p.tensor("y", 1, 2));
    let targets = p.words("targets", vec![5, 576]);
    nll(&mut p.b, "nll", &x, targets, &y)?;
    all.push(p);
    let mut p = Probe::new(facts);
    let (x, z, y) = (p.tensor("p", 2, 577), p.tensor("q", 2, 577), p.tensor("y", 1, 2));
    kl(&mut p.b, "kl", &x, &z, &y)?;
    all.push(p);
    let mut p = Probe::new(facts);
    let (x, y, scale) = (p.tensor("x", 2, 577), p.tensor("y", 1, 2), p.slot("scale", 1));
    let targets = (p.words("targets", vec![5, 576]), 0);
    let loss = CrossEntropy { logits: &x, targets, losses: &y, scale: (scale, 0), smoothing: 0.1, gradient: true };
    cross_entropy(&mut p.b, "cross-entropy", &loss)?;
    all.push(p);
    for map in [Map::Centroid, Map::Exp0] {
        let mut p = Probe::new(facts);
        let (x, y, dy, dx) = (p.tensor("x", 3, 97), p.tensor("y", 3, 97), p.tensor("dy", 3, 97), p.tensor("dx", 3, 97));
        lorentz(&mut p.b, "lorentz", &map, 1, &x, &y)?;
        lorentz_backward(&mut p.b, "lorentz", &map, 1, &x, &dy, &dx, None)?;
        all.push(p);
    }
    all.push(optimiser_probe(facts)?);
    all.push(points_probe(facts)?);
    all.push(jacobi_probe(facts)?);
    // On an adapter without tuned variants there is nothing to do.
    all.retain(|p| p.b.ops().iter().any(|op| op.variant().subgroup.is_some()));
    Ok(all)
}

/// Dense values and rows, by vec4 and not, and the norm of their gradients.
fn optimiser_probe(facts: &Facts) -> Result<Probe> {
    let mut p = Probe::new(facts);
    let rows = |cols| Update::Rows { indices: 0, count: 2, cols, after: After::Normalise };
    let segment = |at, len, update| Trained { label: "probe".into(), value: at, gradient: at, len, group: 0, weight_decay: 0.1, update };
    let segments =
        [segment(0, 71, Update::Dense), segment(72, 300, rows(100)), segment(373, 71, Update::Clamped), segment(445, 231, rows(77))];
    let [values, gradients, first] = ["values", "gradients", "first"].map(|label| p.slot(label, 700));
    let second = p.words("second", vec![0.5f32.to_bits(); 700]);
    let indices = p.words("indices", vec![2, 0]);
    let schedule = p.words("schedule", [0.01f32, 1.5, 2.0, 0.0].map(f32::to_bits).repeat(4));
    let progress = p.words("progress", vec![0; 16]);
    let table = p.words("table", chunks(&segments));
    let page = Page { gradients, segments: &segments, table };
    grad_norm(&mut p.b, "norm", &[page], progress, Some(1.0))?;
    let slots = Parameters { values, gradients, first, second, indices, schedule, progress, steps: 1 };
    adam(&mut p.b, "adam", &slots, &segments, table, &Rule::default())?;
    Ok(p)
}

/// Two points of the Lorentz model, long enough for a workgroup each.
fn points_probe(facts: &Facts) -> Result<Probe> {
    let (rows, cols) = (2, 97);
    let mut p = Probe::new(facts);
    let spaces: Vec<f64> = p.values(rows * cols).into_iter().map(f64::from).collect();
    let points = spaces.chunks(cols).flat_map(crate::hyperbolic::project).map(|v| (v as f32).to_bits()).collect();
    let values = p.words("values", points);
    let [gradients, first] = ["gradients", "first"].map(|label| p.slot(label, rows * cols));
    let second = p.words("second", vec![0.5f32.to_bits(); rows * cols]);
    let indices = p.words("indices", vec![0]);
    let schedule = p.words("schedule", [0.01f32, 1.5, 2.0, 0.0].map(f32::to_bits).repeat(4));
    let progress = Progress { clip: 1.0, ..Progress::default() };
    let progress = p.words("progress", progress.words().to_vec());
    let slots = Parameters { values, gradients, first, second, indices, schedule, progress, steps: 1 };
    let update = Update::Lorentz { cols };
    let s = Trained { label: "probe".into(), value: 0, gradient: 0, len: rows * cols, group: 0, weight_decay: 0.0, update };
    lorentz_adam(&mut p.b, "lorentz", &slots, &[s], &Adam::default())?;
    Ok(p)
}

fn linear_probe(facts: &Facts, format: (u32, u32), m: usize, cols: usize, gate: bool) -> Result<Probe> {
    let mut p = Probe::new(facts);
    // Whole vectors of x where its rows are; single words elsewhere.
    let aligned = Tensor { slot: p.slot("x", m * cols), offset: 0, rows: m, cols, stride: cols };
    let x = if cols.is_multiple_of(4) { aligned } else { p.tensor("x", m, cols) };
    let y = p.tensor("y", m, 39);
    let w = p.weights(format, if gate { 78 } else { 39 }, cols)?;
    let bias = p.slot("bias", 39);
    let e = match gate {
        true => Fused { gate, norm: Some((p.slot("gain", cols), 1e-5)), ..Fused::default() },
        false => Fused { bias: Some((bias, 0)), residual: Residual::InPlace, ..Fused::default() },
    };
    linear(&mut p.b, "linear", &x, &w, &y, &e)?;
    Ok(p)
}

fn matmul_probe(facts: &Facts, (m, n): (usize, usize), k: usize, p: &Product) -> Result<Probe> {
    let mut t = Probe::new(facts);
    let mut batch = |label, rows, cols| {
        let all = t.tensor(label, p.batch * rows, cols);
        Operand { first: all.slice_rows(0..rows), step: rows * all.stride }
    };
    let a = if p.a_t { batch("a", k, m) } else { batch("a", m, k) };
    let y = batch("y", m, n);
    let (rows, cols) = if p.b_t { (n, k) } else { (k, n) };
    let b = if p.b_half {
        let stride = cols.div_ceil(2);
        let values = t.values(2 * p.batch * rows * stride);
        let words = values.chunks(2).map(|v| [v[0], v[1]].map(|v| u32::from(half::f16::from_f32(v).to_bits()))).map(|[l, h]| l | h << 16);
        let slot = t.words("b", words.collect());
        Operand { first: Tensor { slot, offset: 0, rows, cols, stride }, step: rows * stride }
    } else {
        batch("b", rows, cols)
    };
    let p = Product { scale: Some((t.slot("scale", k), 0)), bias: Some((t.slot("bias", n), 0)), ..*p };
    matmul(&mut t.b, "matmul", &a, &b, &y, &p)?;
    Ok(t)
}

/// One row at a capacity of 2048 is split over keys on every adapter.
fn attention_probe(facts: &Facts, head_dim: usize, rows: usize, capacity: usize) -> Result<Probe> {
    let (heads, kv_heads) = (4, 2);
    let mut p = Probe::new(facts);
    let state = p.words("state", State { length: 70, count: rows as u32, ..State::default() }.words().to_vec());
    let qkv = p.tensor("qkv", rows, (heads + 2 * kv_heads) * head_dim);
    let x = Qkv::stacked(&qkv, heads * head_dim, kv_heads * head_dim);
    let words = kv_heads * capacity * head_dim;
    let (k, v) = (p.slot("keys", words), p.slot("values", words));
    let cache = Cache { k, v, capacity, sequences: 1, kv_heads, head_dim };
    let o = p.tensor("o", rows, heads * head_dim);
    attention(&mut p.b, "attention", state, &x, &Keys::Cache(cache), head_dim, 0.2, &o)?;
    Ok(p)
}

fn gradient_probe(facts: &Facts, head_dim: usize, causal: bool) -> Result<Probe> {
    let (heads, kv_heads, rows, sequences) = (2, 1, 37, 2);
    let mut p = Probe::new(facts);
    let states = [37, 30].map(|count| State { count, ..State::default() }.words());
    let state = p.words("state", states.concat());
    let mut t = |label: &str, cols: usize| {
        let rows = sequences * rows;
        Tensor { slot: p.slot(label, rows * cols), offset: 0, rows, cols, stride: cols }
    };
    let qkv = t("qkv", (heads + 2 * kv_heads) * head_dim);
    let x = Qkv::stacked(&qkv, heads * head_dim, kv_heads * head_dim);
    let (o, lse, d_o) = (t("o", heads * head_dim), t("lse", heads), t("d_o", heads * head_dim));
    let dx = Qkv { q: t("dq", heads * head_dim), k: t("dk", kv_heads * head_dim), v: t("dv", kv_heads * head_dim) };
    let (x, o, lse, d_o, dx) = (&x, &o, &lse, &d_o, &dx);
    let g = AttentionGradient { state, x, causal, cross: false, sequences, kv_heads, head_dim, scale: 0.2, o, lse, d_o, dx };
    attention_backward(&mut p.b, "gradient", &g)?;
    Ok(p)
}

/// Three pairs of blocks, one after another.
fn jacobi_probe(facts: &Facts) -> Result<Probe> {
    let mut p = Probe::new(facts);
    let work = Work::new(&mut p.b, Size::new(1, 40, 50));
    for (slot, words) in work.slots().into_iter().zip(work.size.words()) {
        let values = if slot == work.x || slot == work.y { p.values(words) } else { vec![0.0; words] };
        p.data.push((slot, bytemuck::cast_slice(&values).to_vec()));
    }
    sweep(&mut p.b, "jacobi", &work, Side::Y, 2e-6)?;
    Ok(p)
}

async fn judge(context: &Context, probes: Vec<Probe>) -> Result<SelfTest> {
    let mut found = SelfTest::default();
    for probe in probes {
        let plan = Arc::new(probe.b.finish()?);
        let slots = probe.data.iter().map(|(slot, words)| Ok((*slot, context.upload("self-test", words)?)));
        let slots = slots.collect::<Result<Vec<_>>>()?;
        let outcome = match plan.bind(context, &slots) {
            Ok(bound) => bound.verify().await,
            Err(e) => Err(e),
        };
        let outcome = match outcome {
            Ok(ops) => Ok(ops.iter().fold(0.0, |worst: f64, op| worst.max(op.worst))),
            // Wrong numbers, or a pipeline that the driver rejects.
            Err(e @ (Error::Mismatch { .. } | Error::Device { .. })) => Err(e.to_string()),
            Err(e) => return Err(e),
        };
        for op in plan.ops() {
            if let Some(class) = op.variant().class() {
                found.tested.push(Tested { variant: op.variant().name(), class, outcome: outcome.clone() });
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::variants;

    fn facts(device_type: wgpu::DeviceType, lanes: u32) -> Facts {
        let mut facts = Facts::browser(Some(lanes));
        facts.info.device_type = device_type;
        facts
    }

    #[test]
    fn every_tuned_class_is_probed() {
        for facts in [facts(wgpu::DeviceType::Cpu, 8), facts(wgpu::DeviceType::DiscreteGpu, 32), facts(wgpu::DeviceType::Other, 64)] {
            let wanted: BTreeSet<_> = variants(&facts).iter().filter_map(super::super::Variant::class).collect();
            let probes = probes(&facts).unwrap();
            let probed: BTreeSet<_> = probes.iter().flat_map(|p| p.b.ops()).filter_map(|op| op.variant().class()).collect();
            assert!(!wanted.is_empty());
            assert_eq!(probed, wanted);
        }
    }

    #[test]
    fn a_broken_variant_is_refused_and_the_plain_one_is_right() {
        let context = pollster::block_on(Context::new(&Default::default())).expect("the tests need an adapter: see README");
        let mut probes = probes(context.facts()).unwrap();
        if probes.is_empty() {
            return; // no tuned variants here
        }
        let mut broken = BTreeSet::new();
        for op in probes.iter_mut().flat_map(|p| p.b.ops_mut()).filter(|op| op.variant.kernel == "norm") {
            // A reduction over nothing, as on a driver whose subgroups are smaller than it says.
            op.variant.source = Box::leak(format!("// broken\n{}", op.variant.source.replace("sum_all(", "(")).into_boxed_str());
            op.variant.source = Box::leak(op.variant.source.replace(", lane)", ")").into_boxed_str());
            broken.extend(op.variant.class());
        }
        let found = context.block_on(judge(&context.without(BTreeSet::new()), probes)).unwrap();
        assert_eq!(found.refused(), broken, "{found:#?}");
        assert!(found.tested.iter().filter(|t| t.outcome.is_err()).all(|t| t.variant.starts_with("norm")));
        let rest = super::probes(context.without(found.refused()).facts()).unwrap();
        assert!(rest.iter().flat_map(|p| p.b.ops()).all(|op| op.variant().kernel != "norm"), "norm is plain now");
    }
}
