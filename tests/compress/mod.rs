//! From scores to a written model, on the tiny random models.

mod budget;
mod choose;
mod files;
mod gradient;
mod scores;
mod spectral;

use crate::kernels::context;
use crate::models::fixture;
use etalon::compress::measure::measure;
use etalon::compress::round::Codes;
use etalon::compress::score::{Options, Score, Scores};
use etalon::format::Checkpoint;
use etalon::model::{Keep, Model, Probe, Sequence};
use etalon::quant::round::{Granularity, Spec};
use std::sync::Arc;

pub(crate) fn checkpoint(name: &str) -> Checkpoint {
    Checkpoint::open(&fixture(&format!("tiny/{name}"))).unwrap()
}

pub(crate) fn open(checkpoint: &Checkpoint) -> Arc<Model> {
    Model::load_open(&context(), checkpoint, &|_, _| {}).unwrap()
}

pub(crate) fn texts() -> Vec<Sequence> {
    (0..4).map(|q| (0..24).map(|i| (3 + 37 * i + 101 * q) as u32 % 500).collect::<Vec<u32>>().into()).collect()
}

pub(crate) fn probe(model: &Arc<Model>, texts: &[Sequence], keep: Keep) -> Probe {
    context().block_on(Probe::new(model, texts, keep)).unwrap()
}

pub(crate) fn options(score: Score) -> Options {
    Options { score, spec: Spec { granularity: Granularity::Group(32), ..Spec::default() }, widths: vec![2, 3, 4, 8], ..Options::default() }
}

pub(crate) fn scored(checkpoint: &Checkpoint, options: &Options) -> Scores {
    let (model, texts) = (open(checkpoint), texts());
    let mut scores = Scores::new(checkpoint, &texts, options.clone()).unwrap();
    context()
        .block_on(measure((&probe(&model, &texts, Keep::All), checkpoint, &Codes::Nearest(options.spec)), &mut scores, &mut |_| Ok(true)))
        .unwrap();
    scores
}
