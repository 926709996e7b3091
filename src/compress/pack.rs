//! Writing a rounded model as a folder that compressed-tensors (0.20 or later), and programs built on it, read.

use super::round::Rounded;
use super::{halves, order};
use crate::format::compressed::{ScalePart, band, parts};
use crate::format::{BertHead, Checkpoint, Config, Encoding, NewTensor, SafetensorsWriter, write_atomically};
use crate::model::linears;
use crate::quant::round::{Spec, nearest};
use crate::quant::{Packed, QuantFormat};
use crate::{Error, Result};
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// How what is not a linear layer is stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Beside {
    /// Matrices (embeddings, positions, heads) in half precision, or in f32.
    pub half: bool,
    /// Embeddings, and a head of its own, are rounded to the nearest codes so instead.
    pub embeddings: Option<Spec>,
}

impl Default for Beside {
    /// Half precision.
    fn default() -> Self {
        Self { half: true, embeddings: None }
    }
}

/// What a tensor becomes.
enum Form {
    Codes(Packed),
    Half,
    Single,
}

/// Bits of what a model stores beside its linear layers' weights, and the number of these elements.
///
/// # Errors
/// As [`write()`].
pub fn beside(c: &Checkpoint, how: &Beside) -> Result<(u64, u64)> {
    let linear: BTreeSet<String> = linears(&c.config).into_iter().map(|l| l.name).collect();
    let (mut bits, mut elements) = (0, 0);
    for (name, shape) in rest(c, &linear) {
        let n: u64 = shape.iter().map(|n| *n as u64).product();
        elements += n;
        bits += match shape[..] {
            [rows, cols] => match how.embeddings.filter(|_| embeds(&name)) {
                Some(spec) => spec.stored_bits(rows, cols),
                None => n * if how.half && !exact(&name) { 16 } else { 32 },
            },
            _ => 32 * n,
        };
    }
    Ok((bits, elements))
}

/// Names and shapes of the tensors that are no linear layers' weights.
fn rest(c: &Checkpoint, linear: &BTreeSet<String>) -> Vec<(String, Vec<usize>)> {
    let of = |name: &str, shape: &[usize]| (!linear.contains(name)).then(|| (name.to_owned(), shape.to_vec()));
    let mut out = Vec::new();
    for t in c.tensors() {
        match (t.name.strip_suffix("_packed"), t.encoding) {
            // Parts of a layer that is compressed already; the shape is all that counts here.
            (Some(whole), _) => out.extend(of(whole, &shape_of(c, whole))),
            // Tables of whole numbers, as positions that old models keep, can be made anew.
            (_, Encoding::Other(_)) => {}
            _ if ["_scale", "_zero_point", "_shape"].iter().any(|s| t.name.strip_suffix(s).is_some_and(|w| c.has(w))) => {}
            _ => out.extend(of(&t.name, &t.shape)),
        }
    }
    out
}

/// The shape that a compressed matrix is noted to have; embeddings and heads are the only ones beside linear layers.
fn shape_of(c: &Checkpoint, name: &str) -> Vec<usize> {
    let (vocabulary, width) = match &c.config {
        Config::Llama(l) => (l.vocab, l.hidden),
        Config::Opt(o) => (o.vocab, o.word_embed_proj_dim),
        Config::Bert(b) => (b.vocab, b.hidden),
        Config::Translator { config, .. } => (config.vocab, config.hidden),
    };
    if embeds(name) { vec![vocabulary, width] } else { Vec::new() }
}

/// True for the tables of tokens, and the heads that are their mirror.
fn embeds(name: &str) -> bool {
    ["embed_tokens.weight", "word_embeddings.weight", "lm_head.weight", "predictions.decoder.weight", "shared.weight"]
        .iter()
        .any(|s| name.ends_with(s))
}

/// True for tables of points: half precision would take them off the manifold.
fn exact(name: &str) -> bool {
    name.ends_with(".points")
}

