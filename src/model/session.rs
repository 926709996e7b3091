//! Sessions: caches, prompts, generation, forks.

use super::Model;
use super::forward::bucket;
use super::transformer::{Context as Seen, Inputs, Transformer};
use super::weights::Graph;
use crate::gpu::{Buffer, Context, Readback};
use crate::kernel::norm::Rows;
use crate::kernel::sample::sample;
use crate::kernel::state::{self, State};
use crate::plan::{Bound, Plan};
use crate::{Error, Result};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Longest piece of a prompt that is run at once.
const CHUNK: usize = 512;
/// Tokens that the ring of outputs holds for each sequence.
const RING: usize = 64;
/// Steps that are submitted before the first of them has been read back.
const AHEAD: usize = 2;

/// How tokens are chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Softmax temperature; 0 takes the likeliest token.
    pub temperature: f32,
    /// Keep this many tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the fewest tokens that hold this much probability; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this likely relative to the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Key of the generator: the same seed gives the same tokens.
    pub seed: u64,
    /// Tokens to make at most, for each sequence.
    pub max_tokens: usize,
    /// Tokens that end a sequence (at most 20); they are returned as its last.
    pub stops: Vec<u32>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0, max_tokens: 128, stops: Vec::new() }
    }
}

/// A token that was generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// Which sequence of the session it belongs to.
    pub sequence: usize,
    /// Its id.
    pub id: u32,
    /// True for the last token of its sequence: a stop token.
    pub stop: bool,
}

/// What the host knows of a sequence.
#[derive(Debug, Clone, Default)]
struct History {
    /// Tokens whose keys and values are in the cache.
    fed: Vec<u32>,
    /// The last generated token, which is not in the cache yet.
    pending: Option<u32>,
}

/// One or more sequences that are generated together, with their caches.
#[derive(Debug)]
pub struct Session {
    model: Arc<Model>,
    histories: Vec<History>,
    capacity: usize,
    caches: Vec<(Arc<Buffer>, Arc<Buffer>)>,
    state: Arc<Buffer>,
    tokens: Arc<Buffer>,
    output: Arc<Buffer>,
    /// By rows of each sequence, and whether a token is chosen at the end.
    bounds: HashMap<(usize, bool), Arc<Bound>>,
    step: u32,
}

/// Key and value caches for every layer.
pub(crate) fn caches(context: &Context, t: &Transformer, sequences: usize, capacity: usize) -> Result<Vec<(Arc<Buffer>, Arc<Buffer>)>> {
    (0..t.layers.len()).map(|_| cache(context, t, sequences, capacity)).collect()
}

/// The key and the value cache of a layer.
pub(crate) fn cache(context: &Context, t: &Transformer, sequences: usize, capacity: usize) -> Result<(Arc<Buffer>, Arc<Buffer>)> {
    let bytes = 4 * (sequences * t.shape.kv_heads * capacity * t.shape.head_dim) as u64;
    Ok((context.storage("kv cache", bytes)?, context.storage("kv cache", bytes)?))
}

impl Session {
    /// A session of `sequences` empty sequences.
    ///
    /// # Errors
    /// [`Error::Request`] for a model that does not generate; [`Error::OutOfMemory`].
    pub fn new(model: &Arc<Model>, sequences: usize) -> Result<Self> {
        if !model.is_decoder() || sequences == 0 {
            return Err(Error::Request("a session needs a decoder and at least one sequence".into()));
        }
        let c = model.context();
        let capacity = capacity(model, 256);
        Ok(Self {
            histories: vec![History::default(); sequences],
            capacity,
            caches: caches(c, &model.transformer, sequences, capacity)?,
            state: c.storage("session", 4 * (sequences * state::WORDS) as u64)?,
            tokens: c.storage("session", 4 * (sequences * CHUNK) as u64)?,
            output: c.storage("session", 4 * (sequences * RING) as u64)?,
            bounds: HashMap::new(),
            step: 0,
            model: model.clone(),
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Tokens of a sequence so far, generated ones included.
    pub fn tokens(&self, sequence: usize) -> Vec<u32> {
        let h = &self.histories[sequence];
        h.fed.iter().copied().chain(h.pending).collect()
    }

    /// Tokens that the caches hold room for; grows as needed, up to the model's positions.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets all but the first `length` tokens of a sequence.
    pub fn truncate(&mut self, sequence: usize, length: usize) {
        let h = &mut self.histories[sequence];
        if length <= h.fed.len() {
            h.fed.truncate(length);
            h.pending = None;
        }
    }

    /// A session with a copy of everything, which goes on independently.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn fork(&self) -> Result<Self> {
        let mut other = Self::new(&self.model, self.histories.len())?;
        other.histories.clone_from(&self.histories);
        other.step = self.step;
        other.capacity = self.capacity;
        other.caches = caches(self.model.context(), &self.model.transformer, self.histories.len(), self.capacity)?;
        self.copy_caches(&other.caches, other.capacity);
        Ok(other)
    }

    /// Copies every head's keys and values into caches of a capacity at least as large.
    fn copy_caches(&self, to: &[(Arc<Buffer>, Arc<Buffer>)], capacity: usize) {
        let c = self.model.context();
        let s = self.model.dimensions();
        let head = |capacity: usize| 4 * (capacity * s.head_dim) as u64;
        let mut encoder = c.device().create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("copy caches") });
        for (old, new) in self.caches.iter().zip(to) {
            for (old, new) in [(&old.0, &new.0), (&old.1, &new.1)] {
                for i in 0..(self.histories.len() * s.kv_heads) as u64 {
                    encoder.copy_buffer_to_buffer(old.raw(), i * head(self.capacity), new.raw(), i * head(capacity), head(self.capacity));
                }
            }
        }
        c.queue().submit([encoder.finish()]);
    }

