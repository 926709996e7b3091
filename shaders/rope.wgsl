// Rotates queries in place and keys on their way into the cache, and appends values: one invocation a pair of elements, or (VEC)
// four pairs, which are two vec4.
//
// (a, b) -> (a cos - b sin, a sin + b cos) with the angle of (position, pair) from a host table in f32 (device sin and cos lose
// digits at large angles). ROPE: 0 none (append only), 1 pairs (i, i + d/2), 2 pairs (2 i, 2 i + 1). Only valid rows of active
// sequences are appended. STACKED: q, k and v are columns of one tensor.
#import common/state

struct Params {
    origin: vec4<u32>,
    rows: u32, sequence_rows: u32, heads: u32, kv_heads: u32,
    head_dim: u32, capacity: u32, q_offset: u32, q_stride: u32,
    k_offset: u32, k_stride: u32, v_offset: u32, v_stride: u32,
    table_offset: u32, cache_first: u32, cache_count: u32, positions: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
#if VEC
alias Unit = vec4<f32>;
alias Angle = vec4<f32>;
#else
alias Unit = f32;
alias Angle = vec2<f32>;
#end
@group(0) @binding(1) var<storage, read> state: array<u32>; // (sequences, 32)
@group(0) @binding(2) var<storage, read_write> k_cache: array<Unit>; // (sequences * kv_heads, capacity, head_dim)
@group(0) @binding(3) var<storage, read_write> v_cache: array<Unit>; // the same
#if STACKED && ROPE
@group(0) @binding(4) var<storage, read_write> q: array<Unit>; // (rows, (heads + 2 kv_heads) head_dim)
#else
@group(0) @binding(4) var<storage, read> k: array<Unit>; // (rows, kv_heads head_dim)
@group(0) @binding(5) var<storage, read> v: array<Unit>; // (rows, kv_heads head_dim)
#end
#if ROPE
@group(0) @binding($(6 - STACKED)) var<storage, read> table: array<Angle>; // (positions, head_dim / 2): cos, sin
#if STACKED == 0
@group(0) @binding(7) var<storage, read_write> q: array<Unit>; // (rows, heads head_dim)
#end
#end

#let PAIRS = 1 + 3 * VEC
// Element `at` and those with it, in the units of the buffers.
fn load_k(at: u32) -> Unit {
#if STACKED && ROPE
    return q[at / $(PAIRS)u];
#else
    return k[at / $(PAIRS)u];
#end
}
fn load_v(at: u32) -> Unit {
#if STACKED && ROPE
    return q[at / $(PAIRS)u];
#else
    return v[at / $(PAIRS)u];
#end
}

struct Two {
    first: Unit,
    second: Unit,
}
#if ROPE
// What lies at `first` and `second`, rotated by the angles of pair i of a position and those with it.
fn rotate(two: Two, position: u32, i: u32) -> Two {
    // Rows past the valid ones may lie past the table.
    let at = params.table_offset + min(position, params.positions - 1u) * (params.head_dim / 2u) + i;
#if VEC
    let t = table[at / 2u];
    let u = table[at / 2u + 1u];
    let cos = vec4<f32>(t.x, t.z, u.x, u.z);
    let sin = vec4<f32>(t.y, t.w, u.y, u.w);
#if ROPE == 2
    let a = vec4<f32>(two.first.x, two.first.z, two.second.x, two.second.z);
    let b = vec4<f32>(two.first.y, two.first.w, two.second.y, two.second.w);
    let x = a * cos - b * sin;
    let y = a * sin + b * cos;
    return Two(vec4<f32>(x.x, y.x, x.y, y.y), vec4<f32>(x.z, y.z, x.w, y.w));
#end
#else
    let cos = table[at].x;
    let sin = table[at].y;
#end
#if ROPE == 1 || VEC == 0
    return Two(two.first * cos - two.second * sin, two.first * sin + two.second * cos);
#end
}
#end

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let half = params.head_dim / 2u;
    let heads = params.heads + 2u * params.kv_heads;
    let index = ((wid.x + params.origin.x) * 64u + lane) * $(PAIRS)u;
    let row = wid.y + params.origin.y;
    let head = index / half;
    let i = index % half;
    if (head >= heads) { return; }
    let sequence = row / params.sequence_rows;
    let t = row % params.sequence_rows;
    let s = sequence * 32u;
    let position = state[s + LENGTH] + t;
    let valid = t < state[s + COUNT] && state[s + ACTIVE] != 0u && position < params.capacity;
#if ROPE == 1
    let first = i;
    let second = i + half;
#else
    let first = 2u * i;
    let second = 2u * i + $(PAIRS)u;
#end
#if ROPE
    if (head < params.heads) {
        let at = params.q_offset + row * params.q_stride + head * params.head_dim;
        let r = rotate(Two(q[(at + first) / $(PAIRS)u], q[(at + second) / $(PAIRS)u]), position, i);
        q[(at + first) / $(PAIRS)u] = r.first;
        q[(at + second) / $(PAIRS)u] = r.second;
    }
#end
    if (head < params.heads || !valid) { return; }
    let kv = (head - params.heads) % params.kv_heads;
    let flat = sequence * params.kv_heads + kv;
    if (flat < params.cache_first || flat >= params.cache_first + params.cache_count) { return; }
    let to = ((flat - params.cache_first) * params.capacity + position) * params.head_dim;
    if (head < params.heads + params.kv_heads) {
        let at = params.k_offset + row * params.k_stride + kv * params.head_dim;
        var r = Two(load_k(at + first), load_k(at + second));
#if ROPE
        r = rotate(r, position, i);
#end
        k_cache[(to + first) / $(PAIRS)u] = r.first;
        k_cache[(to + second) / $(PAIRS)u] = r.second;
    } else {
        let at = params.v_offset + row * params.v_stride + kv * params.head_dim;
        v_cache[(to + first) / $(PAIRS)u] = load_v(at + first);
        v_cache[(to + second) / $(PAIRS)u] = load_v(at + second);
    }
}