/// Writes `model.safetensors`, `config.json`, and the tokenizer's files into a folder, which is made. Each file appears when it is complete,
/// the weights last; linear layers that `rounded` has not are written in half precision, and those that it has bands of ([`band`]) as these,
/// which no other program reads. A model that was read from GGUF gets its queries and
/// keys in Hugging Face's order.
///
/// # Errors
/// [`Error::Io`]; [`Error::Unsupported`] for formats or models that such a folder cannot hold; [`Error::Shape`] for weights beyond what
/// half precision holds.
pub fn write(c: &Checkpoint, rounded: &Rounded, how: &Beside, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|source| Error::Io { path: folder.display().to_string(), source })?;
    let mut forms: BTreeMap<String, (Vec<usize>, Form)> = BTreeMap::new();
    let linear = linears(&c.config);
    for l in &linear {
        let bands = (0..).map(|i| band(l.stem(), i)).take_while(|(down, _)| rounded.contains_key(down));
        let mut parts: Vec<String> = bands.flat_map(|(down, up)| [down, up]).collect();
        if parts.is_empty() {
            parts.push(l.name.clone());
        }
        for name in parts {
            let form = match rounded.get(&name) {
                Some(p) => (vec![p.rows, p.cols], Form::Codes(reordered(c, &name, p))),
                None if name == l.name => (vec![l.rows, l.cols], Form::Half),
                None => return Err(Error::Request(format!("`{name}` is missing, the other side of a band"))),
            };
            forms.insert(name, form);
        }
    }
    let names: BTreeSet<String> = linear.into_iter().map(|l| l.name).collect();
    for (name, shape) in rest(c, &names) {
        let form = match shape[..] {
            [rows, cols] => match how.embeddings.filter(|_| embeds(&name)) {
                Some(spec) => Form::Codes(nearest(&c.matrix(&name, rows, cols)?.into_f32(), rows, cols, &spec)?),
                None if how.half && !exact(&name) => Form::Half,
                None => Form::Single,
            },
            [_] => Form::Single,
            ref other => return Err(Error::format(&c.name, &name, format!("has shape {other:?}: neither a vector nor a matrix"))),
        };
        forms.insert(name, (shape, form));
    }
    let config = config(c, &forms, how)?;
    let text = |json: &Json| format!("{json:#}\n").into_bytes();
    if let Some(tokenizer) = c.tokenizer_json()? {
        write_atomically(&folder.join("tokenizer.json"), &tokenizer)?;
        write_atomically(&folder.join("tokenizer_config.json"), &text(&c.tokenizer_config_json()))?;
    }
    write_atomically(&folder.join("config.json"), &text(&config))?;
    tensors(c, &forms, &folder.join("model.safetensors"))
}

/// What a stored tensor is made of: the tensor whose part it is, and which.
type Origin = (String, Part);

#[derive(Clone, Copy, PartialEq)]
enum Part {
    Whole,
    Codes,
    Scales,
    ZeroPoints,
    Shape,
}

fn tensors(c: &Checkpoint, forms: &BTreeMap<String, (Vec<usize>, Form)>, path: &Path) -> Result<()> {
    let mut entries: BTreeMap<String, (NewTensor, Origin)> = BTreeMap::new();
    for (name, (shape, form)) in forms {
        let public = public_name(&c.config, name);
        let mut add = |suffix: &str, dtype, shape: Vec<usize>, part| {
            let stored = format!("{public}{suffix}");
            entries.insert(stored.clone(), (NewTensor::new(stored, dtype, shape), (name.clone(), part)));
        };
        match form {
            Form::Half => add("", "F16", shape.clone(), Part::Whole),
            Form::Single => add("", "F32", shape.clone(), Part::Whole),
            Form::Codes(p) => {
                let words = |n: usize| (n * p.format.bits as usize).div_ceil(32);
                let groups = p.cols.div_ceil(p.format.group as usize);
                let of = |rows: usize| if p.format.per_tensor { vec![1] } else { vec![rows, groups] };
                add("_packed", "I32", vec![p.rows, words(p.cols)], Part::Codes);
                add("_scale", if f32_scales(&p.format) { "F32" } else { "F16" }, of(p.rows), Part::Scales);
                add("_shape", "I64", vec![shape_words(p).len()], Part::Shape);
                if has_zero_points(&p.format) {
                    let dtype = if p.format.per_tensor { "I8" } else { "I32" };
                    add("_zero_point", dtype, of(words(p.rows)), Part::ZeroPoints);
                }
            }
        }
    }
    let list: Vec<NewTensor> = entries.values().map(|(t, _)| t.clone()).collect();
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let mut writer = SafetensorsWriter::create(path, &list, &metadata)?;
    for stored in writer.order() {
        let Some((_, (name, part))) = entries.get(&stored) else { continue };
        let Some((shape, form)) = forms.get(name) else { continue };
        writer.push(&bytes(c, name, shape, form, *part)?)?;
    }
    writer.finish()
}

fn bytes(c: &Checkpoint, name: &str, shape: &[usize], form: &Form, part: Part) -> Result<Vec<u8>> {
    let le = |words: &[u32]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
    if let Form::Codes(p) = form {
        if part == Part::Shape {
            return Ok(shape_words(p).iter().flat_map(|n| n.to_le_bytes()).collect());
        }
        let parts = parts(p)?;
        return Ok(match part {
            Part::Codes => le(&parts.packed),
            Part::ZeroPoints if p.format.per_tensor => {
                let middle = 1 << (p.format.bits - 1);
                parts.zero_points.unwrap_or_default().iter().map(|z| (*z as i32 - middle) as i8 as u8).collect()
            }
            Part::ZeroPoints => le(&parts.zero_points.unwrap_or_default()),
            _ => match parts.scales {
                ScalePart::F16(v) => v.iter().flat_map(|s| s.to_le_bytes()).collect(),
                ScalePart::F32(v) => v.iter().flat_map(|s| s.to_le_bytes()).collect(),
            },
        });
    }
    let mut values = match *shape {
        [n] => c.vector(name, n)?,
        [rows, cols] => c.matrix(name, rows, cols)?.into_f32(),
        _ => Vec::new(),
    };
    if let Some(order) = order(c, name, shape.first().copied().unwrap_or(0)) {
        let cols = values.len() / order.len().max(1);
        values = order.iter().flat_map(|r| values[r * cols..][..cols].iter().copied()).collect();
    }
    match form {
        Form::Half => halves(name, &values),
        _ => Ok(values.iter().flat_map(|v| v.to_le_bytes()).collect()),
    }
}

