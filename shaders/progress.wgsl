// Advances a run's progress. END 0: LOSS += scale sum(losses), from 0 where MICRO is 0; BAD_LOSS where that is not finite; MICRO += 1.
// END 1: a line of the log (LOSS, NORM, CLIP, FAULT) at STEP, then STEP += 1 and MICRO = 0 unless something was not finite.
#import common/progress
#if END
struct Params {
    origin: vec4<u32>,
    log_rows: u32, pad0: u32, pad1: u32, pad2: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> progress: array<u32>; // (16)
@group(0) @binding(2) var<storage, read_write> log_lines: array<u32>; // (log_rows, 4)

@compute @workgroup_size(1)
fn main() {
    let line = progress[STEP] % params.log_rows * 4u;
    log_lines[line] = progress[LOSS];
    log_lines[line + 1u] = progress[NORM];
    log_lines[line + 2u] = progress[CLIP];
    log_lines[line + 3u] = progress[FAULT];
    if (progress[FAULT] == 0u && progress[BAD_LOSS] == 0u) {
        progress[STEP] += 1u;
        progress[MICRO] = 0u;
    }
}
#else
#import common/reduce
struct Params {
    origin: vec4<u32>,
    rows: u32, losses_offset: u32, scale_offset: u32, pad0: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> losses: array<f32>; // (rows)
@group(0) @binding(2) var<storage, read> scale: array<f32>;
@group(0) @binding(3) var<storage, read_write> progress: array<u32>; // (16)

@compute @workgroup_size($WG)
fn main(@builtin(local_invocation_index) lane: u32) {
    var sum = 0.0;
    for (var i = lane; i < params.rows; i += $(WG)u) { sum += losses[params.losses_offset + i]; }
    sum = sum_all(sum, lane);
    if (lane == 0u) {
        let before = select(bitcast<f32>(progress[LOSS]), 0.0, progress[MICRO] == 0u);
        let loss = bitcast<u32>(before + scale[params.scale_offset] * sum);
        progress[LOSS] = loss;
        // By the exponent's bits: compilers may take comparisons of infinities and NaN for what never happens.
        if ((loss & 0x7F800000u) == 0x7F800000u) { progress[BAD_LOSS] = 1u; }
        progress[MICRO] += 1u;
    }
}
#end
