//! Which variant of a linear layer suits an adapter, a format and a shape: a pure function of these.

use crate::gpu::Facts;
use crate::kernel::variants::formats;
use crate::kernel::{Access, Variant};
use crate::quant::Scales;
use crate::tensor::Format;

type Defines = Vec<(&'static str, i64)>;

const ACCESS: [Access; 7] = [Access::Read, Access::Read, Access::Write, Access::Read, Access::Read, Access::Read, Access::Read];

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

/// Which shape of work a variant suits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// `m` rows of x, one workgroup for `rows` weight rows.
    Vec { m: usize, rows: i64 },
    /// A software driver's 8 lanes, `m` rows of x.
    LanesVec { m: usize },
    /// A software driver's 8 lanes, many rows of x.
    LanesTile,
    /// Workgroup-memory tiles, of a size of [`TILES`].
    Tile { size: usize },
}

/// A tile of `m x n` outputs, of which an invocation owns `own x own`; 16 elements of the rows at a time.
struct Tile {
    m: i64,
    n: i64,
    own: i64,
    /// Steps of the inner loop that are written out.
    unroll: i64,
}

/// From large to small. More outputs an invocation need less of the workgroup memory's bandwidth, more workgroups fill the device.
const TILES: [Tile; 4] = [
    Tile { m: 128, n: 128, own: 8, unroll: 16 },
    Tile { m: 64, n: 64, own: 8, unroll: 4 },
    Tile { m: 64, n: 32, own: 4, unroll: 4 },
    Tile { m: 32, n: 32, own: 4, unroll: 4 },
];

/// Workgroups that fill a large GPU: an H200 has 132 multiprocessors.
const FULL: usize = 128;

/// Most rows of x that the vector variants take at once.
const FEW: usize = 8;

/// The shape of work of `m` rows of x and `n` outputs.
pub(super) fn shape(facts: &Facts, m: usize, n: usize, gate: bool) -> Shape {
    let wide = facts.wide_lanes() && facts.trusts("linear_lanes", 8);
    match m {
        _ if wide && m <= 4 => Shape::LanesVec { m },
        _ if wide => Shape::LanesTile,
        _ if m <= FEW => {
            // x is loaded once for a workgroup's rows: more of them are faster as long as there is work for all (on an H200 8 rows
            // run int4 8 % faster than 4 at 8192 x 8192), and as long as sums and x fit the registers.
            let many = n >= 32 * FULL;
            let rows = match m {
                1 if gate => {
                    if many {
                        4
                    } else {
                        2
                    }
                }
                _ if gate => 2,
                5.. => 4,
                _ => {
                    if many {
                        8
                    } else {
                        4
                    }
                }
            };
            Shape::Vec { m, rows }
        }
        _ => {
            let enough = |t: &Tile| m.div_ceil(t.m as usize) * n.div_ceil(t.n as usize) >= FULL;
            Shape::Tile { size: TILES.iter().position(enough).unwrap_or(TILES.len() - 1) }
        }
    }
}

/// True where a layer of `m` rows of x can fuse the SiLU gate ([`super::Fused::gate`]).
pub fn fuses_gate(facts: &Facts, m: usize) -> bool {
    shape(facts, m, 1, true).fuses_gate()
}

/// True where a layer of `m` rows of x can fuse an RMSNorm of them ([`super::Fused::norm`]): each workgroup sees whole rows.
pub fn fuses_norm(facts: &Facts, m: usize) -> bool {
    fuses_gate(facts, m)
}

impl Shape {
    fn fuses_gate(self) -> bool {
        matches!(self, Self::Vec { .. } | Self::LanesVec { .. })
    }
}

/// What a variant does beside the product.
pub(super) struct Flags {
    pub(super) norm: bool,
    pub(super) gate: bool,
    pub(super) bias: bool,
    /// 0 none, 1 another tensor's, 2 in place.
    pub(super) residual: i64,
    pub(super) activation: i64,
    /// Rows of x begin at whole vec4.
    pub(super) x_vec4: bool,
}

