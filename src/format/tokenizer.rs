//! Text to tokens and back.

use std::collections::HashMap;

use serde_json::{Value as Json, json};

use super::gguf::Gguf;
use crate::error::{Error, Result};

/// GPT-2's pre-tokenizer: bytes as characters, split by its regular expression.
const BYTE_LEVEL: (&str, bool) = ("ByteLevel", true);

/// How Llama 3 splits text before merging.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Kinds of tokens in a GGUF vocabulary.
const CONTROL: u32 = 3;
const USER_DEFINED: u32 = 4;

/// A tokenizer.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Token that begins a text.
    pub bos: Option<u32>,
    /// Tokens that end one.
    pub eos: Vec<u32>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({} tokens, bos {:?}, eos {:?})", self.vocab_size(), self.bos, self.eos)
    }
}

impl Tokenizer {
    /// Reads a `tokenizer.json`. Padding and truncation that it asks for are switched off.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        Self::from_json_file("tokenizer.json", json)
    }

    /// The same; `file` appears in errors.
    pub(super) fn from_json_file(file: &str, json: &[u8]) -> Result<Self> {
        let fail = |e: tokenizers::Error| Error::format(file, "tokenizer", e.to_string());
        // The library panics on text that is no JSON, and later on templates with unknown tokens.
        let parsed: Json = serde_json::from_slice(json).map_err(|e| Error::format(file, "JSON", e.to_string()))?;
        if let Some(token) = unknown_in_template(&parsed["post_processor"]) {
            return Err(Error::format(file, "post_processor", format!("its template has the token {token}, which it does not define")));
        }
        drop(parsed);
        let mut inner = guarded(|| tokenizers::Tokenizer::from_bytes(json)).map_err(fail)?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(fail)?;
        Ok(Self { inner, bos: None, eos: Vec::new() })
    }

    /// Builds the tokenizer that a GGUF file describes.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        let file = gguf.source.name();
        let vocabulary = Vocabulary::read(gguf)?;
        let json = match gguf.str("tokenizer.ggml.model")? {
            "gpt2" => vocabulary.byte_level(gguf)?,
            "llama" => vocabulary.sentence_piece(gguf)?,
            other => {
                return Err(Error::Unsupported {
                    what: format!("{file}: tokenizer `{other}`"),
                    advice: "gpt2 and llama are known: put a tokenizer.json beside the model and convert it anew".into(),
                });
            }
        };
        let mut tokenizer =
            Self::from_json_file(file, &serde_json::to_vec(&json).map_err(|e| Error::format(file, "tokenizer", e.to_string()))?)?;
        tokenizer.bos = optional_id(gguf, "bos")?;
        tokenizer.eos = optional_id(gguf, "eos")?.into_iter().collect();
        Ok(tokenizer)
    }

    /// The tokenizer as a `tokenizer.json`.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let text = self.inner.to_string(true).map_err(|e| Error::Request(format!("the tokenizer cannot be written: {e}")))?;
        Ok(text.into_bytes())
    }

    /// Tokens of a text; `add_special` adds what the model expects around it (`[CLS]`, BOS ...).
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let encoding = guarded(|| self.inner.encode_fast(text, add_special))
            .map_err(|e| Error::Request(format!("the text cannot be tokenized: {e}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of tokens; `skip_special` leaves special tokens out.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        guarded(|| self.inner.decode(ids, skip_special)).map_err(|e| Error::Request(format!("the tokens cannot be decoded: {e}")))
    }

    /// A token as the vocabulary spells it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The number of a token that the vocabulary spells so.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Size of the vocabulary, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }
}

/// Turns a panic of the library, which trusts its files in places, into an error (where panics unwind).
fn guarded<T>(f: impl FnOnce() -> tokenizers::Result<T>) -> tokenizers::Result<T> {
    // The library's tokenizer is not changed by these calls but for its caches, which sit behind locks.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).unwrap_or_else(|_| Err("the tokenizer is inconsistent".into()))
}

/// A special token that a post-processor's template uses but does not define.
fn unknown_in_template(post: &Json) -> Option<&Json> {
    if let Some(list) = post["processors"].as_array() {
        return list.iter().find_map(unknown_in_template);
    }
    let pieces = ["single", "pair"].into_iter().filter_map(|part| post[part].as_array()).flatten();
    let mut ids = pieces.map(|piece| &piece["SpecialToken"]["id"]).filter(|id| !id.is_null());
    ids.find(|id| id.as_str().is_none_or(|id| post["special_tokens"].get(id).is_none()))
}

fn optional_id(gguf: &Gguf, name: &str) -> Result<Option<u32>> {
    let key = format!("tokenizer.ggml.{name}_token_id");
    if gguf.has(&key) { gguf.u32(&key).map(Some) } else { Ok(None) }
}

fn flag(gguf: &Gguf, name: &str, default: bool) -> Result<bool> {
    let key = format!("tokenizer.ggml.{name}");
    if gguf.has(&key) { gguf.bool(&key) } else { Ok(default) }
}

/// The vocabulary of a GGUF file, to be written as a `tokenizer.json`.
struct Vocabulary<'a> {
    file: &'a str,
    tokens: &'a [String],
    ids: HashMap<&'a str, u32>,
    kinds: Vec<u32>,
}

