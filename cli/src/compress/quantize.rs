//! `quantize`: a model with as many bits for each part as a budget allows.

use super::options::{BudgetArgs, GranularityName, RoundingName, Rule, ScoreArgs, UnitName, rule, search};
use super::report::{self, Refinement, Report};
use super::spectral::{self, Order};
use super::{Subject, scores, texts};
use crate::common::{Global, bar, on_bar, open_checkpoint};
use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use etalon::Context;
use etalon::compress::HALF;
use etalon::compress::choose::{Budget, Chosen, Search, choose, refine, restore};
use etalon::compress::pack::{Beside, beside, write};
use etalon::compress::round::{Codes, Rounded, by_outputs, to_nearest};
use etalon::compress::score::{Options, Scores, WIDTHS};
use etalon::compress::{Unit, gguf, subject, units};
use etalon::format::{Checkpoint, Config};
use etalon::model::{Keep, Linear, Sequence};
use etalon::quant::round::{Gptq, Spec};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Preset {
    /// As the paper has it: a width for each transformer layer by three classes of scores (16, 8, 4 bits), one scale a tensor, nearest codes
    #[value(name = "cptquant-2024")]
    Cptquant2024,
}

#[derive(clap::Args, Clone)]
pub(crate) struct Args {
    /// A folder, a file, or a Hugging Face repository id
    #[arg(long)]
    pub(super) model: String,
    #[command(flatten)]
    budget: BudgetArgs,
    #[command(flatten)]
    pub(super) score: ScoreArgs,
    /// Translators: translations of the lines of --calibration, which is in the language to translate from
    #[arg(long, value_name = "FILE")]
    pub(super) targets: Option<PathBuf>,
    /// Translators: translations of the lines of --check
    #[arg(long, value_name = "FILE", requires = "check")]
    pub(super) check_targets: Option<PathBuf>,
    /// All options of a known way of doing it
    #[arg(long, value_enum)]
    preset: Option<Preset>,
    /// Layers as singular vectors, more bits for those that carry more, the least left out: each layer within the bits of its chosen width
    /// (--alloc uniform: within --bpw), 16 bits staying as they are; always by GPTQ, and not refined. Only etalon reads it
    #[arg(long, conflicts_with = "preset")]
    pub(super) spectral: bool,
    /// Scores of `sensitivity`, or of an earlier run with the same options: read if the file is there, else measured and written
    #[arg(long, value_name = "FILE.json")]
    pub(super) scores: Option<PathBuf>,
    /// Widths to choose from; 16 is half precision
    #[arg(long, value_name = "BITS", value_delimiter = ',', default_values_t = WIDTHS)]
    bits: Vec<u32>,
    /// How widths are found: dp, lagrange, greedy, clusters[:16,8,4], classes[:16,8,4], uniform, random[:SEED], ends-first
    #[arg(long, value_name = "SEARCH", value_parser = search, default_value = "dp")]
    alloc: Search,
    /// Layers whose names match get this width
    #[arg(long, value_name = "REGEX=BITS", value_parser = rule)]
    pin: Vec<Rule>,
    /// Layers whose names match get this width at least
    #[arg(long, value_name = "REGEX=BITS", value_parser = rule)]
    floor: Vec<Rule>,
    /// Rounds in which the choice is measured as a whole and improved; 0 leaves it as it was found
    #[arg(long, value_name = "N", default_value_t = 2)]
    refine: usize,
    /// GPTQ: inputs by falling importance
    #[arg(long)]
    act_order: bool,
    /// Bits of embeddings and of a head of its own: 16, or a width
    #[arg(long, value_name = "BITS", default_value_t = HALF)]
    embedding_bits: u32,
    /// Text to judge the result by [default: the calibration text, which flatters it]
    #[arg(long, value_name = "FILE")]
    pub(super) check: Option<PathBuf>,
    /// Tokens of it
    #[arg(long, value_name = "N", default_value_t = 4096)]
    pub(super) check_tokens: usize,
    /// Folder of the model that is written, in compressed-tensors' layout, with report.html and report.json; or a .gguf file, for models
    /// that came from one: there widths are 4, 5, 8 and 16 (Q4_0, Q5_0, Q8_0, F16)
    #[arg(long, value_name = "DIR|FILE.gguf")]
    pub(super) out: PathBuf,
}

/// Everything that was decided by options.
pub(super) struct Plan {
    pub(super) options: Options,
    search: Search,
    budget: Budget,
    widths: Vec<u32>,
    rounding: RoundingName,
    refine: usize,
    pub(super) beside: Beside,
    pub(super) gguf: bool,
}