pub(super) fn variant(facts: &Facts, shape: Shape, format: &Format, cols: usize, f: &Flags) -> Variant {
    let (kernel, source, subgroup, more) = match shape {
        Shape::Vec { m, rows } => {
            let subgroup = facts.subgroup().filter(|s| matches!(s, 32 | 64) && facts.trusts("linear_vec", *s));
            let mut more = vec_defines(format, m, rows, cols, f);
            more.push(("SG", i64::from(subgroup.unwrap_or(0))));
            ("linear_vec", include_str!("../../../shaders/linear_vec.wgsl"), subgroup, more)
        }
        Shape::LanesVec { m } => {
            ("linear_lanes", include_str!("../../../shaders/linear_lanes.wgsl"), Some(8), lanes_vec_defines(format, m, cols, f))
        }
        Shape::LanesTile => ("linear_lanes", include_str!("../../../shaders/linear_lanes.wgsl"), Some(8), lanes_tile_defines(format, cols)),
        Shape::Tile { size } => {
            ("linear_tile", include_str!("../../../shaders/linear_tile.wgsl"), None, tile_defines(&TILES[size], format, cols))
        }
    };
    let mantissa = matches!(format, Format::Quant(q) if q.bits == 4 && q.table.is_none()) && facts.converts_slowly();
    let mut defines = format_defines(format);
    defines.extend([("EXACT", 0), ("MANTISSA", i64::from(mantissa)), ("XV", i64::from(f.x_vec4))]);
    defines.extend([("BIAS", i64::from(f.bias)), ("RES", f.residual), ("ACT", f.activation), ("NORM", i64::from(f.norm))]);
    defines.extend(more);
    let bindings =
        3 + usize::from(matches!(format, Format::Quant(_))) + usize::from(f.bias) + usize::from(f.residual == 1) + usize::from(f.norm);
    Variant { kernel, source, defines, access: &ACCESS[..bindings], subgroup }
}

/// `wanted` words in one load where every row is a multiple of that, else 1.
fn load(format: &Format, cols: usize, wanted: i64) -> (&'static str, i64) {
    ("LOAD", if (format.row_words(cols) as i64) % wanted == 0 { wanted } else { 1 })
}

fn vec_defines(format: &Format, m: usize, rows: i64, cols: usize, f: &Flags) -> Defines {
    // Quads of weights that an invocation takes at once, and words of them in one load.
    let (quads, wanted) = match format {
        Format::F32 => (1, 4),
        Format::F16 | Format::Bf16 => (1, 2),
        // Many rows of x at once are kept short.
        Format::Quant(q) if q.bits % 4 == 0 && m > 4 => (2, i64::from(q.bits) / 4),
        Format::Quant(q) if q.bits % 4 == 0 => (4, i64::from(q.bits) / 2),
        Format::Quant(_) if m > 4 => (2, 1),
        Format::Quant(_) => (8, 1),
    };
    let tail = i64::from(!cols.is_multiple_of(32));
    let mut out = vec![load(format, cols, wanted), ("SLOAD", 1), ("WG", 64), ("QUADS", quads), ("ROWS", rows)];
    out.extend([("COLS", m as i64), ("GATE", i64::from(f.gate)), ("KTAIL", tail)]);
    out
}

/// Words in one load of the 8-lane variants.
fn lanes_load(format: &Format, cols: usize) -> (&'static str, i64) {
    match format {
        Format::F32 => load(format, cols, 4),
        Format::Quant(q) if q.bits % 4 == 0 => load(format, cols, 4),
        _ => ("LOAD", 1),
    }
}

