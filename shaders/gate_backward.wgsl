// The gradient of y = act(g) u: dg[r, i] = dy[r, i] u[r, i] act'(g[r, i]), du[r, i] = dy[r, i] act(g[r, i]). One invocation an
// element, or (VEC) a vec4 of them; sizes and places are in these units. STACKED: dg and du are columns of one matrix.
#import common/activation
#import common/slope

struct Params {
    origin: vec4<u32>,
    cols: u32, dy_offset: u32, dy_stride: u32, g_offset: u32,
    g_stride: u32, u_offset: u32, u_stride: u32, dg_offset: u32,
    dg_stride: u32, du_offset: u32, du_stride: u32, pad0: u32,
}
#if VEC
alias Unit = vec4<f32>;
#else
alias Unit = f32;
#end
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> dy: array<Unit>; // (rows, cols)
@group(0) @binding(2) var<storage, read> g: array<Unit>; // (rows, cols)
@group(0) @binding(3) var<storage, read> u: array<Unit>; // (rows, cols)
@group(0) @binding(4) var<storage, read_write> dg: array<Unit>; // (rows, cols); STACKED: also du
#if STACKED == 0
@group(0) @binding(5) var<storage, read_write> du: array<Unit>; // (rows, cols)
#end

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (wid.x + params.origin.x) * 64u + lane;
    let row = wid.y + params.origin.y;
    if (i >= params.cols) { return; }
    let x = g[params.g_offset + row * params.g_stride + i];
    let d = dy[params.dy_offset + row * params.dy_stride + i];
#if VEC
    let gate = vec4<f32>(activate(x.x), activate(x.y), activate(x.z), activate(x.w));
    let slopes = vec4<f32>(slope(x.x), slope(x.y), slope(x.z), slope(x.w));
#else
    let gate = activate(x);
    let slopes = slope(x);
#end
    dg[params.dg_offset + row * params.dg_stride + i] = d * u[params.u_offset + row * params.u_stride + i] * slopes;
#if STACKED
    dg[params.du_offset + row * params.du_stride + i] = d * gate;
#else
    du[params.du_offset + row * params.du_stride + i] = d * gate;
#end
}
