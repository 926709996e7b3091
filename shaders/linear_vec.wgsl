// y[c, n] = act(sum_k x[c, k] W[n, k] + bias[n]) + residual[c, n] for COLS rows c of x (1 to 8).
//
// A workgroup of WG invocations computes ROWS outputs n: each invocation strides over units of 4 QUADS weights, so that x is read
// once for ROWS rows, and keeps ROWS x COLS sums. Small units keep neighbours' loads of x close together, large ones save scales.
// GATE: row n is the gate, row n + params.n the value: y = silu(g) u. NORM: the last sums are those of squares of x.
// Moves the weights once: rows * (code + scale words) * 4 bytes.
#import common/linear

#let WEIGHTS = ROWS * (1 + GATE)
#let SUMS = WEIGHTS + NORM
const WG: u32 = $(WG)u;
#if SG == 0
var<workgroup> sh_sum: array<f32, $(WG * SUMS * COLS)>;
#else
#if WG > SG
var<workgroup> sh_sum: array<f32, $((WG / SG) * SUMS * COLS)>;
#end
#end

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
#for r in 0..SUMS
#for c in 0..COLS
    var sum_$(r)_$c = 0.0;
#end
#end
    let units = (params.cols + $(4 * QUADS - 1)u) / $(4 * QUADS)u;
    for (var u = lane; u < units; u += WG) {
        let k = u * $(4 * QUADS)u;
#if NORM
#for j in 0..QUADS
        let gain_$j = gain4(k + $(4 * j)u);
#end
#end
#for c in 0..COLS
#for j in 0..QUADS
#if NORM
        let raw_$(c)_$j = x4($(c)u, k + $(4 * j)u);
        sum_$(WEIGHTS)_$c += dot(raw_$(c)_$j, raw_$(c)_$j);
        let x_$(c)_$j = raw_$(c)_$j * gain_$j;
#else
        let x_$(c)_$j = x4($(c)u, k + $(4 * j)u);
#end
#end
#if QUANT && TABLE == 0
#for h in 0..((QUADS + 3) / 4)
        var four_$(c)_$h = x_$(c)_$(4 * h);
#for j in 1..(QUADS - 4 * h)
#if j < 4
        four_$(c)_$h += x_$(c)_$(4 * h + j);
#end
#end
        let half_$(c)_$h = dot(four_$(c)_$h, vec4<f32>(1.0));
#end
#else
        let half_$(c)_0 = 0.0;
        let half_$(c)_1 = 0.0;
#end
#end
#for r in 0..WEIGHTS
#if r < ROWS
        let row_$r = n$(r % ROWS);
#else
        let row_$r = n$(r % ROWS) + params.n;
#end
#if QUANT
        let b_$r = row_$r * params.w_stride + (k >> 5u) * $(BITS)u;
#if LOAD > 1
#for w in 0..(QUADS * BITS / 8 / LOAD)
        let w_$(r)_$w = data[(b_$r + ((k >> 2u) & 7u) * $(BITS)u / 8u) / $(LOAD)u + $(w)u];
#end
#end
#for j in 0..QUADS
#if LOAD > 1
#if BITS == 8
        let q_$(r)_$j = numbers(w_$(r)_$(j / LOAD)[$(j % LOAD)]);
#else
        let q_$(r)_$j = nibbles$(j % 2)(w_$(r)_$(j / (2 * LOAD))[$(j / 2 % LOAD)]);
#end
#else
        let q_$(r)_$j = numbers(codes_at(b_$r, ((k >> 2u) & 7u) + $(j)u));
#end
#end
#for h in 0..((QUADS + 3) / 4)
#if h == 0 || GROUP % 32 != 0
        let g_$(r)_$h = group_of(row_$r, k + $(16 * h)u);
#else
        let g_$(r)_$h = g_$(r)_0;
#end
#for c in 0..COLS
        var t_$(r)_$(c)_$h = 0.0;
#for j in 0..4
#if 4 * h + j < QUADS
#for e in 0..4
        t_$(r)_$(c)_$h = fma(q_$(r)_$(4 * h + j)[$e], x_$(c)_$(4 * h + j)[$e], t_$(r)_$(c)_$h);
#end
#end
#end
        sum_$(r)_$c += group_dot(t_$(r)_$(c)_$h, half_$(c)_$h, g_$(r)_$h);
#end
#end
#else
#for j in 0..QUADS
        let w_$(r)_$j = load4(row_$r, k + $(4 * j)u);
#for c in 0..COLS
        sum_$(r)_$c += dot(w_$(r)_$j, x_$(c)_$j);
#end
#end
#end
#end
    }
#if SG == 0
#for r in 0..SUMS
#for c in 0..COLS
    sh_sum[$((r * COLS + c) * WG)u + lane] = sum_$(r)_$c;
#end
#end
    for (var half = WG / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (lane < half) {
#for i in 0..(SUMS * COLS)
            sh_sum[$(i * WG)u + lane] += sh_sum[$(i * WG)u + lane + half];
#end
        }
    }
    workgroupBarrier();
#else
#for r in 0..SUMS
#for c in 0..COLS
    let total_$(r)_$c = subgroupAdd(sum_$(r)_$c);
#end
#end
#if WG > SG
    let sg = lane / $(SG)u;
    if (sg_lane == 0u) {
#for r in 0..SUMS
#for c in 0..COLS
        sh_sum[$((r * COLS + c) * (WG / SG))u + sg] = total_$(r)_$c;
#end
#end
    }
    workgroupBarrier();
#end
#end
    if (lane == 0u) {
#for r in 0..SUMS
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
#if NORM
#for c in 0..COLS
        let inverse_$c = inverse_norm(v_$(WEIGHTS)_$c);
#end
#else
#for c in 0..COLS
        let inverse_$c = 1.0;
#end
#end
#for r in 0..ROWS
        if (first + $(r)u < params.n) {
#for c in 0..COLS
#if GATE
            store($(c)u, first + $(r)u, silu(v_$(r)_$c * inverse_$c) * (v_$(r + ROWS)_$c * inverse_$c));
#else
            store($(c)u, first + $(r)u, v_$(r)_$c * inverse_$c);
#end
#end
        }
#end
    }
}
