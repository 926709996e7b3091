// Y (+)= alpha A B + bias, A sparse by rows: y[r, c] = alpha sum_e values[e] b[columns[e], c], the entries e of row r in their order.
// FLIP: column 0 of the sum is negated. ENTRIES: entry e has the value number entries[e], or none.
//
// An invocation takes UNITS neighbouring units of a row of y. VEC: units are vec4, b and y have dense rows; sizes and places but those of
// the values are in units. Else an element c of row r lies at r row + c col.
struct Params {
    origin: vec4<u32>,
    rows: u32, lanes: u32, last_column: u32, values_offset: u32,
    b_offset: u32, b_row: u32, b_col: u32, y_offset: u32,
    y_row: u32, y_col: u32, first: u32, most: u32,
    alpha: f32, accumulate: u32, bias_offset: u32, offsets_offset: u32,
    columns_offset: u32, entries_offset: u32, flip: u32, pad0: u32,
}
#if VEC
alias Unit = vec4<f32>;
#else
alias Unit = f32;
#end
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> offsets: array<u32>; // (rows + 1)
@group(0) @binding(2) var<storage, read> columns: array<u32>; // (entries)
@group(0) @binding(3) var<storage, read> values: array<f32>;
@group(0) @binding(4) var<storage, read> b: array<Unit>; // (columns of A, cols)
@group(0) @binding(5) var<storage, read_write> y: array<Unit>; // (rows, cols)
#if ENTRIES
@group(0) @binding(6) var<storage, read> entries: array<u32>; // (entries)
#end
#if BIAS
@group(0) @binding($(6 + ENTRIES)) var<storage, read> bias: array<Unit>; // (cols)
#end

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let place = (wid.x + params.origin.x) * 64u + lane;
    let row = place / params.lanes;
    let unit = place % params.lanes * $(UNITS)u;
    if (row >= params.rows) { return; }
    // Long rows come in several dispatches.
    let begin = offsets[params.offsets_offset + row] + params.first;
    let end = min(offsets[params.offsets_offset + row + 1u], begin + params.most);
#for u in 0..UNITS
    var sum$u = Unit();
#end
    for (var e = begin; e < end; e += 1u) {
        let source = params.b_offset + min(columns[params.columns_offset + e], params.last_column) * params.b_row + unit * params.b_col;
#if ENTRIES
        let entry = entries[params.entries_offset + e];
        let value = select(values[params.values_offset + min(entry, 0x7fffffffu)], 0.0, entry == 0xffffffffu);
#else
        let value = values[params.values_offset + e];
#end
#for u in 0..UNITS
        sum$u += value * b[source + $(u)u * params.b_col];
#end
    }
    if (params.flip != 0u && unit == 0u) {
#if VEC
        sum0.x = -sum0.x;
#else
        sum0 = -sum0;
#end
    }
    let to = params.y_offset + row * params.y_row + unit * params.y_col;
#for u in 0..UNITS
    let at$u = to + $(u)u * params.y_col;
    var out$u = params.alpha * sum$u;
    if (params.accumulate != 0u) { out$u += y[at$u]; }
#if BIAS
    out$u += bias[params.bias_offset + unit + $(u)u];
#end
    y[at$u] = out$u;
#end
}
