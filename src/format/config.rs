//! Hyper-parameters, checked: no number in here can make later arithmetic overflow.

use serde_json::{Map, Value as Json, json};

use super::config_marian::{HYPERBOLIC, MarianConfig};
use super::gguf::Gguf;
use crate::error::{Error, Result};

/// The largest width of a layer, number of layers, and number of words or positions that are believed.
pub(super) const MAX_WIDTH: usize = 1 << 20;
pub(super) const MAX_LAYERS: usize = 1 << 12;
pub(super) const MAX_ROWS: usize = 1 << 24;

/// A model's hyper-parameters.
#[derive(Debug, Clone, PartialEq)]
pub enum Config {
    /// Llama and models built like it.
    Llama(LlamaConfig),
    /// OPT.
    Opt(OptConfig),
    /// BERT.
    Bert(BertConfig),
    /// An encoder-decoder built like Marian's, or its hyperbolic twin.
    Translator {
        /// Its sizes.
        config: MarianConfig,
        /// Its values are points of the Lorentz model; only etalon reads it.
        hyperbolic: bool,
    },
}

/// An activation function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// max(0, x).
    Relu,
    /// x times the normal distribution, with erf.
    Gelu,
    /// Its approximation with tanh.
    GeluTanh,
}

/// How positions past the trained length are squeezed into rotary embeddings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// All frequencies are divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1: low frequencies are divided by `factor`, high ones kept, with a smooth passage between.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// Wavelengths above `original_max_position / low_freq_factor` are low frequencies.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position / high_freq_factor` are high frequencies.
        high_freq_factor: f64,
        /// The trained length.
        original_max_position: usize,
    },
}

/// Llama.
#[derive(Debug, Clone, PartialEq)]
pub struct LlamaConfig {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width inside the gated MLP.
    pub intermediate: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head; even. `heads * head_dim` need not be `hidden`.
    pub head_dim: usize,
    /// Size of the vocabulary.
    pub vocab: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Their scaling. A GGUF file may hold divisors in the tensor `rope_freqs.weight` instead.
    pub rope_scaling: Option<RopeScaling>,
    /// Epsilon of the RMS norms.
    pub rms_eps: f32,
    /// The longest context.
    pub max_positions: usize,
    /// The output layer is the embedding.
    pub tied: bool,
    /// q, k, v and o have biases.
    pub attention_bias: bool,
    /// gate, up and down have biases.
    pub mlp_bias: bool,
    /// Deviation of normally distributed initial weights.
    pub init_std: f64,
    /// Token that begins a text.
    pub bos: Option<u32>,
    /// Tokens that end one.
    pub eos: Vec<u32>,
}

/// OPT.
#[derive(Debug, Clone, PartialEq)]
pub struct OptConfig {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width inside the MLP.
    pub ffn: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Heads; divides `hidden`.
    pub heads: usize,
    /// Size of the vocabulary.
    pub vocab: usize,
    /// The longest context; the table of positions has two rows more.
    pub max_positions: usize,
    /// Layer norms stand before attention and MLP, else after.
    pub do_layer_norm_before: bool,
    /// Width of the embeddings; unlike `hidden`, there are `project_in` and `project_out`.
    pub word_embed_proj_dim: usize,
    /// Linear layers have biases.
    pub enable_bias: bool,
    /// Activation of the MLP.
    pub activation: Activation,
    /// There is no final layer norm although norms stand before.
    pub remove_final_layer_norm: bool,
    /// Layer norms have gains and biases.
    pub layer_norm_elementwise_affine: bool,
    /// The output layer is the embedding.
    pub tied: bool,
    /// Deviation of normally distributed initial weights.
    pub init_std: f64,
    /// Token that begins a text.
    pub bos: Option<u32>,
    /// Tokens that end one.
    pub eos: Vec<u32>,
    /// Token that fills up a batch.
    pub pad: Option<u32>,
}

impl OptConfig {
    /// True if a layer norm follows the last block.
    pub fn final_layer_norm(&self) -> bool {
        self.do_layer_norm_before && !self.remove_final_layer_norm
    }
}

/// What stands on top of BERT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BertHead {
    /// Nothing: hidden states.
    None,
    /// Words for masked places.
    MaskedLm,
    /// One label for the whole text.
    Classifier {
        /// The labels' names.
        labels: Vec<String>,
    },
}

