//! Translation: BLEU against sacreBLEU's, pairs of sentences, search.

use crate::kernels::context;
use crate::models::fixture;
use etalon::format::{MarianConfig, Npy, NpyData, Safetensors};
use etalon::train::{Geometry, Initial, Method, Options, SentenceBatch, Spec, Trainer, TranslatorSpec};
use etalon::translation::{Search, batches, bleu, read_pairs, translate, words};
use serde_json::Value;

fn strings(v: &Value) -> Vec<String> {
    v.as_array().unwrap().iter().map(|s| s.as_str().unwrap().to_owned()).collect()
}

#[test]
fn bleu_is_sacrebleus() {
    let recorded: Value = serde_json::from_slice(&std::fs::read(fixture("bleu.json")).unwrap()).unwrap();
    for t in recorded["tokens"].as_array().unwrap() {
        assert_eq!(words(t["line"].as_str().unwrap()), strings(&t["words"]), "{}", t["line"]);
    }
    for (i, c) in recorded["cases"].as_array().unwrap().iter().enumerate() {
        let got = bleu(&strings(&c["translations"]), &strings(&c["references"]));
        let close = |a: f64, b: &Value| (a - b.as_f64().unwrap()).abs() < 1e-9;
        assert!(close(got.score, &c["score"]) && close(got.brevity, &c["brevity"]), "case {i}: {got:?} where {} is recorded", c["score"]);
        assert!(got.score == 0.0 || got.precisions.iter().zip(c["precisions"].as_array().unwrap()).all(|(a, b)| close(*a, b)), "case {i}");
    }
}

