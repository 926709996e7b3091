// y[i, j] = alpha sum_k l(i, k) r(j, k) (+ y[i, j]) for drivers that run a subgroup of 8 as one SIMD register.
//
// A workgroup is one subgroup: lanes lie over i, ROWS a lane; COLS of j are loaded once by the lanes and broadcast, since loads
// are what costs there (docs/ARCHITECTURE.md). No workgroup memory, no barriers; grid = (j / COLS, i / (8 ROWS), batches parts).
#import common/product

#for s in 0..2
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

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let first_j = (wid.x + params.origin.x) * $(COLS)u;
    let first_i = (wid.y + params.origin.y) * $(8 * ROWS)u + lane;
    let z = wid.z + params.origin.z;
    let base0 = params.offset0 + z / params.parts * params.step0;
    let base1 = params.offset1 + z / params.parts * params.step1;
    let from_k = (z % params.parts) * params.k_step;
    let to_k = min(from_k + params.k_step, params.k);
#for r in 0..ROWS
    let i$r = min(first_i + $(8 * r)u, params.len0 - 1u);
#end
#for c in 0..((COLS + 7) / 8)
    let j$c = min(first_j + $(8 * c)u + lane, params.len1 - 1u);
#end
#for r in 0..ROWS
#for c in 0..COLS
    var acc_$(r)_$c = 0.0;
#end
#end
    for (var k = from_k; k < to_k; k += 4u) {
#for c in 0..((COLS + 7) / 8)
        let b$c = quad1(base1, j$c, k);
#end
#for r in 0..ROWS
        let a$r = quad0(base0, i$r, k);
#end
#for e in 0..4
#for c in 0..COLS
        let b_$(e)_$c = subgroupBroadcast(b$(c / 8)[$e], $(c % 8)u);
#for r in 0..ROWS
        acc_$(r)_$c = fma(a$r[$e], b_$(e)_$c, acc_$(r)_$c);
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
        store(base, first_i + $(8 * r)u, first_j + c, sums$r[c]);
    }
#end
}
