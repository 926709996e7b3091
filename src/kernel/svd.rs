//! What singular value decompositions need beside rotations ([`super::jacobi`]): where matrices lie meanwhile, norms, order,
//! directions for rows that have none, and moving matrices in and out.

use super::{Access, Variant};
use crate::gpu::Facts;
use crate::plan::{Builder, OpSpec, SlotId, Window};
use crate::reference;
use crate::{Error, Result};
use std::ops::Range;

/// Words of the state of one decomposition; `shaders/common/svd.wgsl` names the same.
pub const STATE_WORDS: usize = 16;
/// Rows of a block of the rotations.
pub(crate) const WIDTH: usize = 16;
/// Rows of at most this part of the largest norm count as zero.
pub const LEAST: f32 = 1e-6;

/// Which of the two matrices of a product `Xᵀ Y`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// X, `k x m`, whose rows become the left singular vectors.
    X,
    /// Y, `k x n`, whose rows become the right ones.
    Y,
}

impl Side {
    /// The other one.
    pub fn other(self) -> Self {
        if self == Self::X { Self::Y } else { Self::X }
    }
}

/// Decompositions of matrices of one shape that run side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Number of matrices.
    pub layers: usize,
    /// Rows of each.
    pub m: usize,
    /// Columns of each.
    pub n: usize,
}

impl Size {
    /// `layers` matrices of `m x n`.
    pub fn new(layers: usize, m: usize, n: usize) -> Self {
        Self { layers, m, n }
    }

    /// Singular values of each.
    pub fn k(&self) -> usize {
        self.m.min(self.n)
    }

    /// Rows of X and Y in the scratch: whole pairs of blocks.
    pub fn padded(&self) -> usize {
        self.k().next_multiple_of(2 * WIDTH)
    }

    /// Blocks of rows, an even number.
    pub fn blocks(&self) -> usize {
        self.padded() / WIDTH
    }

    /// The side whose rows are square matrices, X where both are.
    pub fn square(&self) -> Side {
        if self.m <= self.n { Side::X } else { Side::Y }
    }

    /// Entries of a row of one side.
    pub fn cols(&self, side: Side) -> usize {
        if side == Side::X { self.m } else { self.n }
    }

    /// Words from one row to the next in the scratch.
    pub fn stride(&self, side: Side) -> usize {
        self.cols(side).next_multiple_of(32)
    }

    /// Words from one layer to the next in the scratch.
    pub fn step(&self, side: Side) -> usize {
        self.padded() * self.stride(side)
    }

    fn turn_step(&self) -> usize {
        (self.blocks() / 2 * (4 * WIDTH * WIDTH + 4)).next_multiple_of(64)
    }

    /// Words of each buffer of the scratch, in the order of [`Work::slots`].
    pub fn words(&self) -> [usize; 8] {
        let n = self.layers;
        let rows = 4 * self.padded() * n;
        let coefs = (self.padded() + 4) * n;
        let [x, y] = [Side::X, Side::Y].map(|s| self.step(s) * n);
        [x, y, self.turn_step() * n, STATE_WORDS * n, rows, coefs, 4 * n, x.min(y)]
    }
}

/// The scratch of decompositions in a plan.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    /// Their shape.
    pub size: Size,
    /// X of each layer, rows padded with zeros.
    pub x: SlotId,
    /// Y of each layer.
    pub y: SlotId,
    /// An orthogonal matrix for each pair of blocks, and a flag.
    pub turns: SlotId,
    /// [`STATE_WORDS`] a layer.
    pub state: SlotId,
    /// Norm, flag, sign and place in the order, each for all rows of a layer.
    pub rows: SlotId,
    /// Products of a row with all others.
    pub coefs: SlotId,
    /// Largest cosines, and largest magnitudes of sources: four words a layer.
    pub peaks: SlotId,
    /// Rows of the square side, while they are made orthogonal.
    pub kept: SlotId,
}

