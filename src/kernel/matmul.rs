//! General products of dense matrices: `Y = alpha op(A) diag(s) op(B) + bias + R (+ Y)`, one or a batch of them.
//!
//! Layers with stored weights are [`super::linear`]'s; this family is for two activations, or for products over transposes of
//! them, as gradients need.

mod variant;

pub(crate) use variant::variants;
use variant::{Flags, Shape, Spread, shape, sum_variant, tiles, variant};

use crate::gpu::Facts;
use crate::plan::{Builder, OpSpec, SlotId, Window};
use crate::reference::matmul::{Lies, sum_twin, twin};
use crate::tensor::Tensor;
use crate::{Error, Result};
use std::ops::Range;

/// A matrix, or a batch of matrices of one shape at equal distances in one slot.
#[derive(Debug, Clone, Copy)]
pub struct Operand {
    /// The first matrix, as it lies in memory.
    pub first: Tensor,
    /// Words from one matrix of the batch to the next; 0: all products share it.
    pub step: usize,
}

impl From<Tensor> for Operand {
    fn from(first: Tensor) -> Self {
        Self { first, step: 0 }
    }
}

/// Which product is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Product {
    /// Number of products.
    pub batch: usize,
    /// `op(A) = Aᵀ`: A lies as `k x m`.
    pub a_t: bool,
    /// `op(B) = Bᵀ`: B lies as `n x k`.
    pub b_t: bool,
    /// B is stored in f16, two a word (low half first), its rows padded to whole words. `cols` of its tensor counts elements,
    /// `offset`, `stride` and [`Operand::step`] count words.
    pub b_half: bool,
    /// Factor of the product.
    pub alpha: f32,
    /// Adds to what Y holds instead of overwriting it.
    pub accumulate: bool,
    /// A slot and its first word: k factors `s` within the product, `op(A) diag(s) op(B)`, the same for the whole batch. They
    /// are applied while tiles are loaded, so that no scaled operand needs to be stored.
    pub scale: Option<(SlotId, usize)>,
    /// A slot and its first word: n numbers that are added to every row of Y, the same for the whole batch; not times alpha.
    pub bias: Option<(SlotId, usize)>,
    /// `m x n`, in a slot that is not Y's, added to Y; only for a batch of 1.
    pub residual: Option<Tensor>,
}

impl Default for Product {
    fn default() -> Self {
        Self { batch: 1, a_t: false, b_t: false, b_half: false, alpha: 1.0, accumulate: false, scale: None, bias: None, residual: None }
    }
}

/// Longest sum that one accumulator makes. The rounding errors of a running sum grow with the root of its length: for numbers
/// of both signs 1.2e-6 of the result here, and beyond 3e-6 from about 28,000 on. It also keeps loops within what llvmpipe runs.
const RUN: usize = 4096;
/// Most words of partial sums; where they would be more, parts follow one another.
const PARTIALS: usize = 1 << 22;

/// A or B: i is the row or column of Y that belongs to it.
#[derive(Debug, Clone, Copy)]
struct Side {
    t: Tensor,
    step: usize,
    /// It lies with k along its columns, not within its rows.
    across: bool,
    half: bool,
}

impl Side {
    fn cut(&self, i: Range<usize>, k: Range<usize>) -> Self {
        let (rows, cols) = if self.across { (k, i) } else { (i, k) };
        let first = rows.start * self.t.stride + self.words(cols.start);
        let t = Tensor { offset: self.t.offset + first, rows: rows.len(), cols: cols.len(), ..self.t };
        Self { t, ..*self }
    }

    /// Words of so many elements.
    fn words(&self, elements: usize) -> usize {
        if self.half { elements.div_ceil(2) } else { elements }
    }

    /// The same with columns counted in words.
    fn in_words(&self) -> Operand {
        Operand { first: Tensor { cols: self.words(self.t.cols), ..self.t }, step: self.step }
    }

    /// True where four elements can be loaded at once; `offset` is that within the binding.
    fn vec4(&self, offset: u32) -> bool {
        let quad = self.words(4);
        self.t.rows * self.t.cols > 0
            && self.t.cols.is_multiple_of(4)
            && [offset as usize, self.t.stride, self.step].iter().all(|words| words.is_multiple_of(quad))
    }
}