/// BERT.
#[derive(Debug, Clone, PartialEq)]
pub struct BertConfig {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width inside the MLP.
    pub intermediate: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Heads; divides `hidden`.
    pub heads: usize,
    /// Size of the vocabulary.
    pub vocab: usize,
    /// The longest text.
    pub max_positions: usize,
    /// Number of token types.
    pub type_vocab: usize,
    /// Epsilon of the layer norms.
    pub eps: f32,
    /// Activation of the MLP.
    pub activation: Activation,
    /// The head, by the file's `architectures`.
    pub head: BertHead,
    /// Token that fills up a batch.
    pub pad: Option<u32>,
}

impl Config {
    /// Reads a Hugging Face `config.json`; `file` appears in errors.
    pub fn from_json(file: &str, json: &[u8]) -> Result<Self> {
        let map = serde_json::from_slice(json).map_err(|e| Error::format(file, "JSON", e.to_string()))?;
        let fields = Fields { file, map: &map };
        let kind = match fields.text("model_type")? {
            Some(kind) => kind,
            None => return Err(fields.fail("model_type", "is missing")),
        };
        match kind {
            "llama" => Ok(Self::Llama(llama(&fields)?)),
            // Without a sliding window Mistral is a Llama. (Its absence means a window of 4096.)
            "mistral" if map.get("sliding_window").is_some_and(Json::is_null) => Ok(Self::Llama(llama(&fields)?)),
            "opt" => Ok(Self::Opt(opt(&fields)?)),
            "bert" => Ok(Self::Bert(bert(&fields)?)),
            "marian" | HYPERBOLIC => Ok(Self::Translator { config: MarianConfig::read(&fields)?, hyperbolic: kind == HYPERBOLIC }),
            _ => Err(fields.unsupported("model_type", kind, "models of type llama, opt, bert and marian can be read")),
        }
    }

    /// Reads the metadata of a GGUF file.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        let architecture = gguf.str("general.architecture")?;
        if architecture != "llama" {
            return Err(Error::Unsupported {
                what: format!("{}: architecture `{architecture}`", gguf.source.name()),
                advice: "GGUF files of architecture llama can be read".into(),
            });
        }
        super::config_gguf::llama(gguf).map(Self::Llama)
    }

    /// Size of the vocabulary.
    pub fn vocab(&self) -> usize {
        match self {
            Self::Llama(c) => c.vocab,
            Self::Opt(c) => c.vocab,
            Self::Bert(c) => c.vocab,
            Self::Translator { config, .. } => config.vocab,
        }
    }

    /// Tokens that end a text.
    pub fn eos(&self) -> &[u32] {
        match self {
            Self::Llama(c) => &c.eos,
            Self::Opt(c) => &c.eos,
            Self::Bert(_) => &[],
            Self::Translator { config, .. } => std::slice::from_ref(&config.eos),
        }
    }
}

impl LlamaConfig {
    /// Checks what both formats must satisfy.
    pub(super) fn check(self, file: &str) -> Result<Self> {
        let fail = |field, message: String| Err(Error::format(file, field, message));
        for (field, value, most) in [
            ("hidden size", self.hidden, MAX_WIDTH),
            ("intermediate size", self.intermediate, MAX_WIDTH),
            ("number of layers", self.layers, MAX_LAYERS),
            ("number of heads", self.heads, MAX_WIDTH),
            ("number of key-value heads", self.kv_heads, MAX_WIDTH),
            ("head size", self.head_dim, MAX_WIDTH),
            ("vocabulary size", self.vocab, MAX_ROWS),
            ("context length", self.max_positions, MAX_ROWS),
        ] {
            if value == 0 || value > most {
                return fail(field, format!("{value} is not between 1 and {most}"));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return fail("number of key-value heads", format!("{} does not divide {} heads", self.kv_heads, self.heads));
        }
        if !self.head_dim.is_multiple_of(2) || self.heads * self.head_dim > MAX_WIDTH {
            return fail(
                "head size",
                format!("{} heads of {}: an even size is needed, {MAX_WIDTH} in all at most", self.heads, self.head_dim),
            );
        }
        if !(self.rope_theta.is_finite() && self.rope_theta >= 1.0) {
            return fail("rotary base", format!("{} is not possible", self.rope_theta));
        }
        check_eps(file, "epsilon", self.rms_eps)?;
        match self.rope_scaling {
            Some(RopeScaling::Linear { factor }) if !(factor.is_finite() && factor > 0.0) => {
                fail("rope_scaling.factor", format!("{factor} is not possible"))
            }
            Some(RopeScaling::Llama3 { factor, low_freq_factor: low, high_freq_factor: high, original_max_position: length })
                if !(factor.is_finite()
                    && factor > 0.0
                    && low > 0.0
                    && high > low
                    && high.is_finite()
                    && (1..=MAX_ROWS).contains(&length)) =>
            {
                fail("rope_scaling", format!("{:?} is not possible", self.rope_scaling))
            }
            _ => Ok(self),
        }
    }
}

fn check_eps(file: &str, field: &str, eps: f32) -> Result<f32> {
    if eps.is_finite() && eps > 0.0 && eps < 1.0 { Ok(eps) } else { Err(Error::format(file, field, format!("{eps} is not possible"))) }
}

/// Typed access to an object, with errors that name the field.
pub(super) struct Fields<'a> {
    pub(super) file: &'a str,
    pub(super) map: &'a Map<String, Json>,
}

