// jacobi_gram for drivers that run a subgroup of 8 as one SIMD register: all in registers, with no workgroup memory and no barrier.
//
// Lane l holds columns l, 8 + l, 16 + l and 24 + l of M = J G and of J, a vec4 a row, so that rotations mix registers. What a
// rotation needs of J G Jᵀ are products of rows of M and of J. In each round rows T_i and B_i are a pair; then all but T_0 move on
// one place (circle method), back to where they were after 31 rounds. Last comes one step 1.5 J - 0.5 J Jᵀ J, as hundreds of J
// follow one another. grid = (pairs, layers).
#import common/svd
#import common/pairs

struct Params {
    origin: vec4<u32>,
    cols: u32, layer_step: u32, blocks: u32, round: u32, // cols, layer_step: in vec4
    first_layer: u32, sweeps: u32, tolerance: f32, floor: f32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>; // (layers, blocks W, cols)
@group(0) @binding(2) var<storage, read> state: array<u32>; // (layers, 16)
@group(0) @binding(3) var<storage, read_write> turns: array<f32>; // (layers, pairs, 32 x 32 + 4): J and a flag
@group(0) @binding(4) var<storage, read_write> peaks: array<atomic<u32>>; // (layers)

// Of eight numbers a lane, lane i gets the sum of the i-th over all lanes.
fn sums(v: array<f32, 8>, lane: u32) -> f32 {
    let four = (lane & 4u) != 0u;
    let two = (lane & 2u) != 0u;
    let one = (lane & 1u) != 0u;
#for i in 0..4
    let p$i = select(v[$i], v[$(i + 4)], four) + subgroupShuffleXor(select(v[$(i + 4)], v[$i], four), 4u);
#end
#for i in 0..2
    let q$i = select(p$i, p$(i + 2), two) + subgroupShuffleXor(select(p$(i + 2), p$i, two), 2u);
#end
    return select(q0, q1, one) + subgroupShuffleXor(select(q1, q0, one), 1u);
}

// Cosine and sine of the rotation that makes two rows with these squares and this product orthogonal, and their cosine before.
// The row that comes first in A becomes the longer one: sorted rows need fewer sweeps.
fn rotation(x: f32, y: f32, xy: f32, low: f32, first: bool) -> vec3<f32> {
    let cosine = select(0.0, abs(xy) / (sqrt(x) * sqrt(y)), min(x, y) > low);
    let z = 0.5 * (y - x) / xy;
    // Where z * z overflows, t is 0, as it should nearly be.
    let t = select(0.0, select(-1.0, 1.0, z >= 0.0) / (abs(z) + sqrt(1.0 + z * z)), cosine > 1e-7);
    let c = 1.0 / sqrt(1.0 + t * t);
    let grown = y - x + 2.0 * t * xy;
    // Rows that count as zero stay, so that those which only pad A come last.
    let swap = min(x, y) > low && select((grown < 0.0), (grown > 0.0), first);
    return vec3<f32>(select(vec2<f32>(c, c * t), vec2<f32>(c * t, -c), swap), cosine);
}

// Which row of J T_i and B_i are in round t.
fn upper(i: u32, t: u32) -> u32 {
    return select(from_circle(i + 30u - t), 0u, i == 0u);
}
fn from_circle(at: u32) -> u32 {
    let c = at % 31u;
    return select(46u - c, c + 1u, c < 15u);
}
fn lower(i: u32, t: u32) -> u32 {
    return from_circle(61u - i - t);
}

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let layer = wid.y + params.origin.y;
    let place = wid.x + params.origin.x;
    let own = (params.first_layer + layer) * STATE;
    if (state[own + DONE] != 0u) { return; }
    let floor = params.floor * bitcast<f32>(state[own + LARGEST]);
    let low = floor * floor;
    let pair = pair_of(params.blocks, params.round, place);
#for q in 0..4
    let row$q = layer * params.layer_step + (select(pair.x, pair.y, $(q / 2)u == 1u) * 16u + $(8 * (q % 2))u + lane) * params.cols;
#end
#for r in 0..32
    var m$r = vec4<f32>(0.0);
#end
    for (var c = 0u; c < params.cols; c++) {
#for q in 0..4
        let a$q = a[row$q + c];
#end
#for r in 0..32
        let b$r = subgroupBroadcast(a$(r / 8), $(r % 8)u);
        m$r += vec4<f32>(dot(a0, b$r), dot(a1, b$r), dot(a2, b$r), dot(a3, b$r));
#end
    }
    // The largest cosine: 1 / norm of this lane's columns, then of each row.
    var squares = vec4<f32>(0.0);
#for r in 0..32
    if (lane == $(r % 8)u) { squares[$(r / 8)] = m$r[$(r / 8)]; }
#end
    let inverse = select(vec4<f32>(0.0), 1.0 / sqrt(squares), squares > vec4<f32>(low));
    var peaks4 = vec4<u32>(0u);
#for r in 0..32
    var x$r = abs(m$r) * inverse * subgroupBroadcast(inverse[$(r / 8)], $(r % 8)u);
    if (lane == $(r % 8)u) { x$r[$(r / 8)] = 0.0; }
    peaks4 = max(peaks4, bitcast<vec4<u32>>(x$r));
#end
    var peak = subgroupMax(max(max(peaks4.x, peaks4.y), max(peaks4.z, peaks4.w)));
    let to = 4u * (layer * layer_turns(params.blocks) + place * 257u);
    let needed = peak > bitcast<u32>(params.tolerance);
    if (lane == 0u) {
        atomicMax(&peaks[params.first_layer + layer], peak);
        turns[to + 1024u] = select(0.0, 1.0, needed);
        turns[to + 1025u] = 0.0;
        turns[to + 1026u] = 0.0;
        turns[to + 1027u] = 0.0;
    }
    if (!needed) { return; }
#for r in 0..32
    var j$r = vec4<f32>(0.0);
    if (lane == $(r % 8)u) { j$r[$(r / 8)] = 1.0; }
#end
    // What is left after a sweep is about the square of what was there before.
    for (var sweep = 0u; sweep < params.sweeps && (sweep == 0u || peak > bitcast<u32>(3e-4f)); sweep++) {
        var worst = 0.0;
        for (var t = 0u; t < 31u; t++) {
#for h in 0..2
#let F = 8 * h
            let x$h = sums(array<f32, 8>(
#for i in 0..8
                dot(m$(F + i), j$(F + i)),
#end
            ), lane);
            let y$h = sums(array<f32, 8>(
#for i in 0..8
                dot(m$(16 + F + i), j$(16 + F + i)),
#end
            ), lane);
            let xy$h = sums(array<f32, 8>(
#for i in 0..8
                dot(m$(F + i), j$(16 + F + i)),
#end
            ), lane);
            let turn$h = rotation(x$h, y$h, xy$h, low, upper($(F)u + lane, t) < lower($(F)u + lane, t));
            worst = max(worst, turn$h.z);
#end
#for i in 0..16
            let c$i = subgroupBroadcast(turn$(i / 8).x, $(i % 8)u);
            let s$i = subgroupBroadcast(turn$(i / 8).y, $(i % 8)u);
            let mt$i = c$i * m$i - s$i * m$(16 + i);
            let mb$i = s$i * m$i + c$i * m$(16 + i);
            let jt$i = c$i * j$i - s$i * j$(16 + i);
            let jb$i = s$i * j$i + c$i * j$(16 + i);
#end
            m0 = mt0;
            j0 = jt0;
            m1 = mb0;
            j1 = jb0;
#for i in 2..16
            m$i = mt$(i - 1);
            j$i = jt$(i - 1);
#end
#for i in 0..15
            m$(16 + i) = mb$(i + 1);
            j$(16 + i) = jb$(i + 1);
#end
            m31 = mt15;
            j31 = jt15;
        }
        peak = subgroupMax(bitcast<u32>(worst));
    }
    // Row after row of 1.5 J - 0.5 (J Jᵀ) J; each row is the first once.
    for (var r = 0u; r < 32u; r++) {
#for h in 0..4
        let k$h = sums(array<f32, 8>(
#for i in 0..8
            dot(j0, j$(8 * h + i)),
#end
        ), lane);
#end
        var unit = vec4<f32>(0.0);
#for i in 0..32
        unit += subgroupBroadcast(k$(i / 8), $(i % 8)u) * j$i;
#end
        unit = 1.5 * j0 - 0.5 * unit;
#for q in 0..4
        turns[to + 32u * r + $(8 * q)u + lane] = unit[$q];
#end
        let first = j0;
#for i in 0..31
        j$i = j$(i + 1);
#end
        j31 = first;
    }
}
