//! AdamW and plain gradient descent over many segments of parameters at once.

use super::progress::{GROUPS, SCHEDULE_WORDS, WORDS};
use super::{Access, Variant, row_workgroup};
use crate::gpu::Facts;
use crate::plan::{Builder, OpSpec, SlotId};
use crate::reference;
use crate::{Error, Result};
use std::ops::Range;

/// Most words of a segment that one workgroup takes.
const CHUNK: usize = 4096;

/// Words of the table for each chunk.
const CHUNK_WORDS: usize = 8;

/// What a step does to a segment, `d` being its direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    /// `p = p (1 - lr decay) - lr d`.
    Dense,
    /// The same, then `max(p, 0)`: singular values.
    Clamped,
    /// Row `j` of the gradient (`count x cols`, dense) and of the moments belongs to row `indices[indices + j]` of the values, whose
    /// rows of `cols` words begin at [`Segment::value`]. Other rows keep their bits. The indices differ from one another; one
    /// beyond the last row counts as the last.
    Rows {
        /// Word in the slot of indices.
        indices: usize,
        /// Rows of the gradient.
        count: usize,
        /// Words of a row.
        cols: usize,
        /// What follows the step, at a learning rate other than 0.
        after: After,
    },
    /// As [`Update::Dense`], then each row of `cols` words is divided by its norm (not at a learning rate of 0); a row whose squares
    /// sum to 0 stays.
    Unit {
        /// Words of a row.
        cols: usize,
    },
    /// `value = lr d`, without decay: for methods that project it back.
    Step,
    /// Rows of `cols` words are points of the Lorentz model: [`adam`] leaves them and their moments alone, for
    /// [`lorentz_adam`](super::lorentz_adam::lorentz_adam).
    Lorentz {
        /// Words of a point, 2 or more.
        cols: usize,
    },
}

/// What follows the step of an active row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// Nothing.
    Nothing,
    /// The row is divided by its norm; one whose squares sum to 0 stays.
    Normalise,
    /// `max(p, 0)`.
    Clamp,
}

/// Parameters that share an update rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// For messages.
    pub label: String,
    /// Its first word in the slot of values.
    pub value: usize,
    /// Its first word in the slot of gradients, and in those of the moments.
    pub gradient: usize,
    /// Its words in the slot of values. With [`Update::Rows`] these are all rows, the gradient having `count * cols` words.
    pub len: usize,
    /// Column of the schedule.
    pub group: usize,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// What a step does.
    pub update: Update,
}

impl Segment {
    /// Its words in the slots of gradients and moments.
    pub fn gradient_len(&self) -> usize {
        match self.update {
            Update::Rows { count, cols, .. } => count * cols,
            _ => self.len,
        }
    }

    /// Words of a row, where rows matter to [`adam`].
    fn row(&self) -> Option<usize> {
        match self.update {
            Update::Rows { cols, .. } | Update::Unit { cols } => Some(cols),
            _ => None,
        }
    }

    /// Whether it can be read by vec4: each of its rows begins at one.
    fn aligned(&self) -> bool {
        let row = self.row().unwrap_or(0);
        [self.value, self.gradient, row].iter().all(|n| n.is_multiple_of(4))
    }

    fn check(&self) -> Result<()> {
        let end = self.value.max(self.gradient).checked_add(self.len.max(self.gradient_len()));
        if self.group >= GROUPS || end.is_none_or(|e| e > u32::MAX as usize) {
            return Err(Error::shape("adam", format!("{}: group {} of {GROUPS}, words up to {end:?}", self.label, self.group)));
        }
        let cols = match self.update {
            Update::Lorentz { cols } if cols < 2 => {
                return Err(Error::shape("adam", format!("{}: points of {cols} words, of 2 at least", self.label)));
            }
            Update::Lorentz { cols } => Some(cols),
            _ => self.row(),
        };
        let Some(cols) = cols else { return Ok(()) };
        let count = self.gradient_len().checked_div(cols);
        if count.is_none_or(|n| n > self.len / cols) || !self.len.is_multiple_of(cols) {
            let message = format!("{}: {} rows of {cols} words, of {} words in all", self.label, count.unwrap_or(0), self.len);
            return Err(Error::shape("adam", message));
        }
        Ok(())
    }
}

