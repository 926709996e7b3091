//! Which permutation a general product takes.

use crate::gpu::Facts;
use crate::kernel::{Access, Variant};

/// Most rows or columns of Y that count as few.
const FEW: usize = 8;

/// A, B, Y, then the scale, bias and residual that there are.
const ACCESS: [Access; 6] = [Access::Read, Access::Read, Access::Write, Access::Read, Access::Read, Access::Read];

/// Which shape of work a variant suits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// A software driver's 8 lanes, tiles of 32 by `cols`.
    Lanes { cols: i64 },
    /// Workgroup-memory tiles of 128 by 8.
    Few,
    /// 64 by 64, an invocation 8 by 4 of them. On an H200 it is up to 1.3 times as fast as 4 by 4 with twice as many invocations.
    Small,
    /// 128 by 128.
    Large,
}

/// How a product is spread over a device.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spread {
    /// Workgroups that it takes at once: below half of that, k is cut.
    pub(super) workgroups: usize,
    /// Shortest sum worth a part of its own.
    pub(super) run: usize,
}

/// Longest and shortest sums of large tiles.
const LARGE: Spread = Spread { workgroups: 256, run: 512 };

impl Spread {
    /// On an H200 (132 multiprocessors) the products of a training step were fastest with 400 to 600 small workgroups, with sums
    /// down to 64: 2.5 times as fast as 128 workgroups with sums of 512 where Y is small and k is 2,048. Memory shared with the
    /// processor is too slow for so many partial sums.
    pub(super) fn of(facts: &Facts, shape: Shape) -> Self {
        match facts.info.device_type {
            wgpu::DeviceType::Cpu => Self { workgroups: 16, run: 512 },
            _ if shape == Shape::Large => LARGE,
            wgpu::DeviceType::IntegratedGpu | wgpu::DeviceType::VirtualGpu => Self { workgroups: 128, run: 512 },
            _ => Self { workgroups: 512, run: 64 },
        }
    }

    /// Parts of k that pay where a whole k keeps `busy` workgroups at work.
    pub(super) fn parts(&self, busy: usize, k: usize) -> usize {
        if 2 * busy <= self.workgroups { (self.workgroups / busy.max(1)).min(k / self.run).max(1) } else { 1 }
    }
}

/// The shape, and whether A and B change places: the longer side of Y is the first of a tile where the other is short. `room`:
/// parts of k whose sums there is room for.
pub(super) fn shape(facts: &Facts, [m, n, k]: [usize; 3], batch: usize, room: usize) -> (Shape, bool) {
    let short = m.min(n);
    let swapped = short <= FEW && m < n;
    let tiles = m.div_ceil(128).saturating_mul(n.div_ceil(128)).saturating_mul(batch);
    let parts = LARGE.parts(tiles, k).min(room).max(1);
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
        96.. if tiles.saturating_mul(parts) >= LARGE.workgroups => Shape::Large,
        _ => Shape::Small,
    };
    (shape, swapped)
}

/// What the permutations of a shape differ in, the two operands in the shader's order.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flags {
    pub(super) across: [bool; 2],
    pub(super) half: [bool; 2],
    pub(super) vec4: [bool; 2],
    pub(super) y_vec4: bool,
    pub(super) swapped: bool,
    pub(super) k_tail: bool,
    /// Of the scale, the bias and the residual, which there are.
    pub(super) extras: [bool; 3],
}

fn extra_defines(extras: [bool; 3]) -> [(&'static str, i64); 3] {
    let [scale, bias, residual] = extras.map(i64::from);
    [("SCALE", scale), ("BIAS", bias), ("RESIDUAL", residual)]
}

fn access(extras: [bool; 3]) -> &'static [Access] {
    &ACCESS[..3 + extras.iter().filter(|e| **e).count()]
}

