// y[e] = x[e] / (1 - p) or, with probability p, 0, for the elements of a matrix counted row by row. Four elements share a draw of the
// generator, at counter (e / 4, STEP, MICRO, stream): e is kept where its 32 bits reach `threshold` = p 2^32. One invocation a draw.
//
// VEC: rows are whole vec4; cols, places and `first` are in these units.
#import common/progress
#import common/threefry

struct Params {
    origin: vec4<u32>,
    cols: u32, x_offset: u32, x_stride: u32, y_offset: u32,
    y_stride: u32, first: u32, count: u32, stream: u32,
    threshold: u32, factor: f32, pad0: u32, pad1: u32,
}
#if VEC
alias Unit = vec4<f32>;
#else
alias Unit = f32;
#end
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Unit>; // (rows, cols)
@group(0) @binding(2) var<storage, read_write> y: array<Unit>; // (rows, cols)
@group(0) @binding(3) var<storage, read> progress: array<u32>; // (16)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (wid.x + params.origin.x) * 64u + lane;
#if VEC
    let draw = params.first + i;
#else
    let draw = params.first / 4u + i;
#end
    let counter = vec4<u32>(draw, progress[STEP], progress[MICRO], params.stream);
    let bits = threefry(counter, vec4<u32>(progress[SEED], progress[SEED + 1u], 0u, 0u));
#if VEC
    if (i < params.count) {
        let row = i / params.cols;
        let v = x[params.x_offset + row * params.x_stride + i % params.cols] * params.factor;
        y[params.y_offset + row * params.y_stride + i % params.cols] = select(vec4<f32>(), v, bits >= vec4<u32>(params.threshold));
    }
#else
#for u in 0..4
    // Before the first element this wraps around, and is past the last one too.
    let e$u = draw * 4u + $(u)u - params.first;
    if (e$u < params.count) {
        let row = e$u / params.cols;
        let v = x[params.x_offset + row * params.x_stride + e$u % params.cols] * params.factor;
        y[params.y_offset + row * params.y_stride + e$u % params.cols] = select(0.0, v, bits[$u] >= params.threshold);
    }
#end
#end
}