/// Checks segments one by one and that no two share words.
pub(crate) fn check(segments: &[Segment]) -> Result<()> {
    segments.iter().try_for_each(Segment::check)?;
    for (what, range) in [("values", range_of_values as fn(&Segment) -> Range<usize>), ("gradients", range_of_gradients)] {
        let mut sorted: Vec<_> = segments.iter().map(|s| (range(s), s)).filter(|(r, _)| !r.is_empty()).collect();
        sorted.sort_by_key(|(r, _)| r.start);
        if let Some(w) = sorted.windows(2).find(|w| w[0].0.end > w[1].0.start) {
            return Err(Error::shape("adam", format!("{} and {} share {what}", w[0].1.label, w[1].1.label)));
        }
    }
    Ok(())
}

fn range_of_values(s: &Segment) -> Range<usize> {
    s.value..s.value + s.len
}

fn range_of_gradients(s: &Segment) -> Range<usize> {
    s.gradient..s.gradient + s.gradient_len()
}

/// A part of a segment that one workgroup takes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Chunk {
    pub(crate) segment: usize,
    /// Words of the segment's gradient.
    pub(crate) words: Range<usize>,
    aligned: bool,
}

/// The chunks of all segments: those that vec4 can read come first.
pub(crate) fn cut(segments: &[Segment]) -> Vec<Chunk> {
    let mut out = Vec::new();
    for aligned in [true, false] {
        for (segment, s) in segments.iter().enumerate().filter(|(_, s)| s.aligned() == aligned) {
            let step = s.row().map_or(CHUNK, |cols| cols.max(1));
            let len = s.gradient_len();
            out.extend((0..len).step_by(step).map(|w| Chunk { segment, words: w..(w + step).min(len), aligned }));
        }
    }
    out
}

/// The table that [`adam`] and [`super::grad_norm::grad_norm`] find their work in, for a slot that the caller fills; it depends on
/// nothing but the segments. 8 words a chunk: kind + 256 group, first word of values (of a row segment: of its row 0) and of
/// gradients, length; weight decay (f32), word in the indices, rows, segment.
pub fn chunks(segments: &[Segment]) -> Vec<u32> {
    let words = |c: Chunk| {
        let s = &segments[c.segment];
        let (kind, value, index, rows) = match s.update {
            Update::Dense => (0, s.value + c.words.start, 0, 0),
            Update::Clamped => (1, s.value + c.words.start, 0, 0),
            Update::Rows { indices, cols, after, .. } => {
                let kind = match after {
                    After::Nothing => 2,
                    After::Normalise => 3,
                    After::Clamp => 5,
                };
                (kind, s.value, indices + c.words.start / cols, s.len / cols)
            }
            // Rows of one row each.
            Update::Unit { .. } => (3, s.value + c.words.start, 0, 1),
            Update::Step => (4, s.value + c.words.start, 0, 0),
            Update::Lorentz { .. } => (6, s.value + c.words.start, 0, 0),
        };
        let [kind, value, gradient, len] = [kind + 256 * s.group, value, s.gradient + c.words.start, c.words.len()].map(|n| n as u32);
        [kind, value, gradient, len, s.weight_decay.to_bits(), index as u32, rows as u32, c.segment as u32]
    };
    cut(segments).into_iter().flat_map(words).collect()
}

/// Words of the table of these segments: the length of [`chunks`].
pub fn table_words(segments: &[Segment]) -> usize {
    CHUNK_WORDS * cut(segments).len()
}

/// Consecutive chunks of which one dispatch can bind values and gradients.
pub(crate) struct Group {
    pub(crate) chunks: Range<usize>,
    pub(crate) values: Range<usize>,
    pub(crate) gradients: Range<usize>,
    /// By vec4.
    pub(crate) aligned: bool,
}

