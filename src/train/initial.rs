//! Initial weights: the same for every method, by seed and name, or those of a checkpoint.

use super::layout::{Buffers, Id, Layout, Slots};
use super::method::{Basis, Linear, Method, Stand};
use super::network::Network;
use super::options::{Frozen, Options};
use super::random::{Random, hash};
use super::thawed::{self, Freezer, Thawed};
use crate::gpu::{Buffer, Context};
use crate::linalg::{Factors, Place, Svd};
use crate::plan::Builder;
use crate::{Error, Result};
use std::collections::HashSet;
use std::sync::Arc;

/// Gives a tensor's values by its name and the number of elements wanted, or `None`.
pub type Named<'a> = dyn Fn(&str, usize) -> Result<Option<Vec<f32>>> + Sync + 'a;

/// Where initial weights come from.
pub enum Initial<'a> {
    /// A decoder's matrices normal with the deviation that its configuration says (`init_std`, `initializer_range`), a classifier's
    /// uniform in +-1/sqrt(inputs) (Kaiming's with a = sqrt 5), a hyperbolic network's as HyboNet's; gains 1, biases 0.
    Random,
    /// By Hugging Face's name, with a wanted number of elements; names that give `None` are drawn as above.
    Named(&'a Named<'a>),
    /// From a checkpoint, by [`super::Trainer::restore`] afterwards: nothing is drawn or decomposed.
    Restored,
}

impl std::fmt::Debug for Initial<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Random => "Random",
            Self::Named(_) => "Named",
            Self::Restored => "Restored",
        })
    }
}

/// Where tensors lie, and the run's progress.
pub(super) type Store<'a> = (&'a Arc<Layout>, &'a Buffers, &'a Arc<Buffer>);

/// A generator for one tensor: what one draws does not depend on what others there are.
fn generator(seed: u64, name: &str) -> Random {
    Random::new(seed, hash(name.bytes()))
}

/// How matrices are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Draw {
    /// Normal with this deviation.
    Normal(f64),
    /// As [`kaiming`].
    Kaiming,
    /// As HyboNet's: weights uniform within this bound, or +-1/sqrt(outputs), those of time 0; times' scales 10, points near the origin.
    Lorentz(Option<f64>),
}

/// `rows x n` as drawn.
fn matrix(draw: Draw, seed: u64, name: &str, rows: usize, n: usize) -> Vec<f32> {
    let mut g = generator(seed, name);
    match draw {
        Draw::Normal(deviation) => (0..rows * n).map(|_| (deviation * g.normal()) as f32).collect(),
        Draw::Kaiming => kaiming(seed, name, rows, n),
        Draw::Lorentz(bound) => {
            let bound = bound.unwrap_or(1.0 / (rows.max(1) as f64).sqrt());
            let mut value = |i: usize| {
                let v = (2.0 * g.uniform() - 1.0) * bound;
                if i.is_multiple_of(n) { 0.0 } else { v as f32 }
            };
            (0..rows * n).map(&mut value).collect()
        }
    }
}

/// Points whose tangent vectors at the origin are normal with a deviation of 1/sqrt(coordinates).
fn points(seed: u64, name: &str, rows: usize, n: usize) -> Vec<f32> {
    let (mut g, deviation) = (generator(seed, name), 1.0 / (n as f64).sqrt());
    let mut point = |_| crate::hyperbolic::exp0(&(1..n).map(|_| deviation * g.normal()).collect::<Vec<_>>());
    (0..rows).flat_map(&mut point).map(|v| v as f32).collect()
}

/// Uniform in +-1/sqrt(n), for `rows x n`.
pub(super) fn kaiming(seed: u64, name: &str, rows: usize, n: usize) -> Vec<f32> {
    let (mut g, bound) = (generator(seed, name), 1.0 / (n.max(1) as f64).sqrt());
    (0..rows * n).map(|_| ((2.0 * g.uniform() - 1.0) * bound) as f32).collect()
}

