// Sums of squares of gradients: workgroup w takes `per` chunks of the table and writes (sum, -first segment that was not finite).
//
// The sum of one invocation within a chunk tells what is finite: above 1e30 (an element of 1e15) counts as not. By bits: compilers
// may assume that there are no NaN.
#import common/reduce

struct Params {
    origin: vec4<u32>,
    gradient_base: u32, table_offset: u32, chunks: u32, per: u32,
    partial_offset: u32, pad0: u32, pad1: u32, pad2: u32,
}
#let PER = 1 + 3 * VEC
#if VEC
alias Unit = vec4<f32>;
fn total(v: Unit) -> f32 { return dot(v, vec4<f32>(1.0)); }
fn within(i: u32, len: u32) -> vec4<bool> { return vec4<u32>(4u * i) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(len); }
#else
alias Unit = f32;
fn total(v: Unit) -> f32 { return v; }
fn within(i: u32, len: u32) -> bool { return i < len; }
#end
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> gradients: array<Unit>;
@group(0) @binding(2) var<storage, read> table: array<vec4<u32>>; // (chunks, 2), as in adam.wgsl
@group(0) @binding(3) var<storage, read_write> partials: array<f32>; // (workgroups, 2)

const NONE: f32 = -16777216.0;

@compute @workgroup_size($WG)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let w = wid.x + params.origin.x;
    var sum = 0.0;
    var worst = NONE;
    for (var c = w * params.per; c < min((w + 1u) * params.per, params.chunks); c++) {
        let what = table[params.table_offset + 2u * c];
        let from_gradient = (what.z - params.gradient_base) / $(PER)u;
        var squares = Unit(0.0);
        for (var i = lane; i < (what.w + $(PER - 1)u) / $(PER)u; i += $(4 * WG)u) {
#for u in 0..4
            let g$u = select(Unit(0.0), gradients[from_gradient + i + $(u * WG)u], within(i + $(u * WG)u, what.w));
            squares += g$u * g$u;
#end
        }
        let s = total(squares);
        sum += s;
        // 1e30, and every infinity and NaN, has bits from here on.
        if ((bitcast<u32>(s) & 0x7FFFFFFFu) >= 0x7149F2CAu) {
            worst = max(worst, -f32(table[params.table_offset + 2u * c + 1u].w));
        }
    }
    let all = sum_all(sum, lane);
    let first = max_all(worst, lane);
    if (lane == 0u) {
        partials[params.partial_offset + 2u * w] = all;
        partials[params.partial_offset + 2u * w + 1u] = first;
    }
}
