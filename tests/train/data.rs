//! Tokenizers, corpora and windows.

use std::collections::BTreeSet;

use etalon::format::Tokenizer;
use etalon::train::data::{Corpus, END, PAD, starts, tokenizer_config, train_bpe, valid_starts};
use etalon::train::random::Random;

/// Lines of made-up words, frequent ones more often.
fn text(lines: usize) -> String {
    let mut r = Random::new(7, 0);
    let words: Vec<String> = (0..300).map(|_| (0..1 + r.below(8)).map(|_| char::from(b'a' + r.below(26) as u8)).collect()).collect();
    let mut out = String::new();
    for line in 0..lines {
        for _ in 0..1 + r.below(12) {
            let top = 1 + r.below(words.len());
            out += &words[r.below(top)];
            out += [" ", ", ", "  ", "'s ", " 12 ", " \u{e9}\u{1f600}", "\t"][r.below(7)];
        }
        out += ["\n", "\n\n", " \n  \n", "\r\n"][line % 4];
    }
    out
}

#[test]
fn a_trained_tokenizer_loads_and_is_the_same_each_time() {
    let text = text(2000);
    let json = train_bpe(&[&text, "another text"], 600).unwrap();
    for _ in 0..3 {
        assert_eq!(train_bpe(&[&text, "another text"], 600).unwrap(), json);
    }
    let tokenizer = Tokenizer::from_json(json.as_bytes()).unwrap();
    assert_eq!(tokenizer.vocab_size(), 600);
    for (id, token) in ["<s>", "<pad>", "</s>", "<unk>"].into_iter().enumerate() {
        assert_eq!(tokenizer.id(token), Some(id as u32));
    }
    assert_eq!((END, PAD), (2, 1));
    for add_special in [false, true] {
        let tokens = tokenizer.encode(&text, add_special).unwrap();
        assert!(tokens.len() * 2 < text.len() && tokens.iter().all(|t| *t > 3));
        assert_eq!(tokenizer.decode(&tokens, true).unwrap(), text);
    }
    // Bytes that the text does not have, and ends of texts.
    let odd = "\u{0}\u{7f}\u{3b1}\u{4e2d}";
    assert_eq!(tokenizer.decode(&tokenizer.encode(odd, false).unwrap(), false).unwrap(), odd);
    assert_eq!(tokenizer.encode("</s>", false).unwrap(), [END]);
    let config: serde_json::Value = serde_json::from_str(&tokenizer_config(64)).unwrap();
    assert_eq!((&config["eos_token"], &config["model_max_length"]), (&"</s>".into(), &64.into()));
}

#[test]
fn few_texts_give_few_tokens() {
    for texts in [&[][..], &[""], &["abc"]] {
        let tokenizer = Tokenizer::from_json(train_bpe(texts, 5000).unwrap().as_bytes()).unwrap();
        assert_eq!(tokenizer.vocab_size(), 260);
        assert_eq!(tokenizer.encode("ab", false).unwrap().len(), 2);
    }
    assert!(train_bpe(&["abc"], 259).unwrap_err().to_string().contains("260"));
}

/// A text of more than one piece is tokenized as the whole would be.
#[test]
fn a_corpus_is_the_text_in_tokens() {
    let text = text(40_000);
    assert!(text.len() > 3 << 19, "{}", text.len());
    let tokenizer = Tokenizer::from_json(train_bpe(&[&self::text(1000)], 400).unwrap().as_bytes()).unwrap();
    let whole = tokenizer.encode(&text, false).unwrap();
    let corpus = Corpus::new(&tokenizer, &text, None, 64).unwrap();
    assert_eq!(corpus.valid.len(), whole.len() / 20);
    assert_eq!([&corpus.train[..], &corpus.valid].concat(), whole);
    let corpus = Corpus::new(&tokenizer, &text, Some("some more text"), 3).unwrap();
    assert_eq!((corpus.train, corpus.valid), (whole, tokenizer.encode("some more text", false).unwrap()));
}

#[test]
fn parts_that_are_too_short_are_named() {
    let tokens = |n: u32| (0..n).collect::<Vec<_>>();
    let error =
        |train, valid: Option<u32>, context| Corpus::from_tokens(tokens(train), valid.map(tokens), context).unwrap_err().to_string();
    assert!(error(100, None, 5).contains("validation text has 5 tokens where a window needs 6"));
    assert!(error(100, Some(3), 5).contains("validation text has 3"));
    assert!(error(5, Some(100), 5).contains("training text has 5"));
    assert!(error(0, None, 0).contains("training text has 0"));
    assert!(error(1, None, usize::MAX).contains("training"));
    assert!(Corpus::from_tokens(tokens(6), Some(tokens(6)), 5).is_ok());
    let split = Corpus::from_tokens(tokens(100), None, 4).unwrap();
    assert_eq!((split.train, split.valid), (tokens(95), (95..100).collect()));
}

#[test]
fn epochs_take_each_target_once() {
    for (tokens, context) in [(1000usize, 7usize), (64, 63), (65, 63), (200, 100), (97, 1), (3, 2)] {
        let all = starts(tokens, context, 500, 3);
        assert_eq!(all.len(), 500);
        assert!(all.iter().all(|s| *s as usize + context < tokens));
        assert_eq!(starts(tokens, context, 123, 3), all[..123], "a longer run begins like a shorter one");
        // The first epoch.
        let phase = all[0] as usize % context;
        let windows = (tokens - phase - 1) / context;
        let epoch: BTreeSet<u32> = all.iter().copied().take(windows).collect();
        let expected: Vec<u32> = (0..windows.min(500)).map(|i| (phase + i * context) as u32).collect();
        assert_eq!(epoch.into_iter().collect::<Vec<_>>(), expected, "{tokens} {context}");
    }
    let long = starts(100_000, 64, 1500, 1);
    assert_ne!(long, starts(100_000, 64, 1500, 2));
    assert!(!long.is_sorted());
    let phases: BTreeSet<u32> = starts(1000, 64, 1500, 1).iter().map(|s| s % 64).collect();
    assert!(phases.len() > 30, "epochs begin at different places: {phases:?}");
    for (tokens, context, count) in [(0, 0, 5), (10, 10, 5), (10, 0, 5), (0, 10, 5), (11, 10, 0)] {
        assert!(starts(tokens, context, count, 1).is_empty());
    }
    assert_eq!(starts(11, 10, 3, 1), [0, 0, 0]);
}

#[test]
fn validation_windows_follow_each_other() {
    assert_eq!(valid_starts(10, 3), [0, 3, 6]);
    assert_eq!(valid_starts(9, 3), [0, 3]);
    assert_eq!(valid_starts(4, 3), [0]);
    for (tokens, context) in [(3, 3), (0, 3), (5, 0)] {
        assert!(valid_starts(tokens, context).is_empty());
    }
}