impl Work {
    /// Declares it in a plan, to be bound by the caller.
    pub fn new(b: &mut Builder, size: Size) -> Self {
        let labels = ["x", "y", "turns", "state", "rows", "coefs", "peaks", "kept"];
        let words = size.words();
        let [x, y, turns, state, rows, coefs, peaks, kept] = std::array::from_fn(|i| b.external(labels[i], words[i]));
        Self { size, x, y, turns, state, rows, coefs, peaks, kept }
    }

    /// Its slots.
    pub fn slots(&self) -> [SlotId; 8] {
        [self.x, self.y, self.turns, self.state, self.rows, self.coefs, self.peaks, self.kept]
    }

    /// Ranges of layers that fit bindings.
    pub(crate) fn chunks(&self, b: &Builder) -> Result<Vec<Range<usize>>> {
        let s = &self.size;
        b.row_chunks(s.layers, s.step(Side::X).max(s.step(Side::Y)).max(s.turn_step()))
    }

    pub(crate) fn view(&self, b: &Builder, side: Side, layers: Range<usize>) -> Result<Window> {
        let (slot, step) = (if side == Side::X { self.x } else { self.y }, self.size.step(side));
        b.window(slot, layers.start * step..layers.end * step)
    }

    /// Turns of these layers; the window begins with them.
    pub(crate) fn turns(&self, b: &Builder, layers: Range<usize>) -> Result<Window> {
        let step = self.size.turn_step();
        let window = b.window(self.turns, layers.start * step..layers.end * step)?;
        if window.offset == 0 { Ok(window) } else { Err(Error::shape("jacobi", "layers are cut where no binding can begin")) }
    }
}

const R: Access = Access::Read;
const W: Access = Access::Write;

fn io_variant(op: i64, from: i64) -> Variant {
    let access: &'static [Access] = match (op, from) {
        (0, _) => &[R, W],
        (1, 0 | 2) => &[W, R, R],
        (1, 1) => &[W, R, R, R],
        (1, _) => &[W, R],
        _ => &[W, R, R],
    };
    Variant {
        kernel: "svd_io",
        source: include_str!("../../shaders/svd_io.wgsl"),
        defines: vec![("OP", op), ("FROM", from)],
        access,
        subgroup: None,
    }
}

/// Invocations of a workgroup; rotations take most of the time, so that these kernels are plain ones only.
const WG: i64 = 64;

fn rows_variant(op: i64, times: i64) -> Variant {
    let access: &'static [Access] = match op {
        0 | 3 => &[R, W],
        1 => &[W, W],
        2 => &[W, R],
        _ => &[W],
    };
    let defines = vec![("OP", op), ("TIMES", times), ("WG", WG), ("SG", 0)];
    Variant { kernel: "svd_rows", source: include_str!("../../shaders/svd_rows.wgsl"), defines, access, subgroup: None }
}

fn complete_variant(op: i64) -> Variant {
    let access: &'static [Access] = match op {
        0 => &[W, R, W],
        1 => &[R, R, R, W],
        2 => &[W, R, R],
        _ => &[W, R, W, W],
    };
    let defines = vec![("OP", op), ("WG", WG), ("SG", 0)];
    Variant { kernel: "svd_complete", source: include_str!("../../shaders/svd_complete.wgsl"), defines, access, subgroup: None }
}

pub(crate) fn variants(_: &Facts) -> Vec<Variant> {
    let io = [(0, 0), (1, 0), (1, 1), (1, 2), (1, 3), (2, 0), (3, 0)].map(|(op, from)| io_variant(op, from));
    let rows = [(0, 0), (1, 0), (2, 0), (2, 1), (3, 0), (4, 0)].map(|(op, times)| rows_variant(op, times));
    let complete = [0, 1, 2, 3].map(complete_variant);
    io.into_iter().chain(rows).chain(complete).collect()
}

/// A matrix, dense row after row, or a vector, in a slot.
#[derive(Debug, Clone, Copy)]
pub struct Dense {
    /// The slot.
    pub slot: SlotId,
    /// Words before its first entry.
    pub offset: usize,
    /// Rows.
    pub rows: usize,
    /// Entries of a row.
    pub cols: usize,
}