/// Cuts chunks where a binding could not hold more, or where vec4 end. Without `values` these do not matter.
pub(crate) fn groups(facts: &Facts, segments: &[Segment], chunks: &[Chunk], values: bool) -> Vec<Group> {
    // Bindings begin at whole 64 words and end at whole vec4.
    let fits = |r: &Range<usize>| 4 * (r.end.next_multiple_of(4) - (r.start & !63)) as u64 <= facts.max_binding;
    let join = |a: &Range<usize>, b: &Range<usize>| a.start.min(b.start)..a.end.max(b.end);
    let mut out: Vec<Group> = Vec::new();
    for (i, c) in chunks.iter().enumerate() {
        let s = &segments[c.segment];
        let gradients = s.gradient + c.words.start..s.gradient + c.words.end;
        let own = match s.update {
            _ if !values => 0..0,
            Update::Rows { .. } => range_of_values(s),
            _ => s.value + c.words.start..s.value + c.words.end,
        };
        if let Some(g) = out.last_mut().filter(|g| g.aligned == c.aligned) {
            let (v, d) = (join(&g.values, &own), join(&g.gradients, &gradients));
            if fits(&v) && fits(&d) {
                (g.values, g.gradients, g.chunks.end) = (v, d, i + 1);
                continue;
            }
        }
        out.push(Group { chunks: i..i + 1, values: own, gradients, aligned: c.aligned });
    }
    for g in out.iter_mut().filter(|g| g.aligned) {
        // The last vec4 of a segment may be part of one only.
        (g.values.end, g.gradients.end) = (g.values.end.next_multiple_of(4), g.gradients.end.next_multiple_of(4));
    }
    out
}

/// The parts of segments that chunks are: segment, and words of its gradient.
pub(crate) fn parts(segments: &[Segment], chunks: &[Chunk]) -> Vec<(Segment, Range<usize>)> {
    let mut out: Vec<(usize, Range<usize>)> = Vec::new();
    for c in chunks {
        match out.last_mut() {
            Some((s, r)) if *s == c.segment && r.end == c.words.start => r.end = c.words.end,
            _ => out.push((c.segment, c.words.clone())),
        }
    }
    out.into_iter().map(|(s, r)| (segments[s].clone(), r)).collect()
}

/// Words of the table that belong to chunks.
pub(crate) fn table_range(chunks: &Range<usize>) -> Range<usize> {
    chunks.start * CHUNK_WORDS..chunks.end * CHUNK_WORDS
}

/// Slots of an optimiser's operands.
#[derive(Debug, Clone, Copy)]
pub struct Parameters {
    /// What is trained.
    pub values: SlotId,
    /// Gradients.
    pub gradients: SlotId,
    /// First moments, laid out as the gradients; any slot for [`Rule::Sgd`].
    pub first: SlotId,
    /// Second moments, laid out as the gradients; any slot for [`Rule::Sgd`].
    pub second: SlotId,
    /// Indices of [`Update::Rows`].
    pub indices: SlotId,
    /// Learning rates and bias corrections: `steps` rows of [`SCHEDULE_WORDS`].
    pub schedule: SlotId,
    /// The run's progress; see [`super::progress`].
    pub progress: SlotId,
    /// Rows of the schedule; steps beyond the last take the last.
    pub steps: usize,
}

/// Constants of AdamW.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adam {
    /// Of the first moment.
    pub beta1: f32,
    /// Of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
}

impl Default for Adam {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 }
    }
}

/// How gradients become a direction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// `d = m c1 / (sqrt(v c2) + epsilon)`, where `m = beta1 m + (1 - beta1) g'` and `v = beta2 v + (1 - beta2) g'^2`.
    AdamW(Adam),
    /// `d = g'`.
    Sgd,
}

impl Default for Rule {
    fn default() -> Self {
        Self::AdamW(Adam::default())
    }
}

const ACCESS: [Access; 8] =
    [Access::Write, Access::Read, Access::Read, Access::Read, Access::Read, Access::Read, Access::Write, Access::Write];

