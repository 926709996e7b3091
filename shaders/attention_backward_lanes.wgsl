// Gradients of attention for drivers that run a subgroup of 8 as one SIMD register: see common/attention_backward.wgsl for what is
// computed.
//
// A workgroup is one subgroup. Lanes lie over owned rows, BLOCKS of them a lane, which stay in registers with their outputs. Of T
// streamed rows the lanes load each vec4 once, and broadcast it: loads are what costs there (docs/ARCHITECTURE.md). No workgroup
// memory.
#import common/attention_backward
#let W = D / 4
#let LOADS = T * W / 8

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let own0 = (wid.x + params.origin.x) * $(8 * BLOCKS)u;
    let head = wid.y + params.origin.y;
    let sequence = wid.z + params.origin.z;
    let counts = valid(sequence);
    let range = met(own0, $(8 * BLOCKS)u, counts);
    let first_other = sequence * params.stream_rows;
#for b in 0..BLOCKS
    let own_$b = own0 + $(8 * b)u + lane;
    let row_$b = sequence * params.own_rows + min(own_$b, params.own_rows - 1u);
#for x in 1..3
    let at$(x)_$b = (params.own$(x)_offset + row_$b * params.own$(x)_stride + head * $(D)u) >> 2u;
#for c in 0..W
    let own$(x)_$(b)_$c = own$x[at$(x)_$b + $(c)u];
#end
#end
#for o in 1..(2 + KEYS)
#for c in 0..W
    var sum$(o)_$(b)_$c = vec4<f32>(0.0);
#end
#end
#if !KEYS
    let stats_$b = stats[stats_at(sequence, min(own_$b, params.own_rows - 1u), head)];
#end
#end
    let last = max(counts.y, 1u) - 1u;
#for g in 0..LOADS
    let part_row_$g = ($(8 * g)u + lane) / $(W)u;
    let part_col_$g = ($(8 * g)u + lane) % $(W)u;
#end
#if KEYS
    for (var other_head = head * params.group; other_head < (head + 1u) * params.group; other_head++) {
#else
    let other_head = head / params.group;
    {
#end
    for (var other0 = range.x; other0 < range.y; other0 += $(T)u) {
        // What lies past the valid rows is the last of them again, and weighs nothing.
#for g in 0..LOADS
        let r_$g = first_other + min(other0 + part_row_$g, last);
#for x in 1..3
        let load$(x)_$g = stream$x[((params.stream$(x)_offset + r_$g * params.stream$(x)_stride + other_head * $(D)u) >> 2u) + part_col_$g];
#end
#end
#if KEYS
        let some = stats[stats_at(sequence, min(other0 + lane % $(T)u, last), other_head)];
#for t in 0..T
        let stats_$t = subgroupBroadcast(some, $(t)u);
#end
#end
#for t in 0..T
#for b in 0..BLOCKS
        var s1_$(t)_$b = 0.0;
        var s2_$(t)_$b = 0.0;
#end
#for c in 0..W
#for x in 1..3
        let other$(x)_$(t)_$c = subgroupBroadcast(load$(x)_$((t * W + c) / 8), $((t * W + c) % 8)u);
#for b in 0..BLOCKS
        s$(x)_$(t)_$b += dot(own$(x)_$(b)_$c, other$(x)_$(t)_$c);
#end
#end
#end
#for b in 0..BLOCKS
#if KEYS
        let of_$(t)_$b = stats_$t;
#else
        let of_$(t)_$b = stats_$b;
#end
        let p_$(t)_$b = select(0.0, exp(params.scale * s1_$(t)_$b - of_$(t)_$b.x), meets(own_$b, other0 + $(t)u, counts));
        let d_$(t)_$b = select(0.0, p_$(t)_$b * (s2_$(t)_$b - of_$(t)_$b.y), p_$(t)_$b > 0.0);
#for c in 0..W
        sum1_$(b)_$c += d_$(t)_$b * other1_$(t)_$c;
#if KEYS
        sum2_$(b)_$c += p_$(t)_$b * other2_$(t)_$c;
#end
#end
#end
#end
    }
    }
#for b in 0..BLOCKS
    if (own_$b < params.own_rows) {
#for c in 0..W
        out1[((params.out1_offset + row_$b * params.out1_stride + head * $(D)u) >> 2u) + $(c)u] = params.scale * sum1_$(b)_$c;
#if KEYS
        out2[((params.out2_offset + row_$b * params.out2_stride + head * $(D)u) >> 2u) + $(c)u] = sum2_$(b)_$c;
#end
#end
    }
#end
}
