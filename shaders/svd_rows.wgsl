// Rows of A, the scratch of decompositions; each row has four words: its norm, a flag, a sign, and the row that comes in its place
// in the result. Flags: 0 it has a direction; 1, 2, …: it has none, and so many attempts begin; PADDING: it is none.
//
// OP 0: norm = |row|.    OP 1: flag = norm <= least (largest norm); the largest norm and the number of flags go to the state.
// OP 2: row = row / norm (0 where that is 0), or with TIMES row = row norm.
// OP 3: sign = that of the row's first entry of the largest magnitude.    OP 4: order by norms, the largest first.
#import common/reduce
#import common/svd

struct Params {
    origin: vec4<u32>,
    cols: u32, k: u32, padded: u32, first_layer: u32, // cols: of the scratch, in vec4 for OP 0
    least: f32, pad0: u32, pad1: u32, pad2: u32,
}
const PADDING: u32 = 0xffffffffu;
@group(0) @binding(0) var<uniform> params: Params;
#if OP == 0
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>; // (layers, padded, cols)
@group(0) @binding(2) var<storage, read_write> rows: array<u32>; // (layers, 4, padded)

// grid = (k, layers)
@compute @workgroup_size($WG)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = wid.x + params.origin.x;
    let layer = wid.y + params.origin.y;
    let at = (layer * params.padded + row) * params.cols;
    var sum = 0.0;
    for (var c = lane; c < params.cols; c += $(WG)u) {
        let v = a[at + c];
        sum += dot(v, v);
    }
    let norm = sqrt(sum_all(sum, lane));
    if (lane == 0u) { rows[(params.first_layer + layer) * 4u * params.padded + row] = bitcast<u32>(norm); }
}
#end
#if OP == 1
@group(0) @binding(1) var<storage, read_write> rows: array<u32>;
@group(0) @binding(2) var<storage, read_write> state: array<u32>; // (layers, 16)

// grid = (layers)
@compute @workgroup_size($WG)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let layer = wid.x + params.origin.x;
    let at = layer * 4u * params.padded;
    var largest = 0.0;
    for (var i = lane; i < params.k; i += $(WG)u) { largest = max(largest, bitcast<f32>(rows[at + i])); }
    largest = max_all(largest, lane);
    var nulls = 0.0;
    for (var i = lane; i < params.padded; i += $(WG)u) {
        var flag = PADDING;
        if (i < params.k) { flag = select(0u, 1u, bitcast<f32>(rows[at + i]) <= params.least * largest); }
        if (flag == 1u) { nulls += 1.0; }
        rows[at + params.padded + i] = flag;
    }
    nulls = sum_all(nulls, lane);
    if (lane == 0u) {
        state[layer * STATE + NULLS] = u32(nulls);
        state[layer * STATE + LARGEST] = bitcast<u32>(largest);
    }
}
#end
#if OP == 2
@group(0) @binding(1) var<storage, read_write> a: array<f32>;
@group(0) @binding(2) var<storage, read> rows: array<u32>;

// grid = (cols / 64, k, layers)
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let c = (wid.x + params.origin.x) * 64u + lane;
    let row = wid.y + params.origin.y;
    let layer = wid.z + params.origin.z;
    if (c >= params.cols) { return; }
    let norm = bitcast<f32>(rows[(params.first_layer + layer) * 4u * params.padded + row]);
    let at = (layer * params.padded + row) * params.cols + c;
#if TIMES
    a[at] *= norm;
#else
    a[at] = select(0.0, a[at] / norm, norm > 1e-30);
#end
}
#end
#if OP == 3
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read_write> rows: array<u32>;

// grid = (k, layers)
@compute @workgroup_size($WG)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = wid.x + params.origin.x;
    let layer = wid.y + params.origin.y;
    let at = (layer * params.padded + row) * params.cols;
    var largest = 0.0;
    for (var c = lane; c < params.cols; c += $(WG)u) { largest = max(largest, abs(a[at + c])); }
    largest = max_all(largest, lane);
    // Columns counted from the end are exact in f32.
    var back = 1.0;
    for (var c = lane; c < params.cols; c += $(WG)u) {
        if (abs(a[at + c]) == largest) { back = max(back, f32(params.cols - c)); }
    }
    back = max_all(back, lane);
    if (lane == 0u) {
        let sign = select(1.0, -1.0, a[at + params.cols - u32(back)] < 0.0);
        rows[(params.first_layer + layer) * 4u * params.padded + 2u * params.padded + row] = bitcast<u32>(sign);
    }
}
#end
#if OP == 4
@group(0) @binding(1) var<storage, read_write> rows: array<u32>;

// grid = (k / 64, layers)
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = (wid.x + params.origin.x) * 64u + lane;
    let at = (wid.y + params.origin.y) * 4u * params.padded;
    if (row >= params.k) { return; }
    let own = bitcast<f32>(rows[at + row]);
    var rank = 0u;
    for (var i = 0u; i < params.k; i++) {
        let other = bitcast<f32>(rows[at + i]);
        if (other > own || (other == own && i < row)) { rank += 1u; }
    }
    rows[at + 3u * params.padded + rank] = row;
}
#end
