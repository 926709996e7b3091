//! Options of `sensitivity` and `quantize`.

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use etalon::compress::HALF;
use etalon::compress::UnitKind;
use etalon::compress::choose::{Budget, Search, granularity, group};
use etalon::compress::score::{Metric, Options, Score, WIDTHS};
use etalon::format::Config;
use etalon::quant::round::{Granularity, Spec};
use etalon::quant::similarity::{Scope, Similarity};
use std::path::PathBuf;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ScoreName {
    /// The loss itself, for each width: as many runs as widths
    Kl,
    /// CPTQuant's PMPQ: the loss when small weights are pruned
    Pmpq,
    /// CPTQuant's TDMPQ by noise on weights, as large as that of rounding
    Tdmpq,
    /// CPTQuant's TDMPQ by noise on what layers read
    TdmpqInput,
    /// CPTQuant's TDMPQ by gradients: what squares of them say of a change of the weights
    TdmpqGradient,
    /// CPTQuant's CMPQ: how little a layer's output correlates with others'
    Cmpq,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum UnitName {
    /// Layers that read the same: q, k and v; gate and up
    Site,
    /// Each tensor
    Tensor,
    /// A transformer layer, as in the paper
    Block,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum GranularityName {
    Group,
    Row,
    Tensor,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoundingName {
    /// To the nearest
    Nearest,
    /// So that outputs on the calibration text stay near
    Gptq,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum MetricName {
    /// Divergence from what the model said before (encoders: 1 - cosine of embeddings)
    Kl,
    /// Rise of the negative log-likelihood
    Nll,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum CcaName {
    First,
    Mean,
    R2,
    Pwcca,
    Cka,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum CmpqScope {
    All,
    Adjacent,
}

/// What is measured, on which text.
#[derive(Args, Clone)]
pub(crate) struct ScoreArgs {
    /// Text to calibrate on: never the one that the result is judged by. A decoder sees windows of it, an encoder its lines
    #[arg(long, value_name = "FILE")]
    pub(crate) calibration: Option<PathBuf>,
    /// Tokens that units are scored on
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub(crate) score_tokens: usize,
    /// Tokens of a window, or of a line at most
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub(crate) window: usize,
    /// How a unit is scored
    #[arg(long, value_enum, default_value = "kl")]
    pub(crate) score: ScoreName,
    /// What gets one width
    #[arg(long, value_enum, default_value = "site")]
    pub(crate) unit: UnitName,
    /// What counts as loss
    #[arg(long, value_enum, default_value = "kl")]
    pub(crate) metric: MetricName,
    /// Weights that share a scale
    #[arg(long, value_enum, default_value = "group")]
    pub(crate) granularity: GranularityName,
    /// Weights in a group [default: 128, 64 or 32, the largest that divides all layers' inputs]
    #[arg(long, value_name = "N")]
    pub(crate) group: Option<u32>,
    /// No zero points: the middle code is 0
    #[arg(long)]
    pub(crate) symmetric: bool,
    /// Narrow ranges where that lowers the squared error
    #[arg(long)]
    pub(crate) range_search: bool,
    /// How weights become codes; `kl` measures those
    #[arg(long, value_enum, default_value = "gptq")]
    pub(crate) rounding: RoundingName,
    /// GPTQ: tokens that codes are fitted to
    #[arg(long, value_name = "N", default_value_t = 8192)]
    pub(crate) tokens: usize,
    /// PMPQ: the part of weights that is pruned; 0: as much as rounding to each width changes
    #[arg(long, value_name = "PART", default_value_t = 0.3)]
    pub(crate) sparsity: f64,
    /// TDMPQ: pairs of a noise and its negative
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(crate) pairs: usize,
    /// TDMPQ on weights: the width whose noise is matched
    #[arg(long, value_name = "BITS", default_value_t = 3)]
    pub(crate) noise_bits: u32,
    /// TDMPQ on inputs: noise as a part of their root mean square
    #[arg(long, value_name = "PART", default_value_t = 0.05)]
    pub(crate) epsilon: f64,
    /// CMPQ: what of the canonical correlations counts
    #[arg(long, value_enum, default_value = "r2")]
    pub(crate) cca: CcaName,
    /// CMPQ: which layers each is compared with
    #[arg(long, value_enum, default_value = "all")]
    pub(crate) cmpq_scope: CmpqScope,
    /// Seed of noises
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
}

impl ScoreArgs {
    pub(crate) fn options(&self, config: &Config) -> Result<Options> {
        let score = match self.score {
            ScoreName::Kl => Score::Measured,
            ScoreName::Pmpq => Score::Pruning { sparsity: Some(self.sparsity).filter(|s| *s != 0.0) },
            ScoreName::Tdmpq => Score::WeightNoise { pairs: self.pairs, bits: self.noise_bits },
            ScoreName::TdmpqGradient => Score::Gradient,
            ScoreName::TdmpqInput => Score::InputNoise { pairs: self.pairs, epsilon: self.epsilon },
            ScoreName::Cmpq => {
                let measure = match self.cca {
                    CcaName::First => Similarity::First,
                    CcaName::Mean => Similarity::Mean,
                    CcaName::R2 => Similarity::R2,
                    CcaName::Pwcca => Similarity::Pwcca,
                    CcaName::Cka => Similarity::Cka,
                };
                let scope = match self.cmpq_scope {
                    CmpqScope::All => Scope::All,
                    CmpqScope::Adjacent => Scope::Adjacent,
                };
                Score::Correlation { measure, scope, components: 64, corrected: measure != Similarity::First }
            }
        };
        let granularity = match (self.granularity, self.group) {
            (GranularityName::Tensor, _) => Granularity::Tensor,
            (GranularityName::Row, _) => Granularity::Row,
            (GranularityName::Group, None) => granularity(config),
            (GranularityName::Group, Some(n)) => {
                if !group(config, n).is_ok_and(|fits| fits == n) {
                    bail!("--group {n} does not divide the inputs of all layers: leave it out for the largest that does");
                }
                Granularity::Group(n)
            }
        };
        Ok(Options {
            score,
            metric: match self.metric {
                MetricName::Kl => Metric::Change,
                MetricName::Nll => Metric::Likelihood,
            },
            unit: match self.unit {
                UnitName::Site => UnitKind::Site,
                UnitName::Tensor => UnitKind::Tensor,
                UnitName::Block => UnitKind::Block,
            },
            spec: Spec { bits: 4, granularity, symmetric: self.symmetric, f16_scales: true, search: self.range_search },
            fitted_to: if self.score == ScoreName::Kl && self.rounding == RoundingName::Gptq { self.tokens } else { 0 },
            widths: WIDTHS.to_vec(),
            seed: self.seed,
        })
    }
}

/// What the result may take.
#[derive(Args, Clone)]
pub(crate) struct BudgetArgs {
    /// Bits per weight
    #[arg(long, value_name = "BITS", conflicts_with_all = ["bytes", "bytes_of"])]
    pub(crate) bpw: Option<f64>,
    /// Which weights --bpw is for: those of linear layers, or all
    #[arg(long, value_enum, default_value = "linear", requires = "bpw")]
    pub(crate) bpw_scope: BudgetScope,
    /// --bpw counts codes only, not scales and zero points
    #[arg(long, requires = "bpw")]
    pub(crate) no_count_metadata: bool,
    /// Size of the model's tensors: `220MB`, `1.5GiB`, or a number of bytes
    #[arg(long, value_name = "SIZE", conflicts_with = "bytes_of")]
    pub(crate) bytes: Option<String>,
    /// As much as one width for all layers takes: `uniform:3`
    #[arg(long, value_name = "uniform:BITS")]
    pub(crate) bytes_of: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BudgetScope {
    Linear,
    Model,
}

impl BudgetArgs {
    pub(crate) fn budget(&self) -> Result<Option<Budget>> {
        if let Some(bits) = self.bpw {
            if self.bpw_scope == BudgetScope::Model && self.no_count_metadata {
                bail!("--bpw-scope model counts all that is stored: leave --no-count-metadata out");
            }
            return Ok(Some(match self.bpw_scope {
                BudgetScope::Linear => Budget::Linears { bits, metadata: !self.no_count_metadata },
                BudgetScope::Model => Budget::Model { bits },
            }));
        }
        if let Some(text) = &self.bytes {
            return size(text).map(|b| Some(Budget::Bytes(b)));
        }
        let Some(text) = &self.bytes_of else { return Ok(None) };
        let bits = text.strip_prefix("uniform:").and_then(|n| n.parse().ok());
        Ok(Some(Budget::Uniform(bits.with_context(|| format!("--bytes-of {text}: give `uniform:` and a width"))?)))
    }
}

/// `220MB`, `1.5GiB`, `1000000`.
fn size(text: &str) -> Result<u64> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[number.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        _ => bail!("--bytes {text}: units are kB, MB, GB, KiB, MiB and GiB"),
    };
    let n: f64 = number.trim().parse().with_context(|| format!("--bytes {text}: no number"))?;
    if !(n > 0.0 && n * unit < 1e18) {
        bail!("--bytes {text}: out of range");
    }
    Ok((n * unit) as u64)
}

/// How widths are found: a name and what follows a colon.
pub(crate) fn search(text: &str) -> Result<Search, String> {
    let (name, rest) = text.split_once(':').map_or((text, None), |(n, r)| (n, Some(r)));
    let widths = || {
        let list = rest.unwrap_or("16,8,4").split(',').map(|w| w.trim().parse().map_err(|_| format!("{text}: `{w}` is no width")));
        list.collect::<Result<Vec<u32>, String>>()
    };
    Ok(match (name, rest) {
        ("dp", None) => Search::Exact,
        ("lagrange", None) => Search::Lagrange,
        ("greedy", None) => Search::Greedy,
        ("uniform", None) => Search::Uniform,
        ("ends-first", None) => Search::EndsFirst,
        ("random", None) => Search::Random(0),
        ("random", Some(seed)) => Search::Random(seed.parse().map_err(|_| format!("{text}: `{seed}` is no seed"))?),
        ("clusters", _) => Search::Clusters(widths()?),
        ("classes", _) => Search::Classes(widths()?),
        _ => return Err("there are dp, lagrange, greedy, clusters[:16,8,4], classes[:16,8,4], uniform, random[:SEED], ends-first".into()),
    })
}

/// `REGEX=BITS`.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) pattern: regex::Regex,
    pub(crate) bits: u32,
}

pub(crate) fn rule(text: &str) -> Result<Rule, String> {
    let (pattern, bits) = text.rsplit_once('=').ok_or("give a regular expression, `=` and a width")?;
    let bits: u32 = bits.trim().parse().map_err(|_| format!("`{bits}` is no width"))?;
    if bits != HALF && !WIDTHS.contains(&bits) {
        return Err(format!("{bits} bits: widths are {WIDTHS:?} and {HALF}"));
    }
    Ok(Rule { pattern: regex::Regex::new(pattern).map_err(|e| format!("`{pattern}` is no regular expression: {e}"))?, bits })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_searches_are_read() {
        assert_eq!(size("220MB").unwrap(), 220_000_000);
        assert_eq!(size("1.5KiB").unwrap(), 1536);
        assert_eq!(size("77").unwrap(), 77);
        assert!(size("3 pounds").is_err() && size("MB").is_err() && size("-1").is_err());
        assert_eq!(search("clusters:8,4,2"), Ok(Search::Clusters(vec![8, 4, 2])));
        assert_eq!(search("random:7"), Ok(Search::Random(7)));
        assert!(search("dp:1").is_err() && search("clusters:x").is_err());
        assert!(rule("k_proj=4").is_ok() && rule("k_proj=7").is_err() && rule("(=4").is_err() && rule("k_proj").is_err());
    }
}
