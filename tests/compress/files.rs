//! Written models: what is read back is what was rounded, and it is what the model then says.

use super::{checkpoint, open, probe, texts};
use crate::format::tiny_llama;
use crate::kernels::context;
use etalon::compress::gguf;
use etalon::compress::pack::{Beside, beside, write};
use etalon::compress::round::{Rounded, by_outputs, to_nearest};
use etalon::format::compressed::{pack_stream, unpack_stream};
use etalon::format::{Bytes, Checkpoint, Config, HostMatrix, Value};
use etalon::model::{Keep, Model, Sequence, linears};
use etalon::quant::round::{Gptq, Granularity, Spec};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

const NAMES: [&str; 5] = ["opt-preln", "opt-350m-like", "llama-gqa", "bert-mlm", "bert-seqcls"];

fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("etalon-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    path
}

/// A width for each layer, all of them in turn; every seventh stays in half precision.
fn widths(c: &Checkpoint) -> BTreeMap<String, u32> {
    linears(&c.config).into_iter().enumerate().map(|(i, l)| (l.name, [2, 3, 4, 5, 6, 8, 16][i % 7])).collect()
}

fn spec(granularity: Granularity, symmetric: bool, f16_scales: bool) -> Spec {
    Spec { granularity, symmetric, f16_scales, ..Spec::default() }
}

#[test]
fn streams_of_bits_come_back() {
    for bits in 1..=8u32 {
        let values: Vec<u32> = (0..97u32).map(|i| i.wrapping_mul(2_654_435_761) >> (32 - bits)).collect();
        let words = pack_stream(values.iter().copied(), bits);
        assert_eq!(words.len(), (97 * bits as usize).div_ceil(32));
        assert_eq!(unpack_stream(&words, bits, 97).collect::<Vec<_>>(), values, "{bits} bits");
    }
    // The first code lies in the lowest bits, and codes cross words.
    assert_eq!(pack_stream([1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 7].into_iter(), 3), [0b11_010_001_000_111_110_101_100_011_010_001, 1]);
}

#[test]
fn what_was_rounded_is_what_is_read() {
    for name in NAMES {
        let c = checkpoint(name);
        for (i, granularity) in [Granularity::Group(32), Granularity::Row, Granularity::Tensor].into_iter().enumerate() {
            let spec = spec(granularity, i == 1, i != 2);
            let rounded = to_nearest(&c, &widths(&c), &spec, &|_, _| {}).unwrap();
            let to = folder(&format!("round-{name}-{i}"));
            write(&c, &rounded, &Beside::default(), &to).unwrap();
            let read = Checkpoint::open(&to).unwrap();
            for l in linears(&c.config) {
                match (read.matrix(&l.name, l.rows, l.cols).unwrap(), rounded.get(&l.name)) {
                    (HostMatrix::Packed(got), Some(want)) => assert_eq!(got, *want, "{name}: {}", l.name),
                    (HostMatrix::F16(_), None) => {}
                    other => panic!("{name}: {}: {other:?}", l.name),
                }
            }
            assert_eq!(read.config, c.config);
            std::fs::remove_dir_all(&to).unwrap();
        }
    }
}

/// The packed kernels say what the model says whose f32 weights are the codes' values, embeddings and all.
#[test]
fn written_models_run() {
    let context = context();
    for name in NAMES {
        let c = checkpoint(name);
        let rounded = to_nearest(&c, &widths(&c), &spec(Granularity::Group(32), false, true), &|_, _| {}).unwrap();
        let to = folder(&format!("run-{name}"));
        write(&c, &rounded, &Beside { half: false, embeddings: None }, &to).unwrap();
        let written = Model::load(&context, &Checkpoint::open(&to).unwrap(), &|_, _| {}).unwrap();
        let expected = open(&c);
        for l in linears(&c.config) {
            let own = c.matrix(&l.name, l.rows, l.cols).unwrap().into_f32();
            let halves = own.iter().map(|v| half::f16::from_f32(*v).to_f32()).collect();
            let values = rounded.get(&l.name).map_or(halves, |p| p.decode());
            expected.set_weight(&l.name, &values).unwrap();
        }
        let logits = |m: &Model| context.block_on(m.logits(&texts())).unwrap().concat();
        let d = crate::models::largest_difference(&logits(&written), &logits(&expected));
        // The tiny models' tolerance: logits are of about 10.
        assert!(d <= 1e-4, "{name}: off by {d:e}");
        std::fs::remove_dir_all(&to).unwrap();
    }
}

