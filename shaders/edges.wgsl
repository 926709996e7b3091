// y[p] = 2 + 2 <h[from[p]], h[to[p]]>_L with <a, b>_L = -a_0 b_0 + sum_{i > 0} a_i b_i. Nodes past the last row take the last row. One
// invocation a pair; VEC: by vec4, sizes and places of h are in these units.
struct Params {
    origin: vec4<u32>,
    cols: u32, h_offset: u32, h_stride: u32, last: u32,
    from_offset: u32, to_offset: u32, y_offset: u32, y_stride: u32,
    count: u32, pad0: u32, pad1: u32, pad2: u32,
}
#if VEC
alias Unit = vec4<f32>;
const SIGNS = vec4<f32>(-1.0, 1.0, 1.0, 1.0);
fn total(v: Unit) -> f32 { return (v.x + v.y) + (v.z + v.w); }
#else
alias Unit = f32;
const SIGNS = -1.0;
fn total(v: Unit) -> f32 { return v; }
#end
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> h: array<Unit>; // (nodes, cols)
@group(0) @binding(2) var<storage, read> sources: array<u32>; // (count)
@group(0) @binding(3) var<storage, read> ends: array<u32>; // (count)
@group(0) @binding(4) var<storage, read_write> y: array<f32>; // (count)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let p = (wid.x + params.origin.x) * 64u + lane;
    if (p >= params.count) { return; }
    let a = params.h_offset + min(sources[params.from_offset + p], params.last) * params.h_stride;
    let b = params.h_offset + min(ends[params.to_offset + p], params.last) * params.h_stride;
    var sum = SIGNS * h[a] * h[b];
    for (var i = 1u; i < params.cols; i += 1u) {
        sum = fma(h[a + i], h[b + i], sum);
    }
    y[params.y_offset + p * params.y_stride] = fma(2.0, total(sum), 2.0);
}
