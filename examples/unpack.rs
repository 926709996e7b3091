//! Writes what the codes of a compressed model stand for: for each layer `NAME.codes` and `NAME.zero_points` (U8), `NAME.scales` and
//! `NAME.values` (F32).
//!
//! `cargo run --release --example unpack -- MODEL OUT.safetensors`

use etalon::format::compressed::{ScalePart, parts, unpack_stream};
use etalon::format::{Checkpoint, HostMatrix, NewTensor, write_safetensors};
use etalon::model::linears;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, out] = args.as_slice() else { return Err("usage: unpack MODEL OUT.safetensors".into()) };
    let checkpoint = Checkpoint::open(Path::new(model))?;
    let (mut tensors, mut bytes) = (Vec::new(), Vec::new());
    for l in linears(&checkpoint.config) {
        let HostMatrix::Packed(p) = checkpoint.matrix(&l.name, l.rows, l.cols)? else { continue };
        let found = parts(&p)?;
        let rows = if p.format.per_tensor { 1 } else { p.rows };
        let words = found.packed.len() / p.rows;
        let codes: Vec<u8> =
            found.packed.chunks(words).flat_map(|row| unpack_stream(row, p.format.bits, p.cols).map(|q| q as u8)).collect();
        let middle = 1u8 << (p.format.bits - 1);
        let zeros = match found.zero_points {
            None => vec![middle; rows * found.groups],
            Some(one) if p.format.per_tensor => one.iter().map(|z| *z as u8).collect(),
            Some(words) => {
                let column = |g: usize| words.iter().skip(g).step_by(found.groups).copied().collect::<Vec<u32>>();
                let columns: Vec<Vec<u32>> = (0..found.groups).map(|g| unpack_stream(&column(g), p.format.bits, rows).collect()).collect();
                (0..rows).flat_map(|r| columns.iter().map(move |c| c[r] as u8)).collect()
            }
        };
        let scales: Vec<f32> = match found.scales {
            ScalePart::F16(v) => v.iter().map(|s| half::f16::from_bits(*s).to_f32()).collect(),
            ScalePart::F32(v) => v,
        };
        let floats = |v: &[f32]| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        let mut add = |part: &str, dtype, shape: Vec<usize>, data: Vec<u8>| {
            tensors.push(NewTensor::new(format!("{}.{part}", l.stem()), dtype, shape));
            bytes.push(data);
        };
        add("codes", "U8", vec![p.rows, p.cols], codes);
        add("zero_points", "U8", vec![rows, found.groups], zeros);
        add("scales", "F32", vec![rows, found.groups], floats(&scales));
        add("values", "F32", vec![p.rows, p.cols], floats(&p.decode()));
    }
    write_safetensors(Path::new(out), &tensors, &BTreeMap::new(), |i| Ok(Cow::Borrowed(&bytes[i])))?;
    println!("{} layers are in {out}", tensors.len() / 4);
    Ok(())
}
