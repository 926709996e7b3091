//! Twin of `shaders/thaw.wgsl`.

use crate::plan::{Expected, Snapshot, Twin};
use crate::tensor::Packing;

/// The values of a packed row. Exact: a half is an f32, a code times a scale of 17 bits too.
pub fn row(packing: Packing, words: &[u32], cols: usize) -> Vec<f32> {
    match packing {
        Packing::F16 => (0..cols).map(|i| half::f16::from_bits((words[i / 2] >> (16 * (i % 2))) as u16).to_f32()).collect(),
        Packing::Int8 => {
            let scale = f32::from_bits(words[cols.div_ceil(4)]);
            (0..cols).map(|i| f32::from((words[i / 4] >> (8 * (i % 4))) as i8) * scale).collect()
        }
    }
}

/// `unit`: words that places are counted in.
pub(crate) fn twin(packing: Packing, (listed, overlaid): (bool, bool), rows: usize, unit: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let p: Vec<usize> = s.params()[4..].iter().map(|v| *v as usize).collect();
        let cols = p[0];
        let own = if packing == Packing::F16 { 2 } else { 1 };
        let (mut at, mut want) = (Vec::new(), Vec::new());
        for t in 0..rows {
            let list = if listed || overlaid { &s.words(2)[p[8]..p[8] + p[9]] } else { &[] };
            let from = if listed { (list[t] as usize).min(p[7]) } else { t };
            let found = list.iter().position(|i| overlaid && *i as usize == p[6] + t);
            let words = match found {
                Some(j) => s.words(3)[(p[10] + j * p[11]) * unit..][..cols].to_vec(),
                None => row(packing, &s.words(0)[(p[2] + from * p[3]) * own..], cols).into_iter().map(f32::to_bits).collect(),
            };
            at.extend((p[4] + t * p[5]) * unit..(p[4] + t * p[5]) * unit + cols);
            want.extend(words);
        }
        vec![Expected::Words { binding: 1, at, want }]
    })
}
