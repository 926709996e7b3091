// y[i, j] = alpha sum_k l(i, k) s(k) r(j, k) + bias + residual (+ y[i, j]) for drivers that run a subgroup of 8 as one SIMD
// register.
//
// A workgroup is one subgroup: lanes lie over i, ROWS a lane; COLS of j are loaded once by the lanes and broadcast, since loads
// are what costs there (docs/ARCHITECTURE.md). Where rows are aligned (V0, V1), loads are vec4: along k, or, of an operand with its
// k along columns, of four i (or 32 j over the lanes) at one k. No workgroup memory, no barriers; grid = (j / COLS, i / (8 ROWS),
// batches parts).
#import common/product

#let ACROSS0 = K0 && V0
#let ACROSS1 = K1 && V1
#for s in 0..2
#if (s == 0 && V0) || (s == 1 && V1)
// Four numbers that lie side by side.
fn wide$s(base: u32, row: u32, col: u32) -> vec4<f32> {
#if (s == 0 && H0) || (s == 1 && H1)
    let w = data$s[(base + row * params.stride$s + (col >> 1u)) >> 1u];
    return vec4<f32>(unpack2x16float(w.x), unpack2x16float(w.y));
#else
    return data$s[(base + row * params.stride$s + col) >> 2u];
#end
}
#else
// Four numbers from (i, k) on along k; those past the end are 0.
fn quad$s(base: u32, i: u32, k: u32) -> vec4<f32> {
    var v = vec4<f32>(0.0);
#if (s == 0 && K0) || (s == 1 && K1)
#for e in 0..4
#if KTAIL
    if (k + $(e)u < params.k) {
#else
    {
#end
#if (s == 0 && H0) || (s == 1 && H1)
        let pair = unpack2x16float(data$s[base + (k + $(e)u) * params.stride$s + (i >> 1u)]);
        v[$e] = select(pair.x, pair.y, (i & 1u) == 1u);
#else
        v[$e] = data$s[base + (k + $(e)u) * params.stride$s + i];
#end
    }
#end
#else
#if (s == 0 && H0) || (s == 1 && H1)
    let at = base + i * params.stride$s + (k >> 1u);
#if KTAIL
    let low = unpack2x16float(data$s[at]);
    v.x = low.x;
    if (k + 1u < params.k) { v.y = low.y; }
    if (k + 2u < params.k) {
        let high = unpack2x16float(data$s[at + 1u]);
        v.z = high.x;
        if (k + 3u < params.k) { v.w = high.y; }
    }
#else
    v = vec4<f32>(unpack2x16float(data$s[at]), unpack2x16float(data$s[at + 1u]));
#end
#else
    let at = base + i * params.stride$s + k;
#if KTAIL
    v.x = data$s[at];
    if (k + 1u < params.k) { v.y = data$s[at + 1u]; }
    if (k + 2u < params.k) { v.z = data$s[at + 2u]; }
    if (k + 3u < params.k) { v.w = data$s[at + 3u]; }
#else
    v = vec4<f32>(data$s[at], data$s[at + 1u], data$s[at + 2u], data$s[at + 3u]);
#end
#end
#end
    return v;
}
#end
#end

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let first_j = (wid.x + params.origin.x) * $(COLS)u;
    let z = wid.z + params.origin.z;
    let base0 = params.offset0 + z / params.parts * params.step0;
    let base1 = params.offset1 + z / params.parts * params.step1;
    let from_k = (z % params.parts) * params.k_step;
    let to_k = min(from_k + params.k_step, params.k);
    // What lies past the end is the last again; only its stores are left out.
#for r in 0..ROWS
#if ACROSS0
    let i$r = (wid.y + params.origin.y) * $(8 * ROWS)u + 4u * lane + $(r)u;
#else
    let i$r = (wid.y + params.origin.y) * $(8 * ROWS)u + $(8 * r)u + lane;
    let in$r = min(i$r, params.len0 - 1u);
#end
#end
#if ACROSS0
    let in0 = min(i0, params.len0 - 4u);
#end
#if ACROSS1
    let j0 = min(first_j + 4u * lane, params.len1 - 4u);
#else
#for c in 0..((COLS + 7) / 8)
    let j$c = min(first_j + $(8 * c)u + lane, params.len1 - 1u);
#end
#end
#for r in 0..ROWS
#for c in 0..COLS
    var acc_$(r)_$c = 0.0;
#end
#end
    for (var k = from_k; k < to_k; k += 4u) {
#if ACROSS0
#for e in 0..4
#if KTAIL
        var a$e = vec4<f32>(0.0);
        if (k + $(e)u < params.k) { a$e = wide0(base0, k + $(e)u, in0); }
#else
        let a$e = wide0(base0, k + $(e)u, in0);
#end
#end
#else
#for r in 0..ROWS
#if V0
        let a$r = wide0(base0, in$r, k);
#else
        let a$r = quad0(base0, in$r, k);
#end
#end
#end
#for r in 0..ROWS
#for e in 0..4
#if ACROSS0
        let a_$(r)_$e = a$e[$r];
#else
        let a_$(r)_$e = a$r[$e];
#end
#end
#end
#if SCALE
        // Factors of r, which has the fewest registers in an iteration: at most 16.
        let factor = scale[params.scale_offset + min(k + (lane & 3u), params.k - 1u)];
#for e in 0..4
        let factor_$e = subgroupBroadcast(factor, $(e)u);
#end
#end
#if ACROSS1
#for e in 0..4
        var b$e = vec4<f32>(0.0);
#if KTAIL
        if (k + $(e)u < params.k) { b$e = wide1(base1, k + $(e)u, j0); }
#else
        b$e = wide1(base1, k + $(e)u, j0);
#end
#if SCALE
        b$e *= factor_$e;
#end
#end
#end
#if ACROSS1 == 0
#for c in 0..((COLS + 7) / 8)
#if V1
        var b$c = wide1(base1, j$c, k);
#else
        var b$c = quad1(base1, j$c, k);
#end
#if SCALE
        b$c *= vec4<f32>(factor_0, factor_1, factor_2, factor_3);
#end
#end
#end
#for c in 0..COLS
#for e in 0..4
#if ACROSS1
        let b_$(c)_$e = subgroupBroadcast(b$e[$(c % 4)], $(c / 4)u);
#else
        let b_$(c)_$e = subgroupBroadcast(b$(c / 8)[$e], $(c % 8)u);
#end
#end
#for r in 0..ROWS
#for e in 0..4
        acc_$(r)_$c = fma(a_$(r)_$e, b_$(c)_$e, acc_$(r)_$c);
#end
#end
#end
    }
    let base = params.y_offset + z * params.y_step;
    // One copy of the store for each r: drivers take a second to compile COLS ROWS of them.
#for r in 0..ROWS
    var sums$r = array<f32, $COLS>(
#for c in 0..COLS
        acc_$(r)_$c,
#end
    );
    for (var c = 0u; c < $(COLS)u; c++) {
        store(base, i$r, first_j + c, sums$r[c]);
    }
#end
}
