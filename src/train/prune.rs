//! Singular values of a model's linear layers, and the model without the small ones (SST, appendix G: singular value pruning).

use crate::format::{Checkpoint, Encoding, NewTensor, SafetensorsWriter};
use crate::gpu::Context;
use crate::linalg::{Factors, Place, Svd};
use crate::{Error, Result};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Bytes of weights that are decomposed at a time; the scratch is some times as large.
const AT_ONCE: usize = 64 << 20;

/// How many singular values of a layer stay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Keep {
    /// So many, or all where there are fewer.
    Rank(usize),
    /// As few as have this part of the sum of all (of the values, not of their squares).
    Energy(f64),
}

impl Keep {
    /// How many of these values, the largest first, stay: one at least.
    pub fn count(self, sigma: &[f32]) -> usize {
        let n = match self {
            Self::Rank(r) => r,
            Self::Energy(part) => reaching(sigma, part),
        };
        n.clamp(1, sigma.len().max(1))
    }

    /// Refuses what keeps nothing or more than all.
    ///
    /// # Errors
    /// [`Error::Request`].
    pub fn check(self) -> Result<()> {
        match self {
            Self::Rank(0) => Err(Error::Request("rank 0: must be at least 1".into())),
            Self::Energy(e) if !(e > 0.0 && e <= 1.0) => Err(Error::Request(format!("energy {e}: must be more than 0 and at most 1"))),
            _ => Ok(()),
        }
    }
}

/// The least number of values, the largest first, whose sum is at least this part of the sum of all.
pub fn reaching(sigma: &[f32], part: f64) -> usize {
    let total: f64 = sigma.iter().map(|s| f64::from(*s)).sum();
    let mut sum = 0.0;
    let enough = sigma.iter().position(|s| {
        sum += f64::from(*s);
        sum >= part * total
    });
    enough.map_or(sigma.len(), |at| at + 1)
}

/// A linear layer's weight as `U diag(sigma) Vᵀ`, or what is left of it.
#[derive(Debug, Clone)]
pub struct Decomposed {
    /// The weight's name, without `.weight`.
    pub name: String,
    /// Outputs.
    pub m: usize,
    /// Inputs.
    pub n: usize,
    /// All `min(m, n)` singular values, the largest first.
    pub sigma: Vec<f32>,
    /// Left singular vectors as rows of m, as many as were kept.
    pub ut: Vec<f32>,
    /// Right singular vectors as rows of n, as many.
    pub vt: Vec<f32>,
}

impl Decomposed {
    /// `sum_i<k sigma_i u_i v_iᵀ`, `m x n`, in f32 from f64 sums.
    pub fn product(&self, k: usize) -> Vec<f32> {
        let mut out = vec![0.0; self.m * self.n];
        for (row, out) in out.chunks_mut(self.n).enumerate() {
            let mut sums = vec![0.0; self.n];
            for i in 0..k {
                let f = f64::from(self.ut[i * self.m + row]) * f64::from(self.sigma[i]);
                sums.iter_mut().zip(&self.vt[i * self.n..]).for_each(|(s, v)| *s += f * f64::from(*v));
            }
            out.iter_mut().zip(sums).for_each(|(o, s)| *o = s as f32);
        }
        out
    }

    fn truncate(&mut self, k: usize) {
        self.ut.truncate(k * self.m);
        self.vt.truncate(k * self.n);
    }
}

/// Gives a weight's elements by its name, outputs and inputs.
pub type Weights<'a> = dyn Fn(&str, usize, usize) -> Result<Vec<f32>> + Sync + 'a;

/// Decomposes matrices on the device, some of a shape at a time: each has a name, outputs and inputs, and `weight` gives its elements. Of the vectors
/// those of the `most` largest values stay.
///
/// # Errors
/// What `weight` gives; as [`Svd::run`].
pub async fn decompose(context: &Context, layers: &[(String, usize, usize)], most: Keep, weight: &Weights<'_>) -> Result<Vec<Decomposed>> {
    most.check()?;
    let mut shapes: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
    layers.iter().enumerate().for_each(|(i, l)| shapes.entry((l.1, l.2)).or_default().push(i));
    let mut done: Vec<Option<Decomposed>> = layers.iter().map(|_| None).collect();
    for ((m, n), of_shape) in shapes {
        let bytes = AT_ONCE.min(context.facts().max_binding as usize);
        for part in of_shape.chunks((bytes / (4 * m * n)).max(1)) {
            let mut dense = Vec::new();
            for i in part {
                dense.push(weight(&layers[*i].0, m, n)?);
            }
            let names: Vec<&str> = part.iter().map(|i| layers[*i].0.as_str()).collect();
            for (i, mut d) in part.iter().zip(svd(context, &names, (m, n), &dense).await?) {
                d.truncate(most.count(&d.sigma));
                done[*i] = Some(d);
            }
        }
    }
    Ok(done.into_iter().flatten().collect())
}

