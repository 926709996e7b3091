//! Damaged and malicious files: always `Ok` or `Err`, never a panic, and no memory beyond the file's own size.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use etalon::format::{Bytes, Checkpoint, Gguf, Source};
use serde_json::json;

use super::alloc::largest_request;
use super::{TempFolder, fixture, floats, tiny_llama};

/// What a reader may ask for at once, beyond a few times the file's length. (The tokenizer keeps a cache of its own.)
const ALLOWANCE: usize = 1 << 20;

/// Reads everything there is; an error if anything was refused.
fn read_all(checkpoint: etalon::Result<Checkpoint>) -> etalon::Result<()> {
    let checkpoint = checkpoint?;
    let mut result = Ok(());
    for entry in checkpoint.tensors() {
        let read = match entry.shape[..] {
            [len] => checkpoint.vector(&entry.name, len).map(drop),
            [rows, cols] => checkpoint.matrix(&entry.name, rows, cols).map(drop),
            _ => checkpoint.bytes(&entry.name).map(drop),
        };
        result = result.and(read);
    }
    let text = checkpoint.tokenizer().and_then(|t| t.decode(&t.encode("ab c", true)?, true));
    result.and(text.map(drop))
}

/// Runs a case; panics with its name if the reader panicked or asked for too much.
fn case<T>(what: &str, file_len: usize, read: impl FnOnce() -> etalon::Result<T>) -> etalon::Result<T> {
    let (result, largest) = largest_request(|| catch_unwind(AssertUnwindSafe(read)));
    assert!(largest <= 16 * file_len + ALLOWANCE, "{what}: asked for {largest} bytes at once on account of {file_len}");
    result.unwrap_or_else(|_| panic!("{what}: panicked"))
}

fn gguf(bytes: Vec<u8>) -> etalon::Result<()> {
    read_all(Checkpoint::from_gguf(Arc::new(Bytes::new("hostile.gguf", bytes))))
}

/// Every case of one file through `read`: cuts (which must fail), flips and huge numbers; how many there were.
fn damage(name: &str, good: &[u8], header: usize, read: impl Fn(Vec<u8>) -> etalon::Result<()>) -> usize {
    case(name, good.len(), || read(good.to_vec())).unwrap();
    let mut cases = 0;
    let cuts = (0..header).step_by(3).chain((0..64).map(|i| good.len() * i / 64)).chain([good.len() - 1]);
    for len in cuts {
        let what = format!("{name} cut to {len}");
        assert!(case(&what, len, || read(good[..len].to_vec())).is_err(), "{what}: no error");
        cases += 1;
    }
    let flips = [0x01, 0x20, 0x80, 0xff].map(|flip| vec![flip]);
    let numbers = [1u64 << 60, u64::MAX, 0].map(|n| n.to_le_bytes().to_vec());
    for at in 0..header {
        for (kind, patch) in flips.iter().enumerate() {
            let mut bad = good.to_vec();
            bad[at] ^= patch[0];
            let _ = case(&format!("{name}, flip {kind} at {at}"), good.len(), || read(bad));
            cases += 1;
        }
        // Numbers of a header may stand anywhere.
        let number = &numbers[at % 3];
        let mut bad = good.to_vec();
        let end = (at + 8).min(header);
        bad[at..end].copy_from_slice(&number[..end - at]);
        let _ = case(&format!("{name}, a number at {at}"), good.len(), || read(bad));
        cases += 1;
    }
    cases
}

#[test]
fn damaged_gguf() {
    let builder = tiny_llama();
    let cases = damage("gguf", &builder.build(), builder.header().len(), gguf);
    assert!(cases >= 8000, "{cases} cases");
}

/// A tokenizer of three words that asks for padding and truncation.
fn tokenizer_json() -> Vec<u8> {
    json!({
        "version": "1.0",
        "truncation": {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": [{"id": 0, "content": "[PAD]", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": null,
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"[PAD]": 0, "ab": 1, "c": 2}, "unk_token": "[PAD]"}
    })
    .to_string()
    .into_bytes()
}

/// A tokenizer with most of what such files hold: merges, patterns, byte fallback, a template.
fn rich_tokenizer_json() -> Vec<u8> {
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [
            {"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
            {"id": 9, "content": "new", "single_word": true, "lstrip": true, "rstrip": true, "normalized": true, "special": false},
        ],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"}, {"type": "Prepend", "prepend": "_"}, {"type": "Replace", "pattern": {"String": " "}, "content": "_"}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "\\p{N}{1,3}|\\s+(?!\\S)"}, "behavior": "Isolated", "invert": false},
            {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always", "split": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "_"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<s>", "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": {"<s>": 0, "a": 1, "b": 2, "ab": 3, "_": 4, "_ab": 5, "<0x63>": 6}, "merges": [["a", "b"], ["_", "ab"]]}
    })
    .to_string()
    .into_bytes()
}