fn lanes_vec_defines(format: &Format, m: usize, cols: usize, f: &Flags) -> Defines {
    // As many sums as make the loop long enough and its code not too long: 3 x 2 blocks ran int4 1.2 times as fast as 4 x 4.
    let rows = match (m, f.gate) {
        (1 | 2, false) if matches!(format, Format::Quant(q) if q.bits < 8) => 3,
        (1 | 2, _) | (_, false) => 2,
        _ => 1,
    };
    let blocks = cols.div_ceil(32);
    let (mut span, mut share, mut scale_load, mut in_place) = (1, false, 1, false);
    if let Format::Quant(q) = format {
        span = if blocks.is_multiple_of(2) { 2 } else { 1 };
        // Groups of an iteration whose scales are whole words side by side.
        let words = match q.scales {
            Scales::F16 { .. } => span / 2,
            Scales::F32 { .. } | Scales::F16Min | Scales::F16Zero => span,
            _ => 0,
        };
        share = span > 1 && words > 0 && q.group == 32 && !q.per_tensor;
        scale_load = if share { words } else { 1 };
        in_place = q.bits % 4 == 0 && q.table.is_none();
    }
    let mut out = vec![lanes_load(format, cols), ("SLOAD", scale_load), ("H", 0), ("SIDE", 0), ("SPAN", span), ("SHARE", i64::from(share))];
    out.extend([("IN_PLACE", i64::from(in_place)), ("HOLD", 0), ("ROWS", rows), ("COLS", m as i64)]);
    out.extend([("GATE", i64::from(f.gate)), ("KTAIL", i64::from(!cols.is_multiple_of(32)))]);
    out
}

fn lanes_tile_defines(format: &Format, cols: usize) -> Defines {
    let load = lanes_load(format, cols);
    let hold = match format {
        Format::Quant(q) if load.1 == 4 => 128 / i64::from(q.bits),
        _ => 0,
    };
    // Wide tiles use each load more often, until the code outgrows the instruction cache. Measured on llvmpipe: f32 took 0.94 of
    // the time of 32 columns, int4 0.81.
    let (columns, quads) = if hold > 0 { (48, 2) } else { (64, 1) };
    let mut out = vec![load, ("SLOAD", 1), ("SIDE", 1), ("SPAN", 1), ("SHARE", 0), ("IN_PLACE", 0), ("HOLD", hold), ("H", quads)];
    out.extend([("ROWS", 4), ("COLS", columns), ("GATE", 0), ("KTAIL", i64::from(cols as i64 % hold.max(4 * quads) != 0))]);
    out
}

fn tile_defines(t: &Tile, format: &Format, cols: usize) -> Defines {
    let wanted = match format {
        Format::F32 => 4,
        Format::F16 | Format::Bf16 => 2,
        Format::Quant(_) => 1,
    };
    let mut out = vec![load(format, cols, wanted), ("SLOAD", 1), ("KTAIL", 1), ("BM", t.m), ("BN", t.n), ("BK", 16)];
    out.extend([("TM", t.own), ("TN", t.own), ("KU", t.unroll)]);
    out
}

/// Every format with every shape, every epilogue with every shape, and every format with every part of an epilogue.
pub(crate) fn variants(facts: &Facts) -> Vec<Variant> {
    let mut out = Vec::new();
    let formats = formats();
    // Few and many weight rows for each number of rows of x, and a tile of each size.
    let shapes = (1..=FEW).flat_map(|m| [64, 8192].map(|n| (m, n))).chain([32, 128, 512, 1024].map(|m| (m, 2048)));
    for (m, n) in shapes {
        let mut add = |format, (cols, x_vec4), gate: i64, bias: i64, residual, activation| {
            let fuses = fuses_gate(facts, m);
            // Both, one, or none of them.
            let (norm, gate) = (fuses && gate % 3 == 1, fuses && gate % 2 == 1);
            let flags = Flags { norm, gate, bias: bias % 2 == 1, residual: residual % 3, activation: activation % 6, x_vec4 };
            out.push(variant(facts, shape(facts, m, n, gate), format, cols, &flags));
        };
        // Row lengths on either side of what the variants tell apart, with and without vectors of x.
        for row in [(64, true), (96, true), (128, true), (64, false), (65, false), (68, true), (4096, true), (4097, false)] {
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
pub(super) fn grid(v: &Variant, m: usize, n: usize) -> [u32; 3] {
    let (rows, cols) = (v.define("ROWS") as usize, v.define("COLS") as usize);
    let (x, y) = match (v.kernel, v.define("SIDE")) {
        ("linear_vec", _) => (n.div_ceil(rows), 1),
        ("linear_lanes", 0) => (n.div_ceil(8 * rows), 1),
        ("linear_lanes", _) => (n.div_ceil(cols), m.div_ceil(8 * rows)),
        _ => (n.div_ceil(v.define("BN") as usize), m.div_ceil(v.define("BM") as usize)),
    };
    [x as u32, y as u32, 1]
}