#[test]
fn pairs_of_files_must_agree() {
    let folder = std::env::temp_dir().join(format!("etalon-pairs-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let read = |a: &str, b: &str| {
        let paths = [folder.join("x.en"), folder.join("x.de")];
        std::fs::write(&paths[0], a).unwrap();
        std::fs::write(&paths[1], b).unwrap();
        read_pairs(&paths[0], &paths[1]).map_err(|e| e.to_string())
    };
    assert_eq!(read("a b\nc\n", "d\n e f \n").unwrap(), [("a b".into(), "d".into()), ("c".into(), "e f".into())]);
    let e = read("a\nb\n", "c\n").unwrap_err();
    assert!(e.contains("x.en has 2 lines") && e.contains("x.de has 1"), "{e}");
    let e = read("a\nb\n", "c\n  \n").unwrap_err();
    assert!(e.contains("x.de line 2: an empty sentence"), "{e}");
    assert!(read_pairs(&folder.join("none"), &folder.join("x.de")).unwrap_err().to_string().contains("none"));
    std::fs::remove_dir_all(&folder).unwrap();
}

fn config() -> MarianConfig {
    MarianConfig::from_json("config.json", &std::fs::read(fixture("tiny/marian-encdec/config.json")).unwrap()).unwrap()
}

#[test]
fn a_configuration_survives_its_own_form() {
    let c = config();
    assert_eq!(MarianConfig::from_json("again", c.to_json().as_bytes()).unwrap(), c);
    for (field, value) in [("d_model", "65"), ("eos_token_id", "512"), ("model_type", "\"bart\""), ("encoder_layers", "0")] {
        let mut json: Value = serde_json::from_str(&c.to_json()).unwrap();
        json[field] = serde_json::from_str(value).unwrap();
        MarianConfig::from_json("bad", json.to_string().as_bytes()).unwrap_err();
    }
}

/// The tiny Marian with recorded weights, in batches for so many sentences.
fn tiny(sentences: usize) -> Trainer {
    let (c, context) = (config(), context());
    let batch = SentenceBatch { sentences, source: 24, target: 18 };
    let weights = Safetensors::open(&fixture("tiny/marian-encdec/model.safetensors")).unwrap();
    let named = |tensor: &str, _: usize| Ok(Some(bytemuck::cast_vec(weights.words(tensor)?)));
    let (data, _) = batches(&[(vec![c.eos], vec![c.eos])], &c, &batch, None).unwrap();
    let o = Options { method: Method::Full, steps: 1, sequences: 1, context: batch.len(), ..Options::default() };
    let spec = Spec::Translator(TranslatorSpec { config: c, geometry: Geometry::Euclidean, batch });
    context.block_on(Trainer::new(&context, &spec, &o, &data, &Initial::Named(&named))).unwrap()
}

fn integers(file: &str) -> Vec<Vec<i64>> {
    let npy = Npy::read(&fixture(&format!("tiny/marian-encdec/{file}"))).unwrap();
    let NpyData::I64(values) = &npy.data else { panic!("{file}") };
    values.chunks(npy.shape[1]).map(<[i64]>::to_vec).collect()
}

fn sources() -> Vec<Vec<u32>> {
    let (ids, mask) = (integers("input_ids.npy"), integers("attention_mask.npy"));
    ids.iter().zip(&mask).map(|(r, m)| r.iter().zip(m).filter(|(_, m)| **m == 1).map(|(v, _)| *v as u32).collect()).collect()
}

#[test]
fn logits_of_the_tiny_marian_are_those_recorded() {
    let c = context();
    let recorded = Npy::read(&fixture("tiny/marian-encdec/logits.npy")).unwrap();
    let NpyData::F32(want) = &recorded.data else { panic!() };
    let (rows, vocabulary) = (recorded.shape[1], recorded.shape[2]);
    let labels: Vec<Vec<u32>> = integers("labels.npy").iter().map(|r| r.iter().map(|v| (*v).max(1) as u32).collect()).collect();
    let counts: Vec<usize> = integers("labels.npy").iter().map(|r| r.iter().filter(|v| **v != -100).count()).collect();
    let t = tiny(3).translating(None).unwrap();
    let sources = sources();
    t.encode(&sources.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
    for row in 0..rows {
        let logits = c.block_on(t.next(&labels.iter().map(|l| &l[..row]).collect::<Vec<_>>())).unwrap();
        // What stands past a sentence's end is arbitrary.
        for s in (0..2).filter(|s| row < counts[*s]) {
            let want = &want[(s * rows + row) * vocabulary..][..vocabulary];
            let worst = logits.row(s).iter().zip(want).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
            assert!(worst <= 1e-4, "sentence {s}, row {row}: off by {worst:e}");
        }
    }
}

/// A beam as wide as there are continuations finds what trying them all finds; greedy follows the largest logits.
#[test]
fn searches_find_what_they_should() {
    let c = context();
    let trainer = tiny(6);
    let t = trainer.translating(None).unwrap();
    let sources = sources();
    let greedy = c.block_on(translate(&t, &sources, &Search { beams: 1, length_penalty: 1.0 })).unwrap();
    t.encode(&sources.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
    let log_probability = |row: &[f32], token: u32| {
        let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        f64::from(row[token as usize] - top) - row.iter().map(|v| f64::from(v - top).exp()).sum::<f64>().ln()
    };
    let score = |s: usize, tokens: &[u32]| {
        let mut sum = 0.0;
        for i in 0..tokens.len() {
            let prefixes: Vec<&[u32]> = (0..2).map(|k| if k == s { &tokens[..i] } else { &[][..] }).collect();
            let logits = c.block_on(t.next(&prefixes)).unwrap();
            sum += log_probability(logits.row(s), tokens[i]);
        }
        sum / tokens.len() as f64
    };
    for (s, tokens) in greedy.iter().enumerate() {
        for i in 0..tokens.len() {
            let prefixes: Vec<&[u32]> = greedy.iter().map(|g| &g[..i.min(g.len() - 1)]).collect();
            let logits = c.block_on(t.next(&prefixes)).unwrap();
            let best = logits.row(s).iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(logits.row(s)[tokens[i] as usize], best, "sentence {s}, token {i}");
        }
    }
    // Sentences one at a time, or together with others: the same translations.
    let wide = Search { beams: 3, length_penalty: 1.0 };
    let together = c.block_on(translate(&t, &sources, &wide)).unwrap();
    for (s, source) in sources.iter().enumerate() {
        let alone = c.block_on(translate(&t, std::slice::from_ref(source), &wide)).unwrap();
        assert_eq!(alone[0], together[s]);
    }
    t.encode(&sources.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
    for s in 0..2 {
        let (beam, one) = (score(s, &together[s]), score(s, &greedy[s]));
        assert!(beam >= one - 1e-6, "sentence {s}: {beam} with three beams, {one} with one");
    }
    let long = vec![vec![5; 25]];
    assert!(c.block_on(translate(&t, &long, &wide)).is_err());
}
