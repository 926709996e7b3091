// o[r, h] from the parts that attention wrote for each split of the keys: sum w p / sum w, w = exp(total - largest total).
//
// A workgroup a row and head, an invocation every 64th element, splits in their order. A part without keys has zeros and the
// smallest total: next to others its weight is 0, and without others the result is 0.
struct Params {
    origin: vec4<u32>,
    splits: u32, pad: u32, p_offset: u32, p_stride: u32,
    o_offset: u32, o_stride: u32, pad1: u32, pad2: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> parts: array<f32>; // (rows, heads, splits, head_dim + 4)
@group(0) @binding(2) var<storage, read_write> o: array<f32>; // (rows, heads head_dim)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = wid.x + params.origin.x;
    let head = wid.y + params.origin.y;
    let at = params.p_offset + row * params.p_stride + head * params.splits * $(D + 4)u;
    var top = -3.0e38;
    for (var s = 0u; s < params.splits; s++) { top = max(top, parts[at + s * $(D + 4)u + $(D)u]); }
    for (var i = lane; i < $(D)u; i += 64u) {
        var total = 0.0;
        var sum = 0.0;
        for (var s = 0u; s < params.splits; s++) {
            let w = exp(parts[at + s * $(D + 4)u + $(D)u] - top);
            total += w;
            sum = fma(w, parts[at + s * $(D + 4)u + i], sum);
        }
        o[params.o_offset + row * params.o_stride + head * $(D)u + i] = sum / total;
    }
}
