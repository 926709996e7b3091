//! From chosen widths to codes.

use super::choose::HALF;
use super::{on_all, weights};
use crate::format::Checkpoint;
use crate::model::{Linear, Probe, linears};
use crate::quant::Packed;
use crate::quant::round::{Gptq, Spec, gptq, nearest};
use crate::{Error, Result};
use std::collections::BTreeMap;

/// Codes of linear layers by their tensors' names; those that stay in half precision have none.
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
            bits => {
                let spec = Spec { bits, ..*spec };
                let moments = moments.get(&l.site).ok_or_else(|| Error::Request(format!("`{}`: no inputs were seen", l.name)))?;
                gptq(&weights(checkpoint, l)?, l.rows, l.cols, &spec, moments, options).map(Some).map_err(|e| named(l, e))
            }
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

/// The same error with the layer's name.
fn named(l: &Linear, e: Error) -> Error {
    match e {
        Error::Shape { op, message } => Error::Shape { op, message: format!("`{}`: {message}", l.name) },
        Error::Request(message) => Error::Request(format!("`{}`: {message}", l.name)),
        other => other,
    }
}
