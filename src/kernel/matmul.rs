//! General products of dense matrices: `Y = alpha op(A) op(B) (+ Y)`, one or a batch of them.
//!
//! Layers with stored weights are [`super::linear`]'s; this family is for two activations, or for products over transposes of
//! them, as gradients need.

use super::{Access, Variant};
use crate::gpu::Facts;
use crate::plan::{Builder, OpSpec, Window};
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
}

impl Default for Product {
    fn default() -> Self {
        Self { batch: 1, a_t: false, b_t: false, b_half: false, alpha: 1.0, accumulate: false }
    }
}

/// Longest sum that one accumulator makes. The rounding errors of a running sum grow with the root of its length: for numbers
/// of both signs 1.2e-6 of the result here, and beyond 3e-6 from about 28,000 on. It also keeps loops within what llvmpipe runs.
const RUN: usize = 4096;
/// Shortest sum worth a part of its own.
const SHORT_RUN: usize = 512;
/// Most words of partial sums; where they would be more, parts follow one another.
const PARTIALS: usize = 1 << 22;
/// Most rows or columns of Y that count as few.
const FEW: usize = 8;

const ACCESS: [Access; 3] = [Access::Read, Access::Read, Access::Write];

/// Which shape of work a variant suits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// A software driver's 8 lanes, tiles of 32 by `cols`.
    Lanes { cols: i64 },
    /// Workgroup-memory tiles of 128 by 8.
    Few,
    /// 64 by 64.
    Small,
    /// 128 by 128.
    Large,
}

/// The shape, and whether A and B change places: the longer side of Y is the first of a tile where the other is short.
fn shape(facts: &Facts, m: usize, n: usize, batch: usize) -> (Shape, bool) {
    let short = m.min(n);
    let swapped = short <= FEW && m < n;
    let tiles = m.div_ceil(128).saturating_mul(n.div_ceil(128)).saturating_mul(batch);
    let shape = match short {
        _ if facts.wide_lanes() && facts.trusts("matmul_lanes", 8) => Shape::Lanes {
            cols: match short {
                1 => 1,
                2..=4 => 4,
                5..=FEW => 8,
                _ => 32,
            },
        },
        ..=FEW => Shape::Few,
        // Fewer large tiles would leave a GPU idle; smaller matrices would leave the tiles empty.
        96.. if tiles >= 64 => Shape::Large,
        _ => Shape::Small,
    };
    (shape, swapped)
}

/// What the permutations of a shape differ in, the two operands in the shader's order.
#[derive(Debug, Clone, Copy)]
struct Flags {
    across: [bool; 2],
    half: [bool; 2],
    vec4: [bool; 2],
    y_vec4: bool,
    swapped: bool,
    k_tail: bool,
}

fn variant(shape: Shape, f: &Flags) -> Variant {
    let [k, h] = [f.across, f.half].map(|side| side.map(i64::from));
    let mut defines = vec![("K0", k[0]), ("K1", k[1]), ("H0", h[0]), ("H1", h[1]), ("SWAP", i64::from(f.swapped))];
    if let Shape::Lanes { cols } = shape {
        // A vec4 of eight lanes across k is 32 columns.
        let wide = [f.vec4[0], f.vec4[1] && (cols == 32 || !f.across[1])].map(i64::from);
        defines.extend([("V0", wide[0]), ("V1", wide[1]), ("YV", 0), ("KTAIL", i64::from(f.k_tail)), ("ROWS", 4), ("COLS", cols)]);
        let source = include_str!("../../shaders/matmul_lanes.wgsl");
        return Variant { kernel: "matmul_lanes", source, defines, access: &ACCESS, subgroup: Some(8) };
    }
    defines.extend([("V0", i64::from(f.vec4[0])), ("V1", i64::from(f.vec4[1])), ("YV", i64::from(f.y_vec4 && !f.swapped))]);
    let (bm, bn, bk, tm, tn) = match shape {
        Shape::Few => (128, 8, 16, 4, 4),
        Shape::Large => (128, 128, 8, 8, 8),
        _ => (64, 64, 16, 4, 4),
    };
    defines.extend([("BM", bm), ("BN", bn), ("BK", bk), ("TM", tm), ("TN", tn), ("WG", bm / tm * (bn / tn))]);
    let source = include_str!("../../shaders/matmul_tile.wgsl");
    Variant { kernel: "matmul_tile", source, defines, access: &ACCESS, subgroup: None }
}

