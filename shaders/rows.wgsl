// y[q] = x[q rows + count - 1]: the last valid row of each sequence. One invocation an element.
#import common/state

struct Params {
    origin: vec4<u32>,
    cols: u32, x_offset: u32, x_stride: u32, y_offset: u32,
    y_stride: u32, sequence_rows: u32, pad0: u32, pad1: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>; // (sequences sequence_rows, cols)
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // (sequences, cols)
@group(0) @binding(3) var<storage, read> state: array<u32>; // (sequences, 32)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (wid.x + params.origin.x) * 64u + lane;
    let q = wid.y + params.origin.y;
    if (i >= params.cols) { return; }
    let row = q * params.sequence_rows + max(state[q * 32u + COUNT], 1u) - 1u;
    y[params.y_offset + q * params.y_stride + i] = x[params.x_offset + row * params.x_stride + i];
}
