// y[c, n] = act(sum_k x[c, k] W[n, k] + bias[n]) + residual[c, n] for COLS rows c of x (1 to 8).
//
// A workgroup of WG invocations computes ROWS outputs n: each invocation strides over blocks of 32 weights, so that x is read
// once for ROWS rows, and keeps ROWS x COLS sums. GATE: row n is the gate, row n + params.n the value: y = silu(g) u.
// Moves the weights once: rows * (code + scale words) * 4 bytes.
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
#if XV
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>; // (m, cols)
#else
@group(0) @binding(1) var<storage, read> x: array<f32>; // (m, cols)
#end
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

const WG: u32 = $(WG)u;
#if SG == 0
var<workgroup> sh_sum: array<f32, $(WG * ROWS * (1 + GATE) * COLS)>;
#else
#if WG > SG
var<workgroup> sh_sum: array<f32, $((WG / SG) * ROWS * (1 + GATE) * COLS)>;
#end
#end

fn x4(c: u32, k: u32) -> vec4<f32> {
#if XV
    let at = (params.x_offset + c * params.x_stride + k) >> 2u;
#if KTAIL
    if (k >= params.cols) { return vec4<f32>(0.0); }
#end
    return x[at];
#else
    let b = params.x_offset + c * params.x_stride + k;
    var v = vec4<f32>(0.0);
    if (k < params.cols) { v.x = x[b]; }
    if (k + 1u < params.cols) { v.y = x[b + 1u]; }
    if (k + 2u < params.cols) { v.z = x[b + 2u]; }
    if (k + 3u < params.cols) { v.w = x[b + 3u]; }
    return v;
#end
}

fn store(c: u32, n: u32, sum: f32) {
    var v = sum;
#if BIAS
    v += bias[params.bias_offset + n];
#end
    v = activate(v);
    let at = params.y_offset + c * params.y_stride + n;
#if RES == 1
    v += residual[params.r_offset + c * params.r_stride + n];
#end
#if RES == 2
    v += y[at];
#end
    y[at] = v;
}

@compute @workgroup_size($WG)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32
#if SG > 0
    , @builtin(subgroup_invocation_id) sg_lane: u32
#end
) {
    let first = (wid.x + params.origin.x) * $(ROWS)u;
    // Rows past the end repeat the last one; only their stores are left out.
#for r in 0..ROWS
    let n$r = min(first + $(r)u, params.n - 1u);
#end
#for r in 0..(ROWS * (1 + GATE))
#for c in 0..COLS
    var sum_$(r)_$c = 0.0;
#end
#end
    let blocks = (params.cols + 31u) / 32u;
    for (var kb = lane; kb < blocks; kb += WG) {
        let k = kb * 32u;
#for c in 0..COLS
#for j in 0..8
        let x_$(c)_$j = x4($(c)u, k + $(4 * j)u);
#end
#if QUANT && TABLE == 0
        let half_$(c)_0 = dot((x_$(c)_0 + x_$(c)_1) + (x_$(c)_2 + x_$(c)_3), vec4<f32>(1.0));
        let half_$(c)_1 = dot((x_$(c)_4 + x_$(c)_5) + (x_$(c)_6 + x_$(c)_7), vec4<f32>(1.0));
#else
        let half_$(c)_0 = 0.0;
        let half_$(c)_1 = 0.0;
#end
#end
#for r in 0..(ROWS * (1 + GATE))
#if r < ROWS
        let row_$r = n$(r % ROWS);
#else
        let row_$r = n$(r % ROWS) + params.n;
#end
#if QUANT
        let b_$r = fetch(row_$r, kb);
#for h in 0..2
#for j in 0..4
        let q_$(r)_$(4 * h + j) = numbers(codes$(4 * h + j)(b_$r));
#end
#if h == 0 || GROUP % 32 != 0
        let g_$(r)_$h = group_of(row_$r, k + $(16 * h)u);
#else
        let g_$(r)_$h = g_$(r)_0;
#end
#for c in 0..COLS
        sum_$(r)_$c += group_dot(dot(q_$(r)_$(4 * h), x_$(c)_$(4 * h)) + dot(q_$(r)_$(4 * h + 1), x_$(c)_$(4 * h + 1)) + dot(q_$(r)_$(4 * h + 2), x_$(c)_$(4 * h + 2)) + dot(q_$(r)_$(4 * h + 3), x_$(c)_$(4 * h + 3)), half_$(c)_$h, g_$(r)_$h);
#end
#end
#else
#for j in 0..8
        let w_$(r)_$j = load4(row_$r, k + $(4 * j)u);
#for c in 0..COLS
        sum_$(r)_$c += dot(w_$(r)_$j, x_$(c)_$j);
#end
#end
#end
#end
    }
#if SG == 0
#for r in 0..(ROWS * (1 + GATE))
#for c in 0..COLS
    sh_sum[$((r * COLS + c) * WG)u + lane] = sum_$(r)_$c;
#end
#end
    for (var half = WG / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (lane < half) {
#for i in 0..(ROWS * (1 + GATE) * COLS)
            sh_sum[$(i * WG)u + lane] += sh_sum[$(i * WG)u + lane + half];
#end
        }
    }
    workgroupBarrier();
#else
#for r in 0..(ROWS * (1 + GATE))
#for c in 0..COLS
    let total_$(r)_$c = subgroupAdd(sum_$(r)_$c);
#end
#end
#if WG > SG
    let sg = lane / $(SG)u;
    if (sg_lane == 0u) {
#for r in 0..(ROWS * (1 + GATE))
#for c in 0..COLS
        sh_sum[$((r * COLS + c) * (WG / SG))u + sg] = total_$(r)_$c;
#end
#end
    }
    workgroupBarrier();
#end
#end
    if (lane == 0u) {
#for r in 0..(ROWS * (1 + GATE))
#for c in 0..COLS
#if SG == 0
        let v_$(r)_$c = sh_sum[$((r * COLS + c) * WG)u];
#else
#if WG > SG
        var v_$(r)_$c = 0.0;
#for s in 0..(WG / SG)
        v_$(r)_$c += sh_sum[$((r * COLS + c) * (WG / SG) + s)u];
#end
#else
        let v_$(r)_$c = total_$(r)_$c;
#end
#end
#end
#end
#for r in 0..ROWS
        if (first + $(r)u < params.n) {
#for c in 0..COLS
#if GATE
            store($(c)u, first + $(r)u, silu(v_$(r)_$c) * v_$(r + ROWS)_$c);
#else
            store($(c)u, first + $(r)u, v_$(r)_$c);
#end
#end
        }
#end
    }
}
