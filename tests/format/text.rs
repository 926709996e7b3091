//! Tokenizers and chat templates.

use std::sync::Arc;

use etalon::format::{Bytes, Checkpoint, Gguf, Message, TextStream, Tokenizer, render_chat};
use serde_json::Value;

use super::{GgufBuilder, array, fixture, model, tiny_llama};

fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixture(name)).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

fn from_gguf(builder: &GgufBuilder) -> etalon::Result<Tokenizer> {
    Tokenizer::from_gguf(&Gguf::parse(Arc::new(Bytes::new("test.gguf", builder.build()))).unwrap())
}

#[test]
fn smollm2_text_gives_the_recorded_tokens() {
    let Some(path) = model("smollm2/SmolLM2-135M-Instruct.Q4_1.gguf") else { return };
    let checkpoint = Checkpoint::open(&path).unwrap();
    let tokenizer = checkpoint.tokenizer().unwrap();
    let recorded = json("smollm2/smollm2.json");
    let text = recorded["prompt_text"].as_str().unwrap();
    assert_eq!(tokenizer.encode(text, true).unwrap(), ids(&recorded["prompt_ids"]));
    assert_eq!(tokenizer.decode(&ids(&recorded["greedy_32"]), false).unwrap(), recorded["greedy_text"].as_str().unwrap());
    let long: Vec<u32> = array("smollm2/wiki_test_2048_token_ids.npy").to_i64().unwrap().iter().map(|&id| id as u32).collect();
    assert_eq!(tokenizer.encode(&tokenizer.decode(&long, false).unwrap(), false).unwrap(), long);
    assert_eq!((tokenizer.bos, tokenizer.eos.as_slice(), tokenizer.vocab_size()), (Some(1), &[2][..], 49152));
    assert_eq!((tokenizer.token(2).as_deref(), tokenizer.id("<|im_end|>")), (Some("<|im_end|>"), Some(2)));

    let messages = [Message::new("user", "Hello")];
    let chat = render_chat(checkpoint.chat_template().unwrap(), &messages, "", "", true).unwrap();
    let system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face";
    assert_eq!(chat, format!("<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"));
    let tokens = tokenizer.encode(&chat, false).unwrap();
    assert_eq!(tokens.iter().filter(|&&id| id == 1).count(), 3);
    assert!(!tokenizer.decode(&tokens, true).unwrap().contains("im_start"));
}

#[test]
fn minilm_sentences_give_the_recorded_tokens() {
    let Some(path) = model("minilm") else { return };
    let tokenizer = Checkpoint::open(&path).unwrap().tokenizer().unwrap();
    let recorded = json("minilm/minilm.json");
    let sentences = recorded["sentences"].as_array().unwrap();
    let tokens = recorded["input_ids"].as_array().unwrap();
    for (sentence, tokens) in sentences.iter().zip(tokens) {
        assert_eq!(tokenizer.encode(sentence.as_str().unwrap(), true).unwrap(), ids(tokens));
    }
}

#[test]
fn byte_level_tokenizers_are_built_from_gguf() {
    let tokenizer = from_gguf(&tiny_llama()).unwrap();
    assert_eq!(tokenizer.encode("ab abc", true).unwrap(), [0, 6, 7, 4]);
    assert_eq!(tokenizer.encode("ab</s>", false).unwrap(), [6, 1]);
    assert_eq!(tokenizer.decode(&[6, 7, 1], true).unwrap(), "ab ab");
    assert_eq!((tokenizer.bos, tokenizer.eos.as_slice()), (Some(0), &[1][..]));
}

/// Digits are tokens one by one for SmolLM, in threes for Llama 3, as they come for GPT-2.
#[test]
fn text_is_split_as_the_file_says() {
    let base = |pre: &str| {
        GgufBuilder::default()
            .text("tokenizer.ggml.model", "gpt2")
            .text("tokenizer.ggml.pre", pre)
            .texts("tokenizer.ggml.tokens", &["1", "11", "111", "1111", "\u{120}"])
            .texts("tokenizer.ggml.merges", &["1 1", "11 1", "11 11"])
            .u32("tokenizer.ggml.bos_token_id", 0)
    };
    for (pre, expected) in [("smollm", &[0, 0, 0, 0][..]), ("llama-bpe", &[2, 0]), ("default", &[3]), ("not-heard-of", &[3])] {
        assert_eq!(from_gguf(&base(pre)).unwrap().encode("1111", false).unwrap(), expected, "{pre}");
    }
    assert_eq!(from_gguf(&base("llama-bpe")).unwrap().encode("1", true).unwrap(), [0, 0], "Llama 3 begins with BOS");
}

