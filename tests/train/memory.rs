//! What is planned is what a run takes.

use super::tiny::{spec, trainer_on};
use crate::kernels::context;
use etalon::format::Config;
use etalon::train::memory::{DataSize, Memory, memory};
use etalon::train::{Frozen, Method, Options, Spec, Sst, presets::preset};

#[test]
fn planned_memory_is_what_a_run_takes() {
    let sst = Method::Sst(Sst { rank: 4, steps: 2, iterations: 2, ..Sst::default() });
    let relora = Method::Relora { rank: 4, scale: 1.0, every: 2, warmup: 1 };
    let all = [Method::Full, Method::Lora { rank: 4, scale: 1.0 }, relora, sst].map(|m| (m, Frozen::F32));
    for (method, frozen) in all.into_iter().chain([(relora, Frozen::Int8), (sst, Frozen::F16), (sst, Frozen::Int8)]) {
        // With a re-SVD before step 4.
        let o = Options { method, frozen, steps: 5, sequences: 2, context: 23, ..Options::default() };
        // The same device with an account of its own.
        let c = context().with_facts(context().facts().clone());
        let mut t = trainer_on(&c, "opt-preln", &o);
        for _ in 0..5 {
            c.block_on(t.submit_step()).unwrap();
        }
        c.block_on(t.reports()).unwrap();
        let planned = memory(c.facts(), &spec("opt-preln"), &o, DataSize { tokens: 48, windows: 2 }).unwrap();
        let mut taken = c.memory().by_label;
        let mut wanted = planned.parts.clone();
        if matches!(method, Method::Sst(_)) {
            // The uniform words of the decompositions' many small plans are not planned ahead.
            assert!(taken.remove("parameters") >= wanted.remove("parameters"));
        }
        assert_eq!(taken, wanted, "{} {frozen:?}", method.name());
    }
}

fn known(name: &str, method: Method, frozen: Frozen) -> Memory {
    let json = preset(name, 0, 0).unwrap();
    let spec = Spec::Decoder(Config::from_json("config.json", json.as_bytes()).unwrap());
    let o = Options { method, frozen, sequences: 1, context: 128, steps: 10, ..Options::default() };
    memory(context().facts(), &spec, &o, DataSize { tokens: 1000, windows: 10 }).unwrap()
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

/// Weights, gradients and moments in GiB, against the count of sst.md: f32, rank 64.
#[test]
fn state_of_known_models() {
    let of = |name: &str, method: Method| gib(known(name, method, Frozen::F32).state());
    let sst = Method::Sst(Sst { rank: 64, ..Sst::default() });
    let lora = Method::Lora { rank: 64, scale: 1.0 };
    for (name, want) in [("opt-125m", [1.87, 1.08, 1.19]), ("opt-350m", [4.94, 1.98, 2.44]), ("opt-1.3b", [19.6, 6.95, 8.99])] {
        for (method, want) in [Method::Full, lora, sst].into_iter().zip(want) {
            let got = of(name, method);
            assert!((got / want - 1.0).abs() <= 0.02, "{name} {}: {got:.3} GiB where {want} are counted", method.name());
        }
    }
}

/// With packed rows the state is that of LoRA, and all layers thaw into the same scratch memory.
#[test]
fn packed_state_of_a_known_model() {
    let sst = Method::Sst(Sst { rank: 64, ..Sst::default() });
    let lora = Method::Lora { rank: 64, scale: 1.0 };
    for (method, frozen, want) in [(lora, Frozen::F16, 4.70), (sst, Frozen::F16, 5.83), (sst, Frozen::Int8, 4.14)] {
        let (plain, m) = (known("opt-1.3b", method, Frozen::F32), known("opt-1.3b", method, frozen));
        let got = gib(m.state());
        assert!((got / want - 1.0).abs() <= 0.02, "{} {frozen:?}: {got:.3} GiB where {want} are counted", method.name());
        // At most U and V, or W, of one layer at a time, in f32: the largest is 2048 x 8192.
        let more = m.parts["workspace"] - plain.parts["workspace"];
        assert!(more <= 4 * 2048 * (2048 + 8192), "{} {frozen:?}: {more} bytes of scratch", method.name());
    }
}
