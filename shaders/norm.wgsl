// y[r, i] = (x[s, i] - mean) * inverse * gain[i] + bias[i]; RMS: no mean, no bias. inverse = 1 / sqrt(variance + eps).
//
// A workgroup a row. VEC: by vec4, sizes and places are in these units. LAST: row r of y is the last valid row of sequence r of x
// (s = r rows_per_sequence + count - 1), else s = r. SAVE: mean and inverse are written too, for the gradient.
#import common/reduce
#import common/state

struct Params {
    origin: vec4<u32>,
    cols: u32, x_offset: u32, x_stride: u32, y_offset: u32,
    y_stride: u32, gain_offset: u32, bias_offset: u32, eps: f32,
    sequence_rows: u32, saved_offset: u32, saved_stride: u32, pad0: u32,
}
#if VEC
alias Unit = vec4<f32>;
fn total(v: Unit) -> f32 { return dot(v, vec4<f32>(1.0)); }
#else
alias Unit = f32;
fn total(v: Unit) -> f32 { return v; }
#end
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Unit>; // (rows, cols)
@group(0) @binding(2) var<storage, read_write> y: array<Unit>; // (rows, cols)
@group(0) @binding(3) var<storage, read> gain: array<Unit>; // (cols)
#if BIAS
@group(0) @binding(4) var<storage, read> bias: array<Unit>; // (cols)
#end
#if LAST
@group(0) @binding($(4 + BIAS)) var<storage, read> state: array<u32>; // (sequences, 32)
#end
#if SAVE
@group(0) @binding($(4 + BIAS + LAST)) var<storage, read_write> saved: array<f32>; // (rows, 2): mean, inverse; in words
#end

@compute @workgroup_size($WG)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = wid.x + params.origin.x;
    var source = row;
#if LAST
    source = row * params.sequence_rows + max(state[row * 32u + COUNT], 1u) - 1u;
#end
    let at = params.x_offset + source * params.x_stride;
    let n = f32(params.cols * $(1 + 3 * VEC)u);
    var mean = 0.0;
#if RMS == 0
    for (var i = lane; i < params.cols; i += $(WG)u) { mean += total(x[at + i]); }
    mean = sum_all(mean, lane) / n;
#end
    var squares = 0.0;
    for (var i = lane; i < params.cols; i += $(WG)u) {
        let d = x[at + i] - mean;
        squares += total(d * d);
    }
    let inverse = 1.0 / sqrt(sum_all(squares, lane) / n + params.eps);
#if SAVE
    if (lane == 0u) {
        saved[params.saved_offset + row * params.saved_stride] = mean;
        saved[params.saved_offset + row * params.saved_stride + 1u] = inverse;
    }
#end
    for (var i = lane; i < params.cols; i += $(WG)u) {
        var v = (x[at + i] - mean) * inverse * gain[params.gain_offset + i];
#if BIAS
        v += bias[params.bias_offset + i];
#end
        y[params.y_offset + row * params.y_stride + i] = v;
    }
}