/// Words from the first element of a batch to just past the last; `None` where no machine could count them.
fn reach(o: &Operand, batch: usize) -> Option<usize> {
    if o.first.rows == 0 || o.first.cols == 0 || batch == 0 {
        return Some(0);
    }
    let rows = (o.first.rows - 1).checked_mul(o.first.stride)?;
    let words = (batch - 1).checked_mul(o.step)?.checked_add(rows)?.checked_add(o.first.cols)?;
    words.checked_add(o.first.offset).map(|_| words)
}

fn bind(b: &Builder, o: &Operand, batch: usize) -> Result<Window> {
    let t = &o.first;
    match reach(o, batch) {
        // Nothing to read; but a binding has a word.
        None | Some(0) => b.window(t.slot, 0..1),
        Some(words) => b.window(t.slot, t.offset..t.offset + words),
    }
}

/// What a product has beside its two operands.
#[derive(Debug, Clone, Copy)]
struct Extras {
    scale: Option<(SlotId, usize)>,
    bias: Option<(SlotId, usize)>,
    residual: Option<Tensor>,
}

impl Extras {
    /// Those of a part of the product. What is added once belongs to the first part along k.
    fn cut(&self, m: Range<usize>, n: Range<usize>, k: Range<usize>) -> Self {
        let first = k.start == 0;
        Self {
            scale: self.scale.filter(|_| !k.is_empty()).map(|(slot, at)| (slot, at + k.start)),
            bias: self.bias.filter(|_| first).map(|(slot, at)| (slot, at + n.start)),
            residual: self.residual.filter(|_| first).map(|r| r.slice_rows(m).slice_cols(n)),
        }
    }

    fn present(&self) -> [bool; 3] {
        [self.scale.is_some(), self.bias.is_some(), self.residual.is_some()]
    }

    /// The windows of those that there are, and words for the parameters: offsets of scale, bias and residual, and the stride of
    /// the residual.
    fn bind(&self, b: &Builder, n: usize, k: usize) -> Result<(Vec<Window>, [u32; 4])> {
        let mut words = [0, 0, 0, self.residual.map_or(0, |r| r.stride as u32)];
        let vector = |v: Option<(SlotId, usize)>, len: usize| v.map(|(slot, at)| b.window(slot, at..at + len)).transpose();
        let all = [vector(self.scale, k)?, vector(self.bias, n)?, self.residual.map(|r| b.view(&r)).transpose()?];
        for (word, window) in words.iter_mut().zip(&all) {
            *word = window.map_or(0, |w| w.offset);
        }
        Ok((all.into_iter().flatten().collect(), words))
    }
}

/// A product whose operands fit bindings.
#[derive(Debug, Clone, Copy)]
struct Block<'a> {
    label: &'a str,
    a: Side,
    b: Side,
    y: Operand,
    batch: usize,
    k: usize,
    alpha: f32,
    accumulate: bool,
    extras: Extras,
}

/// Appends `Y[i] = alpha op(A[i]) diag(s) op(B[i]) + bias + R`, plus `Y[i]` where it accumulates, for each i of the batch: op(A)
/// is `m x k`, op(B) `k x n`, Y `m x n`, each of any size and at any stride; s, bias and R are [`Product`]'s options, 1, 0 and 0
/// where there are none. Sums are made in f32.
///
/// With an empty k the products are zeros. Operands above a binding are cut by batches, rows and k; a long k of a small Y is cut
/// into parts that run side by side and are added in their order, so that equal calls give equal bits.
///
/// # Errors
/// [`Error::Shape`] where the operands do not fit each other, or elements of Y overlap; [`Error::Plan`] where one lies outside of
/// its slot, or Y in a slot of A or B; [`Error::Limit`].
pub fn matmul(builder: &mut Builder, label: &str, a: &Operand, b: &Operand, y: &Operand, p: &Product) -> Result<()> {
    let (m, n, k) = check(label, a, b, y, p)?;
    let extras = Extras { scale: p.scale, bias: p.bias, residual: p.residual };
    if m == 0 || n == 0 || p.batch == 0 || (k == 0 && p.accumulate && extras.present() == [extras.scale.is_some(), false, false]) {
        return Ok(());
    }
    let batch_step = |o: &Operand| if p.batch > 1 { o.step } else { 0 };
    let whole = Block {
        label,
        a: Side { t: a.first, step: batch_step(a), across: p.a_t, half: false },
        b: Side { t: b.first, step: batch_step(b), across: !p.b_t, half: p.b_half },
        y: Operand { step: batch_step(y), ..*y },
        batch: p.batch,
        k,
        alpha: p.alpha,
        accumulate: p.accumulate,
        extras: extras.cut(0..m, 0..n, 0..k),
    };
    let fit = whole.fitting_batch(builder);
    for first in (0..p.batch).step_by(fit.max(1)) {
        let mut part = whole;
        part.batch = fit.max(1).min(p.batch - first);
        part.a.t.offset = whole.a.t.offset + first * whole.a.step;
        part.b.t.offset = whole.b.t.offset + first * whole.b.step;
        part.y.first.offset = whole.y.first.offset + first * whole.y.step;
        if fit > 0 { part.append(builder)? } else { part.cut(builder)? }
    }
    Ok(())
}

