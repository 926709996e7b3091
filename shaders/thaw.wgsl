// y[t] = packed row t; LISTED: packed row indices[t], an index beyond the last counting as the last; OVERLAY: row j of `own` where
// first + t is indices[j], which ascend. An invocation makes four quads of elements, 64 apart, for one search among the indices.
//
// INT8: a row is codes, four a word, and then its scale. Else halves in pairs of words, which p_offset and p_stride count.
// VEC: rows of y and `own` are whole vec4, and their places in these units.
struct Params {
    origin: vec4<u32>,
    cols: u32, quads: u32, p_offset: u32, p_stride: u32,
    y_offset: u32, y_stride: u32, first: u32, last: u32,
    i_offset: u32, count: u32, a_offset: u32, a_stride: u32,
}
#if VEC
alias Unit = vec4<f32>;
#else
alias Unit = f32;
#end
@group(0) @binding(0) var<uniform> params: Params;
#if INT8
@group(0) @binding(1) var<storage, read> packed: array<u32>;
#else
@group(0) @binding(1) var<storage, read> packed: array<vec2<u32>>;
#end
@group(0) @binding(2) var<storage, read_write> y: array<Unit>; // (rows, cols)
#if LISTED || OVERLAY
@group(0) @binding(3) var<storage, read> indices: array<u32>; // (count)
#end
#if OVERLAY
@group(0) @binding(4) var<storage, read> own: array<Unit>; // (count, cols)
#end

// Quad q of a row.
fn decode(row: u32, q: u32) -> vec4<f32> {
    let at = params.p_offset + row * params.p_stride;
#if INT8
    return vec4<f32>(unpack4xI8(packed[at + q])) * bitcast<f32>(packed[at + params.quads]);
#else
    // By integers: unpack2x16float may take halves below 2^-14 for 0.
    let w = packed[at + q];
    let h = vec4<u32>(w.x & 0xFFFFu, w.x >> 16u, w.y & 0xFFFFu, w.y >> 16u);
    let m = h & vec4<u32>(0x7FFFu);
    let normal = bitcast<vec4<f32>>((m << vec4<u32>(13u)) + vec4<u32>(0x38000000u));
    let v = select(normal, vec4<f32>(m) * 5.9604645e-8, m < vec4<u32>(0x400u));
    return bitcast<vec4<f32>>(bitcast<vec4<u32>>(v) | ((h & vec4<u32>(0x8000u)) << vec4<u32>(16u)));
#end
}

fn store(t: u32, q: u32, v: vec4<f32>) {
    let at = params.y_offset + t * params.y_stride;
#if VEC
    y[at + q] = v;
#else
#for u in 0..4
    if (4u * q + $(u)u < params.cols) { y[at + 4u * q + $(u)u] = v[$u]; }
#end
#end
}

#if OVERLAY
fn load_own(j: u32, q: u32) -> vec4<f32> {
    let at = params.a_offset + j * params.a_stride;
#if VEC
    return own[at + q];
#else
    var v = vec4<f32>();
#for u in 0..4
    if (4u * q + $(u)u < params.cols) { v[$u] = own[at + 4u * q + $(u)u]; }
#end
    return v;
#end
}

// How many indices are below `row`: steps of falling powers of two.
fn below(row: u32) -> u32 {
    var n = 0u;
    for (var step = 0x80000000u >> countLeadingZeros(params.count); step > 0u; step /= 2u) {
        if (n + step <= params.count) {
            if (indices[params.i_offset + n + step - 1u] < row) { n += step; }
        }
    }
    return n;
}
#end

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let q = (wid.x + params.origin.x) * 256u + lane;
    let t = wid.y + params.origin.y;
#if OVERLAY
    let row = params.first + t;
    let j = below(row);
    if (j < params.count) {
        if (indices[params.i_offset + j] == row) {
#for u in 0..4
            if (q + $(64 * u)u < params.quads) { store(t, q + $(64 * u)u, load_own(j, q + $(64 * u)u)); }
#end
            return;
        }
    }
#end
#if LISTED
    let place = min(indices[params.i_offset + t], params.last);
#else
    let place = t;
#end
#for u in 0..4
    if (q + $(64 * u)u < params.quads) { store(t, q + $(64 * u)u, decode(place, q + $(64 * u)u)); }
#end
}
