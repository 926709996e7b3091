// y[m, n] = act(sum_k x[m, k] W[n, k] + bias[n]) + residual[m, n] for drivers that run a subgroup of 8 as one SIMD register.
//
// There, a load that differs between lanes is done lane by lane with a branch for each, so that loads are as wide as rows are
// aligned for, and arithmetic per load decides; a sum that a loop carries costs a load, a blend by the execution mask and a store
// an iteration, so that iterations are long (docs/ARCHITECTURE.md has figures).
// A workgroup is one subgroup. SIDE 0 (few rows of x): lanes lie over weight rows, ROWS a lane; x is loaded once per subgroup and
// broadcast; SPAN blocks of 32 an iteration, their scales together where SHARE. SIDE 1 (many): lanes lie over rows of x, ROWS a
// lane; COLS weight rows are loaded and decoded once by the lanes and broadcast, H quads of them a step; codes of HOLD elements
// stay in registers. No workgroup memory, no barriers.
#import common/linear

#if SIDE == 0
#if IN_PLACE
fn power(p: u32) -> f32 { return bitcast<f32>((127u - p) << 23u); } // 2^-p
#end
#end

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
#if NORM
#for c in 0..COLS
    var squares_$c = 0.0;
#end
#end
#if IN_PLACE
    // Codes become numbers where they are in their word, 2^p too large, and x makes up for it; only the last of a word is shifted.
#for e in 0..3
    let place_$e = select(power($(8 * e)u), power($(8 * e + 4 * (BITS == 4))u), (lane & 1u) == 1u);
#end
    let place_3 = select(power($(24 * (BITS == 4))u), 1.0, (lane & 1u) == 1u);
#end
    let blocks = (params.cols + 31u) / 32u;
    for (var kb = 0u; kb < blocks; kb += $(SPAN)u) {
#if SHARE
#for r in 0..(ROWS * (1 + GATE))
#if SLOAD == 1
        let shared_$(r)_0 = scales[n$r * params.s_stride + kb / $(1 + (SCALES == 0))u];
#else
        let all_$r = scales[(n$r * params.s_stride + kb / $(1 + (SCALES == 0))u) / $(SLOAD)u];
#for w in 0..SLOAD
        let shared_$(r)_$w = all_$r[$w];
#end
#end
#end
#end
#for s in 0..SPAN
        {
        let k = (kb + $(s)u) * 32u;
        // A lane holds quad `lane` of each row of x.
#if NORM
        let gains = gain4(k + 4u * lane);
#end
#for c in 0..COLS
#if NORM
        let raw_$c = x4($(c)u, k + 4u * lane);
        squares_$c += dot(raw_$c, raw_$c);
        let x_$c = raw_$c * gains;
#else
        let x_$c = x4($(c)u, k + 4u * lane);
#end
#if QUANT && TABLE == 0
        let four_$c = (x_$(c).x + x_$(c).y) + (x_$(c).z + x_$(c).w);
#if GROUP % 32 == 0
        let half_$(c)_0 = subgroupAdd(four_$c);
#else
        let half_$(c)_0 = subgroupAdd(select(0.0, four_$c, lane < 4u));
        let half_$(c)_1 = subgroupAdd(select(0.0, four_$c, lane >= 4u));
#end
#else
        let half_$(c)_0 = 0.0;
        let half_$(c)_1 = 0.0;
#end
#for e in 0..4
#if IN_PLACE
        let x_$(c)_$e = x_$(c)[$e] * place_$e;
#else
        let x_$(c)_$e = x_$(c)[$e];
#end
#end
#end
#if QUANT
#for r in 0..(ROWS * (1 + GATE))
        let b_$r = fetch(n$r, kb + $(s)u);
#if SHARE
#if SCALES == 0
        let g_$(r)_0 = group_in(shared_$(r)_$(s / 2) >> $(16 * (s % 2))u);
#else
        let g_$(r)_0 = group_in(shared_$(r)_$s);
#end
#else
        let g_$(r)_0 = group_of(n$r, k);
#if GROUP % 32 != 0
        let g_$(r)_1 = group_of(n$r, k + 16u);
#end
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
#if IN_PLACE
#for e in 0..4
#if BITS == 4
#if e == 3 && j % 2 == 1
        let q_$(j)_$(r)_$e = f32(i32(b_$r[$(j / 2)] >> 28u));
#else
        let q_$(j)_$(r)_$e = f32(i32(b_$r[$(j / 2)] & (15u << $(8 * e + 4 * (j % 2))u)));
#end
#else
#if e == 3
        let q_$(j)_$(r)_$e = f32(i32(b_$r[$j] >> 24u));
#else
        let q_$(j)_$(r)_$e = f32(i32(b_$r[$j] & (255u << $(8 * e)u)));
#end
#end
#end
#else
#if QUANT
        let q_$(j)_$r = numbers(codes$j(b_$r));
#else
        let q_$(j)_$r = load4(n$r, k + $(4 * j)u);
#end
#for e in 0..4
        let q_$(j)_$(r)_$e = q_$(j)_$r[$e];
#end
#end
#end
#for e in 0..4
#for c in 0..COLS
        let x_$(c)_$(j)_$e = subgroupBroadcast(x_$(c)_$e, $(j)u);
#for r in 0..(ROWS * (1 + GATE))
#if QUANT
        t_$(r)_$(j / 4)_$c = fma(q_$(j)_$(r)_$e, x_$(c)_$(j)_$e, t_$(r)_$(j / 4)_$c);
#else
        sum_$(r)_$c = fma(q_$(j)_$(r)_$e, x_$(c)_$(j)_$e, sum_$(r)_$c);
#end
#end
#end
#end
#end
#if QUANT
#for r in 0..(ROWS * (1 + GATE))
#for c in 0..COLS
#if GROUP % 32 == 0
        sum_$(r)_$c += group_dot(t_$(r)_0_$c + t_$(r)_1_$c, half_$(c)_0, g_$(r)_0);
#else
        sum_$(r)_$c += group_dot(t_$(r)_0_$c, half_$(c)_0, g_$(r)_0) + group_dot(t_$(r)_1_$c, half_$(c)_1, g_$(r)_1);
#end
#end
#end
#end
        }
#end
    }