pub(crate) fn run(g: &Global, args: &Args) -> Result<()> {
    let checkpoint = open_checkpoint(&args.model)?;
    if matches!(checkpoint.config, Config::Translator { .. }) {
        return super::translator::run(g, args, &checkpoint);
    }
    if args.targets.is_some() || args.check_targets.is_some() {
        bail!("{}: no translator, so --targets and --check-targets say nothing", args.model);
    }
    let start = Instant::now();
    let subject = Subject::load(g, checkpoint)?;
    let plan = plan(&subject.checkpoint, args)?;
    let calibration = |tokens: usize| -> Result<Vec<Sequence>> {
        let file = args.score.calibration.as_ref().context("scores and GPTQ need a text: give --calibration")?;
        texts(&subject.model, file, tokens, args.score.window)
    };
    let probe = match plan.blind() {
        true => None,
        false => {
            let texts = calibration(args.score.score_tokens)?;
            Some((subject.probe(&texts, Keep::All)?, texts))
        }
    };
    // Fitted once, for the scores and for measuring the choice.
    let mut fitted: Option<Codes> = None;
    let mut fit = || -> Result<Codes> {
        if fitted.is_none() {
            fitted = Some(subject.fitted(&calibration(args.score.tokens)?, &plan.options.spec, &plan.widths_to_fit())?);
        }
        fitted.clone().context("codes were not fitted")
    };
    let scores = match &probe {
        None => Scores::none(&subject.checkpoint, plan.options.clone())?,
        Some((probe, texts)) => match scores(
            (&subject.context, &subject.checkpoint),
            (probe, texts.as_slice()),
            &plan.options,
            &mut fit,
            args.scores.as_deref(),
        )? {
            Some(scores) => scores,
            None => bail!("stopped: nothing was written; give --scores FILE to go on from what has been measured"),
        },
    };
    let scored_s = start.elapsed().as_secs_f64();
    let (chosen, refined) =
        chosen((&subject.context, &subject.checkpoint), &plan, args, &scores, (probe.as_ref().map(|p| &p.0), &mut fit))?;
    drop((probe, fitted));
    let (file, tokens) = (args.check.as_ref().or(args.score.calibration.as_ref()), args.check_tokens);
    let judged = file.map(|f| texts(&subject.model, f, tokens, args.score.window)).transpose()?;
    if args.spectral {
        let order = Order {
            model: &args.model,
            budgets: budgets(&plan, &chosen),
            widths: &plan.widths_to_fit(),
            spec: plan.options.spec,
            act_order: args.act_order,
            beside: &plan.beside,
            calibration: calibration(args.score.tokens)?,
            judged,
            own_text: args.check.is_some(),
            out: &args.out,
        };
        return spectral::make(g, &subject, &order);
    }
    let rounded = match plan.rounding {
        RoundingName::Nearest => nearest(&subject.checkpoint, &chosen, &plan.options.spec)?,
        RoundingName::Gptq => gptq(&subject, &chosen, &plan.options.spec, &calibration(args.score.tokens)?, args.act_order)?,
    };
    match plan.gguf {
        true => gguf::write(&subject.checkpoint, &rounded, &args.out)?,
        false => write(&subject.checkpoint, &rounded, &plan.beside, &args.out)?,
    }
    let written_s = start.elapsed().as_secs_f64();
    let report = Report {
        model: &args.model,
        scores: &scores,
        chosen: &chosen,
        refined,
        rounding: if plan.rounding == RoundingName::Gptq { "GPTQ" } else { "nearest" },
        own_text: args.check.is_some(),
        seconds: (scored_s, written_s),
        written: &args.out,
    };
    report::write(g, &subject, &report, judged.as_deref())
}

pub(super) fn plan(checkpoint: &Checkpoint, args: &Args) -> Result<Plan> {
    let mut of_score = args.score.clone();
    let (mut search, mut refine) = (args.alloc.clone(), args.refine);
    if args.preset == Some(Preset::Cptquant2024) {
        (of_score.unit, of_score.granularity) = (UnitName::Block, GranularityName::Tensor);
        (of_score.rounding, refine) = (RoundingName::Nearest, 0);
        if search == Search::Exact {
            search = Search::Classes(vec![16, 8, 4]);
        }
    }
    let mut widths = args.bits.clone();
    if let Search::Clusters(own) | Search::Classes(own) = &search {
        widths.clone_from(own);
        refine = 0;
    }
    widths.sort_unstable();
    widths.dedup();
    if let Some(w) = widths.iter().find(|w| **w != HALF && !WIDTHS.contains(w)) {
        bail!("{w} bits: widths are {WIDTHS:?} and {HALF}");
    }
    let mut options = of_score.options(&checkpoint.config)?;
    let as_gguf = args.out.extension().is_some_and(|e| e == "gguf");
    if args.spectral {
        if as_gguf {
            bail!("{}: a GGUF file holds no factors: give a folder", args.out.display());
        }
        // What would be measured and improved are whole weights.
        refine = 0;
    }
    if as_gguf {
        // Scores are of the codes that the file will hold.
        (options.spec, options.widths) = (gguf::SPEC, gguf::WIDTHS.to_vec());
        widths.retain(|w| *w == HALF || gguf::WIDTHS.contains(w));
        if widths.is_empty() || args.embedding_bits != HALF {
            bail!(
                "a GGUF file holds 4, 5, 8 and 16 bits, and embeddings as they are: change --bits or --embedding-bits, or write a folder"
            );
        }
    }
    let budget = match (args.budget.budget()?, &search) {
        (Some(budget), _) => budget,
        (None, Search::Classes(_)) => Budget::Linears { bits: 16.0, metadata: true },
        (None, _) => bail!("what may the result take? give --bpw, --bytes or --bytes-of (or --preset)"),
    };
    let embeddings = match args.embedding_bits {
        HALF => None,
        bits if WIDTHS.contains(&bits) => Some(Spec { bits, ..options.spec }),
        bits => bail!("--embedding-bits {bits}: widths are {WIDTHS:?} and {HALF}"),
    };
    Ok(Plan {
        options,
        search,
        budget,
        widths,
        rounding: of_score.rounding,
        refine,
        beside: Beside { half: true, embeddings },
        gguf: as_gguf,
    })
}

