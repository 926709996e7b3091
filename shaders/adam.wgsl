// One optimiser step of many segments of parameters. A workgroup takes a chunk of the table: up to 4096 values of a segment, or one row
// of singular vectors.
//
// g' = CLIP g;  ADAM: m = beta1 m + (1 - beta1) g', v = beta2 v + (1 - beta2) g'^2, d = m c1 / (sqrt(v c2) + epsilon);  else d = g'.
// p = p (1 - lr decay) - lr d. VEC: by vec4; lengths are in words all the same. Nothing happens after a fault.
#import common/progress
#import common/reduce

struct Params {
    origin: vec4<u32>,
    value_base: u32, gradient_base: u32, table_offset: u32, steps: u32,
    beta1: f32, rest1: f32, beta2: f32, rest2: f32,
    epsilon: f32, pad0: u32, pad1: u32, pad2: u32,
}
#let PER = 1 + 3 * VEC
#if VEC
alias Unit = vec4<f32>;
alias Mask = vec4<bool>;
fn total(v: Unit) -> f32 { return dot(v, vec4<f32>(1.0)); }
// Which words of unit i lie within `len`; those behind it keep their bits.
fn within(i: u32, len: u32) -> Mask { return vec4<u32>(4u * i) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(len); }
#else
alias Unit = f32;
alias Mask = bool;
fn total(v: Unit) -> f32 { return v; }
fn within(i: u32, len: u32) -> Mask { return i < len; }
#end
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> values: array<Unit>;
@group(0) @binding(2) var<storage, read> gradients: array<Unit>;
@group(0) @binding(3) var<storage, read> indices: array<u32>;
@group(0) @binding(4) var<storage, read> schedule: array<vec4<f32>>; // (steps, groups): lr, c1, c2, fresh
@group(0) @binding(5) var<storage, read> progress: array<u32>;
@group(0) @binding(6) var<storage, read> table: array<vec4<u32>>; // (chunks, 2)
#if ADAM
@group(0) @binding(7) var<storage, read_write> first: array<Unit>; // as the gradients
@group(0) @binding(8) var<storage, read_write> second: array<Unit>;
#end

const WG: u32 = $(WG)u;
const CLAMPED: u32 = 1u;
const ROWS: u32 = 2u;
const UNIT_ROWS: u32 = 3u;
const DIRECTION: u32 = 4u;
const CLAMPED_ROWS: u32 = 5u;
const LORENTZ: u32 = 6u; // lorentz_adam.wgsl takes these

// The direction of a step; moves the moments on.
fn direction(i: u32, g: Unit, rate: vec4<f32>, mask: Mask) -> Unit {
#if ADAM
    let fresh = rate.w != 0.0;
    let m0 = first[i];
    let v0 = second[i];
    let m = params.beta1 * select(m0, Unit(0.0), fresh) + params.rest1 * g;
    let v = params.beta2 * select(v0, Unit(0.0), fresh) + params.rest2 * g * g;
    first[i] = select(m0, m, mask);
    second[i] = select(v0, v, mask);
    return m * rate.y / (sqrt(v * rate.z) + params.epsilon);
#else
    return g;
#end
}

@compute @workgroup_size($WG)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let chunk = params.table_offset + 2u * (wid.x + params.origin.x);
    let what = table[chunk]; // kind + 256 group, value, gradient, length
    let more = table[chunk + 1u]; // weight decay, word in indices, rows, segment
    let kind = what.x & 255u;
    let rate = schedule[4u * min(progress[STEP], params.steps - 1u) + (what.x >> 8u)];
    let clip = bitcast<f32>(progress[CLIP]);
    let lr = rate.x;
    let kept = 1.0 - lr * bitcast<f32>(more.x);
    let takes = progress[FAULT] == 0u && progress[BAD_LOSS] == 0u && kind != LORENTZ;
    // At a rate of 0 values keep their bits, -0 and NaN too.
    let moves = kind == DIRECTION || lr != 0.0;
    let units = select(0u, (what.w + $(PER - 1)u) / $(PER)u, takes);
    let from_gradient = (what.z - params.gradient_base) / $(PER)u;
    var from_value = (what.y - params.value_base) / $(PER)u;
    if (kind == ROWS || kind == UNIT_ROWS || kind == CLAMPED_ROWS) {
        from_value += min(indices[more.y], more.z - 1u) * (what.w / $(PER)u);
    }
    var squares = 0.0;
    for (var i = lane; i < units; i += WG) {
        let mask = within(i, what.w);
        let d = direction(from_gradient + i, gradients[from_gradient + i] * clip, rate, mask);
        if (moves) {
            let old = values[from_value + i];
            var p = old * kept - lr * d;
            if (kind == CLAMPED || kind == CLAMPED_ROWS) { p = max(p, Unit(0.0)); }
            if (kind == DIRECTION) { p = lr * d; }
            values[from_value + i] = select(old, p, mask);
            squares += total(p * p);
        }
    }
    if (kind == UNIT_ROWS) {
        let norm = sqrt(sum_all(squares, lane));
        if (norm > 0.0) {
            for (var i = lane; i < units; i += WG) { values[from_value + i] = values[from_value + i] / norm; }
        }
    }
}
