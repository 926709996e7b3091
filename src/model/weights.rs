//! Weights on the device, and how plans refer to them.

use crate::format::compressed::band;
use crate::format::{Checkpoint, HostMatrix};
use crate::gpu::{Buffer, Context};
use crate::kernel::add::add;
use crate::kernel::matmul::{Product, matmul};
use crate::kernel::norm::Norm;
use crate::plan::{Builder, SlotId};
use crate::quant::Packed;
use crate::tensor::{Format, Matrix, Segment, Tensor};
use crate::{Error, Result};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use super::linears::Site;

/// Reports progress of loading: tensors done, tensors in all.
pub type Progress<'a> = &'a (dyn Fn(usize, usize) + Sync);

/// A weight matrix on the device, cut by rows where a binding could not hold it.
#[derive(Debug, Clone)]
pub(crate) struct DeviceMatrix {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) format: Format,
    segments: Vec<DeviceSegment>,
}

impl DeviceMatrix {
    /// True where one binding holds all of it.
    pub(crate) fn is_one_segment(&self) -> bool {
        self.segments.len() == 1
    }
}

/// A linear layer's weight, `rows x cols`.
#[derive(Debug)]
pub(crate) enum Weight {
    Whole(DeviceMatrix),
    /// `W = sum of up down`, of `k` singular values in all: `k (rows + cols)` numbers instead of `rows cols`, and a product more. One band
    /// at least; several where their bits differ.
    Factors(Vec<Band>),
}

/// Pairs of singular vectors in one format; one side has been multiplied by the singular values.
#[derive(Debug)]
pub(crate) struct Band {
    /// `k x cols`.
    pub(crate) down: DeviceMatrix,
    /// `rows x k`.
    pub(crate) up: DeviceMatrix,
}

impl Weight {
    pub(crate) fn rows(&self) -> usize {
        match self {
            Self::Whole(m) => m.rows,
            Self::Factors(bands) => bands[0].up.rows,
        }
    }
}

/// Where a tensor of f32 lies: in a matrix that it may share with others, from a row on.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    matrix: DeviceMatrix,
    first: usize,
    rows: usize,
}

impl Place {
    /// Overwrites the tensor.
    ///
    /// # Errors
    /// [`Error::Shape`] where it is of another size; what the device reports.
    pub(crate) fn write(&self, context: &Context, name: &str, values: &[f32]) -> Result<()> {
        let cols = self.matrix.cols;
        if values.len() != self.rows * cols {
            return Err(Error::shape("weights", format!("{name}: {} values for {} x {cols}", values.len(), self.rows)));
        }
        let own = self.first..self.first + self.rows;
        for (rows, data, _) in &self.matrix.segments {
            let (start, end) = (rows.start.max(own.start), rows.end.min(own.end));
            if start < end {
                let part = &values[(start - own.start) * cols..(end - own.start) * cols];
                context.write(data, 4 * ((start - rows.start) * cols) as u64, bytemuck::cast_slice(part))?;
            }
        }
        Ok(())
    }
}

/// Rows, data, scales.
type DeviceSegment = (Range<usize>, Arc<Buffer>, Option<Arc<Buffer>>);

/// Gains and biases of a norm on the device.
#[derive(Debug, Clone)]
pub(crate) struct DeviceNorm {
    gain: Arc<Buffer>,
    bias: Option<Arc<Buffer>>,
    cols: usize,
    rms: bool,
    eps: f32,
}

/// A matrix's planes before they go to the device.
struct Planes {
    format: Format,
    data: Vec<u32>,
    scales: Vec<u32>,
}

/// Uploads tensors of a checkpoint.
pub(crate) struct Loader<'a> {
    pub(crate) context: &'a Context,
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) progress: Progress<'a>,
    pub(crate) done: usize,
    pub(crate) total: usize,
    /// Weights of linear layers become f32 whatever they are in the file, and where they lie is noted.
    pub(crate) places: Option<BTreeMap<String, Place>>,
}

impl<'a> Loader<'a> {
    pub(crate) fn new(context: &'a Context, checkpoint: &'a Checkpoint, progress: Progress<'a>) -> Self {
        Self { context, checkpoint, progress, done: 0, total: checkpoint.tensors().count(), places: None }
    }

    fn step(&mut self) {
        self.done += 1;
        (self.progress)(self.done.min(self.total), self.total);
    }

    /// A vector as f32.
    pub(crate) fn vector(&mut self, name: &str, len: usize) -> Result<Arc<Buffer>> {
        let values = self.checkpoint.vector(name, len)?;
        self.step();
        self.context.upload("weights", bytemuck::cast_slice(&values))
    }

    /// Several vectors end to end; `None` where the checkpoint has not the first.
    pub(crate) fn vectors(&mut self, names: &[(String, usize)]) -> Result<Option<Arc<Buffer>>> {
        if !names.iter().any(|(n, _)| self.checkpoint.has(n)) {
            return Ok(None);
        }
        let mut all = Vec::new();
        for (name, len) in names {
            all.extend(self.checkpoint.vector(name, *len)?);
            self.step();
        }
        self.context.upload("weights", bytemuck::cast_slice(&all)).map(Some)
    }

