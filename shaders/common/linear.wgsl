// What the linear kernels share: operands, loads of x, and what happens to a sum before it is stored.
//
// XV, LOAD, SLOAD: words in one load of x (vec4 or single), of codes and of scales. KTAIL: rows of x end within a step of a loop.
// NORM: x is normalised on the way, y = act(inverse sum_k x[k] gain[k] W[n, k] + bias), inverse = 1 / sqrt(mean(x^2) + eps).
#import common/activation
#import common/decode

struct Params {
    origin: vec4<u32>,
    m: u32, n: u32, cols: u32, w_stride: u32,
    x_offset: u32, x_stride: u32, y_offset: u32, y_stride: u32,
    s_stride: u32, bias_offset: u32, r_offset: u32, r_stride: u32,
    gain_offset: u32, eps: f32, pad0: u32, pad1: u32,
#if TABLE
    table0: vec4<f32>, table1: vec4<f32>, table2: vec4<f32>, table3: vec4<f32>,
#end
}
@group(0) @binding(0) var<uniform> params: Params;
#if XV
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>; // (m, cols)
#else
@group(0) @binding(1) var<storage, read> x: array<f32>; // (m, cols)
#end
#if LOAD == 1
@group(0) @binding(2) var<storage, read> data: array<u32>; // (n, w_stride)
#else
@group(0) @binding(2) var<storage, read> data: array<vec$(LOAD)<u32>>; // (n, w_stride)
#end
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // (m, n)
#if QUANT
#if SLOAD == 1
@group(0) @binding(4) var<storage, read> scales: array<u32>; // (n, s_stride)
#else
@group(0) @binding(4) var<storage, read> scales: array<vec$(SLOAD)<u32>>; // (n, s_stride)
#end
#end
#if BIAS
@group(0) @binding($(4 + QUANT)) var<storage, read> bias: array<f32>; // (n)
#end
#if RES == 1
@group(0) @binding($(4 + QUANT + BIAS)) var<storage, read> residual: array<f32>; // (m, n)
#end
#if NORM
#if XV
@group(0) @binding($(4 + QUANT + BIAS + (RES == 1))) var<storage, read> gain: array<vec4<f32>>; // (cols)
#else
@group(0) @binding($(4 + QUANT + BIAS + (RES == 1))) var<storage, read> gain: array<f32>; // (cols)
#end
#end

// Four elements of row m of x, zeros past its end.
fn x4(m: u32, k: u32) -> vec4<f32> {
    let b = params.x_offset + m * params.x_stride + k;
#if XV
#if KTAIL
    if (k >= params.cols) { return vec4<f32>(0.0); }
#end
    return x[b >> 2u];
#else
#if KTAIL
    var v = vec4<f32>(0.0);
    if (k < params.cols) { v.x = x[b]; }
    if (k + 1u < params.cols) { v.y = x[b + 1u]; }
    if (k + 2u < params.cols) { v.z = x[b + 2u]; }
    if (k + 3u < params.cols) { v.w = x[b + 3u]; }
    return v;
#else
    return vec4<f32>(x[b], x[b + 1u], x[b + 2u], x[b + 3u]);
#end
#end
}
#if NORM
// Four gains; past the end any, which meet zeros of x.
fn gain4(k: u32) -> vec4<f32> {
#if XV
    return gain[(params.gain_offset + min(k, params.cols - 4u)) >> 2u];
#else
    let b = params.gain_offset;
    let last = params.cols - 1u;
    return vec4<f32>(gain[b + min(k, last)], gain[b + min(k + 1u, last)], gain[b + min(k + 2u, last)], gain[b + min(k + 3u, last)]);
#end
}
fn inverse_norm(squares: f32) -> f32 {
    return 1.0 / sqrt(squares / f32(params.cols) + params.eps);
}
#end

fn store(m: u32, n: u32, sum: f32) {
    if (m >= params.m || n >= params.n) { return; }
    var v = sum;
#if BIAS
    v += bias[params.bias_offset + n];
#end
    v = activate(v);
    let at = params.y_offset + m * params.y_stride + n;
#if RES == 1
    v += residual[params.r_offset + m * params.r_stride + n];
#end
#if RES == 2
    v += y[at];
#end
    y[at] = v;
}
