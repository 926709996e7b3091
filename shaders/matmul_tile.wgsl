// y[i, j] = alpha sum_k l(i, k) s(k) r(j, k) + bias + residual (+ y[i, j]), register tiles over workgroup memory.
//
// A workgroup computes BM x BN outputs, an invocation TM x TN of them (4-wide blocks, BM / (TM / 4) apart). The next tiles are on
// their way from memory while the present ones are multiplied. Loads and stores are guarded, so that any lengths will do;
// grid = (j / BN, i / BM, batches parts).
#import common/product

const BM: u32 = $(BM)u;
const BN: u32 = $(BN)u;
const BK: u32 = $(BK)u;
const TX: u32 = $(BN / TN)u;
const WG: u32 = $((BM / TM) * (BN / TN))u;
// 4-wide blocks of a row of k; one more where lanes would write to one bank.
const ROW0: u32 = $(BM / 4 + 1 - K0)u;
const ROW1: u32 = $(BN / 4 + 1 - K1)u;
var<workgroup> tile0: array<vec4<f32>, $(BK * (BM / 4 + 1 - K0))>; // [k][i / 4]
var<workgroup> tile1: array<vec4<f32>, $(BK * (BN / 4 + 1 - K1))>; // [k][j / 4]

#if SCALE && !K1
// s(k) and its three next; what lies past the end is the last again, and meets zeros.
fn scale4(k: u32) -> vec4<f32> {
    let last = params.scale_offset + params.k - 1u;
    let at = params.scale_offset + k;
    return vec4<f32>(scale[min(at, last)], scale[min(at + 1u, last)], scale[min(at + 2u, last)], scale[min(at + 3u, last)]);
}
#end

#for s in 0..2
// Four numbers that lie side by side: in k from (i, k), or in i.
fn fetch$s(base: u32, i: u32, k: u32) -> vec4<f32> {
    var v = vec4<f32>(0.0);
#if (s == 0 && K0) || (s == 1 && K1)
    let row = k;
    let col = i;
    let rows = params.k;
    let cols = params.len$s;
#else
    let row = i;
    let col = k;
    let rows = params.len$s;
    let cols = params.k;
#end
    if (row >= rows || col >= cols) { return v; }
#if (s == 0 && H0) || (s == 1 && H1)
    let at = base + row * params.stride$s + (col >> 1u);
#if (s == 0 && V0) || (s == 1 && V1)
    let w = data$s[at >> 1u];
    v = vec4<f32>(unpack2x16float(w.x), unpack2x16float(w.y));
#else
    let low = unpack2x16float(data$s[at]);
    v.x = low.x;
    if (col + 1u < cols) { v.y = low.y; }
    if (col + 2u < cols) {
        let high = unpack2x16float(data$s[at + 1u]);
        v.z = high.x;
        if (col + 3u < cols) { v.w = high.y; }
    }
#end
#else
    let at = base + row * params.stride$s + col;
#if (s == 0 && V0) || (s == 1 && V1)
    v = data$s[at >> 2u];
#else
    v.x = data$s[at];
    if (col + 1u < cols) { v.y = data$s[at + 1u]; }
    if (col + 2u < cols) { v.z = data$s[at + 2u]; }
    if (col + 3u < cols) { v.w = data$s[at + 3u]; }
#end
#end
#if s == 1 && SCALE && K1
    v *= scale[params.scale_offset + k];
#end
#if s == 1 && SCALE && !K1
    v *= scale4(k);
#end
    return v;
}

// Where the q-th four of a tile lie: (i, k) of the first.
fn place$s(q: u32) -> vec2<u32> {
#if s == 0
    const wide = BM / 4u;
#else
    const wide = BN / 4u;
#end
#if (s == 0 && K0) || (s == 1 && K1)
    return vec2<u32>((q % wide) * 4u, q / wide);
#else
    return vec2<u32>(q / $(BK / 4)u, (q % $(BK / 4)u) * 4u);
#end
}

