//! Initial weights: the same for every method, by seed and name, or those of a checkpoint.

use super::layout::{Buffers, Id, Layout};
use super::method::{Basis, Linear, Method, Stand};
use super::network::Network;
use super::options::Options;
use super::random::Random;
use crate::gpu::{Buffer, Context};
use crate::linalg::{Factors, Place, Svd};
use crate::{Error, Result};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// Gives a tensor's values by its name and the number of elements wanted, or `None`.
pub type Named<'a> = dyn Fn(&str, usize) -> Result<Option<Vec<f32>>> + Sync + 'a;

/// Where initial weights come from.
pub enum Initial<'a> {
    /// Linear layers uniform in +-1/sqrt(inputs) (Kaiming's with a = sqrt 5), tables normal with deviation 1/sqrt(width), gains 1,
    /// biases 0. At OPT-1.3B's width this is the 0.02 of its configuration; in narrow models 0.02 drowns a token's own vector in
    /// what the first layers add to it: nano then loses 0.6 nats at 300 steps.
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

/// A generator for one tensor: what one draws does not depend on what others there are.
fn generator(seed: u64, name: &str) -> Random {
    // FNV-1a: stable for ever, unlike the standard library's hashes.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
    Random::new(seed, hash)
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
    pub(super) async fn write(&self, context: &Context, network: &Network, layout: &Layout, buffers: &Buffers, o: &Options) -> Result<()> {
        if matches!(self, Self::Restored) {
            return Ok(());
        }
        let mut done: HashSet<Id> = HashSet::new();
        let mut spectral: BTreeMap<(usize, usize), Vec<&Linear>> = BTreeMap::new();
        for l in network.linears() {
            let name = format!("{}.weight", l.name);
            let dense = || Ok(self.named(&name, l.m * l.n)?.unwrap_or_else(|| kaiming(o.seed, &name, l.m, l.n)));
            let mut put = |id: Id, values: &[f32]| {
                done.insert(id);
                write(context, layout, buffers, id, values)
            };
            match l.weight {
                Stand::Dense(id) => put(id, &dense()?)?,
                Stand::LowRank { w, a, b, .. } => {
                    put(w, &dense()?)?;
                    let r = layout.get(a).rows;
                    put(a, &kaiming(o.seed, &format!("{}.lora_a", l.name), r, l.n))?;
                    put(b, &vec![0.0; l.m * r])?;
                }
                Stand::Projected { w, projector, step } => {
                    put(w, &dense()?)?;
                    done.extend([projector, step]);
                }
                Stand::Spectral { ut, sigma, vt, .. } => {
                    done.extend([ut, sigma, vt]);
                    spectral.entry((l.m, l.n)).or_default().push(l);
                }
            }
        }
        for (id, t) in layout.tensors().filter(|(id, _)| !done.contains(id)) {
            let n = t.rows * t.cols;
            let values = match self.named(&t.name, n)? {
                Some(v) => v,
                None if t.name.ends_with(".bias") => vec![0.0; n],
                None if t.rows == 1 => vec![1.0; n],
                None => {
                    let (mut g, deviation) = (generator(o.seed, &t.name), 1.0 / (t.cols as f64).sqrt());
                    (0..n).map(|_| (deviation * g.normal()) as f32).collect()
                }
            };
            write(context, layout, buffers, id, &values)?;
        }
        for ((m, n), layers) in spectral {
            self.decompose(context, layout, buffers, &layers, (m, n), o).await?;
        }
        Ok(())
    }

    /// Singular value decompositions of the initial weights of one shape, on the device.
    async fn decompose(
        &self,
        context: &Context,
        layout: &Layout,
        buffers: &Buffers,
        layers: &[&Linear],
        (m, n): (usize, usize),
        o: &Options,
    ) -> Result<()> {
        let seed = o.seed;
        let basis = if let Method::Sst(s) = o.method { s.basis } else { Basis::Svd };
        let step = (m * n).next_multiple_of(64);
        let fit = ((context.facts().max_binding / 4) as usize / step).max(1);
        for part in layers.chunks(fit) {
            let factors: Vec<Factors> = part.iter().filter_map(|l| factors(layout, buffers, l)).collect();
            let weight = |l: &Linear| {
                let name = format!("{}.weight", l.name);
                Ok(self.named(&name, m * n)?.unwrap_or_else(|| kaiming(seed, &name, m, n)))
            };
            svd(context, part, (m, n), &factors, &weight).await?;
            match basis {
                Basis::Svd => {}
                Basis::Zero => set_sigma(context, &factors, &vec![vec![0.0; m.min(n)]; part.len()])?,
                Basis::Random => {
                    let values = sigma(context, &factors, m.min(n)).await?;
                    let other = |l: &Linear| Ok(kaiming(seed, &format!("{}.basis", l.name), m, n));
                    svd(context, part, (m, n), &factors, &other).await?;
                    set_sigma(context, &factors, &values)?;
                }
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

/// Writes a tensor's values.
pub(super) fn write(context: &Context, layout: &Layout, buffers: &Buffers, id: Id, values: &[f32]) -> Result<()> {
    let (buffer, offset) = buffers.place(layout, id);
    context.write(buffer, 4 * offset as u64, bytemuck::cast_slice(values))
}
