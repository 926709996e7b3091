//! From chosen widths to codes.

use super::{HALF, on_all, weights};
use crate::format::Checkpoint;
use crate::format::compressed::band;
use crate::model::{Linear, Probe, Site, linears};
use crate::quant::Packed;
use crate::quant::round::{Factored, Gptq, Hessian, Spec, gptq, nearest, spectral};
use crate::train::prune::{Decomposed, Keep, decompose};
use crate::{Error, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Codes of linear layers by their tensors' names, or of their factors by these' ([`band`]); those that stay in half precision have none.
pub type Rounded = BTreeMap<String, Packed>;

fn width(bits: &BTreeMap<String, u32>, l: &Linear) -> Result<u32> {
    bits.get(&l.name).copied().ok_or_else(|| Error::Request(format!("no width was chosen for `{}`", l.name)))
}

/// Rounds every layer to the nearest codes. `tell(done, all)` is called as it goes on.
///
/// # Errors
/// As [`nearest`]; [`Error::Request`] where a layer has no width.
pub fn to_nearest(checkpoint: &Checkpoint, bits: &BTreeMap<String, u32>, spec: &Spec, tell: &dyn Fn(usize, usize)) -> Result<Rounded> {
    let all = linears(&checkpoint.config);
    let mut out = BTreeMap::new();
    for (i, part) in all.chunks(16).enumerate() {
        let packed = on_all(part, |l| match width(bits, l)? {
            HALF => Ok(None),
            bits => nearest(&weights(checkpoint, l)?, l.rows, l.cols, &Spec { bits, ..*spec }).map(Some).map_err(|e| named(l, e)),
        })?;
        out.extend(part.iter().zip(packed).filter_map(|(l, p)| Some((l.name.clone(), p?))));
        tell((16 * i + part.len()).min(all.len()), all.len());
    }
    Ok(out)
}

/// Rounds layer after layer so that outputs stay near ([`gptq`]), each with the inputs that it gets from the layers before, which are
/// rounded already. The probe must stand before the first layer; its model has the rounded weights afterwards.
///
/// # Errors
/// As [`gptq`] and [`Probe::hessians`]; [`Error::Request`] where a layer has no width.
pub async fn by_outputs(
    probe: &mut Probe,
    checkpoint: &Checkpoint,
    bits: &BTreeMap<String, u32>,
    (spec, options): (&Spec, &Gptq),
    tell: &dyn Fn(usize, usize),
) -> Result<Rounded> {
    let all = linears(&checkpoint.config);
    let blocks = all.last().map_or(0, |l| l.block + 1);
    let mut out = BTreeMap::new();
    for block in 0..blocks {
        let moments = probe.hessians(block).await?;
        let members: Vec<&Linear> = all.iter().filter(|l| l.block == block).collect();
        let packed = on_all(&members, |l| match width(bits, l)? {
            HALF => Ok(None),
            bits => fit(checkpoint, l, &Spec { bits, ..*spec }, &moments, options).map(Some),
        })?;
        for (l, p) in members.iter().zip(packed) {
            if let Some(p) = p {
                probe.model().set_weight(&l.name, &p.decode())?;
                out.insert(l.name.clone(), p);
            }
        }
        probe.advance(block)?;
        tell(block + 1, blocks);
    }
    Ok(out)
}

/// Which pairs of singular vectors of a layer got how many bits.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bands {
    /// Its tensor's name.
    pub name: String,
    /// Widths, falling, and how many pairs have each.
    pub bands: Vec<(u32, usize)>,
    /// Pairs there were; those in no band were left out.
    pub pairs: usize,
    /// Bits that it takes, scales and zero points among them.
    pub cost: u64,
}

