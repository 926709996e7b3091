//! Trained weights in Hugging Face's names: merged into dense matrices, or as their spectral factors.

use super::layout::Id;
use super::method::{Linear, Stand};
use super::run::Trainer;
use crate::Result;
use crate::format::{NewTensor, SafetensorsWriter};
use crate::kernel::matmul::{Operand, Product, matmul};
use crate::plan::Builder;
use crate::tensor::Tensor;
use crate::train::Slots;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

/// How the linear layers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Export {
    /// `W`, a matrix that any program reads.
    Merged,
    /// `u` (`k x m`), `sigma` and `v` (`k x n`) where a layer is spectral, else W.
    Factors,
}

enum Source<'a> {
    Stored(Id),
    Product(&'a Linear),
}

impl Trainer {
    /// Writes the weights as `model.safetensors`, in f32, to a temporary name that is then renamed.
    ///
    /// # Errors
    /// [`crate::Error::Io`], [`crate::Error::OutOfMemory`].
    pub async fn export(&self, path: &Path, how: Export) -> Result<()> {
        let mut sources: BTreeMap<String, (Vec<usize>, Source<'_>)> = BTreeMap::new();
        // Rows that are being trained in tensors of their own belong to the factors that they were taken from.
        let mut inner: HashSet<Id> = self.layout.tensors().filter_map(|(_, t)| t.active()).collect();
        for l in self.network.linears() {
            let parts: Vec<Id> = match l.weight {
                Stand::Dense(_) => continue,
                Stand::LowRank { w, a, b, .. } => vec![w, a, b],
                Stand::Projected { projector, step, .. } => vec![projector, step],
                Stand::Spectral { .. } if how == Export::Factors => continue,
                Stand::Spectral { ut, sigma, vt, .. } => vec![ut, sigma, vt],
            };
            inner.extend(parts);
            if !matches!(l.weight, Stand::Projected { .. }) {
                sources.insert(format!("{}.weight", l.name), (vec![l.m, l.n], Source::Product(l)));
            }
        }
        for (id, t) in self.layout.tensors().filter(|(id, _)| !inner.contains(id)) {
            // Marian's bias of the logits is the one row that other programs want as a matrix.
            let vector = t.rows == 1 && t.name != "final_logits_bias";
            let shape = if vector { vec![t.cols] } else { vec![t.rows, t.cols] };
            sources.insert(t.name.clone(), (shape, Source::Stored(id)));
        }
        let entries: Vec<NewTensor> =
            sources.iter().map(|(name, (shape, _))| NewTensor { name: name.clone(), dtype: "F32", shape: shape.clone() }).collect();
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        let mut writer = SafetensorsWriter::create(path, &entries, &metadata)?;
        for name in writer.order() {
            let Some((_, source)) = sources.get(&name) else { continue };
            let values = match source {
                Source::Stored(id) => self.values(*id).await?,
                Source::Product(l) => self.merged(l).await?,
            };
            writer.push(bytemuck::cast_slice(&values))?;
        }
        writer.finish()
    }

    /// A stored tensor's values, as they count now: thawed where it is packed, with the rows that are being trained.
    ///
    /// # Errors
    /// [`crate::Error::DeviceLost`], [`crate::Error::OutOfMemory`].
    pub async fn values(&self, id: Id) -> Result<Vec<f32>> {
        let t = self.layout.get(id);
        if t.packing().is_some() {
            return self.computed((t.rows, t.cols), |b, slots, out| slots.source(id).copy_to(b, &t.name, out)).await;
        }
        let (buffer, offset) = self.buffers.place(&self.layout, id);
        let range = 4 * offset as u64..4 * (offset + t.rows * t.cols) as u64;
        let words = self.context.read_ranges(&[(buffer, range)])?.words().await?.remove(0);
        Ok(bytemuck::cast_vec(words))
    }

    /// Overwrites a stored tensor, row after row; steps that are submitted from now on see it.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] for another number of values; [`crate::Error::Request`] for a tensor that is packed.
    pub fn set(&self, id: Id, values: &[f32]) -> Result<()> {
        let t = self.layout.get(id);
        if t.packing().is_some() {
            return Err(crate::Error::Request(format!("`{}` is packed: its values cannot be set", t.name)));
        }
        if values.len() != t.rows * t.cols {
            return Err(crate::Error::shape(
                "set",
                format!("`{}` is ({}, {}), and there are {} values", t.name, t.rows, t.cols, values.len()),
            ));
        }
        super::initial::write(&self.context, &self.layout, &self.buffers, id, values)
    }

    /// What a plan makes of the stored tensors.
    async fn computed(&self, (m, n): (usize, usize), fill: impl Fn(&mut Builder, &Slots, &Tensor) -> Result<()>) -> Result<Vec<f32>> {
        let mut b = Builder::new("merge", self.context.facts());
        let slots = Slots::new(&mut b, &self.layout);
        let out: Tensor = b.external_tensor("merged", m, n);
        fill(&mut b, &slots, &out)?;
        let buffer = self.context.storage("merged", 4 * (m * n) as u64)?;
        let mut bound = slots.bindings(&self.buffers);
        bound.push((out.slot, buffer.clone()));
        Arc::new(b.finish()?).bind(&self.context, &bound)?.run(1)?;
        let words = self.context.read_ranges(&[(&*buffer, 0..4 * (m * n) as u64)])?.words().await?.remove(0);
        Ok(bytemuck::cast_vec(words))
    }

    /// A tensor's gradient of the last step, or that of its active rows where these are trained in a tensor of their own.
    ///
    /// # Errors
    /// As [`Trainer::values`].
    pub async fn gradient(&self, id: Id) -> Result<Option<Vec<f32>>> {
        let id = self.layout.get(id).active().unwrap_or(id);
        let Some(([buffer, ..], offset, words)) = self.buffers.gradient_place(&self.layout, id) else { return Ok(None) };
        let range = 4 * offset as u64..4 * (offset + words) as u64;
        let words = self.context.read_ranges(&[(&**buffer, range)])?.words().await?.remove(0);
        Ok(Some(bytemuck::cast_vec(words)))
    }

    /// Numbers of the active pairs of a layer's singular vectors, in the order of their gradients; none without any.
    ///
    /// # Errors
    /// As [`Trainer::values`].
    pub async fn active(&self, l: &Linear) -> Result<Vec<u32>> {
        let Stand::Spectral { active, r, .. } = l.weight else { return Ok(Vec::new()) };
        let range = 4 * active as u64..4 * (active + r) as u64;
        Ok(self.context.read_ranges(&[(&*self.buffers.indices, range)])?.words().await?.remove(0))
    }

    /// The layers that the method adapts.
    pub fn linears(&self) -> Vec<&Linear> {
        self.network.linears()
    }

    /// Tensors by name.
    pub fn ids(&self) -> HashMap<String, Id> {
        self.layout.tensors().map(|(id, t)| (t.name.clone(), id)).collect()
    }

    /// A layer's whole weight, `m x n`, made on the device in f32.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`], [`crate::Error::Limit`].
    pub async fn merged(&self, l: &Linear) -> Result<Vec<f32>> {
        match l.weight {
            Stand::Dense(w) | Stand::Projected { w, .. } => self.values(w).await,
            _ => self.computed((l.m, l.n), |b, slots, out| append_merge(b, slots, l, out)).await,
        }
    }
}

/// Appends the whole weight of a layer that is stored in parts.
pub(super) fn append_merge(b: &mut Builder, slots: &Slots, l: &Linear, out: &Tensor) -> Result<()> {
    let o = Operand::from(*out);
    match l.weight {
        Stand::LowRank { w, a, b: up, scale } => {
            slots.source(w).copy_to(b, "weight", out)?;
            let p = Product { alpha: scale, accumulate: true, ..Product::default() };
            matmul(b, "merge", &slots.value(up).into(), &slots.value(a).into(), &o, &p)
        }
        Stand::Spectral { ut, sigma, vt, .. } => {
            let s = slots.value(sigma);
            let p = Product { a_t: true, scale: Some((s.slot, s.offset)), ..Product::default() };
            let [ut, vt] = [ut, vt].map(|id| slots.source(id).values(b, "merge"));
            matmul(b, "merge", &ut?.into(), &vt?.into(), &o, &p)
        }
        Stand::Dense(_) | Stand::Projected { .. } => Ok(()),
    }
}
