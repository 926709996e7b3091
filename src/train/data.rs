//! Text to tokens, and tokens to the windows that a step trains on.

use serde_json::json;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, NormalizerWrapper, TokenizerImpl};

use super::random::Random;
use crate::error::{Error, Result};
use crate::format::Tokenizer;

/// Tokens that [`train_bpe`] puts first, as OPT numbers them: text begins (if at all) and ends with `</s>`.
const SPECIAL: [&str; 4] = ["<s>", "<pad>", "</s>", "<unk>"];

/// Number of `</s>`: beginning and end of a text for OPT.
pub const END: u32 = 2;
/// Number of `<pad>`.
pub const PAD: u32 = 1;

/// Bytes of a piece of text that is tokenized at a time.
const PIECE: usize = 1 << 20;
/// The same where pieces are spread over threads.
const SMALL_PIECE: usize = 1 << 16;

/// Streams of [`starts`] begin here: epochs share no numbers with whatever else is drawn from the same seed.
const EPOCHS: u64 = 0x6570_6f63 << 32;

/// Trains a byte-level BPE, split as GPT-2 and OPT split text, and gives it as the text of a `tokenizer.json`: `<s>` is token 0,
/// `<pad>` 1, `</s>` 2 (BOS and EOS, as in OPT) and `<unk>` 3 (never used, since every byte is a token), then the 256 bytes, then
/// merges, most frequent first, to at most `vocabulary` tokens; fewer if the texts have no more pairs. Nothing is put around a text
/// that is encoded, as windows of a training text begin anywhere; `</s>` in a text becomes token 2. The same texts give the same
/// bytes.
///
/// # Errors
/// [`Error::Request`] if `vocabulary` has no room for special tokens and bytes.
pub fn train_bpe(texts: &[&str], vocabulary: usize) -> Result<String> {
    let least = SPECIAL.len() + 256;
    if vocabulary < least {
        return Err(Error::Request(format!("a vocabulary of {vocabulary}: special tokens and bytes alone are {least}")));
    }
    let fail = |e: tokenizers::Error| Error::Request(format!("the tokenizer cannot be trained: {e}"));
    let bytes = ByteLevel::new(false, true, true);
    let mut tokenizer: TokenizerImpl<BPE, NormalizerWrapper, ByteLevel, ByteLevel, ByteLevel> = TokenizerImpl::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(bytes)).with_post_processor(Some(bytes)).with_decoder(Some(bytes));
    let mut trainer = BpeTrainer::builder()
        .vocab_size(vocabulary)
        // What occurs once teaches nothing.
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(SPECIAL.iter().map(|token| AddedToken::from(*token, true)).collect())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    tokenizer.train(&mut trainer, texts.iter().flat_map(|text| pieces(text, SMALL_PIECE))).map_err(fail)?;
    tokenizer.to_string(true).map_err(fail)
}

/// The `tokenizer_config.json` that goes with [`train_bpe`], for transformers.
pub fn tokenizer_config(context: usize) -> String {
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>",
        "model_max_length": context, "clean_up_tokenization_spaces": false,
    });
    format!("{config:#}\n")
}

/// Cuts a text before a space between two letters, where tokenizers that split text into words split it anyway: they give the
/// same tokens as for the whole. Pieces have at least `size` bytes but for the last.
fn pieces(text: &str, size: usize) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let between = |at: usize| {
            let before = rest[..at].chars().next_back().is_some_and(char::is_alphabetic);
            before && rest[at + 1..].chars().next().is_some_and(char::is_alphabetic)
        };
        let bytes = rest.as_bytes();
        let cut = (size.max(1)..bytes.len()).find(|at| bytes[*at] == b' ' && between(*at)).unwrap_or(bytes.len());
        let (piece, after) = rest.split_at(cut);
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Tokens to train on and tokens to judge by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corpus {
    /// Training tokens.
    pub train: Vec<u32>,
    /// Validation tokens.
    pub valid: Vec<u32>,
}

impl Corpus {
    /// Tokens of a text, and of a validation text; without one, the last 5 % of the tokens are set apart for it. No special tokens
    /// are added.
    ///
    /// # Errors
    /// [`Error::Request`] if either part is shorter than a window of `context` + 1 tokens, or longer than 2^32.
    pub fn new(tokenizer: &Tokenizer, text: &str, valid: Option<&str>, context: usize) -> Result<Self> {
        let encode = |text: &str| -> Result<Vec<u32>> {
            let mut tokens = Vec::new();
            for piece in pieces(text, PIECE) {
                tokens.extend(tokenizer.encode(piece, false)?);
            }
            Ok(tokens)
        };
        Self::from_tokens(encode(text)?, valid.map(encode).transpose()?, context)
    }

    /// The same, of tokens.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn from_tokens(mut train: Vec<u32>, valid: Option<Vec<u32>>, context: usize) -> Result<Self> {
        let valid = valid.unwrap_or_else(|| train.split_off(train.len() - train.len() / 20));
        for (part, tokens) in [("training", &train), ("validation", &valid)] {
            if tokens.len() <= context {
                return Err(Error::Request(format!(
                    "the {part} text has {} tokens where a window needs {}: use more text or a shorter context",
                    tokens.len(),
                    context.saturating_add(1)
                )));
            }
            if u32::try_from(tokens.len()).is_err() {
                return Err(Error::Request(format!("the {part} text has {} tokens: 2^32 are possible", tokens.len())));
            }
        }
        Ok(Self { train, valid })
    }
}

/// First tokens of `count` windows of `context` + 1 tokens each (inputs, and the same one later as targets), out of a text of
/// `tokens`. An epoch takes windows that follow each other, each beginning with the last target of the one before it, so that no
/// token is a target twice; it begins at a random place in the first window, and takes them in a random order. Epochs follow each
/// other until there are enough windows. The seed alone decides, so that methods which are compared see the same windows in the
/// same order, and a longer run begins like a shorter one. Empty if no window fits.
pub fn starts(tokens: usize, context: usize, count: usize, seed: u64) -> Vec<u32> {
    // Beyond these no window begins; the tokens of a `Corpus` are fewer anyway.
    let tokens = tokens.min(u32::MAX as usize);
    let mut out = Vec::new();
    if context == 0 || tokens <= context {
        return out;
    }
    for epoch in 0.. {
        let mut random = Random::new(seed, EPOCHS | epoch);
        let phase = random.below(context.min(tokens - context));
        let mut windows: Vec<u32> = valid_starts(tokens - phase, context).into_iter().map(|start| start + phase as u32).collect();
        random.shuffle(&mut windows);
        windows.truncate(count - out.len());
        out.append(&mut windows);
        if out.len() == count {
            break;
        }
    }
    out
}

/// First tokens of all windows of `context` + 1 tokens that follow each other from the beginning of a text, each beginning with the
/// last target of the one before it. Tokens at the end that fill no window are left out. Empty if no window fits.
pub fn valid_starts(tokens: usize, context: usize) -> Vec<u32> {
    if context == 0 || tokens <= context {
        return Vec::new();
    }
    let last = u32::try_from(tokens - 1 - context).unwrap_or(u32::MAX);
    (0..=last).step_by(context).collect()
}
