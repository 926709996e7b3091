// What the attention kernels share: operands, which keys a row sees, and where its result goes. Each declares k and v itself.
//
// CAUSAL: row t of a sequence sees length + t + 1 keys, else all `count` of them; there are `capacity`, which may be more or fewer
// than the sequence's queries. SPLIT: a workgroup takes one of `splits` parts of the keys and writes D elements (divided by their own
// total) and the logarithm of that total for attention_merge.
#import common/state

struct Params {
    origin: vec4<u32>,
    sequence_rows: u32, heads: u32, group: u32, splits: u32,
    q_offset: u32, q_stride: u32, o_offset: u32, o_stride: u32,
    k_offset: u32, k_sequence: u32, k_head: u32, k_row: u32,
    v_offset: u32, v_sequence: u32, v_head: u32, v_row: u32,
    capacity: u32, first_head: u32, first_sequence: u32, scale: f32,
    lse_offset: u32, lse_stride: u32, pad0: u32, pad1: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> state: array<u32>; // (sequences, 32)
@group(0) @binding(2) var<storage, read> q: array<f32>; // (rows, heads head_dim)
@group(0) @binding(5) var<storage, read_write> o: array<f32>; // (rows, heads head_dim); SPLIT: (rows, heads, splits, head_dim + 4)
#if SAVE
@group(0) @binding(6) var<storage, read_write> lse: array<f32>; // (rows, heads): the logarithms of the rows' totals
#end

const NONE: f32 = -3.0e38; // the logarithm of an empty sum; infinities are not portable

fn seen(sequence: u32, t: u32) -> u32 {
#if CAUSAL
    return min(state[sequence * 32u + LENGTH] + t + 1u, params.capacity);
#else
    return min(state[sequence * 32u + COUNT], params.capacity);
#end
}

// The first key, and the one past the last, of what row t sees of a split.
fn part_of_keys(sequence: u32, t: u32, split: u32) -> vec2<u32> {
    let keys = seen(sequence, t);
#if SPLIT
    // Parts of the keys that there are now, not of the capacity: all workgroups have work at any length.
    let tiles = 64u * params.splits;
    let part = (seen(sequence, params.sequence_rows - 1u) + tiles - 1u) / tiles * 64u;
    return min(vec2<u32>(split * part, (split + 1u) * part), vec2<u32>(keys));
#else
    return vec2<u32>(0u, keys);
#end
}

fn keys_at(sequence: u32, head: u32) -> u32 {
    let kv = head / params.group - params.first_head / params.group;
    return params.k_offset + (sequence - params.first_sequence) * params.k_sequence + kv * params.k_head;
}

fn values_at(sequence: u32, head: u32) -> u32 {
    let kv = head / params.group - params.first_head / params.group;
    return params.v_offset + (sequence - params.first_sequence) * params.v_sequence + kv * params.v_head;
}

fn query_at(sequence: u32, t: u32, head: u32) -> u32 {
    return params.q_offset + (sequence * params.sequence_rows + t) * params.q_stride + head * $(D)u;
}

fn result_at(sequence: u32, t: u32, head: u32, split: u32) -> u32 {
    let row = params.o_offset + (sequence * params.sequence_rows + t) * params.o_stride;
#if SPLIT
    return row + (head * params.splits + split) * $(D + 4)u;
#else
    return row + head * $(D)u;
#end
}

fn log_total(top: f32, total: f32) -> f32 {
    return select(NONE, top + log(total), total > 0.0);
}

#if SAVE
fn save(sequence: u32, t: u32, head: u32, top: f32, total: f32) {
    lse[params.lse_offset + (sequence * params.sequence_rows + t) * params.lse_stride + head] = log_total(top, total);
}
#end
