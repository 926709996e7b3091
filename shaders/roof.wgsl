// What a device can do at most. OP 0: y = x, 16 bytes at a time. OP 1: multiply-adds in registers, CHAINS independent ones of
// four components an invocation; the sum of their results keeps the compiler from dropping them.
struct Params {
    origin: vec4<u32>,
    count: u32, x_offset: u32, y_offset: u32, rounds: u32,
    factor: f32, addend: f32, pad0: u32, pad1: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
#if OP == 0
@group(0) @binding(1) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<u32>>;

@compute @workgroup_size($WG)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let first = (wid.x + params.origin.x) * $(WG * PER)u + lane;
#for i in 0..PER
    if (first + $(i * WG)u < params.count) {
        y[params.y_offset + first + $(i * WG)u] = x[params.x_offset + first + $(i * WG)u];
    }
#end
}
#else
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size($WG)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (wid.x + params.origin.x) * $(WG)u + lane;
    if (i >= params.count) { return; }
    let start = f32(i % 1024u) / 1024.0;
    let factor = vec4<f32>(params.factor);
    let addend = vec4<f32>(params.addend);
#for c in 0..CHAINS
    var a$c = start + vec4<f32>($(4 * c).0, $(4 * c + 1).0, $(4 * c + 2).0, $(4 * c + 3).0);
#end
    for (var r = 0u; r < params.rounds; r += 1u) {
#for s in 0..STEPS
#for c in 0..CHAINS
        a$c = fma(a$c, factor, addend);
#end
#end
    }
    var sum = vec4<f32>();
#for c in 0..CHAINS
    sum += a$c;
#end
    y[params.y_offset + i] = sum.x + sum.y + sum.z + sum.w;
}
#end