pub(super) fn variant(shape: Shape, f: &Flags) -> Variant {
    let [k, h] = [f.across, f.half].map(|side| side.map(i64::from));
    let mut defines = vec![("K0", k[0]), ("K1", k[1]), ("H0", h[0]), ("H1", h[1]), ("SWAP", i64::from(f.swapped))];
    defines.extend(extra_defines(f.extras));
    let access = access(f.extras);
    if let Shape::Lanes { cols } = shape {
        // A vec4 of eight lanes across k is 32 columns.
        let wide = [f.vec4[0], f.vec4[1] && (cols == 32 || !f.across[1])].map(i64::from);
        defines.extend([("V0", wide[0]), ("V1", wide[1]), ("YV", 0), ("KTAIL", i64::from(f.k_tail)), ("ROWS", 4), ("COLS", cols)]);
        let source = include_str!("../../../shaders/matmul_lanes.wgsl");
        return Variant { kernel: "matmul_lanes", source, defines, access, subgroup: Some(8) };
    }
    defines.extend([("V0", i64::from(f.vec4[0])), ("V1", i64::from(f.vec4[1])), ("YV", i64::from(f.y_vec4 && !f.swapped))]);
    let (bm, bn, bk, tm, tn) = match shape {
        Shape::Few => (128, 8, 16, 4, 4),
        Shape::Large => (128, 128, 8, 8, 8),
        _ => (64, 64, 16, 8, 4),
    };
    defines.extend([("BM", bm), ("BN", bn), ("BK", bk), ("TM", tm), ("TN", tn), ("WG", bm / tm * (bn / tn))]);
    let source = include_str!("../../../shaders/matmul_tile.wgsl");
    Variant { kernel: "matmul_tile", source, defines, access, subgroup: None }
}

/// The sum of parts of k, which has no scale.
pub(super) fn sum_variant([bias, residual]: [bool; 2]) -> Variant {
    let source = include_str!("../../../shaders/matmul_sum.wgsl");
    let extras = [false, bias, residual];
    let defines = extra_defines(extras)[1..].to_vec();
    Variant { kernel: "matmul_sum", source, defines, access: &access(extras)[1..], subgroup: None }
}

/// Every shape with every way that operands may lie, and every two of the extras with and without one another.
pub(crate) fn variants(facts: &Facts) -> Vec<Variant> {
    const EXTRAS: [[bool; 3]; 4] = [[false; 3], [true, true, false], [true, false, true], [false, true, true]];
    let mut out = EXTRAS.map(|[bias, residual, _]| sum_variant([bias, residual])).to_vec();
    out.push(sum_variant([false, true]));
    for (m, n) in [(1, 9), (9, 1), (3, 9), (9, 3), (8, 9), (9, 8), (64, 64), (2048, 2048)] {
        let (shape, swapped) = shape(facts, [m, n, 16], 1, 1);
        for bits in 0..128 {
            let [a_t, b_t, b_half, a_vec4, b_vec4, y_vec4, k_tail] = [0, 1, 2, 3, 4, 5, 6].map(|i| bits >> i & 1 == 1);
            let order = |mut sides: [bool; 2]| {
                sides.rotate_left(usize::from(swapped));
                sides
            };
            let (across, half, vec4) = (order([a_t, !b_t]), order([false, b_half]), order([a_vec4, b_vec4]));
            let flags = |extras| Flags { across, half, vec4, y_vec4, swapped, k_tail, extras };
            out.extend(EXTRAS.iter().map(|extras| variant(shape, &flags(*extras))));
        }
    }
    out
}

/// Workgroups in x and y for Y of `m x n`.
pub(super) fn tiles(v: &Variant, mut size: [usize; 2], swapped: bool) -> [usize; 2] {
    size.rotate_left(usize::from(swapped));
    let [rows, cols] = match v.kernel {
        "matmul_lanes" => [8 * v.define("ROWS"), v.define("COLS")],
        _ => [v.define("BM"), v.define("BN")],
    };
    [size[1].div_ceil(cols as usize), size[0].div_ceil(rows as usize)]
}
