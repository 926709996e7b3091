// Sums over rows: y[p, c] (+)= the sum over the rows r of part p of a[r, c] (KIND 0), a[r, c] b[r, c] (1), or
// a[r, c] (b[r, c] - mean[r]) inverse[r] (2; RMS: without the mean).
//
// One invocation a column, or (VEC) four of them, and part; sizes and places are in these units, but for `saved`. A part is `per`
// rows, taken four at a time by an accumulator each.
struct Params {
    origin: vec4<u32>,
    cols: u32, rows: u32, per: u32, accumulate: u32,
    a_offset: u32, a_stride: u32, b_offset: u32, b_stride: u32,
    y_offset: u32, saved_offset: u32, saved_stride: u32, pad0: u32,
}
#if VEC
alias Unit = vec4<f32>;
#else
alias Unit = f32;
#end
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<Unit>; // (rows, cols)
@group(0) @binding(2) var<storage, read_write> y: array<Unit>; // (parts, cols)
#if KIND > 0
@group(0) @binding(3) var<storage, read> b: array<Unit>; // (rows, cols)
#end
#if KIND == 2
@group(0) @binding(4) var<storage, read> saved: array<f32>; // (rows, 2): mean, inverse
#end

fn term(row: u32, i: u32) -> Unit {
    let v = a[params.a_offset + row * params.a_stride + i];
#if KIND == 0
    return v;
#end
#if KIND == 1
    return v * b[params.b_offset + row * params.b_stride + i];
#end
#if KIND == 2
    let at = params.saved_offset + row * params.saved_stride;
    let w = b[params.b_offset + row * params.b_stride + i];
#if RMS
    return v * (w * saved[at + 1u]);
#else
    return v * ((w - saved[at]) * saved[at + 1u]);
#end
#end
}

@compute @workgroup_size($WG)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (wid.x + params.origin.x) * $(WG)u + lane;
    let part = wid.y + params.origin.y;
    if (i >= params.cols) { return; }
    let first = part * params.per;
    let end = min(first + params.per, params.rows);
    let fours = first + (end - first) / 4u * 4u;
#for k in 0..4
    var sum$k = Unit();
#end
    for (var row = first; row < fours; row += 4u) {
#for k in 0..4
        sum$k += term(row + $(k)u, i);
#end
    }
    for (var row = fours; row < end; row++) { sum0 += term(row, i); }
    var sum = (sum0 + sum1) + (sum2 + sum3);
    let at = params.y_offset + part * params.cols + i;
    if (params.accumulate != 0u) { sum += y[at]; }
    y[at] = sum;
}
