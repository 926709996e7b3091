// tokens[s rows + t] = corpus[start(s) + t], targets one token later; batch n = STEP micros + MICRO of a run takes the starts
// n sequences .. of the list, over and over. One invocation a token.
#import common/progress

struct Params {
    origin: vec4<u32>,
    count: u32, rows: u32, sequences: u32, micros: u32,
    starts_len: u32, last_start: u32, pad0: u32, pad1: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> corpus: array<u32>;
@group(0) @binding(2) var<storage, read> starts: array<u32>; // (starts_len)
@group(0) @binding(3) var<storage, read> progress: array<u32>; // (16)
@group(0) @binding(4) var<storage, read_write> tokens: array<u32>; // (sequences, rows)
@group(0) @binding(5) var<storage, read_write> targets: array<u32>; // (sequences, rows)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (wid.x + params.origin.x) * 64u + lane;
    if (i >= params.count) { return; }
    let n = progress[STEP] * params.micros + progress[MICRO];
    let start = starts[(n * params.sequences + i / params.rows) % params.starts_len];
    let at = min(start, params.last_start) + i % params.rows;
    tokens[i] = corpus[at];
    targets[i] = corpus[at + 1u];
}
