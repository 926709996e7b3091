// z[r, i] = x[r, i] + y[r, i]; INPLACE: y[r, i] += x[r, i]. One invocation an element, or (VEC) a vec4 of them; sizes and places
// are in these units.
struct Params {
    origin: vec4<u32>,
    cols: u32, x_offset: u32, x_stride: u32, y_offset: u32,
    y_stride: u32, z_offset: u32, z_stride: u32, pad0: u32,
}
#if VEC
alias Unit = vec4<f32>;
#else
alias Unit = f32;
#end
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Unit>; // (rows, cols)
#if INPLACE
@group(0) @binding(2) var<storage, read_write> y: array<Unit>; // (rows, cols)
#else
@group(0) @binding(2) var<storage, read> y: array<Unit>; // (rows, cols)
@group(0) @binding(3) var<storage, read_write> z: array<Unit>; // (rows, cols)
#end

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (wid.x + params.origin.x) * 64u + lane;
    let row = wid.y + params.origin.y;
    if (i >= params.cols) { return; }
    let at = params.y_offset + row * params.y_stride + i;
    let sum = x[params.x_offset + row * params.x_stride + i] + y[at];
#if INPLACE
    y[at] = sum;
#else
    z[params.z_offset + row * params.z_stride + i] = sum;
#end
}