fn variant(facts: &Facts, adam: bool, vec4: bool) -> Variant {
    let (wg, sg, subgroup) = row_workgroup(facts, "adam", 256);
    Variant {
        kernel: "adam",
        source: include_str!("../../shaders/adam.wgsl"),
        defines: vec![("ADAM", i64::from(adam)), ("VEC", i64::from(vec4)), ("WG", wg), ("SG", sg)],
        access: if adam { &ACCESS } else { &ACCESS[..6] },
        subgroup,
    }
}

pub(crate) fn variants(facts: &Facts) -> Vec<Variant> {
    [(false, false), (false, true), (true, false), (true, true)].map(|(adam, vec4)| variant(facts, adam, vec4)).into()
}

/// Appends one optimiser step of all segments: one dispatch, or one for each range of segments that bindings can hold (and one more
/// where some segments do not begin at multiples of 4 words). `table` holds [`chunks`] of the same segments.
///
/// With the row of the schedule for the progress' step, `g' = CLIP g`, and moments that count as 0 where the row says `fresh`, whatever
/// they hold: see [`Rule`] and [`Update`]. Values keep their bits at a learning rate of 0. After a fault or a loss that was not
/// finite nothing changes, neither values nor moments.
///
/// # Errors
/// [`Error::Shape`] where segments share words or rows do not fit; [`Error::Limit`] where the rows of one segment exceed a binding.
pub fn adam(b: &mut Builder, label: &str, p: &Parameters, segments: &[Segment], table: SlotId, rule: &Rule) -> Result<()> {
    check(segments)?;
    if p.steps == 0 {
        return Err(Error::shape("adam", format!("{label}: a schedule without steps")));
    }
    let all = cut(segments);
    for g in groups(b.facts(), segments, &all, true) {
        one(b, label, p, table, rule, &g, parts(segments, &all[g.chunks.clone()]))?;
    }
    Ok(())
}

fn one(
    b: &mut Builder,
    label: &str,
    p: &Parameters,
    table: SlotId,
    rule: &Rule,
    g: &Group,
    parts: Vec<(Segment, Range<usize>)>,
) -> Result<()> {
    let index_end = parts.iter().map(|(s, _)| if let Update::Rows { indices, count, .. } = s.update { indices + count } else { 1 });
    let values = b.window(p.values, g.values.clone())?;
    let gradients = b.window(p.gradients, g.gradients.clone())?;
    let entries = b.window(table, table_range(&g.chunks))?;
    let mut bindings = vec![
        values,
        gradients,
        b.window(p.indices, 0..index_end.max().unwrap_or(1))?,
        b.window(p.schedule, 0..p.steps * SCHEDULE_WORDS)?,
        b.window(p.progress, 0..WORDS)?,
        entries,
    ];
    let mut constants = [0.0f32; 5];
    if let Rule::AdamW(a) = rule {
        bindings.push(b.window(p.first, g.gradients.clone())?);
        bindings.push(b.window(p.second, g.gradients.clone())?);
        let rest = |beta: f32| (1.0 - f64::from(beta)) as f32;
        constants = [a.beta1, rest(a.beta1), a.beta2, rest(a.beta2), a.epsilon];
    }
    let [value_base, gradient_base] = [values, gradients].map(|w| (w.binding.offset / 4) as usize);
    let mut params = vec![value_base as u32, gradient_base as u32, entries.offset / 4, p.steps as u32];
    params.extend(constants.map(f32::to_bits));
    params.extend([0; 3]);
    let elements: u64 = parts.iter().filter(|(s, _)| !matches!(s.update, Update::Lorentz { .. })).map(|(_, r)| r.len() as u64).sum();
    let adam = matches!(rule, Rule::AdamW(_));
    b.push(OpSpec {
        label: label.into(),
        variant: variant(b.facts(), adam, g.aligned),
        params,
        bindings,
        grid: [g.chunks.len() as u32, 1, 1],
        bytes: elements * if adam { 28 } else { 12 },
        flops: elements * if adam { 14 } else { 4 },
        twin: reference::adam::twin(*rule, parts, p.steps, value_base, gradient_base),
    })
}
