// The gradient of a norm's input: with g = dy gain, n = (x - mean) inverse (RMS: x inverse) and means over the row,
// dx (+)= inverse (g - mean(g) - n mean(g n)); RMS: no mean(g).
//
// A workgroup a row. VEC: by vec4, sizes and places are in these units, but for `saved`.
#import common/reduce

struct Params {
    origin: vec4<u32>,
    cols: u32, x_offset: u32, x_stride: u32, dy_offset: u32,
    dy_stride: u32, dx_offset: u32, dx_stride: u32, gain_offset: u32,
    saved_offset: u32, saved_stride: u32, accumulate: u32, pad0: u32,
}
#if VEC
alias Unit = vec4<f32>;
fn total(v: Unit) -> f32 { return dot(v, vec4<f32>(1.0)); }
#else
alias Unit = f32;
fn total(v: Unit) -> f32 { return v; }
#end
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Unit>; // (rows, cols)
@group(0) @binding(2) var<storage, read> dy: array<Unit>; // (rows, cols)
@group(0) @binding(3) var<storage, read> gain: array<Unit>; // (cols)
@group(0) @binding(4) var<storage, read> saved: array<f32>; // (rows, 2): mean, inverse
@group(0) @binding(5) var<storage, read_write> dx: array<Unit>; // (rows, cols)

@compute @workgroup_size($WG)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = wid.x + params.origin.x;
    let x_at = params.x_offset + row * params.x_stride;
    let above = params.dy_offset + row * params.dy_stride;
    let to = params.dx_offset + row * params.dx_stride;
    let at = params.saved_offset + row * params.saved_stride;
    let inverse = saved[at + 1u];
    let n = f32(params.cols * $(1 + 3 * VEC)u);
#if RMS
    let mean = 0.0;
#else
    let mean = saved[at];
    var plain = Unit();
#end
    var product = Unit();
    for (var i = lane; i < params.cols; i += $(WG)u) {
        let g = dy[above + i] * gain[params.gain_offset + i];
        product += g * ((x[x_at + i] - mean) * inverse);
#if RMS == 0
        plain += g;
#end
    }
    let along = sum_all(total(product), lane) / n;
#if RMS
    let shift = 0.0;
#else
    let shift = sum_all(total(plain), lane) / n;
#end
    for (var i = lane; i < params.cols; i += $(WG)u) {
        let g = dy[above + i] * gain[params.gain_offset + i];
        var v = inverse * (g - shift - (x[x_at + i] - mean) * inverse * along);
        if (params.accumulate != 0u) { v += dx[to + i]; }
        dx[to + i] = v;
    }
}