/// m, n and k.
fn check(label: &str, a: &Operand, b: &Operand, y: &Operand, p: &Product) -> Result<(usize, usize, usize)> {
    let fault = |why: &str| {
        let show = |o: &Operand, t: bool| format!("({}, {}){}", o.first.rows, o.first.cols, if t { "ᵀ" } else { "" });
        let (a, b, y) = (show(a, p.a_t), show(b, p.b_t), show(y, false));
        Err(Error::shape("matmul", format!("{label}: A {a} times B {b} into Y {y}, batch {}: {why}", p.batch)))
    };
    let turned = |o: &Operand, t: bool| if t { (o.first.cols, o.first.rows) } else { (o.first.rows, o.first.cols) };
    let ((m, k), (bk, n)) = (turned(a, p.a_t), turned(b, p.b_t));
    if bk != k {
        return fault("A and B differ in k");
    }
    if turned(y, false) != (m, n) {
        return fault("Y must have the rows of op(A) and the columns of op(B)");
    }
    if let Some(r) = p.residual {
        if (r.rows, r.cols) != (m, n) {
            return fault(&format!("the residual is ({}, {})", r.rows, r.cols));
        }
        if p.batch > 1 {
            return fault("a batch cannot have a residual");
        }
    }
    let residual = p.residual.map(Operand::from);
    if residual.iter().chain([a, b, y]).any(|o| reach(o, p.batch).is_none()) {
        return fault("an operand ends beyond any buffer");
    }
    let t = &y.first;
    if m > 1 && t.stride < n {
        return fault("the rows of Y overlap");
    }
    // Matrices one after another, or side by side within longer rows.
    let apart = y.step >= t.span() || (y.step >= n && (m <= 1 || (p.batch - 1) * y.step + n <= t.stride));
    if p.batch > 1 && m > 0 && n > 0 && !apart {
        return fault("the matrices of Y overlap");
    }
    Ok((m, n, k))
}

