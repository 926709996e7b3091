// y[r] = sum_c a[r, c] b[r, c] (+ y[r]). A workgroup a row; VEC: by vec4, sizes and places are in these units but y's.
#import common/reduce

struct Params {
    origin: vec4<u32>,
    cols: u32, a_offset: u32, a_stride: u32, b_offset: u32,
    b_stride: u32, y_offset: u32, accumulate: u32, pad0: u32,
}
#if VEC
alias Unit = vec4<f32>;
fn total(v: Unit) -> f32 { return dot(v, vec4<f32>(1.0)); }
#else
alias Unit = f32;
fn total(v: Unit) -> f32 { return v; }
#end
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<Unit>; // (rows, cols)
@group(0) @binding(2) var<storage, read> b: array<Unit>; // (rows, cols)
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // (rows)

@compute @workgroup_size($WG)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = wid.x + params.origin.x;
    var sum = Unit(0.0);
    for (var i = lane; i < params.cols; i += $(WG)u) {
        sum = fma(a[params.a_offset + row * params.a_stride + i], b[params.b_offset + row * params.b_stride + i], sum);
    }
    let all = sum_all(total(sum), lane);
    if (lane == 0u) {
        let at = params.y_offset + row;
        y[at] = select(all, all + y[at], params.accumulate != 0u);
    }
}