impl<'a> Fields<'a> {
    pub(super) fn fail(&self, field: &str, message: impl Into<String>) -> Error {
        Error::format(self.file, field, message)
    }

    pub(super) fn unsupported(&self, field: &str, value: &str, advice: &str) -> Error {
        Error::Unsupported { what: format!("{}: {field} `{value}`", self.file), advice: advice.into() }
    }

    /// A field that is there and not null.
    fn get(&self, field: &str) -> Option<&'a Json> {
        self.map.get(field).filter(|v| !v.is_null())
    }

    /// The field, or `default`; an error if there is neither, or if `get` refuses it.
    fn typed<T>(&self, field: &str, default: Option<T>, wanted: &str, get: impl Fn(&'a Json) -> Option<T>) -> Result<T> {
        match self.get(field) {
            Some(value) => get(value).ok_or_else(|| self.fail(field, format!("is not {wanted}"))),
            None => default.ok_or_else(|| self.fail(field, "is missing")),
        }
    }

    fn size_or(&self, field: &str, default: Option<usize>, most: usize) -> Result<usize> {
        let n = self.typed(field, default, "a size", |v| v.as_u64().and_then(|n| usize::try_from(n).ok()))?;
        if n == 0 || n > most { Err(self.fail(field, format!("{n} is not between 1 and {most}"))) } else { Ok(n) }
    }

    pub(super) fn size(&self, field: &str, most: usize) -> Result<usize> {
        self.size_or(field, None, most)
    }

    pub(super) fn float(&self, field: &str, default: Option<f64>) -> Result<f64> {
        self.typed(field, default, "a number", Json::as_f64)
    }

    pub(super) fn bool(&self, field: &str, default: bool) -> Result<bool> {
        self.typed(field, Some(default), "true or false", Json::as_bool)
    }

    pub(super) fn text(&self, field: &str) -> Result<Option<&'a str>> {
        self.typed(field, Some(None), "a string", |v| v.as_str().map(Some))
    }

    fn object(&self, field: &str) -> Result<Option<Fields<'a>>> {
        let map = self.typed(field, Some(None), "an object", |v| v.as_object().map(Some))?;
        Ok(map.map(|map| Fields { file: self.file, map }))
    }

    /// A token id or a list of them.
    fn tokens(&self, field: &str) -> Result<Vec<u32>> {
        let id = |v: &Json| v.as_u64().and_then(|n| u32::try_from(n).ok());
        self.typed(field, Some(Vec::new()), "a token id or a list of them", |v| match v {
            Json::Array(list) => list.iter().map(id).collect(),
            _ => id(v).map(|id| vec![id]),
        })
    }

    /// A token id; -1 and null mean none.
    pub(super) fn token(&self, field: &str) -> Result<Option<u32>> {
        if self.get(field).and_then(Json::as_i64) == Some(-1) { Ok(None) } else { Ok(self.tokens(field)?.first().copied()) }
    }

    pub(super) fn activation(&self, field: &str, default: &str) -> Result<Activation> {
        match self.text(field)?.unwrap_or(default) {
            "relu" => Ok(Activation::Relu),
            "gelu" => Ok(Activation::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Activation::GeluTanh),
            other => Err(self.unsupported(field, other, "relu, gelu and gelu_new are known")),
        }
    }

    /// Number of heads, which must divide the width.
    fn heads(&self, hidden: usize) -> Result<usize> {
        const FIELD: &str = "num_attention_heads";
        let heads = self.size(FIELD, MAX_WIDTH)?;
        if hidden.is_multiple_of(heads) { Ok(heads) } else { Err(self.fail(FIELD, format!("{heads} heads do not divide {hidden}"))) }
    }
}