async fn svd(context: &Context, names: &[&str], (m, n): (usize, usize), dense: &[Vec<f32>]) -> Result<Vec<Decomposed>> {
    let k = m.min(n);
    let whole = |words: usize| Ok::<_, Error>(Place { buffer: context.storage("factors", 4 * words as u64)?, offset: 0 });
    let (mut sources, mut factors) = (Vec::new(), Vec::new());
    for (name, w) in names.iter().zip(dense) {
        sources.push(Place { buffer: context.upload("matrices", bytemuck::cast_slice(w))?, offset: 0 });
        factors.push(Factors { name: (*name).into(), ut: whole(k * m)?, sigma: whole(k)?, vt: whole(k * n)? });
    }
    Svd::of_matrices(context, &sources, (m, n), &factors, &Default::default(), None)?.run().await?;
    let mut out = Vec::new();
    for f in &factors {
        let parts = [(&f.ut, k * m), (&f.sigma, k), (&f.vt, k * n)];
        let ranges = parts.map(|(p, words)| (&*p.buffer, 0..4 * words as u64));
        let words = context.read_ranges(&ranges)?.words().await?;
        let [ut, sigma, vt] = [0, 1, 2].map(|i| bytemuck::cast_slice(&words[i]).to_vec());
        out.push(Decomposed { name: f.name.clone(), m, n, ut, sigma, vt });
    }
    Ok(out)
}

/// How a pruned layer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `NAME.u` (`k x m`), `NAME.sigma` and `NAME.v` (`k x n`) where they are smaller than W, else as [`Form::Whole`].
    Factors,
    /// `NAME.weight`, the product of what stays.
    Whole,
}

/// What was written of a layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// Its name.
    pub name: String,
    /// Singular values, and how many of them stayed.
    pub values: (usize, usize),
    /// Elements before and after.
    pub elements: (usize, usize),
}

/// Writes a model whose linear layers have been decomposed, with fewer singular values; everything else is copied. The file is
/// written under a temporary name and renamed.
///
/// # Errors
/// [`Error::Unsupported`] for quantised tensors; [`Error::Request`] where vectors that `keep` wants have been left out;
/// [`Error::Io`].
pub fn write_pruned(checkpoint: &Checkpoint, layers: &[Decomposed], keep: Keep, form: Form, path: &Path) -> Result<Vec<Kept>> {
    keep.check()?;
    let mut tensors: Vec<NewTensor> = Vec::new();
    let mut new: HashMap<String, Vec<f32>> = HashMap::new();
    let mut kept = Vec::new();
    let mut add = |name: String, shape: Vec<usize>, values: Vec<f32>| {
        tensors.push(NewTensor::new(&name, "F32", shape));
        new.insert(name, values);
    };
    for d in layers {
        let (m, n, k) = (d.m, d.n, keep.count(&d.sigma));
        if d.ut.len() < k * m {
            return Err(Error::Request(format!("{}: {k} singular vectors are wanted and {} are there", d.name, d.ut.len() / m)));
        }
        let factored = form == Form::Factors && k * (m + n + 1) < m * n;
        let elements = if factored { k * (m + n + 1) } else { m * n };
        kept.push(Kept { name: d.name.clone(), values: (d.sigma.len(), k), elements: (m * n, elements) });
        let at = |part: &str| format!("{}.{part}", d.name);
        if factored {
            add(at("u"), vec![k, m], d.ut[..k * m].to_vec());
            add(at("sigma"), vec![k], d.sigma[..k].to_vec());
            add(at("v"), vec![k, n], d.vt[..k * n].to_vec());
        } else {
            add(at("weight"), vec![m, n], d.product(k));
        }
    }
    for t in checkpoint.tensors().filter(|t| !layers.iter().any(|d| t.name.strip_suffix(".weight") == Some(&d.name))) {
        tensors.push(NewTensor::new(&t.name, dtype(t.encoding, &t.name)?, t.shape.clone()));
    }
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let mut writer = SafetensorsWriter::create(path, &tensors, &metadata)?;
    for name in writer.order() {
        let bytes = match new.get(&name) {
            Some(values) => Cow::Borrowed(bytemuck::cast_slice(values)),
            None => checkpoint.bytes(&name)?,
        };
        writer.push(&bytes)?;
    }
    writer.finish()?;
    Ok(kept)
}

fn dtype(e: Encoding, name: &str) -> Result<&'static str> {
    match e {
        Encoding::F32 => Ok("F32"),
        Encoding::F16 => Ok("F16"),
        Encoding::Bf16 => Ok("BF16"),
        Encoding::Ggml(_) | Encoding::Other(_) => Err(Error::Unsupported {
            what: format!("copying `{name}`, which is quantised"),
            advice: "take the model in F32, F16 or BF16".into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn energy_is_a_part_of_the_sum_of_values() {
        let sigma = [4.0, 3.0, 2.0, 1.0];
        assert_eq!([0.4, 0.41, 0.7, 0.9, 0.91, 1.0].map(|e| Keep::Energy(e).count(&sigma)), [1, 2, 2, 3, 4, 4]);
        assert_eq!([1, 3, 9].map(|r| Keep::Rank(r).count(&sigma)), [1, 3, 4]);
        assert_eq!(Keep::Energy(0.9).count(&[0.0, 0.0]), 1);
        assert!(Keep::Energy(0.0).check().is_err() && Keep::Energy(f64::NAN).check().is_err() && Keep::Rank(0).check().is_err());
    }
}
