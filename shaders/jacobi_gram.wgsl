// For each pair of blocks of W rows of A: an orthogonal J of size P = 2 W that makes these rows nearly orthogonal to each other.
//
// A workgroup a pair: G = A Aᵀ of its P rows, cyclic Jacobi on G in workgroup memory with the rotations collected in J, and one
// step J (1.5 I - 0.5 Jᵀ J), so that hundreds of them in a row stay orthogonal. The largest cosine between two rows goes to the
// layer's peak: as bits of a number that is not negative, a maximum of integers, which knows no order. Where no cosine is above
// the tolerance there is nothing to turn, and the pair's flag says so. grid = (pairs, layers).
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
@group(0) @binding(3) var<storage, read_write> turns: array<vec4<f32>>; // (layers, pairs, P P / 4 + 1): J and a flag
@group(0) @binding(4) var<storage, read_write> peaks: array<atomic<u32>>; // (layers)

#let P = 2 * W
#let GS = P + 1
var<workgroup> g: array<f32, $(P * GS)>;
var<workgroup> turn: array<f32, $(P * P)>;
var<workgroup> angles: array<vec2<f32>, $W>; // cosine, sine
var<workgroup> sh_peak: array<u32, $WG>;
#let TILE = 8
var<workgroup> tile: array<vec4<f32>, $(P * (TILE + 1))>;

fn peak_all(v: u32, lane: u32) -> u32 {
    workgroupBarrier();
    sh_peak[lane] = v;
    for (var half = $(WG / 2)u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (lane < half) { sh_peak[lane] = max(sh_peak[lane], sh_peak[lane + half]); }
    }
    return workgroupUniformLoad(&sh_peak[0]);
}

// The cosine between two rows, 0 where one of them counts as zero.
fn cosine(low: f32, i: u32, j: u32) -> f32 {
    let x = g[i * $(GS)u + i];
    let y = g[j * $(GS)u + j];
    return select(0.0, abs(g[i * $(GS)u + j]) / (sqrt(x) * sqrt(y)), min(x, y) > low);
}

// An invocation makes 2 x 2 of the sums.
fn gram(base: u32, pair: vec2<u32>, lane: u32) {
    let i = lane / $(W)u;
    let j = lane % $(W)u;
    var s00 = 0.0;
    var s01 = 0.0;
    var s10 = 0.0;
    var s11 = 0.0;
    for (var first = 0u; first < params.cols; first += $(TILE)u) {
        workgroupBarrier();
        for (var q = lane; q < $(P * TILE)u; q += $(WG)u) {
            let r = q / $(TILE)u;
            let row = select(pair.y * $(W)u + r - $(W)u, pair.x * $(W)u + r, r < $(W)u);
            tile[r * $(TILE + 1)u + q % $(TILE)u] = a[base + row * params.cols + first + q % $(TILE)u];
        }
        workgroupBarrier();
        for (var c = 0u; c < $(TILE)u; c++) {
            let a0 = tile[i * $(TILE + 1)u + c];
            let a1 = tile[(i + $(W)u) * $(TILE + 1)u + c];
            let b0 = tile[j * $(TILE + 1)u + c];
            let b1 = tile[(j + $(W)u) * $(TILE + 1)u + c];
            s00 += dot(a0, b0);
            s01 += dot(a0, b1);
            s10 += dot(a1, b0);
            s11 += dot(a1, b1);
        }
    }
    g[i * $(GS)u + j] = s00;
    g[i * $(GS)u + j + $(W)u] = s01;
    g[(i + $(W)u) * $(GS)u + j] = s10;
    g[(i + $(W)u) * $(GS)u + j + $(W)u] = s11;
    workgroupBarrier();
}

// Cosine and sine of the rotation that makes two rows orthogonal. The first of them becomes the longer one: sorted rows need fewer
// sweeps.
fn set_angle(low: f32, i: u32, p: u32, q: u32) {
    let x = g[p * $(GS)u + p];
    let y = g[q * $(GS)u + q];
    let xy = g[p * $(GS)u + q];
    let z = 0.5 * (y - x) / xy;
    // Where z * z overflows, t is 0, as it should nearly be.
    let t = select(0.0, select(-1.0, 1.0, z >= 0.0) / (abs(z) + sqrt(1.0 + z * z)), cosine(low, p, q) > 1e-7);
    let c = 1.0 / sqrt(1.0 + t * t);
    // Rows that count as zero stay, so that those which only pad A come last.
    let swap = min(x, y) > low && y - x + 2.0 * t * xy > 0.0;
    angles[i] = select(vec2<f32>(c, c * t), vec2<f32>(c * t, -c), swap);
}