    /// A LayerNorm, or an RMSNorm.
    pub(crate) fn norm(&mut self, name: &str, cols: usize, rms: bool, eps: f32) -> Result<DeviceNorm> {
        let gain = self.vector(&format!("{name}.weight"), cols)?;
        let bias = if rms { None } else { Some(self.vector(&format!("{name}.bias"), cols)?) };
        Ok(DeviceNorm { gain, bias, cols, rms, eps })
    }

    /// One matrix.
    pub(crate) fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<DeviceMatrix> {
        let planes = self.planes(name, rows, cols, false)?;
        self.upload(planes, rows, cols)
    }

    /// Matrices of one width, stacked into one where they share a format, so that one dispatch serves them all.
    pub(crate) fn stacked(&mut self, parts: &[(String, usize)], cols: usize) -> Result<Vec<Weight>> {
        if let Some((name, _)) = parts.iter().find(|(name, _)| self.factored(name).is_some()) {
            if self.places.is_some() {
                return Err(unsupported(
                    format!("{name}: factors in the place of a weight"),
                    "write whole weights with `etalon merge` first",
                ));
            }
            return parts.iter().map(|(name, rows)| self.weight(name, *rows, cols)).collect();
        }
        let mut planes = Vec::new();
        for (name, rows) in parts {
            planes.push(self.planes(name, *rows, cols, self.places.is_some())?);
        }
        let first = planes[0].format;
        let per_tensor = matches!(first, Format::Quant(q) if q.per_tensor);
        if per_tensor || planes.iter().any(|p| p.format != first) {
            return planes.into_iter().zip(parts).map(|(p, (_, rows))| self.upload(p, *rows, cols).map(Weight::Whole)).collect();
        }
        let mut all = Planes { format: first, data: Vec::new(), scales: Vec::new() };
        for p in planes {
            all.data.extend(p.data);
            all.scales.extend(p.scales);
        }
        let matrix = self.upload(all, parts.iter().map(|p| p.1).sum(), cols)?;
        if let Some(places) = &mut self.places {
            let mut first = 0;
            for (name, rows) in parts {
                places.insert(name.clone(), Place { matrix: matrix.clone(), first, rows: *rows });
                first += rows;
            }
        }
        Ok(vec![Weight::Whole(matrix)])
    }

    /// What the names of a weight's factors begin with, where the file has those instead of the weight.
    fn factored<'n>(&self, name: &'n str) -> Option<&'n str> {
        let stem = name.strip_suffix(".weight")?;
        let there = || self.checkpoint.has(&format!("{stem}.sigma")) || self.checkpoint.has(&band(stem, 0).0);
        (!self.checkpoint.has(name) && there()).then_some(stem)
    }

    /// A weight, or its factors: `NAME.u` (`k x rows`), `NAME.sigma` and `NAME.v` (`k x cols`), or rounded ones band by band.
    pub(crate) fn weight(&mut self, name: &str, rows: usize, cols: usize) -> Result<Weight> {
        let Some(stem) = self.factored(name) else { return self.matrix(name, rows, cols).map(Weight::Whole) };
        if self.checkpoint.has(&band(stem, 0).0) {
            return self.bands(stem, rows, cols).map(Weight::Factors);
        }
        let part = |p: &str| format!("{stem}.{p}");
        let k = self.checkpoint.tensor(&part("sigma"))?.elements() as usize;
        let sigma = self.checkpoint.vector(&part("sigma"), k)?;
        let u = self.checkpoint.matrix(&part("u"), k, rows)?.into_f32();
        let scaled = (0..rows * k).map(|e| (u[e % k * rows + e / k] * sigma[e % k]).to_bits()).collect();
        let up = self.upload(Planes { format: Format::F32, data: scaled, scales: Vec::new() }, rows, k)?;
        (0..2).for_each(|_| self.step());
        Ok(Weight::Factors(vec![Band { down: self.matrix(&part("v"), k, cols)?, up }]))
    }

    fn bands(&mut self, stem: &str, rows: usize, cols: usize) -> Result<Vec<Band>> {
        let mut out = Vec::new();
        while let (down, up) = band(stem, out.len())
            && self.checkpoint.has(&down)
        {
            let k = self.checkpoint.rows(&down)?;
            out.push(Band { down: self.matrix(&down, k, cols)?, up: self.matrix(&up, rows, k)? });
        }
        Ok(out)
    }

    /// A matrix as it is stored, or with `whole` in f32.
    fn planes(&mut self, name: &str, rows: usize, cols: usize, whole: bool) -> Result<Planes> {
        let dense = |format, data| Planes { format, data, scales: Vec::new() };
        let host = self.checkpoint.matrix(name, rows, cols)?;
        self.step();
        Ok(match host {
            host if whole => dense(Format::F32, bytemuck::cast_vec(host.into_f32())),
            HostMatrix::F32(v) => dense(Format::F32, bytemuck::cast_vec(v)),
            HostMatrix::F16(v) => dense(Format::F16, halves(&v, cols)),
            HostMatrix::Bf16(v) => dense(Format::Bf16, halves(&v, cols)),
            HostMatrix::Packed(Packed { format, codes, scales, .. }) => Planes { format: Format::Quant(format), data: codes, scales },
        })
    }

    fn upload(&self, p: Planes, rows: usize, cols: usize) -> Result<DeviceMatrix> {
        let (stride, s_stride) = (p.format.row_words(cols), p.format.scale_words(cols));
        let builder = Builder::new("weights", self.context.facts());
        let mut segments = Vec::new();
        for r in builder.row_chunks(rows, stride.max(s_stride))? {
            let data = self.context.upload("weights", &p.data[r.start * stride..r.end * stride])?;
            let scales = match &p.format {
                Format::Quant(q) if q.per_tensor => Some(self.context.upload("weights", &p.scales)?),
                Format::Quant(_) => Some(self.context.upload("weights", &p.scales[r.start * s_stride..r.end * s_stride])?),
                _ => None,
            };
            segments.push((r, data, scales));
        }
        Ok(DeviceMatrix { rows, cols, format: p.format, segments })
    }
}

