// Closes a sweep: a layer whose largest cosine was within the tolerance is done. An invocation a layer.
#import common/svd

struct Params {
    origin: vec4<u32>,
    layers: u32, tolerance: f32, pad0: u32, pad1: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> peaks: array<u32>; // (layers)
@group(0) @binding(2) var<storage, read_write> state: array<u32>; // (layers, 16)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let layer = (wid.x + params.origin.x) * 64u + lane;
    if (layer >= params.layers) { return; }
    let own = layer * STATE;
    if (state[own + DONE] != 0u) { return; }
    let peak = peaks[layer];
    peaks[layer] = 0u;
    state[own + PEAK] = peak;
    // Bits of numbers that are not negative are ordered as these are; those of NaN lie above all.
    if (peak <= bitcast<u32>(params.tolerance)) {
        state[own + DONE] = 1u;
        return;
    }
    if (state[own + SWEEPS] == 0u) { state[own + FIRST] = peak; }
    state[own + SWEEPS] += 1u;
}
