// delta[r, h] = dO[r, h] . O[r, h], which every gradient of the row's weights needs, beside the row's log-sum-exp.
//
// Teams of 8 invocations take a row and head each; an invocation every 8th element (VEC: vec4). Rows that are not valid get 0;
// `cross`: all are valid.
#import common/state

struct Params {
    origin: vec4<u32>,
    rows: u32, heads: u32, sequence_rows: u32, state_offset: u32,
    o_offset: u32, o_stride: u32, d_offset: u32, d_stride: u32,
    lse_offset: u32, lse_stride: u32, stats_offset: u32, cross: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> state: array<u32>; // (sequences, 32)
#if VEC
@group(0) @binding(2) var<storage, read> o: array<vec4<f32>>; // (rows, heads head_dim)
@group(0) @binding(3) var<storage, read> d_o: array<vec4<f32>>;
#else
@group(0) @binding(2) var<storage, read> o: array<f32>;
@group(0) @binding(3) var<storage, read> d_o: array<f32>;
#end
@group(0) @binding(4) var<storage, read> lse: array<f32>; // (rows, heads)
@group(0) @binding(5) var<storage, read_write> stats: array<vec2<f32>>; // (rows, heads)

var<workgroup> sums: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (wid.x + params.origin.x) * 8u + lane / 8u;
    let part = lane % 8u;
    let mine = min(i, params.rows * params.heads - 1u);
    let row = mine / params.heads;
    let head = mine % params.heads;
    let o_at = params.o_offset + row * params.o_stride + head * $(D)u;
    let d_at = params.d_offset + row * params.d_stride + head * $(D)u;
    var sum = 0.0;
#if VEC
    for (var e = part; e < $(D / 4)u; e += 8u) { sum += dot(o[(o_at >> 2u) + e], d_o[(d_at >> 2u) + e]); }
#else
    for (var e = part; e < $(D)u; e += 8u) { sum += o[o_at + e] * d_o[d_at + e]; }
#end
    sums[lane] = sum;
    workgroupBarrier();
    if (part == 0u && i < params.rows * params.heads) {
#for e in 1..8
        sum += sums[lane + $(e)u];
#end
        let count = state[params.state_offset + row / params.sequence_rows * 32u + COUNT];
        sum = select(0.0, sum, params.cross != 0u || row % params.sequence_rows < count);
        stats[params.stats_offset + i] = vec2<f32>(lse[params.lse_offset + row * params.lse_stride + head], sum);
    }
}