/// Rows and columns, and the width where the words of a row do not tell it: with fewer than 32 columns, which only factors have.
fn shape_words(p: &Packed) -> Vec<i64> {
    let width = (p.cols < 32).then_some(i64::from(p.format.bits));
    [p.rows as i64, p.cols as i64].into_iter().chain(width).collect()
}

fn f32_scales(f: &QuantFormat) -> bool {
    matches!(f.scales, crate::quant::Scales::F32 { .. } | crate::quant::Scales::F32Zero)
}

fn has_zero_points(f: &QuantFormat) -> bool {
    matches!(f.scales, crate::quant::Scales::F16Zero | crate::quant::Scales::F32Zero)
}

fn reordered(c: &Checkpoint, name: &str, p: &Packed) -> Packed {
    let Some(order) = order(c, name, p.rows) else { return p.clone() };
    let pick = |plane: &[u32], words: usize| order.iter().flat_map(|r| plane[r * words..][..words].iter().copied()).collect::<Vec<u32>>();
    let scales = p.format.scale_words(p.cols);
    let scales = if scales == 0 { p.scales.clone() } else { pick(&p.scales, scales) };
    Packed { codes: pick(&p.codes, p.format.code_words(p.cols)), scales, ..p.clone() }
}

/// A BERT with a head is saved with the name of its body.
fn public_name(config: &Config, name: &str) -> String {
    match config {
        Config::Bert(b) if b.head != BertHead::None && ["embeddings.", "encoder.", "pooler."].iter().any(|p| name.starts_with(p)) => {
            format!("bert.{name}")
        }
        _ => name.into(),
    }
}

/// The model's configuration with what was done to it: a group of layers for each way of rounding.
fn config(c: &Checkpoint, forms: &BTreeMap<String, (Vec<usize>, Form)>, how: &Beside) -> Result<Json> {
    let mut map = c.config_json()?;
    map.insert("torch_dtype".into(), json!(if how.half { "float16" } else { "float32" }));
    let mut groups: Vec<(Json, Vec<String>)> = Vec::new();
    let mut ignored = Vec::new();
    let body: BTreeSet<String> = linears(&c.config).into_iter().map(|l| l.name).collect();
    for (name, (shape, form)) in forms {
        let public = public_name(&c.config, name);
        let module = public.strip_suffix(".weight").unwrap_or(&public).to_owned();
        match form {
            // Factors are no layers of their own.
            Form::Codes(_) if !body.contains(name) && !embeds(name) => {}
            Form::Codes(p) => {
                let scheme = scheme(p);
                match groups.iter_mut().find(|(s, _)| *s == scheme) {
                    Some((_, targets)) => targets.push(module),
                    None => groups.push((scheme, vec![module])),
                }
            }
            _ if body.contains(name) || (shape.len() == 2 && embeds(name)) => ignored.push(module),
            _ => {}
        }
    }
    groups.sort_by_key(|(s, _)| s["num_bits"].as_u64());
    let groups: serde_json::Map<String, Json> = groups
        .into_iter()
        .enumerate()
        .map(|(i, (weights, targets))| {
            let group = json!({ "targets": targets, "weights": weights, "input_activations": null, "output_activations": null, "format": "pack-quantized" });
            (format!("group_{i}"), group)
        })
        .collect();
    if groups.is_empty() {
        return Ok(Json::Object(map));
    }
    map.insert(
        "quantization_config".into(),
        json!({
            "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
            "global_compression_ratio": null, "kv_cache_scheme": null, "ignore": ignored, "config_groups": groups,
        }),
    );
    Ok(Json::Object(map))
}

fn scheme(p: &Packed) -> Json {
    let f = p.format;
    let group = f.group as usize;
    let (strategy, size) = match () {
        () if f.per_tensor => ("tensor", Json::Null),
        () if group >= p.cols => ("channel", Json::Null),
        () => ("group", json!(group)),
    };
    json!({
        "num_bits": f.bits, "type": "int", "symmetric": !has_zero_points(&f), "strategy": strategy, "group_size": size, "dynamic": false,
    })
}
