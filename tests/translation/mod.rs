//! Translation: BLEU against sacreBLEU's, pairs of sentences, search; translators with fewer bits.

mod compressed;

use crate::kernels::context;
use crate::models::fixture;
use etalon::format::{MarianConfig, Npy, NpyData, Safetensors};
use etalon::train::{Data, Geometry, Initial, Method, Options, SentenceBatch, Spec, Trainer, Translating, TranslatorSpec};
use etalon::translation::{Pair, Search, all_batches, bleu, drawn_batches, read_pairs, shapes_of, translate, words};
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
    assert_eq!(MarianConfig::from_json("again", c.to_json(false).as_bytes()).unwrap(), c);
    for (field, value) in [("d_model", "65"), ("eos_token_id", "512"), ("model_type", "\"bart\""), ("encoder_layers", "0")] {
        let mut json: Value = serde_json::from_str(&c.to_json(false)).unwrap();
        json[field] = serde_json::from_str(value).unwrap();
        MarianConfig::from_json("bad", json.to_string().as_bytes()).unwrap_err();
    }
}

/// The tiny Marian with recorded weights, for sentences of up to 24 tokens, with plans for short ones too.
fn tiny() -> Trainer {
    let (c, context) = (config(), context());
    let of = |source, target| SentenceBatch { sentences: 1, source, target };
    let batches = vec![of(9, 5), of(17, 11), of(24, 18)];
    let weights = Safetensors::open(&fixture("tiny/marian-encdec/model.safetensors")).unwrap();
    let named = |tensor: &str, _: usize| Ok(Some(bytemuck::cast_vec(weights.words(tensor)?)));
    let data = all_batches(&[(vec![c.eos], vec![c.eos])], &c, &batches).unwrap();
    let o = Options { method: Method::Full, steps: 1, ..Options::default() };
    let spec = Spec::Translator(TranslatorSpec { config: c, geometry: Geometry::Euclidean, batches });
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
    let mut t = tiny().translating(3).unwrap();
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
    let mut t = tiny().translating(6).unwrap();
    let sources = sources();
    let greedy = c.block_on(translate(&mut t, &sources, &Search { beams: 1, length_penalty: 1.0 })).unwrap();
    t.encode(&sources.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
    let log_probability = |row: &[f32], token: u32| {
        let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        f64::from(row[token as usize] - top) - row.iter().map(|v| f64::from(v - top).exp()).sum::<f64>().ln()
    };
    let score = |t: &Translating, s: usize, tokens: &[u32]| {
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
    let together = c.block_on(translate(&mut t, &sources, &wide)).unwrap();
    for (s, source) in sources.iter().enumerate() {
        let alone = c.block_on(translate(&mut t, std::slice::from_ref(source), &wide)).unwrap();
        assert_eq!(alone[0], together[s]);
    }
    t.encode(&sources.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
    for s in 0..2 {
        let (beam, one) = (score(&t, s, &together[s]), score(&t, s, &greedy[s]));
        assert!(beam >= one - 1e-6, "sentence {s}: {beam} with three beams, {one} with one");
    }
    let long = vec![vec![5; 25]];
    assert!(c.block_on(translate(&mut t, &long, &wide)).is_err());
}

/// The pairs that a window holds, and what its targets count.
fn held(words: &[u32], b: &SentenceBatch) -> (Vec<Pair>, f32) {
    let (s, t) = (b.sentences * b.source, b.sentences * b.target);
    let (sources, targets) = (&words[b.len() - 2 * t - s..b.len() - 2 * t], &words[b.len() - t..]);
    let line = |words: &[u32], i: usize, n: usize| -> Vec<u32> {
        words[i * n..(i + 1) * n].iter().copied().filter(|w| *w != config().pad && *w != u32::MAX).collect()
    };
    let pairs = (0..b.sentences).map(|i| (line(sources, i, b.source), line(targets, i, b.target))).filter(|p| !p.1.is_empty());
    (pairs.collect(), f32::from_bits(words[b.sentences * etalon::kernel::state::WORDS]))
}

fn windows(d: &Data, shapes: &[SentenceBatch]) -> Vec<(Vec<Pair>, f32)> {
    d.starts.iter().zip(&d.shapes).map(|(at, s)| held(&d.tokens[*at as usize..], &shapes[*s as usize])).collect()
}

#[test]
fn batches_hold_every_pair_once_an_epoch() {
    let c = config();
    let shapes = shapes_of(40, 13);
    assert_eq!(shapes.iter().map(|s| (s.sentences, s.source, s.target)).collect::<Vec<_>>(), [(5, 8, 8), (3, 13, 13)]);
    // 41 pairs: of each length some, none alike.
    let line = |n: usize, i: usize| (0..n).map(|k| 3 + ((i * 13 + k) % 400) as u32).collect::<Vec<u32>>();
    let pairs: Vec<Pair> = (0..41).map(|i| (line(1 + i % 13, i), line(1 + i * 5 % 13, i))).collect();
    let sorted = |mut all: Vec<Pair>| {
        all.sort();
        all
    };
    let once = all_batches(&pairs, &c, &shapes).unwrap();
    let all = windows(&once, &shapes);
    let targets: usize = pairs.iter().map(|p| p.1.len()).sum();
    assert!(all.iter().all(|w| w.1 == 1.0 / targets as f32));
    let count = all.len();
    assert_eq!(sorted(all.into_iter().flat_map(|w| w.0).collect()), sorted(pairs.clone()));
    // Only the last batch has room left.
    let full = |w: &(Vec<Pair>, f32), s: u32| w.0.len() == shapes[s as usize].sentences;
    let drawn = drawn_batches(&pairs, &c, &shapes, 7, (3 * count, usize::MAX)).unwrap();
    let all = windows(&drawn, &shapes);
    assert_eq!(all.len(), 3 * count);
    let rest = all.iter().zip(&drawn.shapes).filter(|(w, s)| !full(w, **s)).count();
    assert!(rest <= 3, "{rest} batches of 3 epochs are not full");
    assert!(all.iter().all(|w| w.1 == 1.0 / w.0.iter().map(|p| p.1.len()).sum::<usize>() as f32));
    let epochs: Vec<Pair> = all.into_iter().flat_map(|w| w.0).collect();
    assert_eq!(sorted(epochs[..41].to_vec()), sorted(pairs.clone()));
    assert_eq!(sorted(epochs[41..82].to_vec()), sorted(pairs.clone()));
    assert_ne!(epochs[..41], epochs[41..82]);
    // The same seed gives the same; so many steps, and no more words than asked for.
    let again = drawn_batches(&pairs, &c, &shapes, 7, (5, usize::MAX)).unwrap();
    assert_eq!((again.starts.len(), &again.tokens[..99]), (5, &drawn.tokens[..99]));
    let few = drawn_batches(&pairs, &c, &shapes, 7, (50, 1000)).unwrap();
    assert!(few.tokens.len() <= 1000 && (1..50).contains(&few.starts.len()), "{} words", few.tokens.len());
    assert!(all_batches(&[], &c, &shapes).is_err() && drawn_batches(&[], &c, &shapes, 0, (1, 1)).is_err());
    assert!(all_batches(&[(vec![5; 14], vec![5])], &c, &shapes).is_err());
}