impl Initial<'_> {
    fn named(&self, name: &str, elements: usize) -> Result<Option<Vec<f32>>> {
        match self {
            Self::Random | Self::Restored => Ok(None),
            Self::Named(f) => match f(name, elements)? {
                Some(v) if v.len() != elements => {
                    Err(Error::Request(format!("initial `{name}` has {} elements, the model wants {elements}", v.len())))
                }
                found => Ok(found),
            },
        }
    }

    /// Writes every tensor of a layout.
    ///
    /// # Errors
    /// What [`Initial::Named`] gives; [`Error::Request`], [`Error::OutOfMemory`].
    pub(super) async fn write(&self, context: &Context, network: &Network, store: Store<'_>, o: &Options) -> Result<()> {
        if matches!(self, Self::Restored) {
            return Ok(());
        }
        let (layout, buffers, _) = store;
        let mut done: HashSet<Id> = HashSet::new();
        for l in network.linears() {
            done.extend(self.linear(context, store, l, (network.draw(), o))?);
        }
        for (id, t) in layout.tensors().filter(|(id, _)| !done.contains(id)) {
            let n = t.rows * t.cols;
            let values = match self.named(&t.name, n)? {
                Some(v) => v,
                None if t.name.ends_with(".bias") => vec![0.0; n],
                None if t.name.ends_with(".scale") => vec![10f32.ln(); n],
                None if t.name.ends_with(".points") => points(o.seed, &t.name, t.rows, t.cols),
                None if t.rows == 1 => vec![1.0; n],
                None => matrix(network.draw(), o.seed, &t.name, t.rows, t.cols),
            };
            write(context, layout, buffers, id, &values)?;
        }
        for layers in thawed::groups(network, o.frozen != Frozen::F32) {
            self.decompose(context, store, &layers, (network.draw(), o)).await?;
        }
        Ok(())
    }

    /// Writes a layer's weight, but for one that is to be decomposed. Returns all of its tensors but the bias.
    fn linear(&self, context: &Context, store: Store<'_>, l: &Linear, (draw, o): (Draw, &Options)) -> Result<Vec<Id>> {
        let (layout, buffers, _) = store;
        let name = format!("{}.weight", l.name);
        let dense = || Ok::<_, Error>(self.named(&name, l.m * l.n)?.unwrap_or_else(|| matrix(draw, o.seed, &name, l.m, l.n)));
        match l.weight {
            Stand::Dense(w) => put(context, store, o, w, &dense()?).map(|()| vec![w]),
            Stand::LowRank { w, a, b, .. } => {
                put(context, store, o, w, &dense()?)?;
                let r = layout.get(a).rows;
                write(context, layout, buffers, a, &kaiming(o.seed, &format!("{}.lora_a", l.name), r, l.n))?;
                write(context, layout, buffers, b, &vec![0.0; l.m * r])?;
                Ok(vec![w, a, b])
            }
            Stand::Projected { w, projector, step } => put(context, store, o, w, &dense()?).map(|()| vec![w, projector, step]),
            Stand::Spectral { ut, sigma, vt, active, r } => {
                // Until the first draw the first rows count as active.
                context.write(&buffers.indices, 4 * active as u64, &(0..r as u32).collect::<Vec<_>>())?;
                let trained = [ut, vt].into_iter().filter_map(|id| layout.get(id).active());
                Ok([ut, sigma, vt].into_iter().chain(trained).collect())
            }
        }
    }

    /// Singular value decompositions of the initial weights of one shape, on the device.
    async fn decompose(&self, context: &Context, store: Store<'_>, layers: &[&Linear], (draw, o): (Draw, &Options)) -> Result<()> {
        let ((layout, buffers, _), m, n) = (store, layers[0].m, layers[0].n);
        let basis = if let Method::Sst(s) = o.method { s.basis } else { Basis::Svd };
        let step = (m * n).next_multiple_of(64);
        let fit = ((context.facts().max_binding / 4) as usize / step).max(1);
        for part in layers.chunks(fit) {
            let thawed = match o.frozen {
                Frozen::F32 => None,
                _ => {
                    let scratch = context.storage("svd scratch", thawed::scratch_bytes(&[part.to_vec()]))?;
                    Some(Thawed::new(context, o, part, store, &scratch)?)
                }
            };
            let in_place = || part.iter().filter_map(|l| factors(layout, buffers, l)).collect();
            let factors: Vec<Factors> = thawed.as_ref().map_or_else(in_place, |t| t.factors.clone());
            let weight = |l: &Linear| {
                let name = format!("{}.weight", l.name);
                Ok(self.named(&name, m * n)?.unwrap_or_else(|| matrix(draw, o.seed, &name, m, n)))
            };
            svd(context, part, (m, n), &factors, &weight).await?;
            match basis {
                Basis::Svd => {}
                Basis::Zero => set_sigma(context, &factors, &vec![vec![0.0; m.min(n)]; part.len()])?,
                Basis::Random => {
                    let values = sigma(context, &factors, m.min(n)).await?;
                    let other = |l: &Linear| Ok(matrix(draw, o.seed, &format!("{}.basis", l.name), m, n));
                    svd(context, part, (m, n), &factors, &other).await?;
                    set_sigma(context, &factors, &values)?;
                }
            }
            if let Some(t) = thawed {
                t.freeze.run(1)?;
            }
        }
        Ok(())
    }
}