// G <- R G Rᵀ and J <- R J for the rotations of one round; every 2 x 2 block of G has one invocation.
fn rotate(t: u32, lane: u32) {
    for (var b = lane; b < $(W * W)u; b += $(WG)u) {
        let i = b / $(W)u;
        let j = b % $(W)u;
        let p = pair_of($(P)u, t, i);
        let q = pair_of($(P)u, t, j);
        let l = angles[i];
        let r = angles[j];
        let a00 = g[p.x * $(GS)u + q.x];
        let a01 = g[p.x * $(GS)u + q.y];
        let a10 = g[p.y * $(GS)u + q.x];
        let a11 = g[p.y * $(GS)u + q.y];
        let b00 = l.x * a00 - l.y * a10;
        let b01 = l.x * a01 - l.y * a11;
        let b10 = l.y * a00 + l.x * a10;
        let b11 = l.y * a01 + l.x * a11;
        let zero = i == j && l.y != 0.0;
        g[p.x * $(GS)u + q.x] = r.x * b00 - r.y * b01;
        g[p.x * $(GS)u + q.y] = select(r.y * b00 + r.x * b01, 0.0, zero);
        g[p.y * $(GS)u + q.x] = select(r.x * b10 - r.y * b11, 0.0, zero);
        g[p.y * $(GS)u + q.y] = r.y * b10 + r.x * b11;
    }
    for (var b = lane; b < $(W * P)u; b += $(WG)u) {
        let i = b / $(P)u;
        let c = b % $(P)u;
        let p = pair_of($(P)u, t, i);
        let l = angles[i];
        let x = turn[p.x * $(P)u + c];
        let y = turn[p.y * $(P)u + c];
        turn[p.x * $(P)u + c] = l.x * x - l.y * y;
        turn[p.y * $(P)u + c] = l.y * x + l.x * y;
    }
}

// Writes J (1.5 I - 0.5 Jᵀ J); G is no longer needed and holds Jᵀ J.
fn polish(base: u32, lane: u32) {
    for (var b = lane; b < $(P * P)u; b += $(WG)u) {
        let i = b / $(P)u;
        let j = b % $(P)u;
        var sum = 0.0;
        for (var l = 0u; l < $(P)u; l++) { sum += turn[l * $(P)u + i] * turn[l * $(P)u + j]; }
        g[i * $(GS)u + j] = select(0.0, 1.5, i == j) - 0.5 * sum;
    }
    workgroupBarrier();
    for (var b = lane; b < $(P * P / 4)u; b += $(WG)u) {
        let i = b / $(P / 4)u;
        let j = 4u * (b % $(P / 4)u);
        var sum = vec4<f32>(0.0);
        for (var l = 0u; l < $(P)u; l++) {
            let at = l * $(GS)u + j;
            sum += turn[i * $(P)u + l] * vec4<f32>(g[at], g[at + 1u], g[at + 2u], g[at + 3u]);
        }
        turns[base + b] = sum;
    }
}

@compute @workgroup_size($WG)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let layer = wid.y + params.origin.y;
    let place = wid.x + params.origin.x;
    let own = (params.first_layer + layer) * STATE;
    if (state[own + DONE] == 0u) {
        let low = params.floor * params.floor * bitcast<f32>(state[own + LARGEST]) * bitcast<f32>(state[own + LARGEST]);
        let to = layer * layer_turns(params.blocks) + place * $(P * P / 4 + 1)u;
        gram(layer * params.layer_step, pair_of(params.blocks, params.round, place), lane);
        var peak = 0u;
        for (var b = lane; b < $(P * P)u; b += $(WG)u) {
            let i = b / $(P)u;
            let j = b % $(P)u;
            if (i < j) { peak = max(peak, bitcast<u32>(cosine(low, i, j)) & 0x7fffffffu); }
            turn[b] = select(0.0, 1.0, i == j);
        }
        peak = peak_all(peak, lane);
        if (lane == 0u) { atomicMax(&peaks[params.first_layer + layer], peak); }
        let needed = peak > bitcast<u32>(params.tolerance);
        if (lane == 0u) { turns[to + $(P * P / 4)u] = vec4<f32>(select(0.0, 1.0, needed), 0.0, 0.0, 0.0); }
        if (needed) {
            // What is left after a sweep is about the square of what was there before.
            for (var sweep = 0u; sweep < params.sweeps && (sweep == 0u || peak > bitcast<u32>(3e-4f)); sweep++) {
                peak = 0u;
                for (var t = 0u; t < $(P - 1)u; t++) {
                    for (var i = lane; i < $(W)u; i += $(WG)u) {
                        let p = pair_of($(P)u, t, i);
                        peak = max(peak, bitcast<u32>(cosine(low, p.x, p.y)) & 0x7fffffffu);
                        set_angle(low, i, p.x, p.y);
                    }
                    workgroupBarrier();
                    rotate(t, lane);
                    workgroupBarrier();
                }
                peak = peak_all(peak, lane);
            }
            polish(to, lane);
        }
    }
}