#if NORM
#for c in 0..COLS
    let inverse_$c = inverse_norm(subgroupAdd(squares_$c));
#for r in 0..(ROWS * (1 + GATE))
    sum_$(r)_$c *= inverse_$c;
#end
#end
#end
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
#if HOLD
    // Codes of HOLD elements stay in registers.
    for (var k0 = 0u; k0 < params.cols; k0 += $(HOLD)u) {
#for c in 0..(COLS / 8)
        let b_$c = data[(n$c * params.w_stride + (k0 >> 3u) * $(BITS / 4)u) >> 2u];
        let g_$(c)_0 = group_of(n$c, k0);
#if GROUP % HOLD != 0
        let g_$(c)_1 = group_of(n$c, k0 + 16u);
#end
#end
        for (var s = 0u; s < $(HOLD / 8)u; s++) {
        let k = k0 + 8u * s;
#else
    for (var k = 0u; k < params.cols; k += $(4 * H)u) {
#end
        // All loads before the sums, column by column: otherwise the compiler keeps more sums on the way than there are registers.
#for r in 0..ROWS
#for h in 0..H
        let x_$(r)_$h = x4(m$r, k + $(4 * h)u);
#end
#end
#for c8 in 0..(COLS / 8)
#if HOLD
#if BITS == 4
        let c_$c8 = select(select(b_$(c8).x, b_$(c8).y, s == 1u), select(b_$(c8).z, b_$(c8).w, s == 3u), s > 1u);
        let q_$(c8)_0 = nibbles0(c_$c8);
        let q_$(c8)_1 = nibbles1(c_$c8);
#else
        let q_$(c8)_0 = numbers(select(b_$(c8).x, b_$(c8).z, s == 1u));
        let q_$(c8)_1 = numbers(select(b_$(c8).y, b_$(c8).w, s == 1u));
#end
#if GROUP % HOLD != 0
        let g_$c8 = select(g_$(c8)_0, g_$(c8)_1, s > 1u);
#else
        let g_$c8 = g_$(c8)_0;
#end
        let w_$(c8)_0 = value4(q_$(c8)_0, g_$c8);
        let w_$(c8)_1 = value4(q_$(c8)_1, g_$c8);
#else
#for h in 0..H
        let w_$(c8)_$h = load4(n$c8, k + $(4 * h)u);
#end
#end
#end
#for c8 in 0..(COLS / 8)
#for c in 0..8
#for h in 0..H
#for e in 0..4
        let w_$(c8)_$(c)_$(4 * h + e)x = subgroupBroadcast(w_$(c8)_$h[$e], $(c)u);
#end
#end
#for r in 0..ROWS
#for h in 0..H
#for e in 0..4
        acc_$(r)_$(8 * c8 + c) = fma(x_$(r)_$h[$e], w_$(c8)_$(c)_$(4 * h + e)x, acc_$(r)_$(8 * c8 + c));
#end
#end
#end
#end
#end
#if HOLD
        }
#end
    }
    // One copy of the store for each r: drivers take a second to compile COLS ROWS of them.
#for r in 0..ROWS
    var sums$r = array<f32, $COLS>(
#for c in 0..COLS
        acc_$(r)_$c,
#end
    );
    for (var c = 0u; c < $(COLS)u; c++) {
        store(first_m + $(8 * r)u, first_n + c, sums$r[c]);
    }
#end
}
#end