impl Plan {
    /// Nothing of the model need be measured.
    pub(super) fn blind(&self) -> bool {
        matches!(self.search, Search::Uniform | Search::Random(_) | Search::EndsFirst)
    }

    fn widths_to_fit(&self) -> Vec<u32> {
        let scored = self.options.widths.iter().filter(|_| self.options.fitted_to > 0);
        let mut all: Vec<u32> = self.widths.iter().chain(scored).copied().filter(|w| *w != HALF).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// What measures losses, if something does, and what fits codes.
type Means<'a, S> = (Option<&'a S>, &'a mut dyn FnMut() -> Result<Codes>);

pub(super) fn chosen<S: subject::Subject>(
    (context, checkpoint): (&Context, &Checkpoint),
    plan: &Plan,
    args: &Args,
    scores: &Scores,
    (measured, fit): Means<'_, S>,
) -> Result<(Chosen, Option<Refinement>)> {
    let named = |u: &Unit, r: &Rule| r.pattern.is_match(&u.name) || u.linears.iter().any(|l| r.pattern.is_match(&l.name));
    let keep = |u: &Unit, bits: u32| {
        args.pin.iter().all(|r| !named(u, r) || bits == r.bits) && args.floor.iter().all(|r| !named(u, r) || bits >= r.bits)
    };
    for r in args.pin.iter().chain(&args.floor) {
        if !units(&checkpoint.config, scores.options.unit).iter().any(|u| named(u, r)) {
            bail!("`{}` matches no linear layer", r.pattern);
        }
    }
    let beside = if plan.gguf { gguf::beside(checkpoint) } else { beside(checkpoint, &plan.beside)? };
    let of = |search: &Search| choose(checkpoint, scores, (&plan.widths, &keep), (plan.budget, beside), search);
    let found = of(&plan.search)?;
    let (Some(measured), 1..) = (measured, plan.refine) else { return Ok((found, None)) };
    let codes = if plan.rounding == RoundingName::Gptq { fit()? } else { Codes::Nearest(plan.options.spec) };
    let spinner = bar(0, "measuring the choice as a whole", "");
    // What all this is for: a choice that loses more than one width for all is none.
    let flat = of(&Search::Uniform).ok();
    let starts: Vec<Chosen> = std::iter::once(found).chain(flat.clone()).collect();
    let better = context.block_on(refine(measured, checkpoint, &codes, &starts, (&plan.widths, &keep, plan.refine)))?;
    let r = Refinement {
        before: better.before[0],
        after: better.loss,
        uniform: better.before.get(1).copied(),
        measured: better.measured,
        fell_back: flat.is_some_and(|f| f.bits == better.chosen.bits),
    };
    spinner.finish_and_clear();
    Ok((better.chosen, Some(r)))
}

/// What each layer's factors may take: as much as its chosen width; with one width for all, the same bits for every weight. Layers that stay
/// in half precision have none.
fn budgets(plan: &Plan, chosen: &Chosen) -> BTreeMap<String, u64> {
    let of = |l: &Linear, bits: u32| match (&plan.search, plan.budget) {
        (Search::Uniform, Budget::Linears { bits, metadata: true }) => (bits * l.weights() as f64 * (1.0 + 1e-12)) as u64,
        _ => Spec { bits, ..plan.options.spec }.stored_bits(l.rows, l.cols),
    };
    chosen.members().filter(|(_, bits)| *bits != HALF).map(|(l, bits)| (l.name.clone(), of(l, bits))).collect()
}

pub(super) fn nearest(checkpoint: &Checkpoint, chosen: &Chosen, spec: &Spec) -> Result<Rounded> {
    let bar = bar(0, "rounding", "layers");
    let rounded = to_nearest(checkpoint, &chosen.by_name(), spec, &on_bar(&bar))?;
    bar.finish_and_clear();
    Ok(rounded)
}

fn gptq(subject: &Subject, chosen: &Chosen, spec: &Spec, texts: &[Sequence], act_order: bool) -> Result<Rounded> {
    let bar = bar(0, "rounding", "blocks");
    let mut probe = subject.probe(texts, Keep::Current)?;
    let options = Gptq { act_order, ..Gptq::default() };
    let found = subject.context.block_on(by_outputs(&mut probe, &subject.checkpoint, &chosen.by_name(), (spec, &options), &on_bar(&bar)));
    restore(&*subject.model, &subject.checkpoint)?;
    bar.finish_and_clear();
    Ok(found?)
}
