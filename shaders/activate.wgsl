// BACK 0: y[r, i] = act(x[r, i]). BACK 1: y[r, i] = dy[r, i] act'(x[r, i]), its gradient. One invocation an element, or (VEC) a
// vec4 of them; sizes and places are in these units.
#if BACK
#import common/slope
#else
#import common/activation
#end

struct Params {
    origin: vec4<u32>,
    cols: u32, x_offset: u32, x_stride: u32, y_offset: u32,
    y_stride: u32, dy_offset: u32, dy_stride: u32, pad0: u32,
}
#if VEC
alias Unit = vec4<f32>;
#else
alias Unit = f32;
#end
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Unit>; // (rows, cols)
@group(0) @binding(2) var<storage, read_write> y: array<Unit>; // (rows, cols)
#if BACK
@group(0) @binding(3) var<storage, read> dy: array<Unit>; // (rows, cols)

fn f(v: f32) -> f32 { return slope(v); }
#else
fn f(v: f32) -> f32 { return activate(v); }
#end

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (wid.x + params.origin.x) * 64u + lane;
    let row = wid.y + params.origin.y;
    if (i >= params.cols) { return; }
    let v = x[params.x_offset + row * params.x_stride + i];
#if VEC
    var r = vec4<f32>(f(v.x), f(v.y), f(v.z), f(v.w));
#else
    var r = f(v);
#end
#if BACK
    r *= dy[params.dy_offset + row * params.dy_stride + i];
#end
    y[params.y_offset + row * params.y_stride + i] = r;
}
