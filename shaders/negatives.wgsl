// Pairs of nodes that are no edges, drawn by two bijections s_0, s_1 of 0..D, D = 2^b: pair p joins (s_0(p) + t_0) mod nodes and
// (s_1(p) + t_1) mod nodes, s_0(p) taken mod nodes first. A bijection is 4 rounds of x = (x odd + add) mod 2^b, then x ^= x >> shift, shift = ceil(b / 2); the constants of
// side's rounds 2 i and 2 i + 1 are Threefry at counter (2 side + i, STEP, MICRO, stream), odd ones made so by their last bit;
// t, which lets all nodes occur alike often in the long run where nodes do not divide D, is made of the first and the last add.
//
// OP 0: ends of the pairs and their target, 0 or, for an edge or two equal ends, IGNORE. One invocation a pair.
//
// OP 1: the pairs of each node, at place n 2K + side K + k the pair whose end of that side is s_side(p) = (n - t) mod nodes + k nodes: its other node
// and its place p stride + offset; where there is none, n and NONE. One invocation a place.
#import common/progress
#import common/threefry

#if OP == 0
struct Params {
    origin: vec4<u32>,
    nodes: u32, mask: u32, shift: u32, stream: u32,
    entries: u32, first: u32, count: u32, place: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> progress: array<u32>; // (16)
@group(0) @binding(2) var<storage, read> offsets: array<u32>; // (nodes + 1)
@group(0) @binding(3) var<storage, read> columns: array<u32>; // (entries), ascending in each row
@group(0) @binding(4) var<storage, read_write> sources: array<u32>; // (count)
@group(0) @binding(5) var<storage, read_write> ends: array<u32>; // (count)
@group(0) @binding(6) var<storage, read_write> targets: array<u32>; // (count)
#else
struct Params {
    origin: vec4<u32>,
    nodes: u32, mask: u32, shift: u32, stream: u32,
    pairs: u32, depth: u32, first: u32, rows: u32,
    stride: u32, offset: u32, place: u32, pad0: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> progress: array<u32>; // (16)
@group(0) @binding(2) var<storage, read> sources: array<u32>; // (pairs)
@group(0) @binding(3) var<storage, read> ends: array<u32>; // (pairs)
@group(0) @binding(4) var<storage, read> targets: array<u32>; // (pairs)
@group(0) @binding(5) var<storage, read_write> indices: array<u32>; // (rows, 2 depth)
@group(0) @binding(6) var<storage, read_write> entries: array<u32>; // (rows, 2 depth)
#end
const NONE: u32 = 0xFFFFFFFFu; // and IGNORE

fn constants(counter: u32) -> vec4<u32> {
    let key = vec4<u32>(progress[SEED], progress[SEED + 1u], 1u, 0u);
    return threefry(vec4<u32>(counter, progress[STEP], progress[MICRO], params.stream), key) | vec4<u32>(1u, 0u, 1u, 0u);
}
fn turn(first: u32, last: u32) -> u32 {
    return (first ^ rotate(last, 16u)) % params.nodes;
}
#if OP == 0
fn mixed(x: u32, odd: u32, add: u32) -> u32 {
    let y = (x * odd + add) & params.mask;
    return y ^ (y >> params.shift);
}
fn node(side: u32, p: u32) -> u32 {
    let a = constants(2u * side);
    let b = constants(2u * side + 1u);
    let image = mixed(mixed(mixed(mixed(p, a.x, a.y), a.z, a.w), b.x, b.y), b.z, b.w);
    return (image % params.nodes + turn(a.y, b.w)) % params.nodes;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (wid.x + params.origin.x) * 64u + lane;
    if (i >= params.count) { return; }
    let a = node(0u, params.first + i);
    let b = node(1u, params.first + i);
    // The first of a's neighbours that is not below b.
    let end = min(offsets[a + 1u], params.entries);
    var low = offsets[a];
    var high = end;
    while (low < high) {
        let middle = low + (high - low) / 2u;
        if (columns[middle] < b) { low = middle + 1u; } else { high = middle; }
    }
    var edge = a == b;
    if (low < end) { edge = edge || columns[low] == b; }
    sources[params.place + i] = a;
    ends[params.place + i] = b;
    targets[params.place + i] = select(0u, NONE, edge);
}
#else
// The inverse of mixed: the shift undoes itself, since it is at least half of the bits; the product by the inverse of odd mod 2^32,
// of which odd itself has 3 bits right and each of Newton's steps twice as many.
fn unmixed(x: u32, odd: u32, add: u32) -> u32 {
    var inverse = odd;
#for i in 0..4
    inverse *= 2u - odd * inverse;
#end
    return (((x ^ (x >> params.shift)) - add) * inverse) & params.mask;
}
// The number of the pair that has node n as its end k; past the pairs where there is none.
fn pair(side: u32, n: u32, k: u32) -> u32 {
    let a = constants(2u * side);
    let b = constants(2u * side + 1u);
    let q = (n + params.nodes - turn(a.y, b.w)) % params.nodes + k * params.nodes;
    if (q > params.mask) { return NONE; }
    return unmixed(unmixed(unmixed(unmixed(q, b.z, b.w), b.x, b.y), a.z, a.w), a.x, a.y);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (wid.x + params.origin.x) * 64u + lane;
    let width = 2u * params.depth;
    if (i >= params.rows * width) { return; }
    let n = params.first + i / width;
    let side = i % width / params.depth;
    let p = pair(side, n, i % params.depth);
    var other = n;
    var entry = NONE;
    if (p < params.pairs) {
        if (targets[p] == 0u) {
            other = ends[p];
            if (side == 1u) { other = sources[p]; }
            entry = p * params.stride + params.offset;
        }
    }
    indices[params.place + i] = other;
    entries[params.place + i] = entry;
}
#end