impl Dense {
    fn view(&self, b: &Builder) -> Result<Window> {
        b.window(self.slot, self.offset..self.offset + self.rows * self.cols)
    }
}

/// Appends: word `at` of the peaks becomes the bits of the largest magnitude in `source`, or stays if it is larger. Bits of
/// infinities and NaN are larger than those of any number.
///
/// # Errors
/// [`Error::Limit`], [`Error::Plan`] where the source is not in its slot.
pub fn measure(b: &mut Builder, label: &str, source: &Dense, work: &Work, at: usize) -> Result<()> {
    let (window, peaks) = (source.view(b)?, b.whole(work.peaks)?);
    let words = source.rows * source.cols;
    b.push(OpSpec {
        label: format!("{label} measure"),
        variant: io_variant(0, 0),
        params: vec![1, words as u32, window.offset, 0, 0, at as u32, 0, 0],
        bindings: vec![window, peaks],
        grid: [words.div_ceil(1024) as u32, 1, 1],
        bytes: 4 * words as u64,
        flops: 0,
        twin: reference::svd::measure(),
    })
}

/// What [`load`] fills one side of a layer with.
#[derive(Debug, Clone, Copy)]
pub enum Source {
    /// The rows of a matrix.
    Rows(Dense),
    /// The rows of a matrix, each times an element of a vector.
    Times(Dense, Dense),
    /// The columns of a matrix.
    Columns(Dense),
    /// The identity.
    Identity,
}

/// Appends: one side of a layer is filled, times the layer's scale for that side; what pads its rows becomes zero.
///
/// # Errors
/// [`Error::Shape`] where the source has another shape; [`Error::Limit`], [`Error::Plan`].
pub fn load(b: &mut Builder, label: &str, from: &Source, work: &Work, side: Side, layer: usize) -> Result<()> {
    let size = &work.size;
    let (k, cols, stride) = (size.k(), size.cols(side), size.stride(side));
    let fits = match from {
        Source::Rows(s) => (s.rows, s.cols) == (k, cols),
        Source::Times(s, f) => (s.rows, s.cols) == (k, cols) && f.rows * f.cols == k,
        Source::Columns(s) => (s.cols, s.rows) == (k, cols),
        Source::Identity => true,
    };
    if !fits || layer >= size.layers {
        return Err(Error::shape("svd", format!("{label}: {from:?} is no {k} x {cols}")));
    }
    let mut bindings = vec![work.view(b, side, layer..layer + 1)?, b.whole(work.state)?];
    let (mut offsets, mut leading, mut kind) = ([0, 0], cols, 3);
    if let Source::Rows(s) | Source::Times(s, _) | Source::Columns(s) = from {
        let w = s.view(b)?;
        (offsets[0], leading, kind) = (w.offset, s.cols, if matches!(from, Source::Columns(_)) { 2 } else { 0 });
        bindings.push(w);
    }
    if let Source::Times(_, f) = from {
        let w = f.view(b)?;
        (offsets[1], kind) = (w.offset, 1);
        bindings.push(w);
    }
    let scale = layer * STATE_WORDS + if side == Side::X { 8 } else { 9 };
    let params = [k, cols, offsets[0] as usize, leading, offsets[1] as usize, scale, stride, size.padded()];
    b.push(OpSpec {
        label: format!("{label} load"),
        variant: io_variant(1, kind),
        params: params.map(|v| v as u32).to_vec(),
        bindings,
        grid: [stride.div_ceil(64) as u32, size.padded() as u32, 1],
        bytes: 4 * (k * cols + size.step(side)) as u64,
        flops: (k * cols) as u64,
        twin: reference::svd::load(kind as usize),
    })
}

