// What moves matrices between their places and the scratch of a decomposition. Rows of the scratch are padded with zeros.
//
// OP 0: peaks[at] = max(itself, bits of the largest |source|): infinities and NaN lie above all numbers.
// OP 1: work[r, c] = what FROM says, times a scale: 0 source[r, c]; 1 source[r, c] factor[r]; 2 source[c, r]; 3 the identity.
// OP 2: source[r, c] = sign work[order[r], c].    OP 3: source[r] = norm[order[r]] scale.
#import common/svd

struct Params {
    origin: vec4<u32>,
    rows: u32, cols: u32, offset: u32, stride: u32, // of source
    factor_offset: u32, at: u32, work_stride: u32, padded: u32, // padded: rows of the scratch
}
@group(0) @binding(0) var<uniform> params: Params;
#if OP == 0
@group(0) @binding(1) var<storage, read> source: array<u32>;
@group(0) @binding(2) var<storage, read_write> peaks: array<atomic<u32>>;
var<workgroup> sh_peak: array<u32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    var peak = 0u;
    let first = (wid.x + params.origin.x) * 1024u + lane;
    for (var i = first; i < min(first + 1024u, params.cols); i += 64u) {
        peak = max(peak, source[params.offset + i] & 0x7fffffffu);
    }
    sh_peak[lane] = peak;
    for (var half = 32u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (lane < half) { sh_peak[lane] = max(sh_peak[lane], sh_peak[lane + half]); }
    }
    if (lane == 0u) { atomicMax(&peaks[params.at], sh_peak[0]); }
}
#end
#if OP == 1
@group(0) @binding(1) var<storage, read_write> work: array<f32>;
@group(0) @binding(2) var<storage, read> state: array<u32>;
#if FROM < 3
@group(0) @binding(3) var<storage, read> source: array<f32>;
#end
#if FROM == 1
@group(0) @binding(4) var<storage, read> factor: array<f32>;
#end

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let c = (wid.x + params.origin.x) * 64u + lane;
    let r = wid.y + params.origin.y;
    if (c >= params.work_stride) { return; }
    var v = 0.0;
    if (r < params.rows && c < params.cols) {
        v = bitcast<f32>(state[params.at]);
#if FROM == 0
        v *= source[params.offset + r * params.stride + c];
#end
#if FROM == 1
        v *= source[params.offset + r * params.stride + c];
        v *= factor[params.factor_offset + r];
#end
#if FROM == 2
        v *= source[params.offset + c * params.stride + r];
#end
#if FROM == 3
        v = select(0.0, 1.0, r == c);
#end
    }
    work[r * params.work_stride + c] = v;
}
#end
#if OP == 2
@group(0) @binding(1) var<storage, read_write> source: array<f32>;
@group(0) @binding(2) var<storage, read> work: array<f32>;
@group(0) @binding(3) var<storage, read> rows: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let c = (wid.x + params.origin.x) * 64u + lane;
    let r = wid.y + params.origin.y;
    if (c >= params.cols) { return; }
    let from_row = rows[params.at + 3u * params.padded + r];
    let sign = bitcast<f32>(rows[params.at + 2u * params.padded + from_row]);
    source[params.offset + r * params.stride + c] = sign * work[from_row * params.work_stride + c];
}
#end
#if OP == 3
@group(0) @binding(1) var<storage, read_write> source: array<f32>;
@group(0) @binding(2) var<storage, read> state: array<u32>;
@group(0) @binding(3) var<storage, read> rows: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let r = (wid.x + params.origin.x) * 64u + lane;
    if (r >= params.rows) { return; }
    let from_row = rows[params.at + 3u * params.padded + r];
    source[params.offset + r] = bitcast<f32>(rows[params.at + from_row]) * bitcast<f32>(state[params.factor_offset]);
}
#end
