// dw[id(r)] += dy[r] for every row r, in the order of the rows, without atomics.
//
// LINKS: links[r] = (id(r), or NONE where an earlier row has the same id; the next row with the same id, or NONE). One invocation a row.
// IDS 0: id(r) from a buffer; 1: the position of row first_row + r in its sequence, plus a constant. Ids past the end take the last row.
//
// Else a workgroup for each row and 64 columns: it walks the chain that begins at its row, if one does, and adds the sum to dw once.
// Only ids in first..first + rows are written, so that a dw cut by rows takes a dispatch for each part. VEC: by vec4, columns and
// places are in these units.
const NONE: u32 = 0xFFFFFFFFu;
#if LINKS
#import common/state
struct Params {
    origin: vec4<u32>,
    rows: u32, first_row: u32, ids_offset: u32, sequence_rows: u32,
    id_add: u32, last_id: u32, pad0: u32, pad1: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> ids: array<u32>; // ids (rows) or state (sequences, 32)
@group(0) @binding(2) var<storage, read_write> links: array<vec2<u32>>; // (rows)

fn id_of(r: u32) -> u32 {
#if IDS == 1
    let row = params.first_row + r;
    return min(ids[(row / params.sequence_rows) * 32u + LENGTH] + row % params.sequence_rows + params.id_add, params.last_id);
#else
    return min(ids[params.ids_offset + r], params.last_id);
#end
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let r = (wid.x + params.origin.x) * 64u + lane;
    let id = id_of(min(r, params.rows - 1u));
    var earlier = false;
    var next = NONE;
    // Downwards, so that the last one found after r is the nearest. Every invocation makes the same loads.
    for (var end = params.rows; end > 0u; end -= min(end, 4u)) {
#for u in 1..5
        let j$u = max(end, $(u)u) - $(u)u;
        let same$u = id_of(j$u) == id;
#end
#for u in 1..5
        earlier = earlier || (same$u && j$u < r);
        next = select(next, j$u, same$u && j$u > r);
#end
    }
    if (r < params.rows) { links[r] = vec2<u32>(select(id, NONE, earlier), next); }
}
#else
struct Params {
    origin: vec4<u32>,
    cols: u32, dy_offset: u32, dy_stride: u32, dw_offset: u32,
    dw_stride: u32, first: u32, rows: u32, pad0: u32,
}
#if VEC
alias Unit = vec4<f32>;
#else
alias Unit = f32;
#end
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> links: array<vec2<u32>>; // (rows of dy)
@group(0) @binding(2) var<storage, read> dy: array<Unit>; // (rows of dy, cols)
@group(0) @binding(3) var<storage, read_write> dw: array<Unit>; // (rows, cols)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = wid.y + params.origin.y;
    let i = (wid.x + params.origin.x) * 64u + lane;
    let link = links[row];
    let id = link.x;
    if (id == NONE || id < params.first || id - params.first >= params.rows || i >= params.cols) { return; }
    var sum = dy[params.dy_offset + row * params.dy_stride + i];
    var r = link.y;
    while (r != NONE) {
        let next = links[r].y; // before the row's load, which need not wait for it
        sum += dy[params.dy_offset + r * params.dy_stride + i];
        r = next;
    }
    let at = params.dw_offset + (id - params.first) * params.dw_stride + i;
    dw[at] += sum;
}
#end
