//! The linear layers of a model: what they are called, their shapes, and what they read.

use crate::format::{BertConfig, Config, LlamaConfig, MarianConfig, OptConfig};

/// A place in a layer whose linear layers read the same: where they are fused, they need one format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Site {
    /// Queries, keys and values.
    Qkv,
    /// The attention's output.
    Output,
    /// Into the feed-forward layer; with a gate, gate and value.
    Up,
    /// Out of the feed-forward layer.
    Down,
    /// In a translator's decoder, queries to the encoder's output.
    CrossQuery,
    /// Keys and values of it.
    CrossKeys,
    /// The output of that attention.
    CrossOutput,
}

impl Site {
    /// All of a layer of a model of one stack, in the order of its work.
    pub const ALL: [Self; 4] = [Self::Qkv, Self::Output, Self::Up, Self::Down];

    /// A short name: `qkv`, `output`, `up`, `down`, `cross-q`, `cross-kv`, `cross-output`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qkv => "qkv",
            Self::Output => "output",
            Self::Up => "up",
            Self::Down => "down",
            Self::CrossQuery => "cross-q",
            Self::CrossKeys => "cross-kv",
            Self::CrossOutput => "cross-output",
        }
    }
}

/// The weight of a linear layer: `rows x cols`, outputs by inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linear {
    /// Its tensor's name, ending in `.weight`.
    pub name: String,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// The layer of the transformer that it stands in, from 0 on.
    pub block: usize,
    /// What it reads.
    pub site: Site,
}

impl Linear {
    /// Its name without `.weight`: what other programs call the layer.
    pub fn stem(&self) -> &str {
        self.name.strip_suffix(".weight").unwrap_or(&self.name)
    }

    /// Number of weights.
    pub fn weights(&self) -> u64 {
        (self.rows * self.cols) as u64
    }
}

/// The linear layers of all transformer layers, in the order of their work. Embeddings, positions and heads are not among them.
pub fn linears(config: &Config) -> Vec<Linear> {
    let blocks = match config {
        Config::Llama(c) => c.layers,
        Config::Opt(c) => c.layers,
        Config::Bert(c) => c.layers,
        Config::Translator { config: c, .. } => c.encoder_layers + c.decoder_layers,
    };
    let of_block = |block| {
        let sites: Vec<(Site, Parts)> = match config {
            Config::Llama(c) => Site::ALL.into_iter().zip(llama(c, block)).collect(),
            Config::Opt(c) => Site::ALL.into_iter().zip(opt(c, block)).collect(),
            Config::Bert(c) => Site::ALL.into_iter().zip(bert(c, block)).collect(),
            Config::Translator { config, .. } => translator(config, block),
        };
        sites.into_iter().flat_map(move |(site, s)| {
            let cols = s.cols;
            s.parts.into_iter().map(move |(name, rows)| Linear { name: format!("{name}.weight"), rows, cols, block, site })
        })
    };
    (0..blocks).flat_map(of_block).collect()
}

/// The layers of a site: names without `.weight`, outputs of each, and inputs.
pub(crate) struct Parts {
    pub(crate) parts: Vec<(String, usize)>,
    pub(crate) cols: usize,
}

fn parts(prefix: &str, names: &[(&str, usize)], cols: usize) -> Parts {
    Parts { parts: names.iter().map(|(n, rows)| (format!("{prefix}.{n}"), *rows)).collect(), cols }
}

/// Those of a layer of a Llama, site by site.
pub(crate) fn llama(c: &LlamaConfig, block: usize) -> [Parts; 4] {
    let (q, kv, prefix) = (c.heads * c.head_dim, c.kv_heads * c.head_dim, format!("model.layers.{block}"));
    [
        parts(&prefix, &[("self_attn.q_proj", q), ("self_attn.k_proj", kv), ("self_attn.v_proj", kv)], c.hidden),
        parts(&prefix, &[("self_attn.o_proj", c.hidden)], q),
        parts(&prefix, &[("mlp.gate_proj", c.intermediate), ("mlp.up_proj", c.intermediate)], c.hidden),
        parts(&prefix, &[("mlp.down_proj", c.hidden)], c.intermediate),
    ]
}

/// Those of a layer of an OPT, site by site.
pub(crate) fn opt(c: &OptConfig, block: usize) -> [Parts; 4] {
    let (d, prefix) = (c.hidden, format!("model.decoder.layers.{block}"));
    [
        parts(&prefix, &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"].map(|n| (n, d)), d),
        parts(&prefix, &[("self_attn.out_proj", d)], d),
        parts(&prefix, &[("fc1", c.ffn)], d),
        parts(&prefix, &[("fc2", d)], c.ffn),
    ]
}

/// Those of a layer of a BERT, site by site.
pub(crate) fn bert(c: &BertConfig, block: usize) -> [Parts; 4] {
    let (d, prefix) = (c.hidden, format!("encoder.layer.{block}"));
    [
        parts(&prefix, &["attention.self.query", "attention.self.key", "attention.self.value"].map(|n| (n, d)), d),
        parts(&prefix, &[("attention.output.dense", d)], d),
        parts(&prefix, &[("intermediate.dense", c.intermediate)], d),
        parts(&prefix, &[("output.dense", d)], c.intermediate),
    ]
}

/// Those of a layer of a translator, the encoder's first.
fn translator(c: &MarianConfig, block: usize) -> Vec<(Site, Parts)> {
    let d = c.hidden;
    let (prefix, ffn, crosses) = match block.checked_sub(c.encoder_layers) {
        None => (format!("model.encoder.layers.{block}"), c.encoder_ffn, false),
        Some(block) => (format!("model.decoder.layers.{block}"), c.decoder_ffn, true),
    };
    let square = |names: &[&str]| parts(&prefix, &names.iter().map(|n| (*n, d)).collect::<Vec<_>>(), d);
    let own = [
        (Site::Qkv, square(&["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"])),
        (Site::Output, square(&["self_attn.out_proj"])),
    ];
    let cross = [
        (Site::CrossQuery, square(&["encoder_attn.q_proj"])),
        (Site::CrossKeys, square(&["encoder_attn.k_proj", "encoder_attn.v_proj"])),
        (Site::CrossOutput, square(&["encoder_attn.out_proj"])),
    ];
    let forward = [(Site::Up, parts(&prefix, &[("fc1", ffn)], d)), (Site::Down, parts(&prefix, &[("fc2", d)], ffn))];
    own.into_iter().chain(cross.into_iter().filter(|_| crosses)).chain(forward).collect()
}