fn halves(values: &[u16], cols: usize) -> Vec<u32> {
    let pair = |p: &[u16]| u32::from(p[0]) | u32::from(p.get(1).copied().unwrap_or(0)) << 16;
    values.chunks(cols).flat_map(|row| row.chunks(2).map(pair)).collect()
}

/// A plan under construction, with the buffers that its external slots will be bound to.
pub(crate) struct Graph {
    pub(crate) b: Builder,
    pub(crate) bound: Vec<(SlotId, Arc<Buffer>)>,
    /// By the buffer's address: one slot a buffer, so that the builder sees a buffer that is bound twice.
    slots: HashMap<usize, SlotId>,
    /// What is done with what linear layers read.
    pub(crate) hook: Hook,
}

/// What a plan does with what linear layers read, beside their products.
pub(crate) enum Hook {
    Nothing,
    /// Adds noise to what the layers of a site read, and to nothing else.
    Noise(Site, Tensor),
    /// Sums the outer products of each site's rows, each row times its factor in a slot.
    Moments(SlotId, Vec<(Site, Tensor)>),
}

impl Graph {
    pub(crate) fn new(label: impl Into<String>, context: &Context) -> Self {
        Self { b: Builder::new(label, context.facts()), bound: Vec::new(), slots: HashMap::new(), hook: Hook::Nothing }
    }

    /// What the layers of a site are to read, given what they would.
    pub(crate) fn input(&mut self, site: Site, x: &Tensor) -> Result<Tensor> {
        match &self.hook {
            Hook::Noise(of, noise) if *of == site => {
                let y = self.b.transient("disturbed", x.rows, x.cols);
                add(&mut self.b, "disturb", x, noise, &y)?;
                return Ok(y);
            }
            Hook::Moments(factors, all) => {
                let product = Product { a_t: true, scale: Some((*factors, 0)), ..Product::default() };
                for (_, y) in all.iter().filter(|(of, _)| *of == site) {
                    matmul(&mut self.b, "moments", &(*x).into(), &(*x).into(), &(*y).into(), &product)?;
                }
            }
            _ => {}
        }
        Ok(*x)
    }

    /// The slot of a buffer.
    pub(crate) fn slot(&mut self, label: &str, buffer: &Arc<Buffer>) -> SlotId {
        let key = Arc::as_ptr(buffer) as usize;
        if let Some(s) = self.slots.get(&key) {
            return *s;
        }
        let slot = self.b.external(label, (buffer.size() / 4) as usize);
        self.bound.push((slot, buffer.clone()));
        self.slots.insert(key, slot);
        slot
    }

    pub(crate) fn matrix(&mut self, m: &DeviceMatrix) -> Matrix {
        let segments = m.segments.iter().map(|(rows, data, scales)| Segment {
            rows: rows.clone(),
            data: self.slot("weights", data),
            offset: 0,
            scales: scales.as_ref().map(|s| self.slot("scales", s)),
        });
        Matrix { rows: m.rows, cols: m.cols, format: m.format, segments: segments.collect() }
    }

    pub(crate) fn norm(&mut self, n: &DeviceNorm) -> Norm {
        let gain = (self.slot("gain", &n.gain), 0);
        let bias = n.bias.as_ref().map(|b| (self.slot("bias", b), 0));
        Norm { gain, bias, rms: n.rms, eps: n.eps }
    }
}

impl DeviceNorm {
    pub(crate) fn cols(&self) -> usize {
        self.cols
    }
}

/// An error for a model that asks for something that its family has not.
pub(crate) fn unsupported(what: impl Into<String>, advice: impl Into<String>) -> Error {
    Error::Unsupported { what: what.into(), advice: advice.into() }
}
