// y[r] = sum_i P_i log(P_i / Q_i), P and Q being the softmax of rows of p and q, in nats. A workgroup a row.
//
// With d = q - p, m = sum_i P_i d_i and e = d - m it is log(1 + sum_i P_i (exp(e_i) - 1 - e_i)): terms that are not negative, where the
// difference of two logarithms would have lost all digits of a small divergence. What m is off by, sum_i P_i e_i, is made up for. A
// large divergence is that difference, whose exponentials cannot overflow.
#import common/reduce

struct Params {
    origin: vec4<u32>,
    cols: u32, p_offset: u32, p_stride: u32, y_offset: u32,
    q_offset: u32, q_stride: u32, pad0: u32, pad1: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> p: array<f32>; // (rows, cols)
@group(0) @binding(2) var<storage, read> q: array<f32>; // (rows, cols)
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // (rows)

// exp(x) - 1 - x for x up to 0.3, by its series where that would cancel: the terms left out are below 4e-8 of it.
fn beyond_line(x: f32) -> f32 {
    if (x < -0.3) { return exp(x) - 1.0 - x; }
    return x * x * (0.5 + x * (0.16666667 + x * (0.041666668 + x * (0.0083333338 + x * (0.0013888889 + x * 0.00019841270)))));
}

@compute @workgroup_size($WG)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = wid.x + params.origin.x;
    let p0 = params.p_offset + row * params.p_stride;
    let q0 = params.q_offset + row * params.q_stride;
    var top_p = -3.0e38;
    var top_q = -3.0e38;
    for (var i = lane; i < params.cols; i += $(WG)u) {
        top_p = max(top_p, p[p0 + i]);
        top_q = max(top_q, q[q0 + i]);
    }
    top_p = max_all(top_p, lane);
    top_q = max_all(top_q, lane);
    var total_p = 0.0;
    var total_q = 0.0;
    var mean = 0.0;
    for (var i = lane; i < params.cols; i += $(WG)u) {
        let w = exp(p[p0 + i] - top_p);
        total_p += w;
        total_q += exp(q[q0 + i] - top_q);
        mean += w * (q[q0 + i] - p[p0 + i]);
    }
    total_p = sum_all(total_p, lane);
    total_q = sum_all(total_q, lane);
    mean = sum_all(mean, lane) / total_p;
    let apart = (top_q - top_p - mean) + (log(total_q) - log(total_p));
    var more = 0.0;
    var off = 0.0;
    for (var i = lane; i < params.cols; i += $(WG)u) {
        let x = p[p0 + i] - top_p;
        let e = (q[q0 + i] - p[p0 + i]) - mean;
        off += exp(x) * e;
        // Together, as the second alone may be beyond any number.
        if (e > 0.3) {
            more += exp(min(x + e, 80.0)) - exp(x) * (1.0 + e);
        } else {
            more += exp(x) * beyond_line(e);
        }
    }
    more = sum_all(more, lane) / total_p;
    off = sum_all(off, lane) / total_p;
    // log(1 + all) - off. Of a small sum it is more + (log(1 + all) - all), by the series of log(1 + all) = 2 atanh(z): what is left out is
    // below 1e-8 of it.
    let all = more + off;
    let z = all / (2.0 + all);
    let zz = z * z;
    let series = 2.0 * z * zz * (0.33333334 + zz * (0.2 + zz * (0.14285715 + zz * (0.11111111 + zz * 0.09090909)))) - all * z;
    let near = select(log(1.0 + all) - off, more + series, abs(all) < 0.5);
    // No max: that would make 0 of what is not a number, which must be seen.
    let kept = select(near, 0.0, near < 0.0);
    if (lane == 0u) { y[params.y_offset + row] = select(kept, apart, apart > 1.0); }
}