    fn ensure_capacity(&mut self, tokens: usize) -> Result<()> {
        if tokens <= self.capacity {
            return Ok(());
        }
        let capacity = capacity(&self.model, tokens);
        let new = caches(self.model.context(), &self.model.transformer, self.histories.len(), capacity)?;
        self.copy_caches(&new, capacity);
        self.caches = new;
        self.capacity = capacity;
        self.bounds.clear();
        Ok(())
    }

    /// The plan of a step with `rows` new tokens a sequence, before anything is allocated for it.
    ///
    /// # Errors
    /// [`Error::Limit`].
    pub fn plan(&self, rows: usize) -> Result<Arc<Plan>> {
        Ok(Arc::new(self.graph(rows, true)?.b.finish()?))
    }

    fn graph(&self, rows: usize, choose: bool) -> Result<Graph> {
        let (t, c) = (&self.model.transformer, self.model.context());
        let sequences = self.histories.len();
        let mut g = Graph::new(format!("step {sequences} x {rows}"), c);
        let inputs = Inputs {
            tokens: g.slot("tokens", &self.tokens),
            types: None,
            positions: None,
            state: g.slot("state", &self.state),
            sequences,
            rows,
            context: Seen::Cached(&self.caches, self.capacity),
            taps: &[],
        };
        let x = t.body(&mut g, &inputs)?;
        if choose {
            let last = if rows == 1 { Rows::All } else { Rows::LastOf { state: inputs.state, sequence_rows: rows } };
            let x = t.finish(&mut g, &inputs, x, last)?;
            let logits = g.b.transient("logits", sequences, t.shape.vocabulary);
            t.logits(&mut g, &x, &logits)?;
            let output = g.slot("output", &self.output);
            sample(&mut g.b, "sample", &logits, inputs.state, inputs.tokens, output, RING)?;
        }
        Ok(g)
    }

    pub(super) fn bound(&mut self, rows: usize, choose: bool) -> Result<Arc<Bound>> {
        if let Some(b) = self.bounds.get(&(rows, choose)) {
            return Ok(b.clone());
        }
        let g = self.graph(rows, choose)?;
        let bound = Arc::new(Arc::new(g.b.finish()?).bind(self.model.context(), &g.bound)?);
        self.bounds.insert((rows, choose), bound.clone());
        Ok(bound)
    }

    /// Device time of every dispatch of a step with `rows` new tokens a sequence, at the present length; the step is not kept.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the device has no timestamps.
    pub async fn profile(&mut self, rows: usize) -> Result<Vec<crate::plan::OpTime>> {
        let length = self.histories.iter().map(|h| h.fed.len()).max().unwrap_or(0);
        self.ensure_capacity(length + rows)?;
        let states = self.histories.iter().map(|h| State { length: h.fed.len() as u32, count: rows as u32, ..State::default() }.words());
        let states: Vec<u32> = states.flatten().collect();
        let bound = self.bound(rows, true)?;
        let context = self.model.context().clone();
        context.write(&self.state, 0, &states)?;
        bound.run(1)?;
        context.write(&self.state, 0, &states)?;
        bound.profile().await
    }

    /// Compiles what a prompt of `tokens` tokens and the steps after it need, so that nothing is compiled later.
    ///
    /// # Errors
    /// What the device reports.
    pub fn warm_up(&mut self, tokens: usize) -> Result<()> {
        self.ensure_capacity(tokens.min(self.model.dimensions().max_positions))?;
        self.bound(1, true)?;
        self.bound(bucket(tokens.clamp(1, CHUNK)), true)?;
        Ok(())
    }

