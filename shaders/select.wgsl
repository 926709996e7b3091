// COLUMNS: y[t, j] = x[t, indices[j]], 8 rows an invocation; else y[j] = x[indices[j]], an invocation an element (VEC: a vec4, sizes and
// places in these units). An index beyond the last counts as the last.
struct Params {
    origin: vec4<u32>,
    rows: u32, cols: u32, last: u32, i_offset: u32,
    x_offset: u32, x_stride: u32, y_offset: u32, y_stride: u32,
}
#if VEC
alias Unit = vec4<f32>;
#else
alias Unit = f32;
#end
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Unit>;
@group(0) @binding(2) var<storage, read> indices: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<Unit>; // (rows, cols)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let j = (wid.x + params.origin.x) * 64u + lane;
    if (j >= params.cols) { return; }
#if COLUMNS
    let start = params.x_offset + min(indices[params.i_offset + j], params.last);
    let t0 = (wid.y + params.origin.y) * 8u;
#for u in 0..8
    if (t0 + $(u)u < params.rows) {
        y[params.y_offset + (t0 + $(u)u) * params.y_stride + j] = x[start + (t0 + $(u)u) * params.x_stride];
    }
#end
#else
    let t = wid.y + params.origin.y;
    let row = min(indices[params.i_offset + t], params.last);
    y[params.y_offset + t * params.y_stride + j] = x[params.x_offset + row * params.x_stride + j];
#end
}