fn sum_variant() -> Variant {
    let source = include_str!("../../shaders/matmul_sum.wgsl");
    Variant { kernel: "matmul_sum", source, defines: Vec::new(), access: &ACCESS[1..], subgroup: None }
}

/// Every shape with every way that operands may lie.
pub(crate) fn variants(facts: &Facts) -> Vec<Variant> {
    let mut out = vec![sum_variant()];
    for (m, n) in [(1, 9), (9, 1), (3, 9), (9, 3), (8, 9), (9, 8), (64, 64), (1024, 1024)] {
        let (shape, swapped) = shape(facts, m, n, 1);
        for bits in 0..256 {
            let [a_t, b_t, b_half, a_vec4, b_vec4, y_vec4, k_tail] = [0, 1, 2, 3, 4, 5, 6].map(|i| bits >> i & 1 == 1);
            let order = |mut sides: [bool; 2]| {
                sides.rotate_left(usize::from(swapped));
                sides
            };
            let (across, half, vec4) = (order([a_t, !b_t]), order([false, b_half]), order([a_vec4, b_vec4]));
            out.push(variant(shape, &Flags { across, half, vec4, y_vec4, swapped, k_tail }));
        }
    }
    out
}

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
}

/// Appends `Y[i] = alpha op(A[i]) op(B[i])`, plus `Y[i]` where it accumulates, for each i of the batch: op(A) is `m x k`, op(B)
/// `k x n`, Y `m x n`, each of any size and at any stride; sums are made in f32.
///
/// With an empty k the products are zeros. Operands above a binding are cut by batches, rows and k; a long k of a small Y is cut
/// into parts that run side by side and are added in their order, so that equal calls give equal bits.
///
/// # Errors
/// [`Error::Shape`] where the operands do not fit each other, or elements of Y overlap; [`Error::Plan`] where one lies outside of
/// its slot, or Y in a slot of A or B; [`Error::Limit`].
pub fn matmul(builder: &mut Builder, label: &str, a: &Operand, b: &Operand, y: &Operand, p: &Product) -> Result<()> {
    let (m, n, k) = check(label, a, b, y, p)?;
    if m == 0 || n == 0 || p.batch == 0 || (k == 0 && p.accumulate) {
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
    if [a, b, y].iter().any(|o| reach(o, p.batch).is_none()) {
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
        [self.a.in_words(), self.b.in_words(), self.y].iter().map(fit).fold(self.batch, usize::min)
    }

    /// Cuts one product so that its operands fit: by rows of Y, by columns where they are rows of B, and along k.
    fn cut(&self, b: &mut Builder) -> Result<()> {
        let (m, n) = self.size();
        let words = |s: &Side, wanted: bool| if wanted { s.t.stride.max(s.words(s.t.cols)) } else { 0 };
        let along_m = words(&self.a, !self.a.across).max(self.y.first.stride.max(n));
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
        let partials = (m * n).saturating_mul(self.batch).saturating_mul(parts);
        if parts > 1 && partials <= PARTIALS.min((b.facts().max_binding / 4) as usize) {
            let part = b.transient(format!("{} parts", self.label), self.batch * parts * m, n);
            let y = Operand { first: Tensor { rows: m, ..part }, step: m * n };
            Block { y, alpha: 1.0, accumulate: false, ..*self }.push(b, step, parts)?;
            return self.push_sum(b, &part, parts);
        }
        for first in (0..self.k.max(1)).step_by(RUN) {
            let ks = first..(first + RUN).min(self.k);
            let mut run = *self;
            (run.a, run.b) = (self.a.cut(0..m, ks.clone()), self.b.cut(0..n, ks.clone()));
            run.k = ks.len();
            run.accumulate |= first > 0;
            run.push(b, RUN, 1)?;
        }
        Ok(())
    }

    /// Length of the parts of k: as many as an idle device could take at once, none longer than [`RUN`].
    fn k_step(&self, facts: &Facts) -> usize {
        let (m, n) = self.size();
        let (shape, swapped) = shape(facts, m, n, self.batch);
        let [x, y] = tiles(&variant(shape, &self.flags(swapped, [0; 3])), [m, n], swapped);
        let (busy, wanted) = (x.saturating_mul(y).saturating_mul(self.batch), if facts.is_software() { 16 } else { 128 });
        let useful = if 2 * busy <= wanted { (wanted / busy).min(self.k / SHORT_RUN) } else { 1 };
        let parts = useful.max(self.k.div_ceil(RUN)).max(1);
        // Whole tiles of k.
        self.k.div_ceil(parts).next_multiple_of(16).max(16)
    }

    /// `offsets` of A, B and Y in their bindings.
    fn flags(&self, swapped: bool, offsets: [u32; 3]) -> Flags {
        let mut sides = [(&self.a, offsets[0]), (&self.b, offsets[1])];
        sides.rotate_left(usize::from(swapped));
        let y = Side { t: self.y.first, step: self.y.step, across: false, half: false };
        Flags {
            across: sides.map(|(s, _)| s.across),
            half: sides.map(|(s, _)| s.half),
            vec4: sides.map(|(s, offset)| s.vec4(offset)),
            y_vec4: y.vec4(offsets[2]),
            swapped,
            k_tail: !self.k.is_multiple_of(4),
        }
    }

    /// Appends the product, its k in `parts` of `k_step`, each with a matrix of Y.
    fn push(&self, b: &mut Builder, k_step: usize, parts: usize) -> Result<()> {
        let (m, n) = self.size();
        let (shape, swapped) = shape(b.facts(), m, n, self.batch);
        let [aw, bw] = [&self.a, &self.b].map(|s| bind(b, &s.in_words(), self.batch));
        let (aw, bw, yw) = (aw?, bw?, bind(b, &self.y, self.batch * parts)?);
        let flags = self.flags(swapped, [aw.offset, bw.offset, yw.offset]);
        let v = variant(shape, &flags);
        let [x, y] = tiles(&v, [m, n], swapped);
        let mut sides = [(self.a, aw, m), (self.b, bw, n)];
        sides.rotate_left(usize::from(swapped));
        let [(s0, w0, len0), (s1, w1, len1)] = sides;
        let word = |v: usize| v as u32;
        let params = vec![
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
        let read = |s: &Side| s.t.rows * s.words(s.t.cols) * if s.step == 0 { 1 } else { self.batch };
        let written = m * n * self.batch * parts * (1 + usize::from(self.accumulate));
        b.push(OpSpec {
            label: self.label.into(),
            variant: v,
            params,
            bindings: vec![w0, w1, yw],
            grid: [word(x), word(y), word(self.batch * parts)],
            bytes: 4 * (read(&self.a) + read(&self.b) + written) as u64,
            flops: 2 * (m * n * self.batch) as u64 * self.k as u64,
            twin: twin([s0, s1].map(|s| Lies { across: s.across, half: s.half }), swapped, self.batch * parts),
        })
    }

    fn push_sum(&self, b: &mut Builder, part: &Tensor, parts: usize) -> Result<()> {
        let (m, n) = self.size();
        let (pw, yw) = (b.view(part)?, bind(b, &self.y, self.batch)?);
        let word = |v: usize| v as u32;
        let mut params = vec![word(m), word(n), word(parts), yw.offset, word(self.y.first.stride), word(self.y.step)];
        params.extend([self.alpha.to_bits(), u32::from(self.accumulate)]);
        let outputs = m * n * self.batch;
        b.push(OpSpec {
            label: format!("{} sum", self.label),
            variant: sum_variant(),
            params,
            bindings: vec![pw, yw],
            grid: [word((m * n).div_ceil(64)), word(self.batch), 1],
            bytes: 4 * (outputs * (parts + 1 + usize::from(self.accumulate))) as u64,
            flops: (outputs * parts) as u64,
            twin: sum_twin(self.batch),
        })
    }
}

/// Workgroups in x and y for Y of `m x n`.
fn tiles(v: &Variant, mut size: [usize; 2], swapped: bool) -> [usize; 2] {
    size.rotate_left(usize::from(swapped));
    let [rows, cols] = match v.kernel {
        "matmul_lanes" => [8 * v.define("ROWS"), v.define("COLS")],
        _ => [v.define("BM"), v.define("BN")],
    };
    [size[1].div_ceil(cols as usize), size[0].div_ceil(rows as usize)]
}

/// Ranges of `len` rows that fit a binding, of multiples of 4 where they can be, so that vector loads stay possible; else of
/// `unit`.
fn chunks(b: &Builder, len: usize, words: usize, unit: usize) -> Result<Vec<Range<usize>>> {
    let of = |unit: usize| b.row_chunks(len.div_ceil(unit), words.saturating_mul(unit)).map(|all| (unit, all));
    let (unit, all) = of(4).or_else(|_| of(unit))?;
    Ok(all.into_iter().map(|r| r.start * unit..(r.end * unit).min(len)).collect())
}
