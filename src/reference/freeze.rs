//! Twin of `shaders/freeze.wgsl`.

use super::sample::threefry;
use crate::kernel::progress::Progress;
use crate::plan::{Expected, Snapshot, Twin};
use crate::tensor::Packing;

/// The half that a value becomes; with bits, up where they are below what lies between the half below and the value.
pub fn half(x: f32, bits: Option<u32>) -> u16 {
    let largest = half::f16::MAX.to_bits();
    let size = f64::from(x.abs());
    let kept = match bits {
        _ if size.is_nan() => largest,
        None => half::f16::from_f64(size).to_bits().min(largest),
        Some(bits) => {
            // The last place of a half, and how many bits of an f32 lie below it.
            let exponent = if size == 0.0 { -127 } else { (size.log2().floor() as i32).clamp(-127, 127) };
            let drop = 13 + (-14 - exponent).max(0);
            let place = 2f64.powi(exponent.max(-14) - 10);
            let below = (size / place).floor();
            let up = drop < 32 && f64::from(bits % (1u32 << drop)) < (size / place - below) * 2f64.powi(drop);
            half::f16::from_f64((below + f64::from(u8::from(up))) * place).to_bits().min(largest)
        }
    };
    kept | if x.is_sign_negative() { 0x8000 } else { 0 }
}

/// The scale of a row: the largest magnitude over 127, in 17 significant bits.
pub fn scale(row: &[f32]) -> f32 {
    let peak = row.iter().fold(0.0, |m: f32, v| m.max(v.abs()));
    if peak < 1e-30 { 0.0 } else { f32::from_bits(((peak * (1.0 / 127.0)).to_bits() + 4) & !127) }
}

/// The codes that a value in units of the scale may become: a quotient may be off by some ulp.
fn codes(v: f64, bits: Option<u32>) -> [i8; 2] {
    [v - 1e-4, v + 1e-4].map(|v| {
        let code = match bits {
            None => v.round_ties_even(),
            Some(bits) => v.floor() + f64::from(u8::from(v - v.floor() > (f64::from(bits >> 21) + 0.5) / 2048.0)),
        };
        code.clamp(-127.0, 127.0) as i8
    })
}

/// `unit`: words that places of x are counted in.
pub(crate) fn twin(packing: Packing, (listed, dither): (bool, bool), rows: usize, unit: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let p: Vec<usize> = s.params()[4..].iter().map(|v| *v as usize).collect();
        let (cols, quads) = (p[0], p[1]);
        let progress = dither.then(|| Progress::from_words(s.words(2 + usize::from(listed))));
        let own = if packing == Packing::F16 { 2 } else { 1 };
        let (mut at, mut want, mut loose) = (Vec::new(), Vec::new(), Vec::new());
        for t in 0..rows {
            let to = if listed { (s.words(2)[p[8] + t] as usize).min(p[7]) } else { t };
            let place = (p[2] + to * p[3]) * own;
            let mut x = s.f32(0)[(p[4] + t * p[5]) * unit..][..cols].to_vec();
            x.resize(4 * quads, 0.0);
            let bits = |i: usize| {
                let counter = |q: Progress| [((p[6] + to) * quads + i / 4) as u32, q.step, p[9] as u32, 0x4652];
                progress.map(|q| threefry(counter(q), [q.seed as u32, (q.seed >> 32) as u32, 0, 0])[i % 4])
            };
            if packing == Packing::F16 {
                let h: Vec<u32> = x.iter().enumerate().map(|(i, v)| u32::from(half(*v, bits(i)))).collect();
                at.extend(place..place + 2 * quads);
                want.extend(h.chunks(2).map(|h| h[0] | h[1] << 16));
                continue;
            }
            let scale = scale(&x);
            at.push(place + quads);
            want.push(scale.to_bits());
            let inverse = if scale == 0.0 { 0.0 } else { 1.0 / f64::from(scale) };
            loose.extend((0..4 * quads).map(|i| (place + i / 4, 8 * (i % 4), codes(f64::from(x[i]) * inverse, bits(i)))));
        }
        let mut out = vec![Expected::Words { binding: 1, at, want }];
        if !loose.is_empty() {
            let at = loose.iter().map(|(place, ..)| *place).collect();
            let judge = move |w: &[u32]| {
                let bad = loose.iter().find(|(place, shift, may)| !may.contains(&((w[*place] >> shift) as i8)));
                let text = |(place, shift, may): &(usize, usize, [i8; 2])| {
                    format!("code at word {place}, bit {shift} is {}, not one of {may:?}", (w[*place] >> shift) as i8)
                };
                bad.map_or(Ok(()), |b| Err(text(b)))
            };
            out.push(Expected::Choice { binding: 1, at, judge: Box::new(judge) });
        }
        out
    })
}
