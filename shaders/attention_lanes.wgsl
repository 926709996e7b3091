// Attention for drivers that run a subgroup of 8 as one SIMD register: see attention.wgsl for what is computed.
//
// A workgroup is one subgroup. HEADS query heads of one key head share each loaded key and value. SIDE 0 (one row): lanes lie over
// the elements of a head. SIDE 1 (many rows): lanes lie over rows, BLOCKS x 8 of them; elements of a key are loaded once by the
// lanes and broadcast. No workgroup memory; a key is one iteration, so that contexts stay below llvmpipe's 65,535.
#import common/attention
@group(0) @binding(3) var<storage, read> k: array<f32>;
@group(0) @binding(4) var<storage, read> v: array<f32>;

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let sequence = wid.z + params.origin.z + params.first_sequence;
    let head = (wid.y + params.origin.y) * $(HEADS)u + params.first_head;
    let k_at = keys_at(sequence, head);
    let v_at = values_at(sequence, head);
#if SIDE == 0
#if SPLIT
    let t = (wid.x + params.origin.x) / params.splits;
    let split = (wid.x + params.origin.x) % params.splits;
#else
    let t = wid.x + params.origin.x;
    let split = 0u;
#end
    let keys = part_of_keys(sequence, t, split);
#for h in 0..HEADS
#for i in 0..(D / 8)
    let q_$(h)_$i = q[query_at(sequence, t, head + $(h)u) + $(8 * i)u + lane] * params.scale;
    var o_$(h)_$i = 0.0;
#end
    var top_$h = NONE;
    var total_$h = 0.0;
#end
    for (var j = keys.x; j < keys.y; j++) {
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
    o[result_at(sequence, t, head + $(h)u, split) + $(8 * i)u + lane] = o_$(h)_$i * inverse_$h;
#end
#if SPLIT
    if (lane == 0u) { o[result_at(sequence, t, head + $(h)u, split) + $(D)u] = log_total(top_$h, total_$h); }
#end
#if SAVE
    if (lane == 0u) { save(sequence, t, head + $(h)u, top_$h, total_$h); }
#end
#end
#else
    let t0 = (wid.x + params.origin.x) * $(8 * BLOCKS)u;
    let last = min(t0 + $(8 * BLOCKS)u, params.sequence_rows) - 1u;
    let keys = seen(sequence, last);
#for b in 0..BLOCKS
    let t_$b = min(t0 + $(8 * b)u + lane, params.sequence_rows - 1u);
    let seen_$b = seen(sequence, t_$b);
#for h in 0..HEADS
#for i in 0..D
    let q_$(b)_$(h)_$i = q[query_at(sequence, t_$b, head + $(h)u) + $(i)u] * params.scale;
    var o_$(b)_$(h)_$i = 0.0;
#end
    var top_$(b)_$h = NONE;
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
        o[result_at(sequence, t_$b, head + $(h)u, 0u) + $(i)u] = o_$(b)_$(h)_$i * inverse_$(b)_$h;
#end
#if SAVE
        save(sequence, t_$b, head + $(h)u, top_$(b)_$h, total_$(b)_$h);
#end
#end
    }
#end
#end
}