impl Block<'_> {
    fn size(&self) -> (usize, usize) {
        (self.y.first.rows, self.y.first.cols)
    }

    /// Products whose operands fit bindings together; 0 where not even one does.
    fn fitting_batch(&self, b: &Builder) -> usize {
        let room = (b.facts().max_binding.saturating_sub(256) / 4) as usize;
        let fit = |o: &Operand| match reach(o, 1) {
            Some(words) if words <= room => (room - words).checked_div(o.step).map_or(self.batch, |more| more + 1),
            _ => 0,
        };
        let residual = self.extras.residual.map(Operand::from);
        [self.a.in_words(), self.b.in_words(), self.y].iter().chain(&residual).map(fit).fold(self.batch, usize::min)
    }

    /// Cuts one product so that its operands fit: by rows of Y, by columns where they are rows of B, and along k.
    fn cut(&self, b: &mut Builder) -> Result<()> {
        let (m, n) = self.size();
        let words = |s: &Side, wanted: bool| if wanted { s.t.stride.max(s.words(s.t.cols)) } else { 0 };
        let added = self.extras.residual.map_or(0, |r| r.stride);
        let along_m = words(&self.a, !self.a.across).max(self.y.first.stride.max(n)).max(added);
        let along_k = words(&self.a, self.a.across).max(words(&self.b, self.b.across));
        // Whole words where k runs in pairs.
        let pair = 1 + usize::from(self.b.half && !self.b.across);
        for ms in chunks(b, m, along_m, 1)? {
            for ns in chunks(b, n, words(&self.b, !self.b.across), 1)? {
                for ks in chunks(b, self.k, along_k, pair)? {
                    let mut part = *self;
                    (part.a, part.b) = (self.a.cut(ms.clone(), ks.clone()), self.b.cut(ns.clone(), ks.clone()));
                    part.y.first = self.y.first.slice_rows(ms.clone()).slice_cols(ns.clone());
                    part.k = ks.len();
                    part.accumulate |= ks.start > 0;
                    part.extras = self.extras.cut(ms.clone(), ns.clone(), ks);
                    part.append(b)?;
                }
            }
        }
        Ok(())
    }

    /// Chooses how k is cut.
    fn append(&self, b: &mut Builder) -> Result<()> {
        let (m, n) = self.size();
        let step = self.k_step(b.facts());
        let parts = self.k.div_ceil(step).max(1);
        if parts > 1 && parts <= self.room(b.facts()) {
            let part = b.transient(format!("{} parts", self.label), self.batch * parts * m, n);
            let y = Operand { first: Tensor { rows: m, ..part }, step: m * n };
            let extras = Extras { bias: None, residual: None, ..self.extras };
            Block { y, alpha: 1.0, accumulate: false, extras, ..*self }.push(b, step, parts)?;
            return self.push_sum(b, &part, parts);
        }
        for first in (0..self.k.max(1)).step_by(RUN) {
            let ks = first..(first + RUN).min(self.k);
            let mut run = *self;
            (run.a, run.b) = (self.a.cut(0..m, ks.clone()), self.b.cut(0..n, ks.clone()));
            run.k = ks.len();
            run.accumulate |= first > 0;
            run.extras = self.extras.cut(0..m, 0..n, ks);
            run.push(b, RUN, 1)?;
        }
        Ok(())
    }

    /// Parts of k whose sums there is room for.
    fn room(&self, facts: &Facts) -> usize {
        let (m, n) = self.size();
        PARTIALS.min((facts.max_binding / 4) as usize) / (m * n).saturating_mul(self.batch).max(1)
    }

    fn shape(&self, facts: &Facts) -> (Shape, bool) {
        let (m, n) = self.size();
        shape(facts, [m, n, self.k], self.batch, self.room(facts))
    }

    /// Length of the parts of k: as many as an idle device could take at once, none longer than [`RUN`].
    fn k_step(&self, facts: &Facts) -> usize {
        let (m, n) = self.size();
        let (shape, swapped) = self.shape(facts);
        let [x, y] = tiles(&variant(shape, &self.flags(swapped, [0; 4])), [m, n], swapped);
        let busy = x.saturating_mul(y).saturating_mul(self.batch);
        let useful = Spread::of(facts, shape).parts(busy, self.k).min(self.room(facts));
        let parts = useful.max(self.k.div_ceil(RUN)).max(1);
        // Whole tiles of k.
        self.k.div_ceil(parts).next_multiple_of(16).max(16)
    }

    /// `offsets` of A, B, Y and the residual in their bindings.
    fn flags(&self, swapped: bool, offsets: [u32; 4]) -> Flags {
        let mut sides = [(&self.a, offsets[0]), (&self.b, offsets[1])];
        sides.rotate_left(usize::from(swapped));
        let plain = |t: Tensor, step: usize| Side { t, step, across: false, half: false };
        let (y, residual) = (plain(self.y.first, self.y.step), self.extras.residual.map(|r| plain(r, 0)));
        Flags {
            across: sides.map(|(s, _)| s.across),
            half: sides.map(|(s, _)| s.half),
            vec4: sides.map(|(s, offset)| s.vec4(offset)),
            y_vec4: y.vec4(offsets[2]) && residual.is_none_or(|r| r.vec4(offsets[3])),
            swapped,
            k_tail: !self.k.is_multiple_of(4),
            extras: self.extras.present(),
        }
    }

    /// Appends the product, its k in `parts` of `k_step`, each with a matrix of Y.
    fn push(&self, b: &mut Builder, k_step: usize, parts: usize) -> Result<()> {
        let (m, n) = self.size();
        let (shape, swapped) = self.shape(b.facts());
        let [aw, bw] = [&self.a, &self.b].map(|s| bind(b, &s.in_words(), self.batch));
        let (aw, bw, yw) = (aw?, bw?, bind(b, &self.y, self.batch * parts)?);
        let (more, words) = self.extras.bind(b, n, self.k)?;
        let flags = self.flags(swapped, [aw.offset, bw.offset, yw.offset, words[2]]);
        let v = variant(shape, &flags);
        let [x, y] = tiles(&v, [m, n], swapped);
        let mut sides = [(self.a, aw, m), (self.b, bw, n)];
        sides.rotate_left(usize::from(swapped));
        let [(s0, w0, len0), (s1, w1, len1)] = sides;
        let word = |v: usize| v as u32;
        let mut params = vec![
            word(len0),
            word(len1),
            word(self.k),
            word(k_step),
            w0.offset,
            word(s0.t.stride),
            word(s0.step),
            word(parts),
            w1.offset,
            word(s1.t.stride),
            word(s1.step),
            u32::from(self.accumulate),
            yw.offset,
            word(self.y.first.stride),
            word(self.y.step),
            self.alpha.to_bits(),
        ];
        params.extend(words);
        let read = |s: &Side| s.t.rows * s.words(s.t.cols) * if s.step == 0 { 1 } else { self.batch };
        let added = usize::from(self.accumulate) + usize::from(flags.extras[2]);
        let written = m * n * self.batch * parts * (1 + added);
        b.push(OpSpec {
            label: self.label.into(),
            variant: v,
            params,
            bindings: [w0, w1, yw].into_iter().chain(more).collect(),
            grid: [word(x), word(y), word(self.batch * parts)],
            bytes: 4 * (read(&self.a) + read(&self.b) + written) as u64,
            flops: 2 * (m * n * self.batch) as u64 * self.k as u64,
            twin: twin([s0, s1].map(|s| Lies { across: s.across, half: s.half }), swapped, self.batch * parts, flags.extras),
        })
    }

    fn push_sum(&self, b: &mut Builder, part: &Tensor, parts: usize) -> Result<()> {
        let (m, n) = self.size();
        let (pw, yw) = (b.view(part)?, bind(b, &self.y, self.batch)?);
        let word = |v: usize| v as u32;
        let mut params = vec![word(m), word(n), word(parts), yw.offset, word(self.y.first.stride), word(self.y.step)];
        params.extend([self.alpha.to_bits(), u32::from(self.accumulate)]);
        let (more, words) = self.extras.bind(b, n, self.k)?;
        let (more, words) = (more.into_iter().skip(usize::from(self.extras.scale.is_some())), &words[1..]);
        params.extend(words.iter().chain(&[0]));
        let [_, bias, residual] = self.extras.present();
        let outputs = m * n * self.batch;
        let added = usize::from(self.accumulate) + usize::from(residual);
        b.push(OpSpec {
            label: format!("{} sum", self.label),
            variant: sum_variant([bias, residual]),
            params,
            bindings: [pw, yw].into_iter().chain(more).collect(),
            grid: [word((m * n).div_ceil(64)), word(self.batch), 1],
            bytes: 4 * (outputs * (parts + 1 + added)) as u64,
            flops: (outputs * parts) as u64,
            twin: sum_twin(self.batch, [bias, residual]),
        })
    }
}

/// Ranges of `len` rows that fit a binding, of multiples of 4 where they can be, so that vector loads stay possible; else of
/// `unit`.
fn chunks(b: &Builder, len: usize, words: usize, unit: usize) -> Result<Vec<Range<usize>>> {
    let of = |unit: usize| b.row_chunks(len.div_ceil(unit), words.saturating_mul(unit)).map(|all| (unit, all));
    let (unit, all) = of(4).or_else(|_| of(unit))?;
    Ok(all.into_iter().map(|r| r.start * unit..(r.end * unit).min(len)).collect())
}
