//! Linear layers: `y = act(x Wᵀ + bias) + residual` for dense and quantised weights.

use super::variants::formats;
use super::{Access, Variant};
use crate::gpu::Facts;
use crate::plan::{Builder, OpSpec, SlotId, Window};
use crate::quant::Scales;
use crate::reference;
use crate::tensor::{Format, Matrix, Segment, Tensor};
use crate::{Error, Result};

/// An activation function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// The identity.
    None,
    /// `max(x, 0)`
    Relu,
    /// `x/2 (1 + erf(x / sqrt 2))`
    GeluErf,
    /// `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`
    GeluTanh,
    /// `x / (1 + exp(-x))`
    Silu,
    /// `tanh x`
    Tanh,
}

impl Activation {
    pub(crate) const ALL: [Self; 6] = [Self::None, Self::Relu, Self::GeluErf, Self::GeluTanh, Self::Silu, Self::Tanh];

    /// Its number in `shaders/common/activation.wgsl`.
    pub(crate) fn code(self) -> i64 {
        match self {
            Self::None => 0,
            Self::Relu => 1,
            Self::GeluErf => 2,
            Self::GeluTanh => 3,
            Self::Silu => 4,
            Self::Tanh => 5,
        }
    }
}

/// What happens to the sums before they are stored.
#[derive(Debug, Clone, Copy)]
pub struct Epilogue {
    /// A slot with one f32 for each output, and the word of the first.
    pub bias: Option<(SlotId, usize)>,
    /// Applied after the bias.
    pub activation: Activation,
    /// Added last.
    pub residual: Residual,
    /// The weight's first half of rows are gates `g`, its second half values `u`: `y = silu(g) u`, half as wide. Only
    /// where [`fuses_gate`] says so.
    pub gate: bool,
}

impl Default for Epilogue {
    fn default() -> Self {
        Self { bias: None, activation: Activation::None, residual: Residual::None, gate: false }
    }
}

/// What is added to a linear layer's output.
#[derive(Debug, Clone, Copy)]
pub enum Residual {
    /// Nothing.
    None,
    /// Another tensor.
    Add(Tensor),
    /// What the output held before: `y += …`.
    InPlace,
}

const ACCESS: [Access; 6] = [Access::Read, Access::Read, Access::Write, Access::Read, Access::Read, Access::Read];

/// The constants that pick an element format in `shaders/common/decode.wgsl`.
pub(crate) fn format_defines(format: &Format) -> Vec<(&'static str, i64)> {
    let dense = |f| vec![("FORMAT", f), ("QUANT", 0), ("TABLE", 0)];
    let q = match format {
        Format::F32 => return dense(0),
        Format::F16 => return dense(1),
        Format::Bf16 => return dense(2),
        Format::Quant(q) => q,
    };
    let (scales, zero) = match q.scales {
        Scales::F16 { zero } => (0, zero),
        Scales::F32 { zero } => (1, zero),
        Scales::F16Min => (2, 0),
        Scales::F32Min => (3, 0),
        Scales::F16Zero => (4, 0),
        Scales::F32Zero => (5, 0),
        Scales::K2 => (6, 0),
        Scales::K3 => (7, 0),
        Scales::K4 => (8, 0),
        Scales::K6 => (9, 0),
    };
    vec![
        ("FORMAT", 3),
        ("QUANT", 1),
        ("TABLE", i64::from(q.table.is_some())),
        ("BITS", i64::from(q.bits)),
        ("GROUP", i64::from(q.group)),
        ("SCALES", scales),
        ("ZERO", i64::from(zero)),
        ("MIN", i64::from(matches!(scales, 2 | 3 | 6 | 8))),
        ("PER_TENSOR", i64::from(q.per_tensor)),
    ]
}

/// The words that the table of a format takes in the parameters; none where it has no table.
pub(crate) fn table_words(format: &Format) -> Vec<u32> {
    match format {
        Format::Quant(q) => q.table.iter().flatten().map(|v| v.to_bits()).collect(),
        _ => Vec::new(),
    }
}

/// Which shape of work a variant suits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// `m` rows of x against ROWS weight rows a workgroup.
    Vec { m: usize },
    /// A software driver's 8 lanes, few rows of x.
    LanesVec { m: usize },
    /// A software driver's 8 lanes, many rows of x.
    LanesTile,
    /// Workgroup-memory tiles.
    Tile,
}

/// Most rows of x that the vector variants take at once.
const FEW: usize = 8;

fn shape(facts: &Facts, m: usize) -> Shape {
    let wide = facts.wide_lanes() && facts.trusts("linear_lanes", 8);
    match m {
        _ if wide && m <= 4 => Shape::LanesVec { m },
        _ if wide => Shape::LanesTile,
        _ if m <= FEW => Shape::Vec { m },
        _ => Shape::Tile,
    }
}

/// True where a layer of `m` rows of x can fuse the SiLU gate ([`Epilogue::gate`]).
pub fn fuses_gate(facts: &Facts, m: usize) -> bool {
    matches!(shape(facts, m), Shape::Vec { .. } | Shape::LanesVec { .. })
}

