// y[r, i] = value. One invocation four elements or, where rows are aligned (VEC), four vec4; sizes and places are in these units.
struct Params {
    origin: vec4<u32>,
    cols: u32, y_offset: u32, y_stride: u32, value: f32,
}
#if VEC
alias Unit = vec4<f32>;
#else
alias Unit = f32;
#end
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> y: array<Unit>; // (rows, cols)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let first = (wid.x + params.origin.x) * 256u + lane;
    let at = params.y_offset + (wid.y + params.origin.y) * params.y_stride;
#for u in 0..4
    if (first + $(64 * u)u < params.cols) { y[at + first + $(64 * u)u] = Unit(params.value); }
#end
}
