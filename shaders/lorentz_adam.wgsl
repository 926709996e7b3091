// One step of Riemannian Adam for rows that are points x of the Lorentz model, whose moments lie beside their gradients g.
//
// h = J CLIP g (J flips the sign of element 0), r = h + <x,h>_L x, m = beta1 m + (1 - beta1) r, v = beta2 v + (1 - beta2) <r,r>_L,
// d = m c1 / (sqrt(v c2) + epsilon), y = exp_x(-lr d) with time sqrt(1 + |y_s|^2); then m goes from x to y by parallel transport. Nothing
// happens after a fault; at lr = 0 values keep their bits.
#import common/lorentz
#import common/progress

struct Params {
    origin: vec4<u32>,
    rows: u32, units: u32, value_offset: u32, gradient_offset: u32,
    first_offset: u32, second_offset: u32, group: u32, steps: u32,
    beta1: f32, rest1: f32, beta2: f32, rest2: f32,
    epsilon: f32, pad0: u32, pad1: u32, pad2: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> values: array<Unit>; // (rows, units)
@group(0) @binding(2) var<storage, read> gradients: array<Unit>; // (rows, units)
@group(0) @binding(3) var<storage, read> schedule: array<vec4<f32>>; // (steps, groups): lr, c1, c2, fresh
@group(0) @binding(4) var<storage, read> progress: array<u32>;
@group(0) @binding(5) var<storage, read_write> first: array<Unit>; // (rows, units)
@group(0) @binding(6) var<storage, read_write> second: array<Unit>; // (rows, units)

// Unit i of the Riemannian gradient; along = <x,h>_L.
fn riemannian(g: Unit, x: Unit, along: f32, i: u32) -> Unit { return flip(g, i) + along * x; }

@compute @workgroup_size($WG)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
#if LONG
    let row = wid.x + params.origin.x;
    let start = lane;
#else
    let row = (wid.x + params.origin.x) * $(WG)u + lane;
    let start = 0u;
    if (row >= params.rows) { return; }
#end
    let healthy = progress[FAULT] == 0u && progress[BAD_LOSS] == 0u;
    let units = select(0u, params.units, healthy);
    let rate = schedule[4u * min(progress[STEP], params.steps - 1u) + params.group];
    let clip = bitcast<f32>(progress[CLIP]);
    let lr = rate.x;
    let fresh = rate.w != 0.0;
    let x_at = params.value_offset + row * params.units;
    let g_at = params.gradient_offset + row * params.units;
    let m_at = params.first_offset + row * params.units;
    let v_at = params.second_offset + row * params.units;
    // Before anything is written.
    let x0 = time_of(values[x_at]);
    let g0 = time_of(gradients[g_at]) * clip;
    let before = select(time_of(first[m_at]), 0.0, fresh);
    let second0 = select(time_of(second[v_at]), 0.0, fresh);
    var product = 0.0;
    for (var i = start; i < units; i += STRIDE) { product += total(values[x_at + i] * (gradients[g_at + i] * clip)); }
    // <x, J g>_L is x . g.
    let along = sum_all(product, lane);
    let m0 = params.beta1 * before + params.rest1 * (along * x0 - g0);
    var rr = 0.0;
    var mm = 0.0;
    for (var i = start; i < units; i += STRIDE) {
        let r = riemannian(gradients[g_at + i] * clip, values[x_at + i], along, i);
        let m = params.beta1 * select(first[m_at + i], Unit(0.0), fresh) + params.rest1 * r;
        first[m_at + i] = m;
        rr += total(flip(r, i) * r);
        mm += total(flip(m, i) * m);
    }
    rr = max(sum_all(rr, lane), 0.0);
    mm = max(sum_all(mm, lane), 0.0);
    let v = params.beta2 * second0 + params.rest2 * rr;
    let rate_m = lr * rate.y / (sqrt(v * rate.z) + params.epsilon);
    // The norm of the step, and y = a x - b m.
    let n = abs(rate_m) * sqrt(mm);
    let clamped = min(n, MAX_NORM);
    let a = cosh_of(clamped);
    let b = rate_m * sinh_ratio(clamped) * select(1.0, MAX_NORM / n, n > MAX_NORM);
    var yy = 0.0;
    var ym = 0.0;
    var xy = 0.0;
    for (var i = start; i < units; i += STRIDE) {
        second[v_at + i] = Unit(v);
        let x = values[x_at + i];
        let m = first[m_at + i];
        let y = space(a * x - b * m, i);
        yy += total(y * y);
        ym += total(y * m);
        xy += total(y * x);
    }
    let y0 = sqrt(1.0 + sum_all(yy, lane));
    let turn = (sum_all(ym, lane) - y0 * m0) / (1.0 + y0 * x0 - sum_all(xy, lane));
    let moving = select(0u, units, lr != 0.0);
    for (var i = start; i < moving; i += STRIDE) {
        let x = values[x_at + i];
        let m = first[m_at + i];
        let y = with_time(y0, a * x - b * m, i);
        values[x_at + i] = y;
        first[m_at + i] = m + turn * (x + y);
    }
}
