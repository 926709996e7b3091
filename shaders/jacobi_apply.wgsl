// The rows of each pair of blocks of A and of B become J times these rows, J being what jacobi_gram wrote for the pair.
//
// An invocation turns one vec4 column of all P = 2 W rows, which it reads before it writes. Columns of A come first, then those
// of B; grid = (columns / WG of both, pairs, layers). Pairs without anything to turn are left alone. SG: J is loaded by 8 lanes
// together and broadcast.
#import common/svd
#import common/pairs

struct Params {
    origin: vec4<u32>,
    cols0: u32, layer_step0: u32, cols1: u32, layer_step1: u32, // in vec4
    blocks: u32, round: u32, first_layer: u32, tiles0: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> rows0: array<vec4<f32>>; // (layers, blocks W, cols0)
@group(0) @binding(2) var<storage, read_write> rows1: array<vec4<f32>>; // (layers, blocks W, cols1)
@group(0) @binding(3) var<storage, read> turns: array<vec4<f32>>; // (layers, pairs, P P / 4 + 1)
@group(0) @binding(4) var<storage, read> state: array<u32>; // (layers, 16)

#let P = 2 * W
#for s in 0..2
fn turn$s(layer: u32, pair: vec2<u32>, j: u32, c: u32, lane: u32) {
#if SG == 0
    if (c >= params.cols$s) { return; }
#end
    let low = layer * params.layer_step$s + pair.x * $(W)u * params.cols$s + c;
    let high = layer * params.layer_step$s + pair.y * $(W)u * params.cols$s + c;
#for r in 0..W
    let v$r = rows$s[low + $(r)u * params.cols$s];
#end
#for r in 0..W
    let v$(W + r) = rows$s[high + $(r)u * params.cols$s];
#end
#if SG == 8
    for (var r = 0u; r < $(P)u; r += 4u) {
#for i in 0..(P / 8)
        let t$i = turns[j + r * $(P / 4)u + $(8 * i)u + lane];
#end
        let to = select(high + (r - $(W)u) * params.cols$s, low + r * params.cols$s, r < $(W)u);
#for o in 0..4
        var sum$o = vec4<f32>(0.0);
#for q in 0..P
#let AT = o * (P / 4) + q / 4
        sum$o += subgroupBroadcast(t$(AT / 8)[$(q % 4)], $(AT % 8)u) * v$q;
#end
        rows$s[to + $(o)u * params.cols$s] = sum$o;
#end
    }
#else
    for (var r = 0u; r < $(P)u; r++) {
        var sum = vec4<f32>(0.0);
#for q in 0..(P / 4)
        let t$q = turns[j + r * $(P / 4)u + $(q)u];
#end
#for q in 0..P
        sum += t$(q / 4)[$(q % 4)] * v$q;
#end
        rows$s[select(high + (r - $(W)u) * params.cols$s, low + r * params.cols$s, r < $(W)u)] = sum;
    }
#end
}
#end

#if SG == 8
@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
#else
@compute @workgroup_size($WG)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
#end
    let tile = wid.x + params.origin.x;
    let place = wid.y + params.origin.y;
    let layer = wid.z + params.origin.z;
    let j = layer * layer_turns(params.blocks) + place * $(P * P / 4 + 1)u;
    if (state[(params.first_layer + layer) * STATE + DONE] != 0u || turns[j + $(P * P / 4)u].x == 0.0) { return; }
    let pair = pair_of(params.blocks, params.round, place);
    if (tile < params.tiles0) {
        turn0(layer, pair, j, tile * $(WG)u + lane, lane);
    } else {
        turn1(layer, pair, j, (tile - params.tiles0) * $(WG)u + lane, lane);
    }
}
