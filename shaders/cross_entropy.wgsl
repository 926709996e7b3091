// loss[r] = (1 - smoothing) (-log p[t]) + smoothing mean_v(-log p[v]) with p = softmax(x[r]) and t = target[r]; GRAD: x[r] becomes
// scale (p - (1 - smoothing) onehot(t) - smoothing / cols). A target past the columns is ignored: loss 0, gradient 0.
//
// A workgroup a row: one pass keeps the largest logit and the sum relative to it, the second writes. VEC: by vec4, sizes and places
// of x are in these units.
#import common/reduce

struct Params {
    origin: vec4<u32>,
    cols: u32, x_offset: u32, x_stride: u32, y_offset: u32,
    targets_offset: u32, scale_offset: u32, smoothing: f32, pad0: u32,
}
#if VEC
alias Unit = vec4<f32>;
fn total_of(v: Unit) -> f32 { return dot(v, vec4<f32>(1.0)); }
fn top_of(v: Unit) -> f32 { return max(max(v.x, v.y), max(v.z, v.w)); }
#else
alias Unit = f32;
fn total_of(v: Unit) -> f32 { return v; }
fn top_of(v: Unit) -> f32 { return v; }
#end
@group(0) @binding(0) var<uniform> params: Params;
#if GRAD
@group(0) @binding(1) var<storage, read_write> x: array<Unit>; // (rows, cols)
#else
@group(0) @binding(1) var<storage, read> x: array<Unit>; // (rows, cols)
#end
@group(0) @binding(2) var<storage, read> targets: array<u32>; // (rows)
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // (rows)
#if GRAD
@group(0) @binding(4) var<storage, read> scale: array<f32>;
#end

#let STRIP = 4 * WG
@compute @workgroup_size($WG)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = wid.x + params.origin.x;
    let at = params.x_offset + row * params.x_stride;
    let columns = params.cols * $(1 + 3 * VEC)u;
    let target_id = targets[params.targets_offset + row];
    let ignored = target_id >= columns;
    let n = select(params.cols, 0u, ignored);
    let strips = n / $(STRIP)u * $(STRIP)u;

    // Each component has a largest logit of its own. A finite first one: infinities are not portable.
    var top = Unit(-3.0e38);
    var total = Unit();
    var plain = Unit();
    for (var i = lane; i < strips; i += $(STRIP)u) {
#for u in 0..4
        let v$u = x[at + i + $(u * WG)u];
#end
        let next = max(max(top, max(v0, v1)), max(v2, v3));
        total = total * exp(top - next) + ((exp(v0 - next) + exp(v1 - next)) + (exp(v2 - next) + exp(v3 - next)));
        plain += (v0 + v1) + (v2 + v3);
        top = next;
    }
    for (var i = strips + lane; i < n; i += $(WG)u) {
        let v = x[at + i];
        let next = max(top, v);
        total = total * exp(top - next) + exp(v - next);
        plain += v;
        top = next;
    }
    let largest = max_all(top_of(top), lane);
    let sum = sum_all(total_of(total * exp(top - largest)), lane);
    let mean = sum_all(total_of(plain), lane) / f32(columns);

    // The invocation that reads and writes the target's logit in both passes also writes the loss: nothing to wait for.
#if VEC
    let owner = select((target_id / 4u) % $(WG)u, 0u, ignored);
#else
    let owner = select(target_id % $(WG)u, 0u, ignored);
#end
    var l = 0.0;
    if (lane == owner) {
        var loss = 0.0;
        if (!ignored) {
#if VEC
            l = x[at + target_id / 4u][target_id % 4u];
#else
            l = x[at + target_id];
#end
            loss = log(sum) + (1.0 - params.smoothing) * (largest - l) + params.smoothing * (largest - mean);
        }
        y[params.y_offset + row] = loss;
    }
#if GRAD
    let factor = scale[params.scale_offset];
    let inverse = 1.0 / sum;
    let even = params.smoothing / f32(columns);
    let wide = params.cols / $(STRIP)u * $(STRIP)u;
    for (var i = lane; i < wide; i += $(STRIP)u) {
#for u in 0..4
        let v$u = x[at + i + $(u * WG)u];
#end
#for u in 0..4
        x[at + i + $(u * WG)u] = select(factor * (exp(v$u - largest) * inverse - even), Unit(), ignored);
#end
    }
    for (var i = wide + lane; i < params.cols; i += $(WG)u) {
        let v = x[at + i];
        x[at + i] = select(factor * (exp(v - largest) * inverse - even), Unit(), ignored);
    }
    if (lane == owner && !ignored) {
        let g = factor * ((exp(l - largest) * inverse - even) - (1.0 - params.smoothing));
#if VEC
        x[at + target_id / 4u][target_id % 4u] = g;
#else
        x[at + target_id] = g;
#end
    }
#end
}