    /// Compiles what a prompt of `tokens` tokens and the steps after it need, and measures every dispatch of it, so that slices of
    /// a time budget are sized by measured times. Begins and ends with empty sequences.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the device has no timestamps; slices are then sized by estimates.
    pub async fn calibrate(&mut self, tokens: usize) -> Result<()> {
        self.warm_up(tokens)?;
        for rows in [1, bucket(tokens.clamp(1, CHUNK))] {
            let states = State { count: rows as u32, ..State::default() }.words().repeat(self.histories.len());
            let bound = self.bound(rows, true)?;
            self.model.context().write(&self.state, 0, &states)?;
            bound.calibrate().await?;
        }
        self.histories.fill(History::default());
        Ok(())
    }

    /// Runs the prompts (one for each sequence, at least one token each) and begins to generate. Tokens come from
    /// [`Generation::next`], or on a device of our own by iterating over [`Generation::blocking`].
    ///
    /// # Errors
    /// [`Error::Request`] where a prompt is empty, too long, or holds an unknown token.
    pub fn generate(&mut self, prompts: &[Vec<u32>], sampling: &Sampling) -> Result<Generation<'_>> {
        let (new, max_tokens) = self.admit(prompts, sampling)?;
        if max_tokens > 0 {
            self.prefill(&new, sampling)?;
        }
        let alive = vec![max_tokens > 0; new.len()];
        let mut generation = Generation {
            session: self,
            new,
            stops: sampling.stops.clone(),
            left: max_tokens,
            alive,
            flying: VecDeque::new(),
            ready: VecDeque::new(),
            made: 0,
        };
        if max_tokens > 0 {
            generation.left -= 1;
            generation.fly()?;
        }
        Ok(generation)
    }

    /// Runs the new tokens, the last chunk with a choice at its end.
    fn prefill(&mut self, new: &[Vec<u32>], s: &Sampling) -> Result<()> {
        for chunk in 0..chunks(new) {
            self.begin_chunk(new, s, chunk)?.run(1)?;
        }
        Ok(())
    }

    /// Writes a chunk's tokens and states; returns what is to be run. Chunks are aligned at their ends, so that all sequences
    /// finish together.
    pub(super) fn begin_chunk(&mut self, new: &[Vec<u32>], s: &Sampling, chunk: usize) -> Result<Arc<Bound>> {
        let context = self.model.context().clone();
        // Of each sequence, the tokens that lie `left` to `left + CHUNK` before its end.
        let left = (chunks(new) - 1 - chunk) * CHUNK;
        let parts: Vec<std::ops::Range<usize>> =
            new.iter().map(|n| n.len().saturating_sub(left + CHUNK)..n.len().saturating_sub(left)).collect();
        let rows = bucket(parts.iter().map(std::ops::Range::len).max().unwrap_or(0));
        let mut words = vec![0; new.len() * rows];
        let mut states = Vec::new();
        for (i, (n, part)) in new.iter().zip(&parts).enumerate() {
            words[i * rows..i * rows + part.len()].copy_from_slice(&n[part.clone()]);
            let state = State {
                length: (self.histories[i].fed.len() + part.start) as u32,
                count: part.len() as u32,
                active: !part.is_empty(),
                step: self.step,
                // Sequences of one session draw different numbers.
                seed: s.seed.wrapping_add(0x9E37_79B9_7F4A_7C15u64.wrapping_mul(i as u64)),
                temperature: s.temperature,
                top_k: s.top_k,
                top_p: s.top_p,
                min_p: s.min_p,
                produced: 0,
                stops: s.stops.clone(),
            };
            states.extend(state.words());
        }
        context.write(&self.tokens, 0, &words)?;
        context.write(&self.state, 0, &states)?;
        self.bound(rows, left == 0)
    }

    /// Checks the prompts against the model and makes room; returns each sequence's new tokens (a pending one first) and how
    /// many may be generated.
    pub(super) fn admit(&mut self, prompts: &[Vec<u32>], sampling: &Sampling) -> Result<(Vec<Vec<u32>>, usize)> {
        let allowed = self.model.dimensions().max_positions;
        if prompts.len() != self.histories.len() {
            return Err(Error::Request(format!("{} prompts for {} sequences", prompts.len(), self.histories.len())));
        }
        let mut new = Vec::with_capacity(prompts.len());
        for (p, h) in prompts.iter().zip(&self.histories) {
            self.model.check_tokens(p)?;
            let all: Vec<u32> = h.pending.iter().chain(p).copied().collect();
            let end = h.fed.len() + all.len();
            if all.is_empty() || end > allowed {
                return Err(Error::Request(match all.is_empty() {
                    true => "an empty prompt: give at least one token (the BOS token, if the model has one)".into(),
                    false => format!("{end} tokens of context, the model takes {allowed}: shorten the prompt or truncate the session"),
                }));
            }
            new.push(all);
        }
        let longest = new.iter().zip(&self.histories).map(|(n, h)| n.len() + h.fed.len()).max().unwrap_or(0);
        // The last token that is made need not fit into the cache.
        let max_tokens = sampling.max_tokens.min(allowed - longest + 1);
        self.ensure_capacity(longest + max_tokens.saturating_sub(1))?;
        Ok((new, max_tokens))
    }

    /// Asks for the tokens of step `made` of a generation.
    pub(super) fn read_step(&self, made: usize) -> Result<Readback> {
        let at = |q: usize| 4 * (q * RING + made % RING) as u64;
        let ranges: Vec<_> = (0..self.histories.len()).map(|q| (&*self.output, at(q)..at(q) + 4)).collect();
        self.model.context().read_ranges(&ranges)
    }

    /// Notes the tokens of a step: the first one of a generation also fed `new`.
    pub(super) fn note(&mut self, words: &[Vec<u32>], new: &[Vec<u32>], first: bool, stops: &[u32], alive: &mut [bool]) -> Vec<Token> {
        let mut tokens = Vec::new();
        for (q, w) in words.iter().enumerate() {
            if !alive[q] {
                continue;
            }
            let h = &mut self.histories[q];
            match h.pending.take().filter(|_| !first) {
                Some(t) => h.fed.push(t),
                None => h.fed.extend(&new[q]),
            }
            h.pending = Some(w[0]);
            let stop = stops.contains(&w[0]);
            alive[q] = !stop;
            tokens.push(Token { sequence: q, id: w[0], stop });
        }
        self.step += 1;
        tokens
    }
}

