//! Shapes of models that are trained from nothing.

use etalon::format::{Activation, Config};
use etalon::train::presets::{PRESETS, preset};

fn config(name: &str, vocabulary: usize, context: usize) -> Config {
    Config::from_json(name, preset(name, vocabulary, context).unwrap().as_bytes()).unwrap()
}

/// Parameters with embeddings, and without embeddings, positions and head.
fn parameters(config: &Config) -> (usize, usize) {
    match config {
        Config::Opt(c) => {
            let (d, e) = (c.hidden, c.word_embed_proj_dim);
            let block = 4 * (d * d + d) + 2 * d * c.ffn + d + c.ffn + 4 * d;
            let project = if d == e { 0 } else { 2 * d * e };
            let inside = c.layers * block + project + if c.final_layer_norm() { 2 * d } else { 0 };
            (inside + c.vocab * e + (c.max_positions + 2) * d, inside)
        }
        Config::Llama(c) => {
            let d = c.hidden;
            let inside = c.layers * (4 * d * d + 3 * d * c.intermediate + 2 * d) + d;
            (inside + 2 * c.vocab * d, inside)
        }
        other => panic!("no preset is {other:?}"),
    }
}

#[test]
fn presets_have_the_published_numbers_of_parameters() {
    let count = |name| parameters(&config(name, 0, 0));
    // As transformers counts them for facebook/opt-* and GaLore's configurations.
    assert_eq!(count("opt-125m").0, 125_239_296);
    assert_eq!(count("opt-350m").0, 331_196_416);
    assert_eq!(count("opt-1.3b").0, 1_315_758_080);
    assert_eq!(count("llama-130m").0, 134_105_856);
    assert_eq!(count("llama-1.3b").0, 1_339_082_752);
    assert!(count("small").1 >= 20_000_000);
    assert!(count("nano").1 < 500_000);
}

#[test]
fn presets_are_what_they_say() {
    for (name, _) in PRESETS {
        match config(name, 0, 0) {
            Config::Opt(c) => {
                assert_eq!((c.vocab, c.bos, &c.eos[..], c.pad), (50_272, Some(2), &[2][..], Some(1)));
                assert!(c.tied && c.activation == Activation::Relu && c.enable_bias);
                assert_eq!((c.do_layer_norm_before, c.word_embed_proj_dim == c.hidden), (name != "opt-350m", name != "opt-350m"));
            }
            Config::Llama(c) => {
                assert_eq!((c.vocab, c.bos, &c.eos[..], c.tied), (32_000, Some(1), &[2][..], false));
                assert_eq!((c.kv_heads, c.rms_eps), (c.heads, 1e-6));
            }
            other => panic!("{name}: {other:?}"),
        }
        match config(name, 2048, 128) {
            Config::Opt(c) => assert_eq!((c.vocab, c.max_positions), (2048, 128)),
            Config::Llama(c) => assert_eq!((c.vocab, c.max_positions, c.bos), (2048, 128, Some(2))),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn wrong_presets_are_refused() {
    assert!(preset("opt-9m", 0, 0).unwrap_err().to_string().contains("opt-125m"));
    assert!(preset("nano", 2, 0).unwrap_err().to_string().contains("vocabulary of 2"));
    assert!(preset("nano", usize::MAX, 0).is_err());
    assert!(preset("nano", 0, usize::MAX).is_err());
}
