// Packed row t = x[t]; LISTED: packed row indices[t] = x[t], an index beyond the last counting as the last. A workgroup a row.
//
// INT8: codes, four a word, and then their scale: the largest magnitude / 127, of 17 significant bits so that code times scale is exact
// and a row that was thawed gets the same words again. Else halves in pairs of words, which p_offset and p_stride count, by integers:
// the rounding of pack2x16float is left open, and what it makes of large numbers too.
//
// Rounding is to nearest, or DITHER: up with the probability of what lies below, by the generator at counter (quad of the matrix, STEP,
// stream, 0x4652). VEC: rows of x are whole vec4, and its places in these units.
#if INT8
#import common/reduce
#end
#if DITHER
#import common/progress
#import common/threefry
#end

struct Params {
    origin: vec4<u32>,
    cols: u32, quads: u32, p_offset: u32, p_stride: u32,
    x_offset: u32, x_stride: u32, first: u32, last: u32,
    i_offset: u32, stream: u32, pad0: u32, pad1: u32,
}
#if VEC
alias Unit = vec4<f32>;
#else
alias Unit = f32;
#end
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Unit>; // (rows, cols)
#if INT8
@group(0) @binding(2) var<storage, read_write> packed: array<u32>;
#else
@group(0) @binding(2) var<storage, read_write> packed: array<vec2<u32>>;
#end
#if LISTED
@group(0) @binding(3) var<storage, read> indices: array<u32>;
#end
#if DITHER
@group(0) @binding($(3 + LISTED)) var<storage, read> progress: array<u32>;
#end

fn load(t: u32, q: u32) -> vec4<f32> {
    let at = params.x_offset + t * params.x_stride;
#if VEC
    return x[at + q];
#else
    var v = vec4<f32>();
#for u in 0..4
    if (4u * q + $(u)u < params.cols) { v[$u] = x[at + 4u * q + $(u)u]; }
#end
    return v;
#end
}

fn random(row: u32, q: u32) -> vec4<u32> {
#if DITHER
    let counter = vec4<u32>((params.first + row) * params.quads + q, progress[STEP], params.stream, 0x4652u);
    return threefry(counter, vec4<u32>(progress[SEED], progress[SEED + 1u], 0u, 0u));
#else
    return vec4<u32>();
#end
}

#if INT8
fn encode(v: vec4<f32>, bits: vec4<u32>) -> u32 {
#if DITHER
    let whole = floor(v);
    // 2^-12 to 1 - 2^-12: what is off a whole number by rounding errors only stays there.
    let u = (vec4<f32>(bits >> vec4<u32>(21u)) + 0.5) * 4.8828125e-4;
    let c = whole + select(vec4<f32>(), vec4<f32>(1.0), v - whole > u);
#else
    let c = round(v);
#end
    let b = bitcast<vec4<u32>>(vec4<i32>(clamp(c, vec4<f32>(-127.0), vec4<f32>(127.0)))) & vec4<u32>(255u);
    return b.x | (b.y << 8u) | (b.z << 16u) | (b.w << 24u);
}
#else
fn encode(v: vec4<f32>, bits: vec4<u32>) -> vec2<u32> {
    let b = bitcast<vec4<u32>>(v);
    let a = b & vec4<u32>(0x7FFFFFFFu);
    let e = a >> vec4<u32>(23u);
    // From 2^-14 on a half has 13 bits less; below, one more for each power of two.
    let normal = e >= vec4<u32>(113u);
    let drop = select(min(vec4<u32>(126u) - e, vec4<u32>(31u)), vec4<u32>(13u), normal);
    let small = select((a & vec4<u32>(0x7FFFFFu)) | vec4<u32>(0x800000u), vec4<u32>(), e < vec4<u32>(95u));
    let all = select(small, a - vec4<u32>(0x38000000u), normal);
    let kept = all >> drop;
    let mask = (vec4<u32>(1u) << drop) - 1u;
    let rest = all & mask;
#if DITHER
    let up = (bits & mask) < rest;
#else
    let up = rest + (kept & vec4<u32>(1u)) > (vec4<u32>(1u) << (drop - 1u));
#end
    let largest = vec4<u32>(0x7BFFu);
    let h = min(kept + select(vec4<u32>(), vec4<u32>(1u), up), largest) | ((b >> vec4<u32>(16u)) & vec4<u32>(0x8000u));
    return vec2<u32>(h.x | (h.y << 16u), h.z | (h.w << 16u));
}
#end

@compute @workgroup_size($WG)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let t = wid.x + params.origin.x;
#if LISTED
    let row = min(indices[params.i_offset + t], params.last);
#else
    let row = t;
#end
    let at = params.p_offset + row * params.p_stride;
#if INT8
    var peak = 0.0;
    for (var q = lane; q < params.quads; q += $(WG)u) {
        let v = abs(load(t, q));
        peak = max(peak, max(max(v.x, v.y), max(v.z, v.w)));
    }
    peak = max_all(peak, lane);
    var scale = 0.0;
    var inverse = 0.0;
    if (peak >= 1e-30) {
        // The 4 makes up for the rounding of a product with 1 / 127.
        scale = bitcast<f32>((bitcast<u32>(peak * 0.007874016) + 4u) & 0xFFFFFF80u);
        inverse = 1.0 / scale;
    }
    if (lane == 0u) { packed[at + params.quads] = bitcast<u32>(scale); }
#end
    for (var q = lane; q < params.quads; q += $(WG)u) {
#if INT8
        packed[at + q] = encode(load(t, q) * inverse, random(row, q));
#else
        packed[at + q] = encode(load(t, q), random(row, q));
#end
    }
}
