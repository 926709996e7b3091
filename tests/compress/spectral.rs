//! Models whose layers were rounded as factors: what is written, read and run is what was rounded.

use super::{checkpoint, open, probe, texts};
use crate::format::tiny_llama;
use crate::kernels::context;
use etalon::compress::pack::{Beside, write};
use etalon::compress::round::{Bands, by_spectrum};
use etalon::format::compressed::band;
use etalon::format::{Bytes, Checkpoint, HostMatrix};
use etalon::model::{Keep, Model, Sequence, linears};
use etalon::quant::round::{Gptq, Granularity, Spec};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("etalon-spectral-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    path
}

const WIDTHS: [u32; 6] = [2, 3, 4, 5, 6, 8];

fn spec(symmetric: bool) -> Spec {
    Spec { granularity: Granularity::Group(32), symmetric, ..Spec::default() }
}

/// So many bits for every weight of each layer.
fn budgets(c: &Checkpoint, bits: f64) -> BTreeMap<String, u64> {
    linears(&c.config).into_iter().map(|l| (l.name.clone(), (bits * l.weights() as f64) as u64)).collect()
}

/// Rounds and writes; the model as the probe left it, the layers, and the one that was read back.
fn made(c: &Checkpoint, texts: &[Sequence], bits: f64, spec: &Spec, to: &Path) -> (Arc<Model>, Vec<Bands>, Arc<Model>) {
    let rounded = open(c);
    let mut probe = probe(&rounded, texts, Keep::Current);
    let how = (spec, &Gptq::default());
    let (codes, layers) = context().block_on(by_spectrum(&mut probe, c, (&budgets(c, bits), &WIDTHS), how, &|_, _| {})).unwrap();
    write(c, &codes, &Beside { half: false, embeddings: None }, to).unwrap();
    let read = Model::load(&context(), &Checkpoint::open(to).unwrap(), &|_, _| {}).unwrap();
    (rounded, layers, read)
}

fn logits(m: &Model, texts: &[Sequence]) -> Vec<f32> {
    context().block_on(m.logits(texts)).unwrap().concat()
}

/// Norms before and after, grouped heads and gates, encoders; several widths a layer, activations after their sums. The tolerance is the
/// tiny models': logits are of about 10.
#[test]
fn what_was_rounded_is_what_runs() {
    for (i, name) in ["opt-preln", "opt-350m-like", "llama-gqa", "bert-mlm", "bert-seqcls"].into_iter().enumerate() {
        let (c, to) = (checkpoint(name), folder(name));
        let (rounded, layers, read) = made(&c, &texts(), 7.0, &spec(i % 2 == 1), &to);
        let (a, b, before) = (logits(&rounded, &texts()), logits(&read, &texts()), logits(&open(&c), &texts()));
        let d = crate::models::largest_difference(&a, &b);
        assert!(d <= 1e-4, "{name}: off by {d:e}");
        assert!(crate::models::largest_difference(&a, &before) > 1e-3, "{name}: nothing was rounded");
        assert!(layers.iter().any(|l| l.bands.len() > 1), "{name}: one width for every layer is no test of several");
        assert!(layers.iter().zip(linears(&c.config)).all(|(l, of)| l.cost <= 7 * of.weights() && l.name == of.name));
        let dispatches = context().block_on(read.verify(&[2, 30, 31, 32, 33])).unwrap();
        assert!(dispatches.len() > 2 * layers.iter().map(|l| l.bands.len()).sum::<usize>(), "{name}: {} dispatches", dispatches.len());
        std::fs::remove_dir_all(&to).unwrap();
    }
}

/// Queries and keys of a GGUF model get Hugging Face's order in their U, and not in their V.
#[test]
fn factors_of_a_model_from_gguf() {
    let file = Arc::new(Bytes::new("tiny.gguf", tiny_llama().build()));
    let (c, to) = (Checkpoint::from_gguf(file).unwrap(), folder("gguf"));
    let texts: Vec<Sequence> = vec![vec![0, 2, 3, 4, 7, 5, 6].into(), vec![6, 6, 2].into()];
    let (rounded, _, read) = made(&c, &texts, 9.0, &spec(false), &to);
    let d = crate::models::largest_difference(&logits(&rounded, &texts), &logits(&read, &texts));
    assert!(d <= 1e-4, "off by {d:e}");
    std::fs::remove_dir_all(&to).unwrap();
}

