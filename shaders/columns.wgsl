// Sums over rows: y[p, c] (+)= the sum over the rows r of part p of a[r, c] (KIND 0), a[r, c] b[r, c] (1), or
// a[r, c] (b[r, c] - mean[r]) inverse[r] (2; RMS: without the mean).
//
// One invocation SPAN columns, WG apart, or (VEC) vec4 of them, and a part of `per` rows, of which it loads ROWS at once; SUMS
// accumulators a column. Sizes and places are in these units, but for `saved`.
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
    let i0 = (wid.x + params.origin.x) * $(SPAN * WG)u + lane;
    let part = wid.y + params.origin.y;
    if (i0 >= params.cols) { return; }
    let first = part * params.per;
    let end = min(first + params.per, params.rows);
    let whole = first + (end - first) / $(ROWS)u * $(ROWS)u;
#for s in 1..SPAN
    let i$s = min(i0 + $(s * WG)u, params.cols - 1u);
#end
#for s in 0..SPAN
#for k in 0..SUMS
    var sum_$(s)_$k = Unit();
#end
#end
    for (var row = first; row < whole; row += $(ROWS)u) {
#for k in 0..ROWS
#for s in 0..SPAN
        let v_$(k)_$s = term(row + $(k)u, i$s);
#end
#end
#for k in 0..ROWS
#for s in 0..SPAN
        sum_$(s)_$(k % SUMS) += v_$(k)_$s;
#end
#end
    }
    for (var row = whole; row < end; row++) {
#for s in 0..SPAN
        sum_$(s)_0 += term(row, i$s);
#end
    }
    let at = params.y_offset + part * params.cols;
#for s in 0..SPAN
    var sum$s = sum_$(s)_0;
#for k in 1..SUMS
    sum$s += sum_$(s)_$k;
#end
    if (i0 + $(s * WG)u < params.cols) {
        if (params.accumulate != 0u) { sum$s += y[at + i$s]; }
        y[at + i$s] = sum$s;
    }
#end
}
