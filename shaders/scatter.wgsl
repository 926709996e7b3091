// dw[id(r)] += dy[r] for every row r, in the order of the rows, without atomics.
//
// OP 0: ids[r] = id(r), or SKIPPED. IDS 0: from a buffer; 1: the position of row first_row + r in its sequence, plus a constant. Ids past the end
// take the last row; the ids end in NONE up to a whole vec4. One invocation a row.
//
// OP 1: links[r] = (id(r), or NONE where an earlier row has the same id; the next row with the same id, or NONE). One invocation ROWS
// rows.
//
// OP 2: a workgroup for each row and 64 columns walks the chain that begins at its row, if one does, and adds the sum to dw once.
// Only ids in first..first + rows are written, so that a dw cut by rows takes a dispatch for each part. VEC: by vec4, columns and
// places are in these units.
const NONE: u32 = 0xFFFFFFFFu;
const SKIPPED: u32 = 0xFFFFFFFEu; // past the rows of any table, so that its chain adds to none
#if OP == 0
#import common/state
struct Params {
    origin: vec4<u32>,
    rows: u32, first_row: u32, source_offset: u32, sequence_rows: u32,
    id_add: u32, last_id: u32, skipped: u32, pad0: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> source: array<u32>; // ids (rows) or state (sequences, 32)
@group(0) @binding(2) var<storage, read_write> ids: array<u32>; // (rows, up to a multiple of 4)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let r = (wid.x + params.origin.x) * 64u + lane;
    if (r >= (params.rows + 3u) / 4u * 4u) { return; }
    var id = NONE;
    if (r < params.rows) {
#if IDS == 1
        let row = params.first_row + r;
        let start = source[params.source_offset + (row / params.sequence_rows) * 32u + LENGTH];
        id = min(start + row % params.sequence_rows + params.id_add, params.last_id);
#else
        id = min(source[params.source_offset + r], params.last_id);
#end
        id = select(id, SKIPPED, id == params.skipped);
    }
    ids[r] = id;
}
#end
#if OP == 1
struct Params {
    origin: vec4<u32>,
    rows: u32, pad0: u32, pad1: u32, pad2: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> ids: array<vec4<u32>>; // (rows)
@group(0) @binding(2) var<storage, read_write> links: array<vec2<u32>>; // (rows)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let begin = (wid.x + params.origin.x) * $(64 * ROWS)u + lane;
#for k in 0..ROWS
    let r$k = begin + $(64 * k)u;
    let id$k = ids[r$k / 4u][r$k % 4u]; // past the end any value, which goes nowhere
    var first$k = r$k;
    var next$k = NONE;
#end
    // Downwards, so that what is found last is the lowest.
    for (var end = (params.rows + 3u) / 4u; end > 0u; end -= 1u) {
        let some = ids[end - 1u];
#for u in 0..4
        let j$u = 4u * end - $(u + 1)u;
#for k in 0..ROWS
        first$k = select(first$k, j$u, some[$(3 - u)] == id$k);
        next$k = select(next$k, j$u, some[$(3 - u)] == id$k && j$u > r$k);
#end
#end
    }
#for k in 0..ROWS
    if (r$k < params.rows) { links[r$k] = vec2<u32>(select(id$k, NONE, first$k < r$k), next$k); }
#end
}
#end
#if OP == 2
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