fn llama(f: &Fields<'_>) -> Result<LlamaConfig> {
    match f.text("hidden_act")? {
        None | Some("silu") => {}
        Some(other) => return Err(f.unsupported("hidden_act", other, "Llama uses silu")),
    }
    let hidden = f.size("hidden_size", MAX_WIDTH)?;
    let head_dim = f.get("head_dim").map(|_| f.size("head_dim", MAX_WIDTH)).transpose()?;
    let (heads, head_dim) = match head_dim {
        Some(dim) => (f.size("num_attention_heads", MAX_WIDTH)?, dim),
        None => f.heads(hidden).map(|heads| (heads, hidden / heads))?,
    };
    // Newer files gather everything on rotary embeddings in one object.
    let rope = match f.object("rope_parameters")? {
        Some(rope) => Some(rope),
        None => f.object("rope_scaling")?,
    };
    let theta = f.float("rope_theta", Some(10000.0))?;
    LlamaConfig {
        hidden,
        intermediate: f.size("intermediate_size", MAX_WIDTH)?,
        layers: f.size("num_hidden_layers", MAX_LAYERS)?,
        heads,
        kv_heads: f.size_or("num_key_value_heads", Some(heads), MAX_WIDTH)?,
        head_dim,
        vocab: f.size("vocab_size", MAX_ROWS)?,
        rope_theta: rope.as_ref().map_or(Ok(theta), |rope| rope.float("rope_theta", Some(theta)))?,
        rope_scaling: rope.as_ref().map_or(Ok(None), rope_scaling)?,
        rms_eps: f.float("rms_norm_eps", Some(1e-6))? as f32,
        max_positions: f.size_or("max_position_embeddings", Some(2048), MAX_ROWS)?,
        tied: f.bool("tie_word_embeddings", false)?,
        attention_bias: f.bool("attention_bias", false)?,
        mlp_bias: f.bool("mlp_bias", false)?,
        init_std: f.float("initializer_range", Some(0.02))?,
        bos: f.token("bos_token_id")?,
        eos: f.tokens("eos_token_id")?,
    }
    .check(f.file)
}

fn rope_scaling(f: &Fields<'_>) -> Result<Option<RopeScaling>> {
    let kind = match f.text("rope_type")? {
        Some(kind) => Some(kind),
        None => f.text("type")?,
    };
    match kind {
        None | Some("default") => Ok(None),
        Some("linear") => Ok(Some(RopeScaling::Linear { factor: f.float("factor", None)? })),
        Some("llama3") => Ok(Some(RopeScaling::Llama3 {
            factor: f.float("factor", None)?,
            low_freq_factor: f.float("low_freq_factor", None)?,
            high_freq_factor: f.float("high_freq_factor", None)?,
            original_max_position: f.size("original_max_position_embeddings", MAX_ROWS)?,
        })),
        Some(other) => Err(f.unsupported("rope_scaling", other, "linear and llama3 are known")),
    }
}

fn opt(f: &Fields<'_>) -> Result<OptConfig> {
    let hidden = f.size("hidden_size", MAX_WIDTH)?;
    Ok(OptConfig {
        hidden,
        ffn: f.size("ffn_dim", MAX_WIDTH)?,
        layers: f.size("num_hidden_layers", MAX_LAYERS)?,
        heads: f.heads(hidden)?,
        vocab: f.size("vocab_size", MAX_ROWS)?,
        max_positions: f.size("max_position_embeddings", MAX_ROWS)?,
        do_layer_norm_before: f.bool("do_layer_norm_before", true)?,
        word_embed_proj_dim: f.size_or("word_embed_proj_dim", Some(hidden), MAX_WIDTH)?,
        enable_bias: f.bool("enable_bias", true)?,
        activation: f.activation("activation_function", "relu")?,
        remove_final_layer_norm: f.bool("_remove_final_layer_norm", false)?,
        layer_norm_elementwise_affine: f.bool("layer_norm_elementwise_affine", true)?,
        tied: f.bool("tie_word_embeddings", true)?,
        init_std: f.float("init_std", Some(0.02))?,
        bos: f.token("bos_token_id")?,
        eos: f.tokens("eos_token_id")?,
        pad: f.token("pad_token_id")?,
    })
}

