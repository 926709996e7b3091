// Keys of the singular vectors of each layer: the smallest ones will be drawn. A workgroup a layer.
//
// LAW 0: p = (1/k + s / sum s) / 2, 1: 1/k, 2: s / sum s; key = -log(u) / p in the bits of f32, which order as integers. With p = 0 a
// key is that of infinity. 3: larger s have smaller keys. 4: from where the last draw ended. ROUND: those drawn before in this round
// come after all others, by the sign bit.
#import common/progress
#import common/reduce
#import common/threefry

struct Params {
    origin: vec4<u32>,
    value_base: u32, first_layer: u32, round: u32, pad0: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> values: array<f32>;
@group(0) @binding(2) var<storage, read> table: array<vec4<u32>>; // (layers, 2)
@group(0) @binding(3) var<storage, read> progress: array<u32>;
@group(0) @binding(4) var<storage, read_write> keys: array<u32>;
#if ROUND
@group(0) @binding(5) var<storage, read_write> used: array<u32>; // a bit for each vector
#end

const LAST: u32 = 0x7F800000u; // infinity

// The bits of s; 0 for what is negative, subnormal or not finite.
fn sound(i: u32) -> u32 {
    let b = bitcast<u32>(values[i]);
    return select(0u, b, b >= 0x00800000u && b < LAST);
}
fn weight(i: u32) -> f32 {
    return min(bitcast<f32>(sound(i)), 1e30);
}

// -log(u) to a few ulp even near u = 1, where WGSL promises only an absolute error: u = m 2^e, log m = 2 atanh((m - 1) / (m + 1)).
fn exponential(u: f32) -> f32 {
    let b = bitcast<u32>(u) + (0x3F800000u - 0x3F3504F3u);
    let e = f32(i32(b >> 23u) - 127);
    let m = bitcast<f32>((b & 0x7FFFFFu) + 0x3F3504F3u);
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let log_m = 2.0 * s * (1.0 + z * (0.33333333 + z * (0.2 + z * (0.14285714 + z * 0.11111111))));
    return -(e * 0.69314718 + log_m);
}

@compute @workgroup_size($WG)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let layer = params.first_layer + wid.x + params.origin.x;
    let what = table[2u * layer]; // sigma, k, r, indices
    let more = table[2u * layer + 1u]; // keys, words of bits
    let at = what.x - params.value_base;
    let k = what.y;
    let draws = progress[DRAWS];
#if LAW == 0 || LAW == 2
    var sum = 0.0;
    for (var i = lane; i < k; i += $(WG)u) { sum += weight(at + i); }
    sum = sum_all(sum, lane);
#end
#if ROUND
    let anew = draws % params.round == 0u;
    if (anew) {
        for (var i = lane; i < (k + 31u) / 32u; i += $(WG)u) { used[more.y + i] = 0u; }
    }
#end
#if LAW == 4
    let start = (draws % k) * what.z % k;
#end
    for (var q = lane; q < (k + 3u) / 4u; q += $(WG)u) {
#if LAW < 3
        let bits = threefry(vec4<u32>(q, draws, layer, 0x5354u), vec4<u32>(progress[SEED], progress[SEED + 1u], 0u, 0u));
#end
#for j in 0..4
        let i$j = 4u * q + $(j)u;
        if (i$j < k) {
#if LAW < 3
            var p = 1.0 / f32(k);
#if LAW == 0
            if (sum > 0.0) { p = 0.5 * (p + weight(at + i$j) / sum); }
#end
#if LAW == 2
            if (sum > 0.0) { p = weight(at + i$j) / sum; }
#end
            // A quotient that overflows stays below infinity.
            var key = select(LAST, bitcast<u32>(min(exponential(uniform_open(bits[$j])) / p, 3e38)), p > 0.0);
#end
#if LAW == 3
            var key = LAST - sound(at + i$j);
#end
#if LAW == 4
            var key = (i$j + k - start) % k;
#end
#if ROUND
            if (!anew && ((used[more.y + i$j / 32u] >> (i$j % 32u)) & 1u) != 0u) { key |= 0x80000000u; }
#end
            keys[more.x + i$j] = key;
        }
#end
    }
}
