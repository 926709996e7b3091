// loss[r] = (1 / cols) sum_c max(0, margin + x[r, c] - x[r, t]) with t = target[r]; GRAD: x[r] becomes scale times its derivative,
// scale / cols where the term of c != t is positive, else 0, and minus their sum for t. A target past the columns is ignored: loss 0,
// gradient 0. One invocation a row.
struct Params {
    origin: vec4<u32>,
    cols: u32, x_offset: u32, x_stride: u32, y_offset: u32,
    targets_offset: u32, scale_offset: u32, margin: f32, rows: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
#if GRAD
@group(0) @binding(1) var<storage, read_write> x: array<f32>; // (rows, cols)
#else
@group(0) @binding(1) var<storage, read> x: array<f32>; // (rows, cols)
#end
@group(0) @binding(2) var<storage, read> targets: array<u32>; // (rows)
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // (rows)
#if GRAD
@group(0) @binding(4) var<storage, read> scale: array<f32>;
#end

// Zero or below, and not NaN: by bits, since a compiler may take it that there are no NaNs.
fn met(v: f32) -> bool {
    let bits = bitcast<u32>(v);
    return bits == 0u || bits - 0x80000000u <= 0x7F800000u;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = (wid.x + params.origin.x) * 64u + lane;
    if (row >= params.rows) { return; }
    let at = params.x_offset + row * params.x_stride;
    let target_id = targets[params.targets_offset + row];
    let ignored = target_id >= params.cols;
    let wanted = x[at + min(target_id, params.cols - 1u)];
#if GRAD
    let g = select(scale[params.scale_offset] / f32(params.cols), 0.0, ignored);
    var others = 0u;
#end
    var sum = 0.0;
    for (var c = 0u; c < params.cols; c += 1u) {
        // The difference first: 0 for c = t, unless that is not finite.
        let v = params.margin + (x[at + c] - wanted);
        let over = !met(v);
        sum += select(0.0, v, over);
#if GRAD
        others += u32(over && c != target_id);
        x[at + c] = select(0.0, g, over);
#end
    }
    y[params.y_offset + row] = select(sum / f32(params.cols), 0.0, ignored);
#if GRAD
    if (!ignored) { x[at + target_id] = -g * f32(others); }
#end
}