/// Pieces that a prompt is run in.
pub(super) fn chunks(new: &[Vec<u32>]) -> usize {
    new.iter().map(Vec::len).max().unwrap_or(0).div_ceil(CHUNK)
}

/// Capacity for `tokens` tokens: a power of two of at least 256, but no more than the model's positions (in whole 64s).
fn capacity(model: &Model, tokens: usize) -> usize {
    let most = model.dimensions().max_positions.next_multiple_of(64);
    tokens.next_power_of_two().max(256).min(most)
}

/// Tokens on their way. Dropping it ends the generation; the session keeps what has been returned.
#[derive(Debug)]
pub struct Generation<'a> {
    session: &'a mut Session,
    /// Tokens that the first step fed.
    new: Vec<Vec<u32>>,
    stops: Vec<u32>,
    /// Steps that may still be submitted.
    left: usize,
    alive: Vec<bool>,
    /// Readbacks of submitted steps, oldest first.
    flying: VecDeque<Readback>,
    ready: VecDeque<Token>,
    /// Steps returned.
    made: usize,
}

impl Generation<'_> {
    /// Asks for the tokens of the step that was submitted last.
    fn fly(&mut self) -> Result<()> {
        let readback = self.session.read_step(self.made + self.flying.len())?;
        self.flying.push_back(readback);
        Ok(())
    }

    /// The next token, or `None` at the end. On a host's device it completes as the host submits or polls.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] and what else the device reports.
    pub async fn next(&mut self) -> Result<Option<Token>> {
        loop {
            if let Some(t) = self.ready.pop_front() {
                return Ok(Some(t));
            }
            // Nothing is put behind the prompt, so that its token comes as soon as it can.
            let room = if self.made == 0 { 1 } else { AHEAD };
            while self.left > 0 && self.flying.len() < room && self.alive.contains(&true) {
                let bound = self.session.bound(1, true)?;
                bound.run(1)?;
                self.left -= 1;
                self.fly()?;
            }
            let Some(readback) = self.flying.pop_front() else { return Ok(None) };
            if !self.alive.contains(&true) {
                return Ok(None); // steps that were under way when the last sequence stopped
            }
            let words = readback.words().await?;
            self.take(&words);
        }
    }

    /// Notes the tokens of a step.
    fn take(&mut self, words: &[Vec<u32>]) {
        let tokens = self.session.note(words, &self.new, self.made == 0, &self.stops, &mut self.alive);
        self.ready.extend(tokens);
        self.made += 1;
    }

    /// The same as an iterator that blocks; for a device of our own.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn blocking(mut self) -> impl Iterator<Item = Result<Token>> {
        let context = self.session.model.context().clone();
        std::iter::from_fn(move || context.block_on(self.next()).transpose())
    }
}
