// Rotates queries in place and keys on their way into the cache, and appends values: one invocation a pair of elements.
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
@group(0) @binding(1) var<storage, read> state: array<u32>; // (sequences, 32)
@group(0) @binding(2) var<storage, read_write> k_cache: array<f32>; // (sequences * kv_heads, capacity, head_dim)
@group(0) @binding(3) var<storage, read_write> v_cache: array<f32>; // the same
#if STACKED && ROPE
@group(0) @binding(4) var<storage, read_write> q: array<f32>; // (rows, (heads + 2 kv_heads) head_dim)
#else
@group(0) @binding(4) var<storage, read> k: array<f32>; // (rows, kv_heads head_dim)
@group(0) @binding(5) var<storage, read> v: array<f32>; // (rows, kv_heads head_dim)
#end
#if ROPE
@group(0) @binding($(6 - STACKED)) var<storage, read> table: array<vec2<f32>>; // (positions, head_dim / 2): cos, sin
#if STACKED == 0
@group(0) @binding(7) var<storage, read_write> q: array<f32>; // (rows, heads head_dim)
#end
#end

fn load_k(at: u32) -> f32 {
#if STACKED && ROPE
    return q[at];
#else
    return k[at];
#end
}
fn load_v(at: u32) -> f32 {
#if STACKED && ROPE
    return q[at];
#else
    return v[at];
#end
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let half = params.head_dim / 2u;
    let heads = params.heads + 2u * params.kv_heads;
    let index = (wid.x + params.origin.x) * 64u + lane;
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
    let second = 2u * i + 1u;
#end
#if ROPE
    // Rows past the valid ones may lie past the table.
    let angle = table[params.table_offset + min(position, params.positions - 1u) * half + i];
    if (head < params.heads) {
        let at = params.q_offset + row * params.q_stride + head * params.head_dim;
        let a = q[at + first];
        let b = q[at + second];
        q[at + first] = a * angle.x - b * angle.y;
        q[at + second] = a * angle.y + b * angle.x;
    }
#end
    if (head < params.heads || !valid) { return; }
    let kv = (head - params.heads) % params.kv_heads;
    let flat = sequence * params.kv_heads + kv;
    if (flat < params.cache_first || flat >= params.cache_first + params.cache_count) { return; }
    let to = ((flat - params.cache_first) * params.capacity + position) * params.head_dim;
    if (head < params.heads + params.kv_heads) {
        let at = params.k_offset + row * params.k_stride + kv * params.head_dim;
        let a = load_k(at + first);
        let b = load_k(at + second);
#if ROPE
        k_cache[to + first] = a * angle.x - b * angle.y;
        k_cache[to + second] = a * angle.y + b * angle.x;
#else
        k_cache[to + first] = a;
        k_cache[to + second] = b;
#end
    } else {
        let at = params.v_offset + row * params.v_stride + kv * params.head_dim;
        v_cache[to + first] = load_v(at + first);
        v_cache[to + second] = load_v(at + second);
    }
}
