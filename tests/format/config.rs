use etalon::format::{Activation, BertHead, Config, RopeScaling};
use serde_json::{Value, json};

use super::fixture;

fn json_of(folder: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixture(&format!("tiny/{folder}/config.json"))).unwrap()).unwrap()
}

fn parse(json: &Value) -> etalon::Result<Config> {
    Config::from_json("config.json", json.to_string().as_bytes())
}

/// The configuration with one field changed.
fn with(folder: &str, field: &str, value: Value) -> etalon::Result<Config> {
    let mut json = json_of(folder);
    json[field] = value;
    parse(&json)
}

#[test]
fn the_tiny_models_are_understood() {
    let Config::Llama(llama) = parse(&json_of("llama-gqa")).unwrap() else { panic!() };
    assert_eq!((llama.hidden, llama.heads, llama.kv_heads, llama.head_dim, llama.tied), (64, 4, 2, 16, false));
    assert_eq!((llama.bos, llama.eos.as_slice(), llama.rms_eps), (Some(1), &[2][..], 1e-5));
    let Config::Opt(opt) = parse(&json_of("opt-350m-like")).unwrap() else { panic!() };
    assert_eq!((opt.word_embed_proj_dim, opt.do_layer_norm_before, opt.final_layer_norm(), opt.tied), (32, false, false, true));
    assert_eq!(opt.activation, Activation::Relu);
    let Config::Bert(bert) = parse(&json_of("bert-seqcls")).unwrap() else { panic!() };
    assert_eq!(bert.head, BertHead::Classifier { labels: vec!["LABEL_0".into(), "LABEL_1".into(), "LABEL_2".into()] });
    assert_eq!((bert.eps, bert.activation), (1e-12, Activation::Gelu));
    let Config::Bert(bert) = parse(&json_of("bert-mlm")).unwrap() else { panic!() };
    assert_eq!(bert.head, BertHead::MaskedLm);
}

#[test]
fn rotary_scaling_comes_in_several_spellings() {
    let scaling = |value: Value| match with("llama-gqa", "rope_scaling", value).unwrap() {
        Config::Llama(llama) => llama.rope_scaling,
        _ => panic!(),
    };
    assert_eq!(scaling(json!({"type": "linear", "factor": 2})), Some(RopeScaling::Linear { factor: 2.0 }));
    assert_eq!(scaling(json!({"rope_type": "default"})), None);
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192});
    let expected = RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_position: 8192 };
    assert_eq!(scaling(llama3), Some(expected));
    let newer = with("llama-gqa", "rope_parameters", json!({"rope_type": "default", "rope_theta": 5e5})).unwrap();
    assert!(matches!(newer, Config::Llama(l) if l.rope_theta == 5e5));
    assert!(with("llama-gqa", "eos_token_id", json!([2, 7])).unwrap().eos() == [2, 7]);
}

#[test]
fn wrong_fields_are_named() {
    for (folder, field, value) in [
        ("llama-gqa", "hidden_size", json!(0)),
        ("llama-gqa", "hidden_size", json!(-64)),
        ("llama-gqa", "hidden_size", json!("64")),
        ("llama-gqa", "hidden_size", json!(1u64 << 60)),
        ("llama-gqa", "hidden_size", Value::Null),
        ("llama-gqa", "num_attention_heads", json!(5)),
        ("llama-gqa", "num_hidden_layers", json!(1e9)),
        ("llama-gqa", "hidden_act", json!("gelu")),
        ("llama-gqa", "rope_scaling", json!({"type": "yarn"})),
        ("llama-gqa", "eos_token_id", json!("x")),
        ("llama-gqa", "model_type", json!("qwen2")),
        ("llama-gqa", "model_type", Value::Null),
        ("opt-preln", "activation_function", json!("swish")),
        ("opt-preln", "enable_bias", json!(1)),
        ("bert-mlm", "layer_norm_eps", json!(0.0)),
        ("bert-mlm", "position_embedding_type", json!("relative_key")),
        ("bert-seqcls", "id2label", json!({"1": "a", "2": "b"})),
    ] {
        let message = with(folder, field, value.clone()).unwrap_err().to_string();
        assert!(message.contains(field), "{field} = {value}: {message}");
    }
    for (field, value, word) in [
        ("num_key_value_heads", json!(3), "key-value heads"),
        ("rope_theta", json!(0.0), "rotary base"),
        ("head_dim", json!(15), "head size"),
        ("rms_norm_eps", json!(-1.0), "epsilon"),
    ] {
        let message = with("llama-gqa", field, value).unwrap_err().to_string();
        assert!(message.contains(word), "{field}: {message}");
    }
    assert!(Config::from_json("config.json", b"{\"model_type\": ").unwrap_err().to_string().contains("JSON"));
}