/// Decomposes what `matrix` gives for each layer into its factors.
async fn svd(
    context: &Context,
    layers: &[&Linear],
    (m, n): (usize, usize),
    factors: &[Factors],
    matrix: &(dyn Fn(&Linear) -> Result<Vec<f32>> + Sync),
) -> Result<()> {
    let step = (m * n).next_multiple_of(64);
    let mut dense = Vec::with_capacity(layers.len() * step);
    for l in layers {
        dense.extend(matrix(l)?);
        dense.resize(dense.len().next_multiple_of(64), 0.0);
    }
    let dense = context.upload("initial weights", bytemuck::cast_slice(&dense))?;
    let sources: Vec<Place> = (0..layers.len()).map(|i| Place { buffer: dense.clone(), offset: i * step }).collect();
    Svd::of_matrices(context, &sources, (m, n), factors, &Default::default(), None)?.run().await.map(|_| ())
}

/// The singular values of each layer.
async fn sigma(context: &Context, factors: &[Factors], k: usize) -> Result<Vec<Vec<f32>>> {
    let range = |p: &Place| 4 * p.offset as u64..4 * (p.offset + k) as u64;
    let ranges: Vec<(&Buffer, _)> = factors.iter().map(|f| (&*f.sigma.buffer, range(&f.sigma))).collect();
    Ok(context.read_ranges(&ranges)?.words().await?.into_iter().map(bytemuck::cast_vec).collect())
}

fn set_sigma(context: &Context, factors: &[Factors], values: &[Vec<f32>]) -> Result<()> {
    factors.iter().zip(values).try_for_each(|(f, v)| context.write(&f.sigma.buffer, 4 * f.sigma.offset as u64, bytemuck::cast_slice(v)))
}

/// Where the factors of a spectral layer lie.
pub(super) fn factors(layout: &Layout, buffers: &Buffers, l: &Linear) -> Option<Factors> {
    let Stand::Spectral { ut, sigma, vt, .. } = l.weight else { return None };
    let place = |id| {
        let (buffer, offset): (&Arc<Buffer>, usize) = buffers.place(layout, id);
        Place { buffer: buffer.clone(), offset }
    };
    Some(Factors { name: l.name.clone(), ut: place(ut), sigma: place(sigma), vt: place(vt) })
}

/// Writes a tensor's values, packed where it is.
fn put(context: &Context, (layout, buffers, progress): Store<'_>, o: &Options, id: Id, values: &[f32]) -> Result<()> {
    if layout.get(id).packing().is_none() {
        return write(context, layout, buffers, id, values);
    }
    let t = layout.get(id);
    let mut b = Builder::new("freeze", context.facts());
    let (slots, freezer) = (Slots::new(&mut b, layout), Freezer::new(&mut b, o));
    let from = b.external_tensor("initial weights", t.rows, t.cols);
    freezer.freeze(&mut b, &slots, id, &from, None)?;
    let mut bound = slots.bindings(buffers);
    bound.extend(freezer.bindings(progress));
    bound.push((from.slot, context.upload("initial weights", bytemuck::cast_slice(values))?));
    Arc::new(b.finish()?).bind(context, &bound)?.run(1).map(drop)
}

/// Writes the values of a tensor that is not packed.
pub(super) fn write(context: &Context, layout: &Layout, buffers: &Buffers, id: Id, values: &[f32]) -> Result<()> {
    let (buffer, offset) = buffers.place(layout, id);
    context.write(buffer, 4 * offset as u64, bytemuck::cast_slice(values))
}
