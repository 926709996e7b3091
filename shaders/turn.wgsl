// Rotates the heads of activations by the angles of their positions: one invocation a pair of elements, or (VEC) four pairs, which
// are two vec4.
//
// (a, b) -> (a cos - b sin, a sin + b cos) with the angle of (position, pair) from a host table, or with that of the other sign; row r
// has position r % sequence_rows. ROPE: 1 pairs (i, i + d/2), 2 pairs (2 i, 2 i + 1).
struct Params {
    origin: vec4<u32>,
    pairs: u32, head_dim: u32, first_row: u32, sequence_rows: u32,
    x_offset: u32, x_stride: u32, y_offset: u32, y_stride: u32,
    table_offset: u32, sign: f32, pad0: u32, pad1: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
#if VEC
alias Unit = vec4<f32>;
alias Angle = vec4<f32>;
#else
alias Unit = f32;
alias Angle = vec2<f32>;
#end
@group(0) @binding(1) var<storage, read> x: array<Unit>; // (rows, heads head_dim)
@group(0) @binding(2) var<storage, read_write> y: array<Unit>; // (rows, heads head_dim)
@group(0) @binding(3) var<storage, read> table: array<Angle>; // (positions, head_dim / 2): cos, sin

#let PAIRS = 1 + 3 * VEC
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let half = params.head_dim / 2u;
    let index = ((wid.x + params.origin.x) * 64u + lane) * $(PAIRS)u;
    let row = wid.y + params.origin.y;
    if (index >= params.pairs) { return; }
    let i = index % half;
    let position = (row + params.first_row) % params.sequence_rows;
    let angle = params.table_offset + position * half + i;
#if ROPE == 1
    let first = index / half * params.head_dim + i;
    let second = first + half;
#else
    let first = 2u * index;
    let second = first + $(PAIRS)u;
#end
    let x_at = params.x_offset + row * params.x_stride;
    let to = params.y_offset + row * params.y_stride;
    let v = x[(x_at + first) / $(PAIRS)u];
    let w = x[(x_at + second) / $(PAIRS)u];
#if VEC
    let t = table[angle / 2u];
    let u = table[angle / 2u + 1u];
    let cos = vec4<f32>(t.x, t.z, u.x, u.z);
    let sin = vec4<f32>(t.y, t.w, u.y, u.w) * params.sign;
#else
    let cos = table[angle].x;
    let sin = table[angle].y * params.sign;
#end
#if ROPE == 2 && VEC
    let a = vec4<f32>(v.x, v.z, w.x, w.z);
    let b = vec4<f32>(v.y, v.w, w.y, w.w);
#else
    let a = v;
    let b = w;
#end
    let p = a * cos - b * sin;
    let q = a * sin + b * cos;
#if ROPE == 2 && VEC
    y[(to + first) / 4u] = vec4<f32>(p.x, q.x, p.y, q.y);
    y[(to + second) / 4u] = vec4<f32>(p.z, q.z, p.w, q.w);
#else
    y[(to + first) / $(PAIRS)u] = p;
    y[(to + second) / $(PAIRS)u] = q;
#end
}