/// A SentencePiece vocabulary with byte tokens 3 to 258.
fn sentence_piece() -> GgufBuilder {
    let bytes: Vec<String> = (0..256).map(|b| format!("<0x{b:02X}>")).collect();
    let pieces = ["\u{2581}", "a", "b", "c", "ab", "bc", "\u{2581}a", "\u{2581}ab"];
    let tokens: Vec<&str> = ["<unk>", "<s>", "</s>"].into_iter().chain(bytes.iter().map(String::as_str)).chain(pieces).collect();
    let scores: Vec<f32> =
        (0..tokens.len()).map(|i| if i < 259 { 0.0 } else { [-9., -9., -9., -9., -2., -1., -4., -3.][i - 259] }).collect();
    let kinds: Vec<i32> = (0..tokens.len())
        .map(|i| match i {
            0 => 2,
            1 | 2 => 3,
            3..259 => 6,
            _ => 1,
        })
        .collect();
    GgufBuilder::default()
        .text("tokenizer.ggml.model", "llama")
        .texts("tokenizer.ggml.tokens", &tokens)
        .f32s("tokenizer.ggml.scores", &scores)
        .i32s("tokenizer.ggml.token_type", &kinds)
        .u32("tokenizer.ggml.bos_token_id", 1)
        .u32("tokenizer.ggml.eos_token_id", 2)
        .u32("tokenizer.ggml.unknown_token_id", 0)
}

#[test]
fn sentence_piece_merges_the_best_score_first() {
    let tokenizer = from_gguf(&sentence_piece()).unwrap();
    let names =
        |text: &str| -> Vec<String> { tokenizer.encode(text, true).unwrap().iter().map(|&id| tokenizer.token(id).unwrap()).collect() };
    assert_eq!(names("ab"), ["<s>", "\u{2581}ab"]);
    // "bc" has a better score than "ab"; then the space joins the a.
    assert_eq!(names("abc"), ["<s>", "\u{2581}a", "bc"]);
    assert_eq!(names("\u{e9}"), ["<s>", "\u{2581}", "<0xC3>", "<0xA9>"]);
    for text in ["ab abc", "a \u{e9} b"] {
        assert_eq!(tokenizer.decode(&tokenizer.encode(text, true).unwrap(), true).unwrap(), text);
    }
}

#[test]
fn streamed_text_is_the_whole_text_in_whole_characters() {
    let tokenizer = from_gguf(&sentence_piece()).unwrap();
    for text in ["ab abc \u{e9}\u{1f600} a", "\u{1f600}\u{1f600}"] {
        let (mut stream, mut shown) = (TextStream::new(true), String::new());
        for id in tokenizer.encode(text, true).unwrap() {
            let piece = stream.push(&tokenizer, id).unwrap();
            assert!(!piece.contains('\u{fffd}'), "{piece:?}");
            shown += &piece;
        }
        shown += &stream.finish(&tokenizer).unwrap();
        assert_eq!(shown, text);
    }
    // Broken bytes come out as replacement characters at the end, or when no character can be that long.
    let mut stream = TextStream::new(true);
    assert_eq!(stream.push(&tokenizer, 3 + 0xc3).unwrap(), "");
    assert!(stream.finish(&tokenizer).unwrap().ends_with('\u{fffd}'));
    let shown: String = (0..9).map(|_| stream.push(&tokenizer, 3 + 0xf0).unwrap()).collect();
    assert!(shown.contains('\u{fffd}'));
}

#[test]
fn wrong_vocabularies_are_named() {
    let base = || GgufBuilder::default().text("tokenizer.ggml.model", "gpt2");
    for (builder, word) in [
        (base().texts("tokenizer.ggml.tokens", &["a", "a"]), "tokens"),
        (base().texts("tokenizer.ggml.tokens", &[]), "tokens"),
        (base().texts("tokenizer.ggml.tokens", &["a"]), "merges"),
        (base().texts("tokenizer.ggml.tokens", &["a"]).texts("tokenizer.ggml.merges", &["ab"]), "merges"),
        (base().texts("tokenizer.ggml.tokens", &["a"]).texts("tokenizer.ggml.merges", &["a b"]), "tokenizer"),
        (base().texts("tokenizer.ggml.tokens", &["a"]).i32s("tokenizer.ggml.token_type", &[1, 1]), "token_type"),
        (GgufBuilder::default().text("tokenizer.ggml.model", "t5").texts("tokenizer.ggml.tokens", &["a"]), "t5"),
    ] {
        let message = from_gguf(&builder).unwrap_err().to_string();
        assert!(message.contains(word), "{word}: {message}");
    }
}

#[test]
fn templates_have_what_they_expect_of_python() {
    let messages = [Message::new("system", " be brief "), Message::new("user", "hi")];
    let template = "{{ bos_token }}{% for m in messages %}\n    {% if m['role'].startswith('s') %}\n[{{ m.content.strip() | trim }}]\n    {% endif %}{% endfor %}{{ messages[1].get('name', 'nobody') }}{% if add_generation_prompt %}>{% endif %}";
    assert_eq!(render_chat(template, &messages, "<s>", "</s>", true).unwrap(), "<s>[be brief]\nnobody>");
    let error = render_chat("{{ raise_exception('no system role') }}", &messages, "", "", false).unwrap_err();
    assert!(error.to_string().contains("no system role"), "{error}");
    assert!(render_chat("{% for", &messages, "", "", false).is_err());
}
