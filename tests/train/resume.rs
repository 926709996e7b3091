//! A resumed run equals one that was never interrupted, bit for bit.

use super::files::Folder;
use super::tiny::trainer;
use crate::kernels::context;
use etalon::kernel::draw::Law;
use etalon::train::{Export, Frozen, Method, Options, Round, Schedule, Sst, checkpoint};

fn options(method: Method) -> Options {
    Options {
        method,
        steps: 14,
        rate: 2e-3,
        schedule: Schedule::Cosine { floor: 0.1 },
        warmup: 3,
        sequences: 2,
        context: 23,
        dropout: 0.1,
        smoothing: 0.1,
        weight_decay: 0.01,
        ..Options::default()
    }
}

fn runs() -> Vec<Options> {
    // Re-SVDs before steps 6 and 12.
    let sst = Sst { rank: 4, steps: 3, iterations: 2, warmup: 2, ..Sst::default() };
    let relora = Method::Relora { rank: 4, scale: 1.0, every: 4, warmup: 2 };
    let mut all: Vec<Options> = vec![
        options(Method::Full),
        options(Method::Lora { rank: 4, scale: 2.0 }),
        options(relora),
        options(Method::Galore { rank: 4, every: 5, scale: 0.25 }),
        options(Method::Sst(sst)),
        options(Method::Sst(Sst { without_repetition: true, law: Law::Mixture, ..sst })),
    ];
    for (method, frozen, round) in [
        (Method::Sst(sst), Frozen::F16, Round::Nearest),
        (Method::Sst(sst), Frozen::Int8, Round::Stochastic),
        (relora, Frozen::F16, Round::Stochastic),
        (relora, Frozen::Int8, Round::Nearest),
    ] {
        all.push(Options { frozen, round, ..options(method) });
    }
    all
}

#[test]
fn every_method_resumes_to_the_same_bits() {
    let c = context();
    for (i, o) in runs().into_iter().enumerate() {
        let folder = Folder::new("resume");
        let (whole, resumed) = (folder.0.join("whole.safetensors"), folder.0.join("resumed.safetensors"));
        let mut t = trainer("opt-preln", &o);
        for step in 0..14 {
            // Also between an iteration's start and its end, and just before a re-SVD.
            if [1, 5, 6, 8, 12].contains(&step) {
                c.block_on(t.save(&folder.0, 10)).unwrap();
            }
            c.block_on(t.submit_step()).unwrap();
        }
        c.block_on(t.export(&whole, Export::Factors)).unwrap();
        for step in [1, 5, 6, 8, 12] {
            let mut t = trainer("opt-preln", &o);
            t.restore(&checkpoint::folder(&folder.0, step)).unwrap();
            assert_eq!(t.step(), step);
            for _ in step..14 {
                c.block_on(t.submit_step()).unwrap();
            }
            c.block_on(t.export(&resumed, Export::Factors)).unwrap();
            assert!(std::fs::read(&whole).unwrap() == std::fs::read(&resumed).unwrap(), "run {i}, resumed at step {step}");
        }
    }
}

#[test]
fn only_the_newest_checkpoints_are_kept() {
    let c = context();
    let folder = Folder::new("keep");
    let o = options(Method::Full);
    let mut t = trainer("opt-preln", &o);
    // What a save left that was killed.
    std::fs::create_dir(folder.0.join(".writing")).unwrap();
    for _ in 0..4 {
        c.block_on(t.submit_step()).unwrap();
        c.block_on(t.save(&folder.0, 2)).unwrap();
    }
    let mut left: Vec<_> = std::fs::read_dir(&folder.0).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    assert_eq!(left, ["step-00000003", "step-00000004"]);
    let newest = checkpoint::latest(&folder.0).unwrap().unwrap();
    assert_eq!(newest, checkpoint::folder(&folder.0, 4));
    trainer("opt-preln", &Options { steps: o.steps + 1, ..o.clone() }).restore(&newest).unwrap();
    let why = trainer("opt-preln", &Options { rate: 2.0 * o.rate, ..o }).restore(&newest).unwrap_err().to_string();
    assert!(why.contains("other options"), "{why}");
}

/// A projector holds orthonormal rows, and training in the projected space brings the loss down.
#[test]
fn galore_projects_onto_singular_vectors() {
    let c = context();
    let o = Options { dropout: 0.0, smoothing: 0.0, ..options(Method::Galore { rank: 4, every: 5, scale: 1.0 }) };
    let mut t = trainer("opt-preln", &o);
    for _ in 0..14 {
        c.block_on(t.submit_step()).unwrap();
    }
    let losses: Vec<f32> = c.block_on(t.reports()).unwrap().iter().map(|r| r.loss).collect();
    assert!(losses[13] < losses[0] - 1.0, "{losses:?}");
    let ids = t.ids();
    for name in ["self_attn.q_proj", "fc1", "fc2"] {
        let p = c.block_on(t.values(ids[&format!("model.decoder.layers.0.{name}.projector")])).unwrap();
        let rows: Vec<_> = p.chunks(p.len() / 4).collect();
        for (i, a) in rows.iter().enumerate() {
            for (j, b) in rows.iter().enumerate() {
                let dot: f32 = a.iter().zip(*b).map(|(a, b)| a * b).sum();
                assert!((dot - f32::from(u8::from(i == j))).abs() < 1e-4, "{name}: rows {i} and {j}: {dot}");
            }
        }
    }
}
