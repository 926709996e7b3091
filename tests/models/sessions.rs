//! Sessions: greedy tokens, batches, forks, truncation, determinism, memory.

use super::{fixture, tiny};
use crate::kernels::context;
use etalon::model::{Model, Sampling, Session};
use std::sync::Arc;

fn generate(session: &mut Session, prompts: &[Vec<u32>], sampling: &Sampling) -> Vec<Vec<u32>> {
    let mut out = vec![Vec::new(); prompts.len()];
    for t in session.generate(prompts, sampling).unwrap().blocking() {
        let t = t.unwrap();
        out[t.sequence].push(t.id);
    }
    out
}

fn recorded(name: &str, key: &str) -> Vec<u32> {
    let text = std::fs::read_to_string(fixture(&format!("tiny/{name}/reference.json"))).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let list = &json[key];
    let list = if list[0].is_array() { &list[0] } else { list };
    list.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

fn greedy(n: usize) -> Sampling {
    Sampling { max_tokens: n, ..Sampling::default() }
}

#[test]
fn greedy_tokens_are_those_recorded() {
    for name in ["opt-preln", "llama-gqa"] {
        let mut session = Session::new(&tiny(name), 1).unwrap();
        let got = generate(&mut session, &[recorded(name, "greedy_prompt")], &greedy(16));
        assert_eq!(got[0], recorded(name, "greedy_16"), "{name}");
    }
}

#[test]
fn a_batch_gives_what_each_sequence_gives_alone() {
    let model = tiny("llama-gqa");
    let prompts = vec![vec![5, 6, 7, 8, 9, 10, 11], vec![400], vec![90, 91, 92]];
    let mut all = Session::new(&model, 3).unwrap();
    let together = generate(&mut all, &prompts, &greedy(12));
    for (i, p) in prompts.iter().enumerate() {
        let alone = generate(&mut Session::new(&model, 1).unwrap(), std::slice::from_ref(p), &greedy(12));
        assert_eq!(together[i], alone[0], "sequence {i}");
    }
}

#[test]
fn one_seed_gives_the_same_tokens_and_another_does_not() {
    let model = tiny("opt-preln");
    let s = |seed| Sampling { temperature: 1.5, top_k: 200, top_p: 0.98, seed, max_tokens: 20, ..Sampling::default() };
    let run = |seed| generate(&mut Session::new(&model, 1).unwrap(), &[vec![2, 50, 60]], &s(seed));
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn stop_tokens_end_a_sequence() {
    let model = tiny("opt-preln");
    let free = generate(&mut Session::new(&model, 1).unwrap(), &[vec![2, 50, 60]], &greedy(16)).remove(0);
    let stop = free[5];
    let want: Vec<u32> = free.iter().copied().take_while(|t| *t != stop).chain([stop]).collect();
    let sampling = Sampling { stops: vec![stop], ..greedy(16) };
    let mut session = Session::new(&model, 1).unwrap();
    assert_eq!(generate(&mut session, &[vec![2, 50, 60]], &sampling)[0], want);
    assert_eq!(session.tokens(0)[3..], want);
}

/// The largest tokens that fit: the caches grow on the way, and the session goes on afterwards.
#[test]
fn forks_truncation_and_growth_give_what_a_fresh_run_gives() {
    let model = tiny("llama-gqa");
    let limit = model.dimensions().max_positions;
    for cut in [1, 15, 16, 17, 63, 64, 65] {
        let tokens: Vec<u32> = (0..limit as u32 - 20).map(|i| (i * 37 + 11) % 512).collect();
        let mut session = Session::new(&model, 1).unwrap();
        generate(&mut session, std::slice::from_ref(&tokens), &greedy(1));
        session.truncate(0, cut);
        let mut fork = session.fork().unwrap();
        let more: Vec<u32> = vec![7, 8, 9];
        let whole: Vec<u32> = tokens[..cut].iter().chain(&more).copied().collect();
        let fresh = generate(&mut Session::new(&model, 1).unwrap(), &[whole], &greedy(8));
        assert_eq!(generate(&mut session, std::slice::from_ref(&more), &greedy(8)), fresh, "truncated to {cut}");
        assert_eq!(generate(&mut fork, &[more], &greedy(8)), fresh, "forked at {cut}");
    }
}

#[test]
fn a_context_past_the_models_limit_is_an_error() {
    let model = tiny("llama-gqa");
    let limit = model.dimensions().max_positions;
    let mut session = Session::new(&model, 1).unwrap();
    assert!(session.generate(&[vec![1; limit + 1]], &greedy(1)).is_err());
    assert!(session.generate(&[vec![]], &greedy(1)).is_err());
    assert!(session.generate(&[vec![512]], &greedy(1)).is_err());
    // At the limit one token can still be chosen.
    assert_eq!(generate(&mut session, &[vec![1; limit]], &greedy(10))[0].len(), 1);
}

#[test]
fn several_sessions_share_one_workspace() {
    let context = context().with_facts(context().facts().clone());
    let checkpoint = etalon::format::Checkpoint::open(&fixture("tiny/llama-gqa")).unwrap();
    let model: Arc<Model> = Model::load(&context, &checkpoint, &|_, _| {}).unwrap();
    let mut sessions: Vec<Session> = Vec::new();
    let mut one = (0, 0);
    for i in 0..8 {
        sessions.push(Session::new(&model, 1).unwrap());
        generate(&mut sessions[i], &[vec![3, 4, 5]], &greedy(3));
        let m = context.memory();
        if i == 0 {
            one = (m.by_label["kv cache"], m.by_label["workspace"]);
        }
        assert_eq!((m.by_label["kv cache"], m.by_label["workspace"]), ((i as u64 + 1) * one.0, one.1));
    }
}

#[test]
fn a_thousand_generations_leak_nothing() {
    let context = context().with_facts(context().facts().clone());
    let checkpoint = etalon::format::Checkpoint::open(&fixture("tiny/llama-gqa")).unwrap();
    let model: Arc<Model> = Model::load(&context, &checkpoint, &|_, _| {}).unwrap();
    let mut session = Session::new(&model, 1).unwrap();
    let mut peak = 0;
    for i in 0..1000 {
        session.truncate(0, 0);
        generate(&mut session, &[vec![3, 4, 5]], &greedy(2));
        if i == 10 {
            peak = context.memory().peak;
        }
    }
    assert_eq!(context.memory().peak, peak);
}