impl<'a> Vocabulary<'a> {
    fn read(gguf: &'a Gguf) -> Result<Self> {
        const TOKENS: &str = "tokenizer.ggml.tokens";
        const KINDS: &str = "tokenizer.ggml.token_type";
        let file = gguf.source.name();
        let tokens = gguf.strings(TOKENS)?;
        let ids: HashMap<&str, u32> = tokens.iter().zip(0..).map(|(token, id)| (token.as_str(), id)).collect();
        if tokens.is_empty() || ids.len() != tokens.len() {
            return Err(Error::format(file, TOKENS, "is empty or holds a token twice"));
        }
        let kinds = if gguf.has(KINDS) { gguf.u32s(KINDS)? } else { vec![1; tokens.len()] };
        if kinds.len() != tokens.len() {
            return Err(Error::format(file, KINDS, format!("has {} entries for {} tokens", kinds.len(), tokens.len())));
        }
        Ok(Self { file, tokens, ids, kinds })
    }

    /// Byte-level BPE with the file's merges.
    fn byte_level(&self, gguf: &Gguf) -> Result<Json> {
        const MERGES: &str = "tokenizer.ggml.merges";
        const PRE: &str = "tokenizer.ggml.pre";
        let merges = gguf.strings(MERGES)?.iter().map(|merge| match merge.split_once(' ') {
            Some((left, right)) => Ok([left, right]),
            None => Err(Error::format(self.file, MERGES, format!("`{merge}` is no pair"))),
        });
        let merges: Vec<[&str; 2]> = merges.collect::<Result<_>>()?;
        let pre = if gguf.has(PRE) { gguf.str(PRE)? } else { "default" };
        let llama3 = matches!(pre, "llama-bpe" | "llama3" | "llama-v3");
        let (kind, regex) = BYTE_LEVEL;
        let bytes = |use_regex: bool| json!({"type": kind, "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
        let splitters = if llama3 {
            json!([{"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Isolated", "invert": false}, bytes(!regex)])
        } else if pre == "smollm" {
            json!([{"type": "Digits", "individual_digits": true}, bytes(regex)])
        } else {
            if !matches!(pre, "default" | "gpt-2" | "gpt2") {
                log::warn!(
                    "{}: {PRE} `{pre}` is unknown; text is split as for GPT-2 and may give other tokens than in training",
                    self.file
                );
            }
            json!([bytes(regex)])
        };
        let model = json!({"type": "BPE", "vocab": self.ids, "merges": merges, "ignore_merges": llama3});
        let pre_tokenizer = json!({"type": "Sequence", "pretokenizers": splitters});
        let bos = flag(gguf, "add_bos_token", llama3)?;
        self.finish(gguf, model, Json::Null, pre_tokenizer, bytes(regex), bos)
    }

    /// SentencePiece BPE: merges are all splits of a token into two others, best score first.
    fn sentence_piece(&self, gguf: &Gguf) -> Result<Json> {
        const SCORES: &str = "tokenizer.ggml.scores";
        let scores = gguf.f32s(SCORES)?;
        if scores.len() != self.tokens.len() {
            return Err(Error::format(self.file, SCORES, format!("has {} entries for {} tokens", scores.len(), self.tokens.len())));
        }
        // Longer pieces make no merges: none has them, and a hostile one would cost the square of its length.
        const LONGEST: usize = 512;
        let mut merges = Vec::new();
        for (piece, &score) in self.tokens.iter().zip(&scores).filter(|(piece, _)| piece.len() <= LONGEST) {
            for (at, _) in piece.char_indices().skip(1) {
                let (left, right) = piece.split_at(at);
                if let (Some(l), Some(r)) = (self.ids.get(left), self.ids.get(right)) {
                    merges.push((score, *l, *r, [left, right]));
                }
            }
        }
        merges.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        let merges: Vec<_> = merges.into_iter().map(|m| m.3).collect();
        let unknown = optional_id(gguf, "unknown")?.and_then(|id| self.tokens.get(id as usize));
        let model =
            json!({"type": "BPE", "vocab": self.ids, "merges": merges, "unk_token": unknown, "fuse_unk": true, "byte_fallback": true});
        let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
        let space_first = flag(gguf, "add_space_prefix", true)?;
        let mut normalizers = vec![replace(" ", "\u{2581}")];
        let mut decoders = vec![replace("\u{2581}", " "), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
        if space_first {
            normalizers.insert(0, json!({"type": "Prepend", "prepend": "\u{2581}"}));
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        let normalizer = json!({"type": "Sequence", "normalizers": normalizers});
        let decoder = json!({"type": "Sequence", "decoders": decoders});
        let bos = flag(gguf, "add_bos_token", true)?;
        self.finish(gguf, model, normalizer, Json::Null, decoder, bos)
    }

    /// The whole `tokenizer.json`: special tokens, and BOS and EOS around a text.
    fn finish(&self, gguf: &Gguf, model: Json, normalizer: Json, pre_tokenizer: Json, decoder: Json, bos: bool) -> Result<Json> {
        let special = |name: &str| -> Result<&str> {
            let id = optional_id(gguf, name)?;
            id.and_then(|id| self.tokens.get(id as usize)).map(String::as_str).ok_or_else(|| {
                Error::format(self.file, format!("tokenizer.ggml.{name}_token_id"), "is needed, and missing or outside the vocabulary")
            })
        };
        let added = self
            .tokens
            .iter()
            .zip(&self.kinds)
            .zip(0..)
            .filter(|((token, kind), _)| matches!(**kind, CONTROL | USER_DEFINED) && !token.is_empty());
        let added: Vec<Json> = added
            .map(|((token, &kind), id)| {
                json!({"id": id, "content": token, "special": kind == CONTROL, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false})
            })
            .collect();
        let mut single = vec![json!({"Sequence": {"id": "A", "type_id": 0}})];
        let mut specials = serde_json::Map::new();
        let mut add = |token: &str, at: usize| {
            single.insert(at, json!({"SpecialToken": {"id": token, "type_id": 0}}));
            specials.insert(token.into(), json!({"id": token, "ids": [self.ids[token]], "tokens": [token]}));
        };
        if flag(gguf, "add_eos_token", false)? {
            add(special("eos")?, 1);
        }
        if bos {
            add(special("bos")?, 0);
        }
        let pair = json!([{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}]);
        let post = json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": specials});
        Ok(json!({
            "version": "1.0", "added_tokens": added, "normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
            "post_processor": post, "decoder": decoder, "model": model,
        }))
    }
}

/// Turns tokens that arrive one by one into text, holding back bytes until they are whole characters.
#[derive(Debug, Clone, Default)]
pub struct TextStream {
    ids: Vec<u32>,
    /// Tokens before `ids[shown]` have been shown; those before them only give context.
    shown: usize,
    skip_special: bool,
}

/// Tokens that are held back at most: a character has four bytes.
const HELD: usize = 6;

impl TextStream {
    /// An empty stream; `skip_special` leaves special tokens out.
    pub fn new(skip_special: bool) -> Self {
        Self { ids: Vec::new(), shown: 0, skip_special }
    }

    /// Adds a token; the text that became certain, perhaps none.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<String> {
        self.ids.push(id);
        let whole = self.ids.len() - self.shown >= HELD;
        self.show(tokenizer, whole)
    }

    /// The text that was held back, with replacement characters for broken bytes.
    pub fn finish(&mut self, tokenizer: &Tokenizer) -> Result<String> {
        self.show(tokenizer, true)
    }

    fn show(&mut self, tokenizer: &Tokenizer, force: bool) -> Result<String> {
        let before = tokenizer.decode(&self.ids[..self.shown], self.skip_special)?;
        let text = tokenizer.decode(&self.ids, self.skip_special)?;
        if text.ends_with('\u{fffd}') && !force {
            return Ok(String::new());
        }
        let new = text.get(before.len()..).unwrap_or_default().to_owned();
        // Keep what was just shown as context: a decoder may treat the beginning of a text differently.
        self.ids.drain(..self.shown);
        self.shown = self.ids.len();
        Ok(new)
    }
}