fn bert(f: &Fields<'_>) -> Result<BertConfig> {
    match f.text("position_embedding_type")? {
        None | Some("absolute") => {}
        Some(other) => return Err(f.unsupported("position_embedding_type", other, "absolute positions are known")),
    }
    if f.bool("is_decoder", false)? {
        return Err(f.unsupported("is_decoder", "true", "BERT is read as an encoder"));
    }
    let hidden = f.size("hidden_size", MAX_WIDTH)?;
    let architecture =
        f.typed("architectures", Some(None), "a list of names", |v| v.as_array().map(|list| list.first().and_then(Json::as_str)))?;
    let head = match architecture {
        Some("BertForMaskedLM" | "BertForPreTraining") => BertHead::MaskedLm,
        Some("BertForSequenceClassification") => BertHead::Classifier { labels: labels(f)? },
        _ => BertHead::None,
    };
    Ok(BertConfig {
        hidden,
        intermediate: f.size("intermediate_size", MAX_WIDTH)?,
        layers: f.size("num_hidden_layers", MAX_LAYERS)?,
        heads: f.heads(hidden)?,
        vocab: f.size("vocab_size", MAX_ROWS)?,
        max_positions: f.size("max_position_embeddings", MAX_ROWS)?,
        type_vocab: f.size_or("type_vocab_size", Some(2), MAX_WIDTH)?,
        eps: check_eps(f.file, "layer_norm_eps", f.float("layer_norm_eps", Some(1e-12))? as f32)?,
        activation: f.activation("hidden_act", "gelu")?,
        head,
        pad: f.token("pad_token_id")?,
    })
}

/// Names of labels 0, 1, ...; a file without them has two.
fn labels(f: &Fields<'_>) -> Result<Vec<String>> {
    let Some(map) = f.object("id2label")? else {
        let count = f.size_or("num_labels", Some(2), MAX_WIDTH)?;
        return Ok((0..count).map(|i| format!("LABEL_{i}")).collect());
    };
    let name = |i: usize| map.map.get(&i.to_string()).and_then(Json::as_str).map(str::to_owned);
    let names: Option<Vec<String>> = (0..map.map.len()).map(name).collect();
    match names {
        Some(names) if !names.is_empty() => Ok(names),
        _ => Err(f.fail("id2label", "does not name the labels 0, 1, ...")),
    }
}

/// A `config.json` that says what a Llama's configuration does.
pub(super) fn llama_json(c: &LlamaConfig) -> Result<serde_json::Map<String, Json>> {
    let scaling = match &c.rope_scaling {
        None => Json::Null,
        Some(RopeScaling::Linear { factor }) => json!({ "rope_type": "linear", "factor": factor }),
        Some(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position }) => json!({
            "rope_type": "llama3", "factor": factor, "low_freq_factor": low_freq_factor, "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_max_position,
        }),
    };
    let eos = if let [one] = c.eos.as_slice() { json!(one) } else { json!(c.eos) };
    let json = json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "vocab_size": c.vocab,
        "hidden_size": c.hidden, "intermediate_size": c.intermediate, "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads, "num_key_value_heads": c.kv_heads, "head_dim": c.head_dim,
        "max_position_embeddings": c.max_positions, "rms_norm_eps": c.rms_eps, "rope_theta": c.rope_theta, "rope_scaling": scaling,
        "tie_word_embeddings": c.tied, "attention_bias": c.attention_bias, "mlp_bias": c.mlp_bias, "initializer_range": c.init_std,
        "bos_token_id": c.bos, "eos_token_id": eos, "torch_dtype": "float16",
    });
    match json {
        Json::Object(map) => Ok(map),
        _ => Ok(serde_json::Map::new()),
    }
}
