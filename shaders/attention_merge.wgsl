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

var<workgroup> sh: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = wid.x + params.origin.x;
    let head = wid.y + params.origin.y;
    let at = params.p_offset + row * params.p_stride + head * params.splits * $(D + 4)u;
    var top = -3.0e38;
    for (var s = lane; s < params.splits; s += 64u) { top = max(top, parts[at + s * $(D + 4)u + $(D)u]); }
    sh[lane] = top;
    for (var half = 32u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (lane < half) { sh[lane] = max(sh[lane], sh[lane + half]); }
    }
    workgroupBarrier();
    top = sh[0];
    var total = 0.0;
#for i in 0..((D + 63) / 64)
    var sum_$i = 0.0;
#end
    for (var first = 0u; first < params.splits; first += 64u) {
        workgroupBarrier(); // what was there has been read
        let mine = first + lane;
        let log_total = parts[at + min(mine, params.splits - 1u) * $(D + 4)u + $(D)u];
        sh[lane] = select(0.0, exp(log_total - top), mine < params.splits);
        workgroupBarrier();
        // Four at a time, so that their loads are on the way together; those past the end have weight 0.
        for (var s = 0u; s < min(params.splits - first, 64u); s += 4u) {
#for e in 0..4
            let w_$e = sh[s + $(e)u];
            let p_$e = at + min(first + s + $(e)u, params.splits - 1u) * $(D + 4)u;
            total += w_$e;
#end
#for i in 0..((D + 63) / 64)
#for e in 0..4
            let v_$(i)_$e = parts[p_$e + min($(64 * i)u + lane, $(D - 1)u)];
#end
#for e in 0..4
            sum_$i = fma(w_$e, v_$(i)_$e, sum_$i);
#end
#end
        }
    }
#for i in 0..((D + 63) / 64)
    if ($(64 * i)u + lane < $(D)u) {
        o[params.o_offset + row * params.o_stride + head * $(D)u + $(64 * i)u + lane] = sum_$i / total;
    }
#end
}