/// Half of a band is missing: the error names the tensor. A model of factors is not opened for changes.
#[test]
fn halves_of_bands_are_missed() {
    let (c, to) = (checkpoint("opt-preln"), folder("missing"));
    let rounded = open(&c);
    let mut probe = probe(&rounded, &texts(), Keep::Current);
    let (mut codes, _) = context()
        .block_on(by_spectrum(&mut probe, &c, (&budgets(&c, 6.0), &WIDTHS), (&spec(false), &Gptq::default()), &|_, _| {}))
        .unwrap();
    write(&c, &codes, &Beside::default(), &to).unwrap();
    let refused = Model::load_open(&context(), &Checkpoint::open(&to).unwrap(), &|_, _| {}).unwrap_err().to_string();
    assert!(refused.contains("factors"), "{refused}");
    // Rows of 16 codes of 3 and 4 bits, or of 5 and 6, take as many words: without the tensor that tells, none is guessed.
    let (name, p) = codes.iter().find(|(_, p)| p.cols == 16 && (3..=6).contains(&p.format.bits)).unwrap();
    assert_eq!(Checkpoint::open(&to).unwrap().matrix(name, p.rows, p.cols).unwrap().into_f32(), p.decode());
    let mut bytes = std::fs::read(to.join("model.safetensors")).unwrap();
    let shape = format!("{name}_shape\"");
    let at = bytes.windows(shape.len()).position(|w| w == shape.as_bytes()).unwrap();
    bytes[at..at + shape.len()].copy_from_slice(format!("{name}_sxxxx\"").as_bytes());
    std::fs::write(to.join("model.safetensors"), bytes).unwrap();
    let unknown = Checkpoint::open(&to).unwrap().matrix(name, p.rows, p.cols).map(|_| ()).unwrap_err().to_string();
    assert!(unknown.contains("may be codes of"), "{unknown}");
    std::fs::remove_dir_all(&to).unwrap();

    let first = linears(&c.config).remove(0);
    let (_, up) = band(first.stem(), 0);
    codes.remove(&up);
    let e = write(&c, &codes, &Beside::default(), &to).unwrap_err().to_string();
    assert!(e.contains(&up), "{e}");
    assert!(!to.join("model.safetensors").exists());
    let _ = std::fs::remove_dir_all(&to);
}

#[test]
fn budgets_that_hold_nothing_are_refused() {
    let c = checkpoint("opt-preln");
    let model = open(&c);
    let mut probe = probe(&model, &texts(), Keep::Current);
    let (spec, options, budgets) = (spec(false), Gptq::default(), budgets(&c, 0.2));
    let found = by_spectrum(&mut probe, &c, (&budgets, &WIDTHS), (&spec, &options), &|_, _| {});
    let e = context().block_on(found).unwrap_err().to_string();
    assert!(e.contains("too small for factors"), "{e}");
}

/// A layer without a budget stays as it is, in half precision, among others that are factors.
#[test]
fn layers_without_a_budget_stay_whole() {
    let (c, to) = (checkpoint("opt-preln"), folder("some"));
    let model = open(&c);
    let mut probe = probe(&model, &texts(), Keep::Current);
    let mut some = budgets(&c, 6.0);
    let (whole, _) = some.pop_first().unwrap();
    let (spec, options) = (spec(false), Gptq::default());
    let (codes, layers) = context().block_on(by_spectrum(&mut probe, &c, (&some, &WIDTHS), (&spec, &options), &|_, _| {})).unwrap();
    assert!(layers.len() == some.len() && layers.iter().all(|l| l.name != whole));
    write(&c, &codes, &Beside::default(), &to).unwrap();
    let read = Checkpoint::open(&to).unwrap();
    let l = linears(&c.config).into_iter().find(|l| l.name == whole).unwrap();
    assert!(matches!(read.matrix(&l.name, l.rows, l.cols).unwrap(), HostMatrix::F16(_)));
    Model::load(&context(), &read, &|_, _| {}).unwrap();
    std::fs::remove_dir_all(&to).unwrap();
}