/// Appends: the rows of one side of a layer go to `to` in their order and with their signs.
///
/// # Errors
/// [`Error::Shape`], [`Error::Limit`], [`Error::Plan`].
pub fn store(b: &mut Builder, label: &str, to: &Dense, work: &Work, side: Side, layer: usize) -> Result<()> {
    let size = &work.size;
    let (k, cols) = (size.k(), size.cols(side));
    if (to.rows, to.cols) != (k, cols) || layer >= size.layers {
        return Err(Error::shape("svd", format!("{label}: {} x {} for {k} x {cols}", to.rows, to.cols)));
    }
    let target = to.view(b)?;
    let at = layer * 4 * size.padded();
    let params = [k, cols, target.offset as usize, cols, 0, at, size.stride(side), size.padded()];
    b.push(OpSpec {
        label: format!("{label} store"),
        variant: io_variant(2, 0),
        params: params.map(|v| v as u32).to_vec(),
        bindings: vec![target, work.view(b, side, layer..layer + 1)?, b.whole(work.rows)?],
        grid: [cols.div_ceil(64) as u32, k as u32, 1],
        bytes: 8 * (k * cols) as u64,
        flops: 0,
        twin: reference::svd::store(),
    })
}

/// Appends: the norms of a layer go to `to` in their order, times the word 10 of the layer's state.
///
/// # Errors
/// [`Error::Shape`], [`Error::Limit`], [`Error::Plan`].
pub fn store_values(b: &mut Builder, label: &str, to: &Dense, work: &Work, layer: usize) -> Result<()> {
    let (k, padded) = (work.size.k(), work.size.padded());
    if to.rows * to.cols != k || layer >= work.size.layers {
        return Err(Error::shape("svd", format!("{label}: {} values for {k}", to.rows * to.cols)));
    }
    let target = to.view(b)?;
    let params = [k, 1, target.offset as usize, 1, layer * STATE_WORDS + 10, layer * 4 * padded, 0, padded];
    b.push(OpSpec {
        label: format!("{label} store values"),
        variant: io_variant(3, 0),
        params: params.map(|v| v as u32).to_vec(),
        bindings: vec![target, b.whole(work.state)?, b.whole(work.rows)?],
        grid: [k.div_ceil(64) as u32, 1, 1],
        bytes: 12 * k as u64,
        flops: k as u64,
        twin: reference::svd::store_values(),
    })
}

/// A kernel over rows of one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rows {
    Norms,
    Normalise,
    Times,
    Orient,
}

fn over_rows(b: &mut Builder, label: &str, work: &Work, side: Side, what: Rows) -> Result<()> {
    let size = work.size;
    let (op, times) = [(0, 0), (2, 0), (2, 1), (3, 0)][what as usize];
    let unit = if what == Rows::Norms { 4 } else { 1 };
    for layers in work.chunks(b)? {
        let params = [size.stride(side) / unit, size.k(), size.padded(), layers.start].map(|v| v as u32);
        let (k, n, words) = (size.k(), layers.len(), (size.k() * layers.len() * size.stride(side)) as u64);
        let by_tiles = [size.stride(side).div_ceil(64) as u32, k as u32, n as u32];
        b.push(OpSpec {
            label: format!("{label} {what:?}"),
            variant: rows_variant(op, times),
            params: params.into_iter().chain([LEAST.to_bits(), 0, 0, 0]).collect(),
            bindings: vec![work.view(b, side, layers.clone())?, b.whole(work.rows)?],
            grid: if op == 2 { by_tiles } else { [k as u32, n as u32, 1] },
            bytes: words * if op == 2 { 8 } else { 4 },
            flops: words * 2,
            twin: match what {
                Rows::Norms => reference::svd::norms(n),
                Rows::Orient => reference::svd::orient(n),
                _ => reference::svd::scale(n, what == Rows::Times),
            },
        })?;
    }
    Ok(())
}

/// Appends: the norms of the rows of one side; which of them count as zero ([`LEAST`]), how many do, and the largest norm.
///
/// # Errors
/// [`Error::Limit`].
pub fn norms(b: &mut Builder, label: &str, work: &Work, side: Side) -> Result<()> {
    over_rows(b, label, work, side, Rows::Norms)?;
    let size = work.size;
    b.push(OpSpec {
        label: format!("{label} nulls"),
        variant: rows_variant(1, 0),
        params: vec![0, size.k() as u32, size.padded() as u32, 0, LEAST.to_bits(), 0, 0, 0],
        bindings: vec![b.whole(work.rows)?, b.whole(work.state)?],
        grid: [size.layers as u32, 1, 1],
        bytes: 12 * (size.padded() * size.layers) as u64,
        flops: 0,
        twin: reference::svd::nulls(size.layers),
    })
}

