// Attention for drivers that run a subgroup of 8 as one SIMD register: see attention.wgsl for what is computed.
//
// A workgroup is one subgroup. HEADS query heads of one key head share each loaded key and value. SIDE 0 (one row): lanes lie over
// the elements of a head. SIDE 1 (many rows): lanes lie over rows, BLOCKS x 8 of them; elements of a key are loaded once by the
// lanes and broadcast. No workgroup memory; a key is one iteration, so that contexts stay below llvmpipe's 65,535.
#import common/state

struct Params {
    origin: vec4<u32>,
    sequence_rows: u32, heads: u32, group: u32, head_dim: u32,
    q_offset: u32, q_stride: u32, o_offset: u32, o_stride: u32,
    k_offset: u32, k_sequence: u32, k_head: u32, k_row: u32,
    v_offset: u32, v_sequence: u32, v_head: u32, v_row: u32,
    capacity: u32, first_head: u32, first_sequence: u32, scale: f32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> state: array<u32>; // (sequences, 32)
@group(0) @binding(2) var<storage, read> q: array<f32>; // (rows, heads head_dim)
@group(0) @binding(3) var<storage, read> k: array<f32>;
@group(0) @binding(4) var<storage, read> v: array<f32>;
@group(0) @binding(5) var<storage, read_write> o: array<f32>; // (rows, heads head_dim)

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let sequence = wid.z + params.origin.z + params.first_sequence;
    let head = (wid.y + params.origin.y) * $(HEADS)u + params.first_head;
    let s = sequence * 32u;
    let kv = head / params.group - params.first_head / params.group;
    let k_at = params.k_offset + (sequence - params.first_sequence) * params.k_sequence + kv * params.k_head;
    let v_at = params.v_offset + (sequence - params.first_sequence) * params.v_sequence + kv * params.v_head;
#if SIDE == 0
    let t = wid.x + params.origin.x;
    let row = sequence * params.sequence_rows + t;
#if CAUSAL
    let keys = min(state[s + LENGTH] + t + 1u, params.capacity);
#else
    let keys = min(state[s + COUNT], params.capacity);
#end
#for h in 0..HEADS
#for i in 0..(D / 8)
    let q_$(h)_$i = q[params.q_offset + row * params.q_stride + (head + $(h)u) * $(D)u + $(8 * i)u + lane] * params.scale;
    var o_$(h)_$i = 0.0;
#end
    var top_$h = -3.0e38;
    var total_$h = 0.0;
#end
    for (var j = 0u; j < keys; j++) {
#for i in 0..(D / 8)
        let k_$i = k[k_at + j * params.k_row + $(8 * i)u + lane];
#end
#for i in 0..(D / 8)
        let v_$i = v[v_at + j * params.v_row + $(8 * i)u + lane];
#end
#for h in 0..HEADS
        var part_$h = 0.0;
#for i in 0..(D / 8)
        part_$h = fma(q_$(h)_$i, k_$i, part_$h);
#end
        let score_$h = subgroupAdd(part_$h);
        let next_$h = max(top_$h, score_$h);
        let keep_$h = exp(top_$h - next_$h);
        let p_$h = exp(score_$h - next_$h);
        top_$h = next_$h;
        total_$h = fma(total_$h, keep_$h, p_$h);
#for i in 0..(D / 8)
        o_$(h)_$i = fma(p_$h, v_$i, o_$(h)_$i * keep_$h);
#end
#end
    }
#for h in 0..HEADS
    let inverse_$h = select(0.0, 1.0 / total_$h, total_$h > 0.0);
#for i in 0..(D / 8)
    o[params.o_offset + row * params.o_stride + (head + $(h)u) * $(D)u + $(8 * i)u + lane] = o_$(h)_$i * inverse_$h;
#end
#end
#else
    let t0 = (wid.x + params.origin.x) * $(8 * BLOCKS)u;
    let last = min(t0 + $(8 * BLOCKS)u, params.sequence_rows) - 1u;
#if CAUSAL
    let keys = min(state[s + LENGTH] + last + 1u, params.capacity);
#else
    let keys = min(state[s + COUNT], params.capacity);
#end
#for b in 0..BLOCKS
    let t_$b = min(t0 + $(8 * b)u + lane, params.sequence_rows - 1u);
    let row_$b = sequence * params.sequence_rows + t_$b;
#if CAUSAL
    let seen_$b = min(state[s + LENGTH] + t_$b + 1u, params.capacity);
#else
    let seen_$b = keys;
#end
#for h in 0..HEADS
#for i in 0..D
    let q_$(b)_$(h)_$i = q[params.q_offset + row_$b * params.q_stride + (head + $(h)u) * $(D)u + $(i)u] * params.scale;
    var o_$(b)_$(h)_$i = 0.0;
#end
    var top_$(b)_$h = -3.0e38;
    var total_$(b)_$h = 0.0;
#end
#end
    for (var j = 0u; j < keys; j++) {
#for b in 0..BLOCKS
#for h in 0..HEADS
        var score_$(b)_$h = 0.0;
#end
#end
#for i in 0..(D / 8)
        let k_$i = k[k_at + j * params.k_row + $(8 * i)u + lane];
#for e in 0..8
        let k_$(i)_$e = subgroupBroadcast(k_$i, $(e)u);
#for b in 0..BLOCKS
#for h in 0..HEADS
        score_$(b)_$h = fma(q_$(b)_$(h)_$(8 * i + e), k_$(i)_$e, score_$(b)_$h);
#end
#end
#end
#end
        // A row's maximum rarely grows once some keys were seen: only then is everything rescaled.
        var grows = false;
#for b in 0..BLOCKS
#for h in 0..HEADS
        grows = grows || (j < seen_$b && score_$(b)_$h > top_$(b)_$h);
#end
#end
        if (subgroupAny(grows)) {
#for b in 0..BLOCKS
#for h in 0..HEADS
            let next_$(b)_$h = select(top_$(b)_$h, max(top_$(b)_$h, score_$(b)_$h), j < seen_$b);
            let keep_$(b)_$h = exp(top_$(b)_$h - next_$(b)_$h);
            top_$(b)_$h = next_$(b)_$h;
            total_$(b)_$h *= keep_$(b)_$h;
#for i in 0..D
            o_$(b)_$(h)_$i *= keep_$(b)_$h;
#end
#end
#end
        }
#for b in 0..BLOCKS
#for h in 0..HEADS
        let p_$(b)_$h = select(0.0, exp(score_$(b)_$h - top_$(b)_$h), j < seen_$b);
        total_$(b)_$h += p_$(b)_$h;
#end
#end
#for i in 0..(D / 8)
        let v_$i = v[v_at + j * params.v_row + $(8 * i)u + lane];
#for e in 0..8
        let v_$(i)_$e = subgroupBroadcast(v_$i, $(e)u);
#for b in 0..BLOCKS
#for h in 0..HEADS
        o_$(b)_$(h)_$(8 * i + e) = fma(p_$(b)_$h, v_$(i)_$e, o_$(b)_$(h)_$(8 * i + e));
#end
#end
#end
#end
    }
#for b in 0..BLOCKS
    if (t0 + $(8 * b)u + lane < params.sequence_rows) {
#for h in 0..HEADS
        let inverse_$(b)_$h = select(0.0, 1.0 / total_$(b)_$h, total_$(b)_$h > 0.0);
#for i in 0..D
        o[params.o_offset + row_$b * params.o_stride + (head + $(h)u) * $(D)u + $(i)u] = o_$(b)_$(h)_$i * inverse_$(b)_$h;
#end
#end
    }
#end
#end
}
