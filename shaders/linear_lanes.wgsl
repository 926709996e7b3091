// y[m, n] = act(sum_k x[m, k] W[n, k] + bias[n]) + residual[m, n] for drivers that run a subgroup of 8 as one SIMD register.
//
// There, a load that differs between lanes is done lane by lane: on Mesa 22.3 each word of each lane goes through a store and a
// reload of the whole register, so arithmetic per loaded word decides (docs/ARCHITECTURE.md has figures).
// A workgroup is one subgroup. SIDE 0 (few rows of x): lanes lie over weight rows, ROWS a lane; x is loaded once per subgroup and
// broadcast. SIDE 1 (many): lanes lie over rows of x, ROWS a lane; COLS weight rows are loaded and decoded once by the lanes
// and broadcast. No workgroup memory, no barriers.
#import common/activation
#import common/decode

struct Params {
    origin: vec4<u32>,
    m: u32, n: u32, cols: u32, w_stride: u32,
    x_offset: u32, x_stride: u32, y_offset: u32, y_stride: u32,
    s_stride: u32, bias_offset: u32, r_offset: u32, r_stride: u32,
#if TABLE
    table0: vec4<f32>, table1: vec4<f32>, table2: vec4<f32>, table3: vec4<f32>,
#end
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>; // (m, cols)
@group(0) @binding(2) var<storage, read> data: array<u32>; // (n, w_stride)
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // (m, n)
#if QUANT
@group(0) @binding(4) var<storage, read> scales: array<u32>; // (n, s_stride)
#end
#if BIAS
@group(0) @binding($(4 + QUANT)) var<storage, read> bias: array<f32>; // (n)
#end
#if RES == 1
@group(0) @binding($(4 + QUANT + BIAS)) var<storage, read> residual: array<f32>; // (m, n)
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

#if SIDE == 0
@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let first = (wid.x + params.origin.x) * $(8 * ROWS)u + lane;
#for r in 0..(ROWS * (1 + GATE))
#if r < ROWS
    let n$r = min(first + $(8 * r)u, params.n - 1u);
#else
    let n$r = n$(r - ROWS) + params.n;
#end
#end
#for r in 0..(ROWS * (1 + GATE))
#for c in 0..COLS
    var sum_$(r)_$c = 0.0;
#end
#end
    let blocks = (params.cols + 31u) / 32u;
    for (var kb = 0u; kb < blocks; kb++) {
        let k = kb * 32u;
#for c in 0..COLS
#for i in 0..4
#if KTAIL
        var x_$(c)_$i = 0.0;
        if (k + $(8 * i)u + lane < params.cols) { x_$(c)_$i = x[params.x_offset + $(c)u * params.x_stride + k + $(8 * i)u + lane]; }
#else
        let x_$(c)_$i = x[params.x_offset + $(c)u * params.x_stride + k + $(8 * i)u + lane];
#end
#end
#if QUANT && TABLE == 0
        let half_$(c)_0 = subgroupAdd(x_$(c)_0 + x_$(c)_1);
        let half_$(c)_1 = subgroupAdd(x_$(c)_2 + x_$(c)_3);
#else
        let half_$(c)_0 = 0.0;
        let half_$(c)_1 = 0.0;
#end
#end
#if QUANT
#for r in 0..(ROWS * (1 + GATE))
        let b_$r = fetch(n$r, kb);
#if GROUP % 32 == 0
        let g_$(r)_0 = group_of(n$r, k);
#else
        let g_$(r)_0 = group_of(n$r, k);
        let g_$(r)_1 = group_of(n$r, k + 16u);
#end
#for h in 0..2
#for c in 0..COLS
        var t_$(r)_$(h)_$c = 0.0;
#end
#end
#end
#end
#for j in 0..8
#for r in 0..(ROWS * (1 + GATE))
#if QUANT
        let q_$(j)_$r = numbers(codes$j(b_$r));
#else
        let q_$(j)_$r = load4(n$r, k + $(4 * j)u);
#end
#end
#for e in 0..4
#for c in 0..COLS
        let x_$(c)_$(j)_$e = subgroupBroadcast(x_$(c)_$(j / 2), $(4 * (j % 2) + e)u);
#for r in 0..(ROWS * (1 + GATE))
#if QUANT
        t_$(r)_$(j / 4)_$c = fma(q_$(j)_$r[$e], x_$(c)_$(j)_$e, t_$(r)_$(j / 4)_$c);
#else
        sum_$(r)_$c = fma(q_$(j)_$r[$e], x_$(c)_$(j)_$e, sum_$(r)_$c);
#end
#end
#end
#end
#end
#if QUANT
#for r in 0..(ROWS * (1 + GATE))
#for c in 0..COLS
#if GROUP % 32 == 0
        sum_$(r)_$c += group_dot(t_$(r)_0_$c + t_$(r)_1_$c, half_$(c)_0 + half_$(c)_1, g_$(r)_0);
#else
        sum_$(r)_$c += group_dot(t_$(r)_0_$c, half_$(c)_0, g_$(r)_0) + group_dot(t_$(r)_1_$c, half_$(c)_1, g_$(r)_1);
#end
#end
#end
#end
    }
#for r in 0..ROWS
#for c in 0..COLS
#if GATE
    store($(c)u, first + $(8 * r)u, silu(sum_$(r)_$c) * sum_$(r + ROWS)_$c);
#else
    store($(c)u, first + $(8 * r)u, sum_$(r)_$c);
#end
#end
#end
}
#end

#if SIDE == 1
fn x4(m: u32, k: u32) -> vec4<f32> {
    let b = params.x_offset + m * params.x_stride + k;
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
}

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let first_n = (wid.x + params.origin.x) * $(COLS)u;
    let first_m = (wid.y + params.origin.y) * $(8 * ROWS)u + lane;
#for r in 0..ROWS
    let m$r = min(first_m + $(8 * r)u, params.m - 1u);
#end
#for c in 0..(COLS / 8)
    let n$c = min(first_n + $(8 * c)u + lane, params.n - 1u);
#end
#for r in 0..ROWS
#for c in 0..COLS
    var acc_$(r)_$c = 0.0;
#end
#end
    for (var k = 0u; k < params.cols; k += 4u) {
#for c in 0..(COLS / 8)
        let w$c = load4(n$c, k);
#end
#for r in 0..ROWS
        let x$r = x4(m$r, k);
#end
#for e in 0..4
#for c in 0..COLS
        let w_$(e)_$c = subgroupBroadcast(w$(c / 8)[$e], $(c % 8)u);
#for r in 0..ROWS
        acc_$(r)_$c = fma(x$r[$e], w_$(e)_$c, acc_$(r)_$c);
#end
#end
#end
    }
#for r in 0..ROWS
#for c in 0..COLS
    store(first_m + $(8 * r)u, first_n + $(c)u, acc_$(r)_$c);
#end
#end
}
#end
