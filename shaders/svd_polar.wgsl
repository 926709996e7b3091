// What one step towards the nearest orthogonal rows takes beside products: G = X Xᵀ becomes 1.5 c I - 0.5 c³ G.
//
// OP 0: peaks[at] = max(itself, max |G - I|), peaks[at + 1] likewise the largest sum of magnitudes of a row: a bound on the largest
// eigenvalue.    OP 1: G as above, c being 1 where that bound is below 2.9 (a step converges below 3), else what brings it there.
#import common/reduce

struct Params {
    origin: vec4<u32>,
    k: u32, stride: u32, at: u32, pad0: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
#if OP == 0
@group(0) @binding(1) var<storage, read> g: array<f32>; // (k, k)
@group(0) @binding(2) var<storage, read_write> peaks: array<atomic<u32>>;

// grid = (k)
@compute @workgroup_size($WG)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = wid.x + params.origin.x;
    var off = 0u;
    var sum = 0.0;
    for (var c = lane; c < params.k; c += $(WG)u) {
        let v = g[row * params.stride + c];
        sum += abs(v);
        off = max(off, bitcast<u32>(v - select(0.0, 1.0, c == row)) & 0x7fffffffu);
    }
    sum = sum_all(sum, lane);
    atomicMax(&peaks[params.at], off);
    if (lane == 0u) { atomicMax(&peaks[params.at + 1u], bitcast<u32>(sum) & 0x7fffffffu); }
}
#else
@group(0) @binding(1) var<storage, read_write> g: array<f32>; // (k, k)
@group(0) @binding(2) var<storage, read> peaks: array<u32>;

// grid = (stride / 64, k)
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let c = (wid.x + params.origin.x) * 64u + lane;
    let row = wid.y + params.origin.y;
    if (c >= params.k) { return; }
    let bound = bitcast<f32>(peaks[params.at + 1u]);
    var scale = 1.0;
    if (bound > 2.9) { scale = sqrt(2.9 / bound); }
    let at = row * params.stride + c;
    g[at] = select(0.0, 1.5 * scale, c == row) - 0.5 * scale * scale * scale * g[at];
}
#end
