// What the gradients of attention share. With P = exp(scale Q Kᵀ - lse), dP = dO Vᵀ and dS = P (dP - delta):
// dQ = scale dS K, dK = scale dSᵀ Q, dV = Pᵀ dO.
//
// A workgroup owns some rows of one head and streams over the rows of the other side. KEYS: it owns keys (own1 = K, own2 = V) and
// streams over queries (stream1 = Q, stream2 = dO) of all heads of its group; else it owns queries (own1 = Q, own2 = dO) and streams
// over keys (stream1 = K, stream2 = V). Either way S = own1 . stream1, dP = own2 . stream2, out1 = scale sum dS stream1, and for
// keys out2 = sum P stream2. Rows from the sequence's count on are not seen, and get zeros; `cross`: that counts keys alone, and all
// queries are valid.
#import common/state

struct Params {
    origin: vec4<u32>,
    own_rows: u32, heads: u32, group: u32, state_offset: u32,
    own1_offset: u32, own1_stride: u32, own2_offset: u32, own2_stride: u32,
    stream1_offset: u32, stream1_stride: u32, stream2_offset: u32, stream2_stride: u32,
    out1_offset: u32, out1_stride: u32, out2_offset: u32, out2_stride: u32,
    stats_offset: u32, scale: f32, stream_rows: u32, cross: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> state: array<u32>; // (sequences, 32)
#if VEC
@group(0) @binding(2) var<storage, read> own1: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> own2: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> stream1: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> stream2: array<vec4<f32>>;
#else
@group(0) @binding(2) var<storage, read> own1: array<f32>;
@group(0) @binding(3) var<storage, read> own2: array<f32>;
@group(0) @binding(4) var<storage, read> stream1: array<f32>;
@group(0) @binding(5) var<storage, read> stream2: array<f32>;
#end
@group(0) @binding(6) var<storage, read> stats: array<vec2<f32>>; // (rows, heads): lse and delta
#if VEC
@group(0) @binding(7) var<storage, read_write> out1: array<vec4<f32>>;
#if KEYS
@group(0) @binding(8) var<storage, read_write> out2: array<vec4<f32>>;
#end
#else
@group(0) @binding(7) var<storage, read_write> out1: array<f32>;
#if KEYS
@group(0) @binding(8) var<storage, read_write> out2: array<f32>;
#end
#end

// Valid rows of a sequence, of this side and of the other.
fn valid(sequence: u32) -> vec2<u32> {
    let rows = vec2<u32>(params.own_rows, params.stream_rows);
    let counted = min(vec2<u32>(state[params.state_offset + sequence * 32u + COUNT]), rows);
#if KEYS
    return vec2<u32>(counted.x, select(counted.y, rows.y, params.cross != 0u));
#else
    return vec2<u32>(select(counted.x, rows.x, params.cross != 0u), counted.y);
#end
}

// The first row of the other side that rows own0.. (up to `size` of them) meet, and the one past the last.
fn met(own0: u32, size: u32, counts: vec2<u32>) -> vec2<u32> {
    if (own0 >= counts.x) { return vec2<u32>(0u); }
#if CAUSAL && KEYS
    return vec2<u32>(own0, counts.y);
#end
#if CAUSAL && !KEYS
    return vec2<u32>(0u, min(own0 + size, counts.y));
#end
#if !CAUSAL
    return vec2<u32>(0u, counts.y);
#end
}

// Whether row `own` of this side meets row `other` of the other.
fn meets(own: u32, other: u32, counts: vec2<u32>) -> bool {
#if CAUSAL && KEYS
    return own < counts.x && other < counts.y && own <= other;
#end
#if CAUSAL && !KEYS
    return own < counts.x && other < counts.y && other <= own;
#end
#if !CAUSAL
    return own < counts.x && other < counts.y;
#end
}

// Where a query's lse and delta lie.
fn stats_at(sequence: u32, t: u32, head: u32) -> u32 {
#if KEYS
    let rows = params.stream_rows;
#else
    let rows = params.own_rows;
#end
    return params.stats_offset + (sequence * rows + t) * params.heads + head;
}
