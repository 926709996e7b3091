// y[r] = log sum_i exp(x[r, i]) - x[r, target[r]]: the negative log-likelihood of a token, in nats. A workgroup a row.
#import common/reduce

struct Params {
    origin: vec4<u32>,
    cols: u32, x_offset: u32, x_stride: u32, y_offset: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>; // (rows, cols)
@group(0) @binding(2) var<storage, read> targets: array<u32>; // (rows)
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // (rows)

@compute @workgroup_size($WG)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = wid.x + params.origin.x;
    let at = params.x_offset + row * params.x_stride;
    var top = -3.0e38;
    for (var i0 = lane; i0 < params.cols; i0 += $(4 * WG)u) {
#for u in 0..4
        if (i0 + $(u * WG)u < params.cols) { top = max(top, x[at + i0 + $(u * WG)u]); }
#end
    }
    top = max_all(top, lane);
    var total = 0.0;
    for (var i0 = lane; i0 < params.cols; i0 += $(4 * WG)u) {
#for u in 0..4
        if (i0 + $(u * WG)u < params.cols) { total += exp(x[at + i0 + $(u * WG)u] - top); }
#end
    }
    total = sum_all(total, lane);
    if (lane == 0u) { y[params.y_offset + row] = log(total) + (top - x[at + min(targets[row], params.cols - 1u)]); }
}
