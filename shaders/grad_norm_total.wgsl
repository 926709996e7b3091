// NORM, CLIP and FAULT of the run's progress from the sums of grad_norm.wgsl. One workgroup.
#import common/progress
#import common/reduce

struct Params {
    origin: vec4<u32>,
    count: u32, clips: u32, clip: f32, pad0: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> partials: array<f32>; // (count, 2)
@group(0) @binding(2) var<storage, read_write> progress: array<u32>;

const NONE: f32 = -16777216.0;

@compute @workgroup_size($WG)
fn main(@builtin(local_invocation_index) lane: u32) {
    var sum = 0.0;
    var worst = NONE;
    for (var i = lane; i < params.count; i += $(WG)u) {
        sum += partials[2u * i];
        worst = max(worst, partials[2u * i + 1u]);
    }
    let norm = sqrt(sum_all(sum, lane));
    let first = max_all(worst, lane);
    if (lane == 0u) {
        if (first > NONE) {
            progress[NORM] = 0x7F800000u; // infinity
            progress[CLIP] = 0u;
            if (progress[FAULT] == 0u) { progress[FAULT] = 1u + u32(-first); }
        } else {
            progress[NORM] = bitcast<u32>(norm);
            progress[CLIP] = bitcast<u32>(select(1.0, min(1.0, params.clip / (norm + 1e-6)), params.clips != 0u));
        }
    }
}