/// Appends: each row of one side is divided by its norm; one whose norm is zero becomes zero.
///
/// # Errors
/// [`Error::Limit`].
pub fn normalise(b: &mut Builder, label: &str, work: &Work, side: Side) -> Result<()> {
    over_rows(b, label, work, side, Rows::Normalise)
}

/// Appends: each row of one side is multiplied by the norm that was noted for it.
///
/// # Errors
/// [`Error::Limit`].
pub fn times_norms(b: &mut Builder, label: &str, work: &Work, side: Side) -> Result<()> {
    over_rows(b, label, work, side, Rows::Times)
}

/// Appends: the order of the rows by their norms, the largest first; and signs, so that the first entry of largest magnitude in
/// each row of X becomes positive.
///
/// # Errors
/// [`Error::Limit`].
pub fn order(b: &mut Builder, label: &str, work: &Work) -> Result<()> {
    over_rows(b, label, work, Side::X, Rows::Orient)?;
    let size = work.size;
    b.push(OpSpec {
        label: format!("{label} order"),
        variant: rows_variant(4, 0),
        params: vec![0, size.k() as u32, size.padded() as u32, 0, 0, 0, 0, 0],
        bindings: vec![b.whole(work.rows)?],
        grid: [size.k().div_ceil(64) as u32, size.layers as u32, 1],
        bytes: 8 * (size.k() * size.layers) as u64,
        flops: (size.k() * size.k() * size.layers) as u64,
        twin: reference::svd::order(size.layers),
    })
}

/// Appends: in each layer one row of a side that counts as zero becomes a unit vector, orthogonal to all rows that do not, if
/// three passes of Gram-Schmidt find one; else it is tried anew from other numbers next time.
///
/// # Errors
/// [`Error::Limit`].
pub fn complete(b: &mut Builder, label: &str, work: &Work, side: Side) -> Result<()> {
    // Choose, three times products and differences, judge.
    for (op, pass) in [(0, 0), (1, 0), (2, 0), (1, 1), (2, 1), (1, 2), (2, 2), (3, 0)] {
        for layers in work.chunks(b)? {
            complete_step(b, label, work, side, layers, (op, pass))?;
        }
    }
    Ok(())
}

fn complete_step(b: &mut Builder, label: &str, work: &Work, side: Side, layers: Range<usize>, (op, pass): (i64, u32)) -> Result<()> {
    let size = work.size;
    let (k, stride, n) = (size.k(), size.stride(side), layers.len());
    let unit = if op == 1 { 4 } else { 1 };
    let a = work.view(b, side, layers.clone())?;
    let (rows, state, coefs) = (b.whole(work.rows)?, b.whole(work.state)?, b.whole(work.coefs)?);
    let mut params = [stride / unit, k, size.padded(), layers.start, size.cols(side)].map(|v| v as u32).to_vec();
    params.extend([pass, 0, 0]);
    let (bindings, grid, twin) = match op {
        0 => (vec![a, rows, state], [n as u32, 1, 1], reference::svd::pick(n)),
        1 => (vec![a, rows, state, coefs], [k as u32, n as u32, 1], reference::svd::dots(n)),
        2 => (vec![a, coefs, state], [stride.div_ceil(64) as u32, n as u32, 1], reference::svd::subtract(n)),
        _ => (vec![a, coefs, rows, state], [n as u32, 1, 1], reference::svd::judge(n)),
    };
    let words = (n * stride) as u64 * if matches!(op, 1 | 2) { k as u64 } else { 1 };
    let variant = complete_variant(op);
    b.push(OpSpec { label: format!("{label} complete"), variant, params, bindings, grid, bytes: 4 * words, flops: 2 * words, twin })
}
