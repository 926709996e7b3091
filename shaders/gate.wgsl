// y[r, i] = act(g[r, i]) u[r, i]: the gate of a feed-forward layer, where it is not fused. One invocation an element, or (VEC) a
// vec4 of them; sizes and places are in these units.
#import common/activation

struct Params {
    origin: vec4<u32>,
    cols: u32, g_offset: u32, g_stride: u32, u_offset: u32,
    u_stride: u32, y_offset: u32, y_stride: u32, pad0: u32,
}
#if VEC
alias Unit = vec4<f32>;
#else
alias Unit = f32;
#end
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> g: array<Unit>; // (rows, cols)
@group(0) @binding(2) var<storage, read> u: array<Unit>; // (rows, cols)
@group(0) @binding(3) var<storage, read_write> y: array<Unit>; // (rows, cols)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (wid.x + params.origin.x) * 64u + lane;
    let row = wid.y + params.origin.y;
    if (i >= params.cols) { return; }
    let x = g[params.g_offset + row * params.g_stride + i];
#if VEC
    let gate = vec4<f32>(activate(x.x), activate(x.y), activate(x.z), activate(x.w));
#else
    let gate = activate(x);
#end
    y[params.y_offset + row * params.y_stride + i] = gate * u[params.u_offset + row * params.u_stride + i];
}