struct Flags {
    gate: bool,
    bias: bool,
    residual: i64,
    activation: i64,
    x_vec4: bool,
}

fn variant(facts: &Facts, shape: Shape, format: &Format, cols: usize, f: &Flags) -> Variant {
    let mut defines = format_defines(format);
    defines.extend([("BIAS", i64::from(f.bias)), ("RES", f.residual), ("ACT", f.activation)]);
    let ktail = ("KTAIL", i64::from(!cols.is_multiple_of(32)));
    let n = 3 + usize::from(matches!(format, Format::Quant(_))) + usize::from(f.bias) + usize::from(f.residual == 1);
    let access = &ACCESS[..n];
    let (kernel, source, subgroup, more): (_, _, _, Vec<(&'static str, i64)>) = match shape {
        Shape::Vec { m: c } => {
            let subgroup = facts.subgroup().filter(|s| matches!(s, 32 | 64) && facts.trusts("linear_vec", *s));
            let rows = if f.gate || c > 2 { 2 } else { 4 };
            // Blocks of 32 weights over the invocations: short rows would leave most of a large workgroup idle.
            let wg = if cols >= 4096 { 128 } else { 64 };
            let sg = i64::from(subgroup.unwrap_or(0));
            let more = vec![
                ("WG", wg),
                ("SG", sg),
                ("ROWS", rows),
                ("COLS", c as i64),
                ("GATE", i64::from(f.gate)),
                ("XV", i64::from(f.x_vec4)),
                ktail,
            ];
            ("linear_vec", include_str!("../../shaders/linear_vec.wgsl"), subgroup, more)
        }
        Shape::LanesVec { m: c } => {
            let rows = if f.gate { 2 } else { 4 } / if c > 2 { 2 } else { 1 };
            let more = vec![("SIDE", 0), ("ROWS", rows), ("COLS", c as i64), ("GATE", i64::from(f.gate)), ktail];
            ("linear_lanes", include_str!("../../shaders/linear_lanes.wgsl"), Some(8), more)
        }
        Shape::LanesTile => {
            let ktail = ("KTAIL", i64::from(!cols.is_multiple_of(4)));
            let more = vec![("SIDE", 1), ("ROWS", 4), ("COLS", 32), ("GATE", 0), ktail];
            ("linear_lanes", include_str!("../../shaders/linear_lanes.wgsl"), Some(8), more)
        }
        Shape::Tile => {
            let more = vec![("BM", 64), ("BN", 64), ("BK", 16), ("TM", 4), ("TN", 4), ("XV", i64::from(f.x_vec4))];
            ("linear_tile", include_str!("../../shaders/linear_tile.wgsl"), None, more)
        }
    };
    defines.extend(more);
    Variant { kernel, source, defines, access, subgroup }
}

/// Every format with every shape, every epilogue with every shape, and every format with every part of an epilogue.
pub(crate) fn variants(facts: &Facts) -> Vec<Variant> {
    let mut out = Vec::new();
    let formats = formats();
    for m in 1..=FEW + 1 {
        let fuses = fuses_gate(facts, m);
        let mut add = |format, (cols, x_vec4), gate: i64, bias: i64, residual, activation| {
            let flags =
                Flags { gate: fuses && gate % 2 == 1, bias: bias % 2 == 1, residual: residual % 3, activation: activation % 6, x_vec4 };
            out.push(variant(facts, shape(facts, m), format, cols, &flags));
        };
        // Row lengths on either side of what the variants tell apart, with and without vectors of x.
        for row in [(64, true), (64, false), (65, false), (68, true), (4096, true), (4097, false)] {
            formats.iter().for_each(|f| add(f, row, 0, 0, 0, 0));
            (0..72).for_each(|i| add(&formats[i as usize % formats.len()], row, i, i / 2, i / 4, i / 12));
        }
        for (i, f) in (0..).zip(&formats) {
            (0..6).for_each(|j| add(f, (64, true), j, j / 3, i + j, j));
        }
    }
    out
}

/// Workgroups in x and y for `m x n` outputs.
fn grid(v: &Variant, m: usize, n: usize) -> [u32; 3] {
    let (rows, cols) = (v.define("ROWS") as usize, v.define("COLS") as usize);
    let (x, y) = match (v.kernel, v.define("SIDE")) {
        ("linear_vec", _) => (n.div_ceil(rows), 1),
        ("linear_lanes", 0) => (n.div_ceil(8 * rows), 1),
        ("linear_lanes", _) => (n.div_ceil(cols), m.div_ceil(8 * rows)),
        _ => (n.div_ceil(v.define("BN") as usize), m.div_ceil(v.define("BM") as usize)),
    };
    [x as u32, y as u32, 1]
}

/// Appends `y = act(x Wᵀ + bias) + residual`: x is `m x k`, w `n x k`, y `m x n` (with [`Epilogue::gate`], `m x n/2`).
///
/// Quantised weights are decoded on the way and accumulated in f32. Each row segment of `w`, and each run of rows of x that fits
/// a binding, is an op of its own.
///
/// # Errors
/// [`Error::Shape`] where the operands do not fit each other; [`Error::Limit`].
pub fn linear(b: &mut Builder, label: &str, x: &Tensor, w: &Matrix, y: &Tensor, e: &Epilogue) -> Result<()> {
    let outputs = if e.gate { w.rows / 2 } else { w.rows };
    if x.cols != w.cols || y.cols != outputs || x.rows != y.rows {
        let (xr, xc, wr, wc, yr, yc) = (x.rows, x.cols, w.rows, w.cols, y.rows, y.cols);
        return Err(Error::shape("linear", format!("{label}: ({xr}, {xc}) times ({wr}, {wc})ᵀ into ({yr}, {yc})")));
    }
    if let Residual::Add(r) = &e.residual
        && (r.rows, r.cols) != (y.rows, y.cols)
    {
        return Err(Error::shape("linear", format!("{label}: residual ({}, {}) on ({}, {})", r.rows, r.cols, y.rows, y.cols)));
    }
    if e.gate && (w.segments.len() != 1 || !w.rows.is_multiple_of(2) || !fuses_gate(b.facts(), x.rows)) {
        return Err(Error::shape("linear", format!("{label}: the gate cannot be fused here")));
    }
    let widest = x.stride.max(y.stride);
    for rows in b.row_chunks(x.rows, widest)? {
        let (x, y) = (x.slice_rows(rows.clone()), y.slice_rows(rows.clone()));
        let e = Epilogue {
            residual: match e.residual {
                Residual::Add(r) => Residual::Add(r.slice_rows(rows)),
                other => other,
            },
            ..*e
        };
        for s in &w.segments {
            segment(b, label, &x, w, s, &y, &e)?;
        }
    }
    Ok(())
}

fn segment(b: &mut Builder, label: &str, x: &Tensor, w: &Matrix, s: &Segment, y: &Tensor, e: &Epilogue) -> Result<()> {
    let weight_rows = s.rows.len();
    let n = if e.gate { weight_rows / 2 } else { weight_rows };
    let first = if e.gate { 0 } else { s.rows.start };
    let (w_stride, s_stride) = (w.format.row_words(w.cols), w.format.scale_words(w.cols));
    let xw = b.view(x)?;
    let yw = b.view(&y.slice_cols(first..first + n))?;
    let mut bindings = vec![xw, b.window(s.data, 0..weight_rows * w_stride)?, yw];
    if let (Some(slot), Format::Quant(q)) = (s.scales, &w.format) {
        let words = if q.per_tensor { q.group_words(1, w.cols) } else { weight_rows * s_stride };
        bindings.push(b.window(slot, 0..words)?);
    }
    let mut offsets = [0, 0, 0];
    if let Some((slot, at)) = e.bias {
        let window = b.window(slot, at + first..at + first + n)?;
        offsets[0] = window.offset;
        bindings.push(window);
    }
    let residual = match &e.residual {
        Residual::None => 0,
        Residual::InPlace => 2,
        Residual::Add(r) => {
            let window = b.view(&r.slice_cols(first..first + n))?;
            (offsets[1], offsets[2]) = (window.offset, r.stride as u32);
            bindings.push(window);
            1
        }
    };
    let x_vec4 = x.stride.is_multiple_of(4) && xw.offset.is_multiple_of(4) && w.cols.is_multiple_of(4);
    let flags = Flags { gate: e.gate, bias: e.bias.is_some(), residual, activation: e.activation.code(), x_vec4 };
    let v = variant(b.facts(), shape(b.facts(), x.rows), &w.format, w.cols, &flags);
    let grid = grid(&v, x.rows, n);
    let mut params = vec![x.rows as u32, n as u32, w.cols as u32, w_stride as u32, xw.offset, x.stride as u32];
    params.extend([yw.offset, y.stride as u32, s_stride as u32, offsets[0], offsets[1], offsets[2]]);
    params.extend(table_words(&w.format));
    let bytes = 4 * (weight_rows * (w_stride + s_stride) + x.rows * (x.cols + n * (1 + usize::from(residual != 0)))) as u64;
    let flops = 2 * (x.rows * w.cols * weight_rows) as u64;
    let twin = reference::linear::twin(w.format, weight_rows, flags.bias, residual, e.activation, e.gate);
    let label = if w.segments.len() > 1 { format!("{label} rows {:?}", s.rows) } else { label.into() };
    b.push(OpSpec { label, variant: v, params, bindings, grid, bytes, flops, twin })
}

/// The window of a whole matrix segment, for kernels that read weights otherwise (embedding).
pub(crate) fn segment_windows(b: &Builder, w: &Matrix, s: &Segment) -> Result<Vec<Window>> {
    let rows = s.rows.len();
    let mut out = vec![b.window(s.data, 0..rows * w.format.row_words(w.cols))?];
    if let (Some(slot), Format::Quant(q)) = (s.scales, &w.format) {
        let words = if q.per_tensor { q.group_words(1, w.cols) } else { rows * q.scale_words(w.cols) };
        out.push(b.window(slot, 0..words)?);
    }
    Ok(out)
}