/// A safetensors file with two floats' tensors and positions.
fn safetensors() -> (Vec<u8>, usize) {
    let header = json!({
        "__metadata__": {"format": "pt"},
        "model.norm.weight": {"dtype": "F32", "shape": [64], "data_offsets": [0, 256]},
        "lm_head.weight": {"dtype": "BF16", "shape": [4, 64], "data_offsets": [256, 768]},
        "position_ids": {"dtype": "I64", "shape": [1, 1, 4], "data_offsets": [768, 800]},
    })
    .to_string();
    let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &floats(64), &[0x3f; 544]].concat();
    (bytes, 8 + header.len())
}

fn config_json() -> Vec<u8> {
    std::fs::read(fixture("tiny/llama-gqa/config.json")).unwrap()
}

fn hugging_face(config: &[u8], tokenizer: Vec<u8>, tokenizer_config: &[u8], tensors: Vec<u8>) -> etalon::Result<()> {
    let source: Arc<dyn Source> = Arc::new(Bytes::new("model.safetensors", tensors));
    read_all(Checkpoint::from_safetensors(config, Some(tokenizer), Some(tokenizer_config), vec![source]))
}

#[test]
fn damaged_hugging_face_files() {
    let (tensors, header) = safetensors();
    let (config, tokenizer, special) =
        (config_json(), tokenizer_json(), br#"{"bos_token": {"content": "ab"}, "eos_token": "c", "chat_template": "x"}"#);
    let mut cases = damage("safetensors", &tensors, header, |bad| hugging_face(&config, tokenizer.clone(), special, bad));
    // A cut in the white space after a JSON object leaves it whole: end with the object itself.
    let config = config.trim_ascii_end();
    cases += damage("config.json", config, config.len(), |bad| hugging_face(&bad, tokenizer.clone(), special, tensors.clone()));
    cases += damage("tokenizer.json", &tokenizer, tokenizer.len(), |bad| hugging_face(config, bad, special, tensors.clone()));
    let rich = rich_tokenizer_json();
    cases += damage("rich tokenizer.json", &rich, rich.len(), |bad| hugging_face(config, bad, special, tensors.clone()));
    cases += damage("tokenizer_config.json", special, special.len(), |bad| hugging_face(config, tokenizer.clone(), &bad, tensors.clone()));
    assert!(cases >= 8000, "{cases} cases");
}

#[test]
fn damaged_index() {
    let folder = TempFolder::new("hostile-index");
    folder.write("config.json", &config_json());
    folder.write("tokenizer.json", &tokenizer_json());
    folder.write("model-1.safetensors", &safetensors().0);
    let index = json!({"metadata": {"total_size": 768}, "weight_map": {"model.norm.weight": "model-1.safetensors"}}).to_string();
    damage("index", index.as_bytes(), index.len(), |bad| {
        folder.write("model.safetensors.index.json", &bad);
        read_all(Checkpoint::open(&folder.0))
    });
}

#[test]
fn impossible_safetensors_are_named() {
    let tensor = |shape: &str, offsets: &str| format!(r#"{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}"#);
    let good = tensor("[4]", "[0,16]");
    for (what, header, word) in [
        ("an overlap", format!(r#"{{"a":{good},"b":{}}}"#, tensor("[4]", "[8,24]")), "b: begins"),
        ("a hole", format!(r#"{{"a":{good},"b":{}}}"#, tensor("[2]", "[24,32]")), "b: begins"),
        ("past the end", format!(r#"{{"a":{}}}"#, tensor("[400]", "[0,1600]")), "a: "),
        ("backwards", format!(r#"{{"a":{}}}"#, tensor("[4]", "[16,0]")), "a: "),
        ("a wrong size", format!(r#"{{"a":{}}}"#, tensor("[5]", "[0,16]")), "a: "),
        ("an overflow", format!(r#"{{"a":{}}}"#, tensor("[1152921504606846976,16]", "[0,16]")), "a: "),
        ("a negative size", format!(r#"{{"a":{}}}"#, tensor("[-4]", "[0,16]")), "`a`"),
        ("an unknown type", format!(r#"{{"a":{}}}"#, good.replace("F32", "F33")), "a: type `F33`"),
        ("a name twice", format!(r#"{{"a":{good},"a":{}}}"#, tensor("[4]", "[16,32]")), "a: two"),
        ("bytes left over", format!(r#"{{"a":{good}}}"#), "data"),
        ("no object", "[]".into(), "header"),
    ] {
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 32]].concat();
        let error = case(what, bytes.len(), || hugging_face(&config_json(), tokenizer_json(), b"{}", bytes)).unwrap_err().to_string();
        assert!(error.contains(word), "{what}: {error}");
    }
}

/// Counts that promise more than the file holds cost nothing.
#[test]
fn huge_counts_cost_nothing() {
    for (tensors, keys) in [(1u64 << 60, 0u64), (0, 1 << 60), (u64::MAX, u64::MAX), (2, 0), (0, 1000)] {
        let bytes = [b"GGUF\x03\0\0\0".as_slice(), &tensors.to_le_bytes(), &keys.to_le_bytes(), &[0; 40]].concat();
        let (result, largest) = largest_request(|| Gguf::parse(Arc::new(Bytes::new("hostile.gguf", bytes))));
        assert!(result.is_err());
        assert!(largest < 4096, "{largest} bytes for {tensors} tensors and {keys} keys");
    }
}