/// Takes every layer that has a budget of bits apart into its singular vectors and rounds those within it ([`spectral`]), the others staying in
/// half precision; otherwise as [`by_outputs`]. The singular vectors of a layer that was trained by SST are those of its weight, whatever the
/// last re-SVD left.
///
/// # Errors
/// As [`spectral()`], [`Probe::hessians`] and [`decompose`].
pub async fn by_spectrum(
    probe: &mut Probe,
    checkpoint: &Checkpoint,
    (budgets, widths): (&BTreeMap<String, u64>, &[u32]),
    (spec, options): (&Spec, &Gptq),
    tell: &dyn Fn(usize, usize),
) -> Result<(Rounded, Vec<Bands>)> {
    let all = linears(&checkpoint.config);
    let blocks = all.last().map_or(0, |l| l.block + 1);
    let context = probe.model().context().clone();
    let (mut out, mut layers) = (BTreeMap::new(), Vec::new());
    for block in 0..blocks {
        let moments = probe.hessians(block).await?;
        let members: Vec<&Linear> = all.iter().filter(|l| l.block == block && budgets.contains_key(&l.name)).collect();
        let shapes: Vec<_> = members.iter().map(|l| (l.name.clone(), l.rows, l.cols)).collect();
        let weight = |name: &str, rows, cols| Ok(checkpoint.matrix(name, rows, cols)?.into_f32());
        let apart = decompose(&context, &shapes, Keep::Energy(1.0), &weight).await?;
        let wanted: Vec<(&Linear, &Decomposed)> = members.iter().copied().zip(&apart).collect();
        let rounded = on_all(&wanted, |(l, d)| {
            let k = d.vt.len() / d.n.max(1);
            let factors = Factored { m: d.m, n: d.n, sigma: &d.sigma[..k], ut: &d.ut, vt: &d.vt };
            let moments = moments.get(&l.site).ok_or_else(|| Error::Request(format!("`{}`: no inputs were seen", l.name)))?;
            spectral(&factors, (budgets[&l.name], widths), spec, moments, options).map_err(|e| named(l, e))
        })?;
        for (l, s) in members.iter().zip(rounded) {
            probe.model().set_weight(&l.name, &s.values())?;
            let bands = s.bands.iter().map(|b| (b.bits(), b.pairs())).collect();
            layers.push(Bands { name: l.name.clone(), bands, pairs: s.pairs, cost: s.cost });
            for (i, b) in s.bands.into_iter().enumerate() {
                let (down, up) = band(l.stem(), i);
                out.extend([(down, b.down), (up, b.up)]);
            }
        }
        probe.advance(block)?;
        tell(block + 1, blocks);
    }
    Ok((out, layers))
}

/// What a width makes of a layer's weights.
#[derive(Debug, Clone)]
pub enum Codes {
    /// The nearest codes, found when they are asked for.
    Nearest(Spec),
    /// Codes that were fitted to what the layers read while nothing was rounded.
    Fitted {
        /// How they were rounded, but for the width.
        spec: Spec,
        /// By the tensor's name and the width.
        all: Arc<BTreeMap<(String, u32), Packed>>,
    },
}

impl Codes {
    /// Fits every layer to each width by [`gptq`]. The probe must stand before the first layer, its model's weights being as they were.
    ///
    /// # Errors
    /// As [`by_outputs`].
    pub async fn fitted(
        probe: &mut Probe,
        checkpoint: &Checkpoint,
        (spec, options): (&Spec, &Gptq),
        widths: &[u32],
        tell: &dyn Fn(usize, usize),
    ) -> Result<Self> {
        let layers = linears(&checkpoint.config);
        let blocks = layers.last().map_or(0, |l| l.block + 1);
        let mut all = BTreeMap::new();
        for block in 0..blocks {
            let moments = probe.hessians(block).await?;
            let wanted: Vec<(&Linear, u32)> = layers
                .iter()
                .filter(|l| l.block == block)
                .flat_map(|l| widths.iter().filter(|w| **w != HALF).map(move |w| (l, *w)))
                .collect();
            let packed = on_all(&wanted, |(l, bits)| fit(checkpoint, l, &Spec { bits: *bits, ..*spec }, &moments, options))?;
            all.extend(wanted.iter().zip(packed).map(|((l, bits), p)| ((l.name.clone(), *bits), p)));
            probe.advance(block)?;
            tell(block + 1, blocks);
        }
        Ok(Self::Fitted { spec: *spec, all: Arc::new(all) })
    }

    /// How weights are rounded, but for the width.
    pub fn spec(&self) -> &Spec {
        match self {
            Self::Nearest(spec) | Self::Fitted { spec, .. } => spec,
        }
    }

    /// The values of a layer's codes at a width; [`HALF`] leaves the weights as they are.
    ///
    /// # Errors
    /// As [`nearest`]; [`Error::Request`] for a width that was not fitted.
    pub fn values(&self, checkpoint: &Checkpoint, l: &Linear, bits: u32) -> Result<Vec<f32>> {
        match self {
            _ if bits == HALF => weights(checkpoint, l),
            Self::Nearest(spec) => {
                let spec = Spec { bits, ..*spec };
                Ok(nearest(&weights(checkpoint, l)?, l.rows, l.cols, &spec).map_err(|e| named(l, e))?.decode())
            }
            Self::Fitted { all, .. } => match all.get(&(l.name.clone(), bits)) {
                Some(p) => Ok(p.decode()),
                None => Err(Error::Request(format!("`{}` was not fitted to {bits} bits", l.name))),
            },
        }
    }
}

fn fit(checkpoint: &Checkpoint, l: &Linear, spec: &Spec, moments: &BTreeMap<Site, Hessian>, options: &Gptq) -> Result<Packed> {
    let moments = moments.get(&l.site).ok_or_else(|| Error::Request(format!("`{}`: no inputs were seen", l.name)))?;
    gptq(&weights(checkpoint, l)?, l.rows, l.cols, spec, moments, options).map_err(|e| named(l, e))
}

/// The same error with the layer's name.
fn named(l: &Linear, e: Error) -> Error {
    match e {
        Error::Shape { op, message } => Error::Shape { op, message: format!("`{}`: {message}", l.name) },
        Error::Request(message) => Error::Request(format!("`{}`: {message}", l.name)),
        other => other,
    }
}
