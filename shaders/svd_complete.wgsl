// Gives one row of each layer that counts as zero a direction of unit length, orthogonal to all rows that have one.
//
// OP 0: chooses the row; it starts from what it holds, or where that failed or is zero from random numbers.
// OP 1: coefs[j] = <row j, the chosen row> for rows that have a direction, else 0; own[PASS] = |the chosen row|^2.
// OP 2: subtracts these multiples of the rows.    OP 3: after three passes of both, judges and normalises the row.
#import common/reduce
#import common/svd

struct Params {
    origin: vec4<u32>,
    cols: u32, k: u32, padded: u32, first_layer: u32, // cols: of the scratch, in vec4 for OP 1
    width: u32, pass_index: u32, pad0: u32, pad1: u32, // width: entries of a row
}
@group(0) @binding(0) var<uniform> params: Params;
#let EXTRA = 4
#if OP == 0
@group(0) @binding(1) var<storage, read_write> a: array<f32>; // (layers, padded, cols)
@group(0) @binding(2) var<storage, read> rows: array<u32>; // (layers, 4, padded)
@group(0) @binding(3) var<storage, read_write> state: array<u32>; // (layers, 16)

fn mixed(x: u32) -> u32 {
    var v = x * 747796405u + 2891336453u;
    v = ((v >> ((v >> 28u) + 4u)) ^ v) * 277803737u;
    return (v >> 22u) ^ v;
}

// grid = (layers)
@compute @workgroup_size($WG)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let layer = wid.x + params.origin.x;
    let own = (params.first_layer + layer) * 4u * params.padded;
    var back = 0.0;
    for (var i = lane; i < params.k; i += $(WG)u) {
        if (rows[own + params.padded + i] != 0u) { back = max(back, f32(params.k - i)); }
    }
    let row = params.k - u32(max_all(back, lane));
    if (lane == 0u) { state[(params.first_layer + layer) * STATE + CURSOR] = row; }
    if (row < params.k) {
        let flag = rows[own + params.padded + row];
        if (flag > 1u || bitcast<f32>(rows[own + row]) <= 1e-30) {
            for (var c = lane; c < params.width; c += $(WG)u) {
                let bits = mixed(mixed(row * 64u + flag) + c);
                a[(layer * params.padded + row) * params.cols + c] = f32(bits >> 8u) * 1.1920929e-7 - 1.0;
            }
        }
    }
}
#end
#if OP == 1
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> rows: array<u32>;
@group(0) @binding(3) var<storage, read> state: array<u32>;
@group(0) @binding(4) var<storage, read_write> coefs: array<f32>; // (layers, padded + EXTRA)

// grid = (k, layers)
@compute @workgroup_size($WG)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = wid.x + params.origin.x;
    let layer = wid.y + params.origin.y;
    let chosen = state[(params.first_layer + layer) * STATE + CURSOR];
    let flag = rows[((params.first_layer + layer) * 4u + 1u) * params.padded + row];
    if (chosen < params.k) {
        var sum = 0.0;
        if (flag == 0u || row == chosen) {
            let x = (layer * params.padded + row) * params.cols;
            let z = (layer * params.padded + chosen) * params.cols;
            for (var c = lane; c < params.cols; c += $(WG)u) { sum += dot(a[x + c], a[z + c]); }
        }
        sum = sum_all(sum, lane);
        let to = (params.first_layer + layer) * (params.padded + $(EXTRA)u);
        if (lane == 0u) {
            coefs[to + row] = select(sum, 0.0, row == chosen);
            if (row == chosen) { coefs[to + params.padded + params.pass_index] = sum; }
        }
    }
}
#end
#if OP == 2
@group(0) @binding(1) var<storage, read_write> a: array<f32>;
@group(0) @binding(2) var<storage, read> coefs: array<f32>;
@group(0) @binding(3) var<storage, read> state: array<u32>;

// grid = (cols / 64, layers)
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let c = (wid.x + params.origin.x) * 64u + lane;
    let layer = wid.y + params.origin.y;
    let chosen = state[(params.first_layer + layer) * STATE + CURSOR];
    if (chosen >= params.k || c >= params.cols) { return; }
    let base = layer * params.padded * params.cols + c;
    let from_row = (params.first_layer + layer) * (params.padded + $(EXTRA)u);
    var sum = 0.0;
    for (var j = 0u; j < params.k; j++) {
        let factor = coefs[from_row + j];
        if (factor != 0.0) { sum += factor * a[base + j * params.cols]; }
    }
    a[base + chosen * params.cols] -= sum;
}
#end
#if OP == 3
@group(0) @binding(1) var<storage, read_write> a: array<f32>;
@group(0) @binding(2) var<storage, read> coefs: array<f32>;
@group(0) @binding(3) var<storage, read_write> rows: array<u32>;
@group(0) @binding(4) var<storage, read_write> state: array<u32>;

// grid = (layers)
@compute @workgroup_size($WG)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let layer = wid.x + params.origin.x;
    let own = (params.first_layer + layer) * STATE;
    let chosen = state[own + CURSOR];
    let at = (layer * params.padded + min(chosen, params.k - 1u)) * params.cols;
    var sum = 0.0;
    for (var c = lane; c < params.cols; c += $(WG)u) { sum += a[at + c] * a[at + c]; }
    sum = sum_all(sum, lane);
    if (chosen < params.k) {
        let squares = (params.first_layer + layer) * (params.padded + $(EXTRA)u) + params.padded;
        // The last pass must have left it as it was, or it was not orthogonal yet; and too little left of it would be noise.
        let kept = sum > 0.8 * coefs[squares + 2u] && sum > 1e-7 * coefs[squares];
        let words = (params.first_layer + layer) * 4u * params.padded + chosen;
        let flag = rows[words + params.padded];
        let norm = bitcast<f32>(rows[words]);
        if (kept) {
            for (var c = lane; c < params.cols; c += $(WG)u) { a[at + c] /= sqrt(sum); }
        }
        if (lane == 0u) {
            if (kept) {
                rows[words] = bitcast<u32>(select(0.0, norm * sqrt(sum / coefs[squares]), flag == 1u && norm > 1e-30));
                rows[words + params.padded] = 0u;
                state[own + NULLS] -= 1u;
            } else {
                rows[words + params.padded] = flag + 1u;
            }
        }
    }
}
#end
