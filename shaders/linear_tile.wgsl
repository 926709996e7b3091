// y[m, n] = act(sum_k x[m, k] W[n, k] + bias[n]) + residual[m, n], register tiles over workgroup memory.
//
// A workgroup computes BM x BN outputs, an invocation TM x TN of them (4-wide blocks, BM / (TM / 4) apart). Weights are decoded
// once per tile into f32. Workgroup memory per flop: (TM + TN) / (TM TN) words. Loads and stores are guarded, so that any m, n, k
// will do; grid = (n / BN, m / BM).
#import common/linear

const BM: u32 = $(BM)u;
const BN: u32 = $(BN)u;
const BK: u32 = $(BK)u;
const TX: u32 = $(BN / TN)u;
const WG: u32 = $((BM / TM) * (BN / TN))u;
const SX: u32 = $(BM / 4)u;
const SW: u32 = $(BN / 4)u;
var<workgroup> sh_x: array<vec4<f32>, $(BK * BM / 4)>; // [k][m / 4]
var<workgroup> sh_w: array<vec4<f32>, $(BK * BN / 4)>; // [k][n / 4]

// Rows past the end repeat the last; columns past the end meet zeros of x.
fn w4(n: u32, k: u32) -> vec4<f32> {
    return load4(min(n, params.n - 1u), min(k, ((params.cols + 3u) & ~3u) - 4u));
}

@compute @workgroup_size($((BM / TM) * (BN / TN)))
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let n0 = (wid.x + params.origin.x) * BN;
    let m0 = (wid.y + params.origin.y) * BM;
    let tx = lane % TX;
    let ty = lane / TX;
#for i in 0..TM
#for j in 0..(TN / 4)
    var acc_$(i)_$j = vec4<f32>(0.0);
#end
#end
    // Invocations next to each other take rows next to each other: their stores into workgroup memory meet no bank twice.
#for q in 0..(BM * BK / 4 / ((BM / TM) * (BN / TN)))
    let xr_$q = ($(q)u * WG + lane) % BM;
    let xk_$q = ($(q)u * WG + lane) / BM;
#end
#for q in 0..(BN * BK / 4 / ((BM / TM) * (BN / TN)))
    let wr_$q = ($(q)u * WG + lane) % BN;
    let wk_$q = ($(q)u * WG + lane) / BN;
#end
#for q in 0..(BM * BK / 4 / ((BM / TM) * (BN / TN)))
    var vx_$q = x4(min(m0 + xr_$q, params.m - 1u), 4u * xk_$q);
#end
#for q in 0..(BN * BK / 4 / ((BM / TM) * (BN / TN)))
    var vw_$q = w4(n0 + wr_$q, 4u * wk_$q);
#end
    for (var k0 = 0u; k0 < params.cols; k0 += BK) {
#for q in 0..(BM * BK / 4 / ((BM / TM) * (BN / TN)))
#for e in 0..4
        sh_x[(4u * xk_$q + $(e)u) * SX + (xr_$q >> 2u)][xr_$q & 3u] = vx_$q[$e];
#end
#end
#for q in 0..(BN * BK / 4 / ((BM / TM) * (BN / TN)))
#for e in 0..4
        sh_w[(4u * wk_$q + $(e)u) * SW + (wr_$q >> 2u)][wr_$q & 3u] = vw_$q[$e];
#end
#end
        workgroupBarrier();
        // The next tile is on its way while this one is used.
#for q in 0..(BM * BK / 4 / ((BM / TM) * (BN / TN)))
        vx_$q = x4(min(m0 + xr_$q, params.m - 1u), k0 + BK + 4u * xk_$q);
#end
#for q in 0..(BN * BK / 4 / ((BM / TM) * (BN / TN)))
        vw_$q = w4(n0 + wr_$q, k0 + BK + 4u * wk_$q);
#end
        for (var k = 0u; k < BK; k += $(KU)u) {
#for s in 0..KU
#for i in 0..(TM / 4)
            let a_$(s)_$i = sh_x[(k + $(s)u) * SX + $(i * (BM / TM))u + ty];
#end
#for j in 0..(TN / 4)
            let b_$(s)_$j = sh_w[(k + $(s)u) * SW + $(j * (BN / TN))u + tx];
#end
#for i in 0..TM
#for j in 0..(TN / 4)
            acc_$(i)_$j = fma(vec4<f32>(a_$(s)_$(i / 4)[$(i % 4)]), b_$(s)_$j, acc_$(i)_$j);
#end
#end
#end
        }
        workgroupBarrier();
    }
#for i in 0..TM
#for j in 0..(TN / 4)
#for e in 0..4
    store(m0 + $(4 * (i / 4) * (BM / TM) + (i % 4))u + ty * 4u, n0 + $(4 * j * (BN / TN) + e)u + tx * 4u, acc_$(i)_$j[$e]);
#end
#end
#end
}
