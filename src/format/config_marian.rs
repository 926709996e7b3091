//! Marian's encoder-decoder: hyper-parameters.

use super::config::{Activation, Fields, MAX_LAYERS, MAX_ROWS, MAX_WIDTH};
use crate::{Error, Result};
use serde_json::json;

/// `model_type` of a translator whose values are points of the Lorentz model: other programs must not take it for a Marian.
pub(super) const HYPERBOLIC: &str = "etalon-hyperbolic-translator";

/// An encoder-decoder transformer built like Marian's: norms after each branch, sinusoidal positions, one embedding for both languages and
/// the output layer.
#[derive(Debug, Clone, PartialEq)]
pub struct MarianConfig {
    /// Size of the vocabulary.
    pub vocab: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Layers of the encoder.
    pub encoder_layers: usize,
    /// Layers of the decoder.
    pub decoder_layers: usize,
    /// Heads of the encoder; they divide the width.
    pub encoder_heads: usize,
    /// Heads of the decoder.
    pub decoder_heads: usize,
    /// Width inside of the encoder's feed-forward layers.
    pub encoder_ffn: usize,
    /// Width inside of the decoder's.
    pub decoder_ffn: usize,
    /// Longest sentence.
    pub max_positions: usize,
    /// Activation of the feed-forward layers.
    pub activation: Activation,
    /// Embeddings are multiplied by the root of the width.
    pub scale_embedding: bool,
    /// Deviation of initial weights.
    pub init_std: f64,
    /// Token that the decoder begins with.
    pub start: u32,
    /// Token that ends a sentence.
    pub eos: u32,
    /// Token that fills up a batch.
    pub pad: u32,
}

impl MarianConfig {
    /// Reads a Hugging Face `config.json` of type marian; `file` appears in errors.
    ///
    /// # Errors
    /// [`Error::Format`], [`Error::Unsupported`].
    pub fn from_json(file: &str, json: &[u8]) -> Result<Self> {
        let map = serde_json::from_slice(json).map_err(|e| Error::format(file, "JSON", e.to_string()))?;
        let f = Fields { file, map: &map };
        match f.text("model_type")? {
            Some("marian") => {}
            other => return Err(f.unsupported("model_type", other.unwrap_or("none"), "an encoder-decoder of type marian is wanted")),
        }
        Self::read(&f)
    }

    /// The same, whatever type it says it is of.
    pub(super) fn read(f: &Fields<'_>) -> Result<Self> {
        for (field, wanted) in [("share_encoder_decoder_embeddings", true), ("tie_word_embeddings", true)] {
            if f.bool(field, true)? != wanted {
                return Err(f.unsupported(field, "false", "one embedding for both languages and the output layer is known"));
            }
        }
        let (vocab, hidden) = (f.size("vocab_size", MAX_ROWS)?, f.size("d_model", MAX_WIDTH)?);
        let heads = |field: &str| match f.size(field, MAX_WIDTH)? {
            n if hidden.is_multiple_of(n) => Ok(n),
            n => Err(f.fail(field, format!("{n} heads do not divide {hidden}"))),
        };
        let token = |field: &str| match f.token(field)? {
            Some(id) if (id as usize) < vocab => Ok(id),
            _ => Err(f.fail(field, format!("a token below {vocab} is wanted"))),
        };
        Ok(Self {
            vocab,
            hidden,
            encoder_layers: f.size("encoder_layers", MAX_LAYERS)?,
            decoder_layers: f.size("decoder_layers", MAX_LAYERS)?,
            encoder_heads: heads("encoder_attention_heads")?,
            decoder_heads: heads("decoder_attention_heads")?,
            encoder_ffn: f.size("encoder_ffn_dim", MAX_WIDTH)?,
            decoder_ffn: f.size("decoder_ffn_dim", MAX_WIDTH)?,
            max_positions: f.size("max_position_embeddings", MAX_ROWS)?,
            activation: f.activation("activation_function", "relu")?,
            scale_embedding: f.bool("scale_embedding", false)?,
            init_std: f.float("init_std", Some(0.02))?,
            start: token("decoder_start_token_id")?,
            eos: token("eos_token_id")?,
            pad: token("pad_token_id")?,
        })
    }

    /// The same as Hugging Face writes it; of a hyperbolic translator with a type of its own.
    pub fn to_json(&self, hyperbolic: bool) -> String {
        let (kind, class) = if hyperbolic { (HYPERBOLIC, "EtalonHyperbolicMT") } else { ("marian", "MarianMTModel") };
        let activation = match self.activation {
            Activation::Relu => "relu",
            Activation::Gelu => "gelu",
            Activation::GeluTanh => "gelu_new",
        };
        json!({
            "model_type": kind, "architectures": [class], "vocab_size": self.vocab, "decoder_vocab_size": self.vocab,
            "d_model": self.hidden, "encoder_layers": self.encoder_layers, "decoder_layers": self.decoder_layers,
            "num_hidden_layers": self.encoder_layers, "encoder_attention_heads": self.encoder_heads,
            "decoder_attention_heads": self.decoder_heads, "encoder_ffn_dim": self.encoder_ffn, "decoder_ffn_dim": self.decoder_ffn,
            "max_position_embeddings": self.max_positions, "activation_function": activation, "scale_embedding": self.scale_embedding,
            "init_std": self.init_std, "decoder_start_token_id": self.start, "eos_token_id": self.eos, "pad_token_id": self.pad,
            "is_encoder_decoder": true, "share_encoder_decoder_embeddings": true, "tie_word_embeddings": true, "static_position_embeddings": true,
            "normalize_embedding": false, "normalize_before": false, "add_final_layer_norm": false,
        })
        .to_string()
    }
}
