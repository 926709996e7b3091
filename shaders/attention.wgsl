// o[r, h] = softmax(scale q[r, h] . K) V over the keys that row r may see, in one pass (online softmax), grouped heads.
//
// A workgroup takes one row and one head: WG keys at a time, an invocation a key for the scores, then an invocation per WG-th
// element of the output. Keys lie anywhere with strides: in a cache, or in the activations themselves. CAUSAL: row t of a
// sequence sees length + t + 1 keys, else all `count` of them.
#import common/reduce
#import common/state

struct Params {
    origin: vec4<u32>,
    sequence_rows: u32, heads: u32, group: u32, head_dim: u32,
    q_offset: u32, q_stride: u32, o_offset: u32, o_stride: u32,
    k_offset: u32, k_sequence: u32, k_head: u32, k_row: u32,
    v_offset: u32, v_sequence: u32, v_head: u32, v_row: u32,
    capacity: u32, first_head: u32, first_sequence: u32, scale: f32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> state: array<u32>; // (sequences, 32)
@group(0) @binding(2) var<storage, read> q: array<f32>; // (rows, heads head_dim)
@group(0) @binding(3) var<storage, read> k: array<f32>;
@group(0) @binding(4) var<storage, read> v: array<f32>;
@group(0) @binding(5) var<storage, read_write> o: array<f32>; // (rows, heads head_dim)

const WG: u32 = $(WG)u;
const OWN: u32 = $((D + WG - 1) / WG)u; // elements of the output an invocation owns
var<workgroup> sh_q: array<f32, $D>;
var<workgroup> sh_p: array<f32, $WG>;

@compute @workgroup_size($WG)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = (wid.x + params.origin.x) + params.first_sequence * params.sequence_rows;
    let head = wid.y + params.origin.y + params.first_head;
    let sequence = row / params.sequence_rows;
    let t = row % params.sequence_rows;
    let s = sequence * 32u;
#if CAUSAL
    let keys = min(state[s + LENGTH] + t + 1u, params.capacity);
#else
    let keys = min(state[s + COUNT], params.capacity);
#end
    let kv = head / params.group;
    let k_at = params.k_offset + (sequence - params.first_sequence) * params.k_sequence + (kv - params.first_head / params.group) * params.k_head;
    let v_at = params.v_offset + (sequence - params.first_sequence) * params.v_sequence + (kv - params.first_head / params.group) * params.v_head;
    let q_at = params.q_offset + row * params.q_stride + head * params.head_dim;
    for (var i = lane; i < $(D)u; i += WG) { sh_q[i] = q[q_at + i] * params.scale; }
    var top = -3.0e38;
    var total = 0.0;
    var own: array<f32, OWN>;
#for i in 0..((D + WG - 1) / WG)
    own[$i] = 0.0;
#end
    workgroupBarrier();
    for (var j0 = 0u; j0 < keys; j0 += WG) {
        let j = j0 + lane;
        var score = -3.0e38;
        if (j < keys) {
            var dot_qk = 0.0;
            let at = k_at + j * params.k_row;
            // Unrolled: llvmpipe leaves a shader's loops for good after 65,535 iterations in all.
            for (var i = 0u; i < $(D - D % 16)u; i += 16u) {
#for e in 0..16
                dot_qk = fma(sh_q[i + $(e)u], k[at + i + $(e)u], dot_qk);
#end
            }
#for e in 0..(D % 16)
            dot_qk = fma(sh_q[$(D - D % 16 + e)], k[at + $(D - D % 16 + e)u], dot_qk);
#end
            score = dot_qk;
        }
        let tile_top = max(top, max_all(score, lane));
        let p = select(0.0, exp(score - tile_top), j < keys);
        let keep = exp(top - tile_top);
        total = total * keep + sum_all(p, lane);
        top = tile_top;
        workgroupBarrier(); // the previous tile's sh_p has been read
        sh_p[lane] = p;
        workgroupBarrier();
        let tile = min(WG, keys - j0);
#for i in 0..((D + WG - 1) / WG)
        if ($(i * WG)u + lane < $(D)u) {
            var sum = own[$i] * keep;
#if WG == 8
#for e in 0..8
            sum = fma(sh_p[$e], v[v_at + (j0 + min($(e)u, tile - 1u)) * params.v_row + $(i * WG)u + lane], sum);
#end
#else
            for (var e = 0u; e < tile; e++) { sum = fma(sh_p[e], v[v_at + (j0 + e) * params.v_row + $(i * WG)u + lane], sum); }
#end
            own[$i] = sum;
        }
#end
    }
    // A row without keys (an empty or masked sequence) gets zeros.
    let inverse = select(0.0, 1.0 / total, total > 0.0);
#for i in 0..((D + WG - 1) / WG)
    if ($(i * WG)u + lane < $(D)u) { o[params.o_offset + row * params.o_stride + head * params.head_dim + $(i * WG)u + lane] = own[$i] * inverse; }
#end
}
