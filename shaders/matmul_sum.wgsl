// y[b, r, c] = alpha sum_s part[b, s, r, c] + bias + residual (+ y[b, r, c]): adds the parts that a product was cut into along k, in
// their order.
struct Params {
    origin: vec4<u32>,
    m: u32, n: u32, parts: u32, y_offset: u32,
    y_stride: u32, y_step: u32, alpha: f32, accumulate: u32,
    bias_offset: u32, residual_offset: u32, residual_stride: u32, pad: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> part: array<f32>; // (batch, parts, m, n)
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // (batch, m, n)
#if BIAS
@group(0) @binding(3) var<storage, read> bias: array<f32>; // (n)
#end
#if RESIDUAL
@group(0) @binding($(3 + BIAS)) var<storage, read> residual: array<f32>; // (m, n)
#end

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (wid.x + params.origin.x) * 64u + lane;
    let z = wid.y + params.origin.y;
    let size = params.m * params.n;
    if (i >= size) { return; }
    var sum = 0.0;
    for (var s = 0u; s < params.parts; s++) {
        sum += part[(z * params.parts + s) * size + i];
    }
    let row = i / params.n;
    let col = i % params.n;
    let at = params.y_offset + z * params.y_step + row * params.y_stride + col;
    var v = params.alpha * sum;
#if BIAS
    v += bias[params.bias_offset + col];
#end
#if RESIDUAL
    v += residual[params.residual_offset + row * params.residual_stride + col];
#end
    if (params.accumulate != 0u) { v += y[at]; }
    y[at] = v;
}