#[test]
fn embeddings_are_rounded_where_wanted_and_sizes_are_foretold() {
    let c = checkpoint("opt-preln");
    let rounded = to_nearest(&c, &widths(&c), &spec(Granularity::Group(32), false, true), &|_, _| {}).unwrap();
    for how in [Beside::default(), Beside { half: true, embeddings: Some(Spec { bits: 8, ..spec(Granularity::Group(32), false, true) }) }] {
        let to = folder(&format!("size-{}", how.embeddings.is_some()));
        write(&c, &rounded, &how, &to).unwrap();
        let read = Checkpoint::open(&to).unwrap();
        let (bits, elements) = beside(&c, &how).unwrap();
        let linear: Vec<String> = linears(&c.config).iter().map(|l| l.stem().to_owned()).collect();
        let others = || read.tensors().filter(|t| !linear.iter().any(|l| t.name.starts_with(&format!("{l}.weight"))));
        // Shapes of compressed tensors are not counted.
        let bytes: u64 = others().filter(|t| !t.name.ends_with("_shape")).map(|t| t.file_bytes()).sum();
        assert_eq!(bits.div_ceil(8), bytes);
        assert!(elements > 0);
        Model::load(&context(), &read, &|_, _| {}).unwrap();
        std::fs::remove_dir_all(&to).unwrap();
    }
}

/// On the texts that it was fitted to, GPTQ loses less than rounding to the nearest.
#[test]
fn fitted_rounding_loses_less() {
    let context = context();
    for name in ["opt-preln", "llama-gqa", "bert-mlm"] {
        let (c, texts) = (checkpoint(name), texts());
        let bits: BTreeMap<String, u32> = linears(&c.config).into_iter().map(|l| (l.name, 3)).collect();
        let spec = spec(Granularity::Group(32), false, true);
        let (model, judge) = (open(&c), open(&c));
        let mut moving = probe(&model, &texts, Keep::Current);
        let kept = probe(&judge, &texts, Keep::All);
        let fitted = context.block_on(by_outputs(&mut moving, &c, &bits, (&spec, &Gptq::default()), &|_, _| {})).unwrap();
        let nearest = to_nearest(&c, &bits, &spec, &|_, _| {}).unwrap();
        let loss = |rounded: &Rounded| {
            rounded.iter().for_each(|(n, p)| judge.set_weight(n, &p.decode()).unwrap());
            context.block_on(kept.measure(0)).unwrap().change
        };
        let (a, b) = (loss(&fitted), loss(&nearest));
        assert!(a < b, "{name}: {a} fitted, {b} to the nearest");
    }
}

#[test]
fn damaged_parts_are_named() {
    let c = checkpoint("opt-preln");
    let rounded = to_nearest(&c, &widths(&c), &spec(Granularity::Group(32), false, true), &|_, _| {}).unwrap();
    let to = folder("damaged");
    write(&c, &rounded, &Beside::default(), &to).unwrap();
    let l = &linears(&c.config)[0];
    let config = std::fs::read(to.join("config.json")).unwrap();
    let whole = std::fs::read(to.join("model.safetensors")).unwrap();
    let opened = |bytes: &[u8]| {
        std::fs::write(to.join("model.safetensors"), bytes).unwrap();
        Checkpoint::open(&to).unwrap().matrix(&l.name, l.rows, l.cols).map(|_| ()).unwrap_err().to_string()
    };
    // Renaming a part hides it; names keep their length.
    let hidden = |part: &str| {
        let (from, by) = (format!("{}_{part}\"", l.name), format!("{}_{}\"", l.name, "x".repeat(part.len())));
        let at = whole.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
        let mut bytes = whole.clone();
        bytes[at..at + from.len()].copy_from_slice(by.as_bytes());
        bytes
    };
    assert!(opened(&hidden("scale")).contains("weight_scale"));
    assert!(opened(&hidden("packed")).contains(&l.name));
    assert!(!config.is_empty());
    std::fs::write(to.join("model.safetensors"), &whole).unwrap();
    let why = Checkpoint::open(&to).unwrap().matrix(&l.name, l.rows + 1, l.cols).map(|_| ()).unwrap_err().to_string();
    assert!(why.contains("shape"), "{why}");
    std::fs::remove_dir_all(&to).unwrap();
}