fn put$s(q: u32, v: vec4<f32>) {
    let p = place$s(q);
#if (s == 0 && K0) || (s == 1 && K1)
    tile$s[p.y * ROW$s + (p.x >> 2u)] = v;
#else
#for e in 0..4
    tile$s[(p.y + $(e)u) * ROW$s + (p.x >> 2u)][p.x & 3u] = v[$e];
#end
#end
}
#end

@compute @workgroup_size($((BM / TM) * (BN / TN)))
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let j0 = (wid.x + params.origin.x) * BN;
    let i0 = (wid.y + params.origin.y) * BM;
    let z = wid.z + params.origin.z;
    let base0 = params.offset0 + z / params.parts * params.step0;
    let base1 = params.offset1 + z / params.parts * params.step1;
    let from_k = (z % params.parts) * params.k_step;
    let to_k = min(from_k + params.k_step, params.k);
    let tx = lane % TX;
    let ty = lane / TX;
#for i in 0..TM
#for j in 0..(TN / 4)
    var acc_$(i)_$j = vec4<f32>(0.0);
#end
#end
#for l in 0..((BM * BK / 4 + WG - 1) / WG)
    let p0_$l = place0(lane + $(l * WG)u);
    var next0_$l = fetch0(base0, i0 + p0_$l.x, from_k + p0_$l.y);
#end
#for l in 0..((BN * BK / 4 + WG - 1) / WG)
    let p1_$l = place1(lane + $(l * WG)u);
    var next1_$l = fetch1(base1, j0 + p1_$l.x, from_k + p1_$l.y);
#end
    for (var k0 = from_k; k0 < to_k; k0 += BK) {
#for l in 0..((BM * BK / 4 + WG - 1) / WG)
#if (l + 1) * WG > BM * BK / 4
        if (lane + $(l * WG)u < $(BM * BK / 4)u) { put0(lane + $(l * WG)u, next0_$l); }
#else
        put0(lane + $(l * WG)u, next0_$l);
#end
#end
#for l in 0..((BN * BK / 4 + WG - 1) / WG)
#if (l + 1) * WG > BN * BK / 4
        if (lane + $(l * WG)u < $(BN * BK / 4)u) { put1(lane + $(l * WG)u, next1_$l); }
#else
        put1(lane + $(l * WG)u, next1_$l);
#end
#end
        workgroupBarrier();
#for l in 0..((BM * BK / 4 + WG - 1) / WG)
        next0_$l = fetch0(base0, i0 + p0_$l.x, k0 + BK + p0_$l.y);
#end
#for l in 0..((BN * BK / 4 + WG - 1) / WG)
        next1_$l = fetch1(base1, j0 + p1_$l.x, k0 + BK + p1_$l.y);
#end
        for (var k = 0u; k < BK; k++) {
#for i in 0..(TM / 4)
            let a_$i = tile0[k * ROW0 + $(i * (BM / TM))u + ty];
#end
#for j in 0..(TN / 4)
            let b_$j = tile1[k * ROW1 + $(j * (BN / TN))u + tx];
#end
#for i in 0..TM
#for j in 0..(TN / 4)
            acc_$(i)_$j = fma(vec4<f32>(a_$(i / 4)[$(i % 4)]), b_$j, acc_$(i)_$j);
#end
#end
        }
        workgroupBarrier();
    }
    let base = params.y_offset + z * params.y_step;
#for i in 0..TM
#for j in 0..(TN / 4)
#if YV
    store4(base, i0 + $(4 * (i / 4) * (BM / TM) + (i % 4))u + ty * 4u, j0 + $(4 * j * (BN / TN))u + tx * 4u, acc_$(i)_$j);
#else
#for e in 0..4
    store(base, i0 + $(4 * (i / 4) * (BM / TM) + (i % 4))u + ty * 4u, j0 + $(4 * j * (BN / TN) + e)u + tx * 4u, acc_$(i)_$j[$e]);
#end
#end
#end
#end
}
