// Operands of a general product, y[i, j] = alpha sum_k l(i, k) s(k) r(j, k) + bias + residual: 0 is l, 1 is r. An operand lies with
// its k within rows, or (K0, K1) along columns: row k holds every i. Words are f32, or (H0, H1) two f16. SWAP: i is y's column,
// j its row, which residual and bias follow. Grid z counts batches times parts of k.
struct Params {
    origin: vec4<u32>,
    len0: u32, len1: u32, k: u32, k_step: u32,
    offset0: u32, stride0: u32, step0: u32, parts: u32,
    offset1: u32, stride1: u32, step1: u32, accumulate: u32,
    y_offset: u32, y_stride: u32, y_step: u32, alpha: f32,
    scale_offset: u32, bias_offset: u32, residual_offset: u32, residual_stride: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
#for s in 0..2
#if (s == 0 && V0 && H0) || (s == 1 && V1 && H1)
@group(0) @binding($(s + 1)) var<storage, read> data$s: array<vec2<u32>>;
#end
#if (s == 0 && V0 && !H0) || (s == 1 && V1 && !H1)
@group(0) @binding($(s + 1)) var<storage, read> data$s: array<vec4<f32>>;
#end
#if (s == 0 && !V0 && H0) || (s == 1 && !V1 && H1)
@group(0) @binding($(s + 1)) var<storage, read> data$s: array<u32>;
#end
#if (s == 0 && !V0 && !H0) || (s == 1 && !V1 && !H1)
@group(0) @binding($(s + 1)) var<storage, read> data$s: array<f32>;
#end
#end
#if YV
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;
#else
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
#end

#if SCALE
@group(0) @binding(4) var<storage, read> scale: array<f32>;
#end
#if BIAS
@group(0) @binding($(4 + SCALE)) var<storage, read> bias: array<f32>;
#end
#if RESIDUAL
#if YV
@group(0) @binding($(4 + SCALE + BIAS)) var<storage, read> residual: array<vec4<f32>>;
#else
@group(0) @binding($(4 + SCALE + BIAS)) var<storage, read> residual: array<f32>;
#end
#end

// Outputs past the ends are left out.
#if YV
fn store4(base: u32, i: u32, j: u32, sum: vec4<f32>) {
    if (i >= params.len0 || j >= params.len1) { return; }
    let at = (base + i * params.y_stride + j) >> 2u;
    var v = params.alpha * sum;
#if BIAS
    let b = params.bias_offset + j;
    v += vec4<f32>(bias[b], bias[b + 1u], bias[b + 2u], bias[b + 3u]);
#end
#if RESIDUAL
    v += residual[(params.residual_offset + i * params.residual_stride + j) >> 2u];
#end
    if (params.accumulate != 0u) { v += y[at]; }
    y[at] = v;
}
#else
fn store(base: u32, i: u32, j: u32, sum: f32) {
    if (i >= params.len0 || j >= params.len1) { return; }
#if SWAP
    let row = j;
    let col = i;
#else
    let row = i;
    let col = j;
#end
    let at = base + row * params.y_stride + col;
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
#end