/// A model that was read from a GGUF file, written as another one and as a folder, whose queries and keys lie in another order: both say
/// what the model says whose f32 weights are the codes' values.
#[test]
fn models_from_gguf_are_written_as_either() {
    let context = context();
    let file = Arc::new(Bytes::new("tiny.gguf", tiny_llama().u32("general.file_type", 3).build()));
    let c = Checkpoint::from_gguf(file).unwrap();
    let bits = linears(&c.config).into_iter().enumerate().map(|(i, l)| (l.name, [4, 5, 8, 16][i % 4])).collect();
    let rounded = to_nearest(&c, &bits, &gguf::SPEC, &|_, _| {}).unwrap();
    let expected = open(&c);
    for l in linears(&c.config) {
        let own = c.matrix(&l.name, l.rows, l.cols).unwrap().into_f32();
        let halves = own.iter().map(|v| half::f16::from_f32(*v).to_f32()).collect();
        expected.set_weight(&l.name, &rounded.get(&l.name).map_or(halves, |p| p.decode())).unwrap();
    }
    let texts: Vec<Sequence> = vec![vec![0, 2, 3, 4, 7, 5, 6].into(), vec![6, 6, 2].into()];
    let logits = |m: &Model| context.block_on(m.logits(&texts)).unwrap().concat();
    let to = folder("gguf");
    std::fs::create_dir_all(&to).unwrap();
    let path = to.join("again.gguf");
    gguf::write(&c, &rounded, &path).unwrap();
    let again = Checkpoint::open(&path).unwrap();
    // A mixture that no name stands for; all else is as it was.
    let mut metadata = again.gguf().unwrap().metadata.clone();
    assert_eq!(metadata.insert("general.file_type".into(), Value::Unsigned(3)), Some(Value::Unsigned(1024)));
    assert_eq!(metadata, c.gguf().unwrap().metadata);
    for l in linears(&c.config) {
        match (again.matrix(&l.name, l.rows, l.cols).unwrap(), rounded.get(&l.name)) {
            (HostMatrix::Packed(got), Some(want)) => assert_eq!(got, *want, "{}", l.name),
            (HostMatrix::F16(_), None) => {}
            other => panic!("{}: {other:?}", l.name),
        }
    }
    assert_eq!(again.bytes("model.embed_tokens.weight").unwrap(), c.bytes("model.embed_tokens.weight").unwrap());
    write(&c, &rounded, &Beside { half: false, embeddings: None }, &to.join("folder")).unwrap();
    let as_folder = Checkpoint::open(&to.join("folder")).unwrap();
    let Config::Llama(config) = as_folder.config.clone() else { panic!("{:?}", as_folder.config) };
    assert_eq!(Config::Llama(config), c.config);
    for checkpoint in [again, as_folder] {
        let model = Model::load(&context, &checkpoint, &|_, _| {}).unwrap();
        let d = crate::models::largest_difference(&logits(&model), &logits(&expected));
        assert!(d <= 1e-4, "{}: off by {d:e}", checkpoint.name);
        let encoded = |c: &Checkpoint| c.tokenizer().unwrap().encode("ab ab c", true).unwrap();
        assert_eq!(encoded(&checkpoint), encoded(&c));
    }
    // Codes that no GGML type holds, and a model that did not come from such a file.
    let wide = to_nearest(&c, &linears(&c.config).into_iter().map(|l| (l.name, 3)).collect(), &gguf::SPEC, &|_, _| {}).unwrap();
    assert!(gguf::write(&c, &wide, &to.join("none.gguf")).unwrap_err().to_string().contains("4, 5 or 8 bits"));
    let other = checkpoint("llama-gqa");
    assert!(gguf::write(&other, &BTreeMap::new(), &to.join("none.gguf")).unwrap_err().to_string().contains("did not come from one"));
    assert!(!to.join("none.gguf").exists());
    std::fs::remove_dir_all(&to).unwrap();
}
