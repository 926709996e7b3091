// y[r, i] = table[id(r), i], decoded from any format; ADD: y += table. One invocation four elements.
//
// IDS 0: id(r) from a buffer; 1: the position of row r in its sequence, plus a constant. Only ids in the segment's rows
// first..first + rows are written, so that a table cut into segments takes a dispatch for each; CLAMP: ids past the end take the
// last row (positions of rows that are not valid).
#import common/decode
#import common/state

struct Params {
    origin: vec4<u32>,
    cols: u32, w_stride: u32, s_stride: u32, first: u32,
    rows: u32, y_offset: u32, y_stride: u32, ids_offset: u32,
    sequence_rows: u32, id_add: u32, last_id: u32, zero: u32,
#if TABLE
    table0: vec4<f32>, table1: vec4<f32>, table2: vec4<f32>, table3: vec4<f32>,
#end
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> ids: array<u32>; // ids (rows) or state (sequences, 32)
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // (rows, cols)
@group(0) @binding(3) var<storage, read> data: array<u32>; // (vocabulary, w_stride)
#if QUANT
@group(0) @binding(4) var<storage, read> scales: array<u32>; // (vocabulary, s_stride)
#end

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = ((wid.x + params.origin.x) * 64u + lane) * 4u;
    let row = wid.y + params.origin.y;
    if (i >= params.cols) { return; }
#if IDS == 1
    let id = min(ids[(row / params.sequence_rows) * 32u + LENGTH] + row % params.sequence_rows + params.id_add, params.last_id);
#else
    let id = min(ids[params.ids_offset + row], params.last_id);
#end
    if (id < params.first || id - params.first >= params.rows) { return; }
    let v = load4(id - params.first, i);
    let at = params.y_offset + row * params.y_stride + i;
#for e in 0..4
    if (i + $(e)u < params.cols) {
#if ADD
        y[at + $(e)u] += v[$e];
#else
        y[at + $(e)u] = v[$e];
#end
    }
#end
}
