// Weight rows of every format. Wants `data` and, where QUANT, `scales` as array<u32>, and params with w_stride and s_stride
// (words of a row in either), cols, and for TABLE the vec4 table0..table3. src/quant/mod.rs describes the layout.
// FORMAT: 0 f32, 1 f16, 2 bf16, 3 quantised (QUANT).

#if QUANT
// The four codes of quad j (elements 4 j ..+4) of the block of 32 that begins at word b, one a byte.
fn codes_at(b: u32, j: u32) -> u32 {
#if BITS == 8
    return data[b + j];
#end
#if BITS == 4 || BITS == 5 || BITS == 6
    var c = (data[b + (j >> 1u)] >> ((j & 1u) << 2u)) & 0x0F0F0F0Fu;
#end
#if BITS == 2 || BITS == 3
    var c = (data[b + (j >> 2u)] >> ((j & 3u) << 1u)) & 0x03030303u;
#end
#if BITS == 5
    c |= ((data[b + 4u] >> j) & 0x01010101u) << 4u;
#end
#if BITS == 6
    c |= ((data[b + 4u + (j >> 2u)] >> ((j & 3u) << 1u)) & 0x03030303u) << 4u;
#end
#if BITS == 3
    c |= ((data[b + 2u] >> j) & 0x01010101u) << 2u;
#end
#if BITS != 8
    return c;
#end
}

// The same of a block already in registers; j is a constant.
alias Block = array<u32, $BITS>;
fn fetch(row: u32, kb: u32) -> Block {
    let b = row * params.w_stride + kb * $(BITS)u;
    return Block(
#for w in 0..BITS
        data[b + $(w)u],
#end
    );
}
#for j in 0..8
fn codes$j(b: Block) -> u32 {
#if BITS == 8
    return b[$j];
#end
#if BITS == 4
    return (b[$(j / 2)] >> $(4 * (j % 2))u) & 0x0F0F0F0Fu;
#end
#if BITS == 2
    return (b[$(j / 4)] >> $(2 * (j % 4))u) & 0x03030303u;
#end
#if BITS == 3
    return ((b[$(j / 4)] >> $(2 * (j % 4))u) & 0x03030303u) | (((b[2] >> $(j)u) & 0x01010101u) << 2u);
#end
#if BITS == 5
    return ((b[$(j / 2)] >> $(4 * (j % 2))u) & 0x0F0F0F0Fu) | (((b[4] >> $(j)u) & 0x01010101u) << 4u);
#end
#if BITS == 6
    return ((b[$(j / 2)] >> $(4 * (j % 2))u) & 0x0F0F0F0Fu) | (((b[$(4 + j / 4)] >> $(2 * (j % 4))u) & 0x03030303u) << 4u);
#end
}
#end

// Codes as numbers, or through the 16-entry table.
fn numbers(c: u32) -> vec4<f32> {
#if TABLE
    return vec4<f32>(lookup(c & 15u), lookup((c >> 8u) & 15u), lookup((c >> 16u) & 15u), lookup(c >> 24u));
#else
    return vec4<f32>(vec4<i32>(unpack4xU8(c)));
#end
}
#if TABLE
fn lookup(i: u32) -> f32 {
    var t = params.table0;
    if ((i >> 2u) == 1u) { t = params.table1; }
    if ((i >> 2u) == 2u) { t = params.table2; }
    if ((i >> 2u) == 3u) { t = params.table3; }
    return t[i & 3u];
}
#end

// (s, z) or (s, m) of the group that holds element k of a row.
fn group_of(row: u32, k: u32) -> vec2<f32> {
    let base = row * params.s_stride;
#if PER_TENSOR
    let g = 0u;
#else
    let g = k / $(GROUP)u;
#end
#if SCALES == 0
    let h = unpack2x16float(scales[base + (g >> 1u)]);
    return vec2<f32>(select(h.x, h.y, (g & 1u) == 1u), $(ZERO).0);
#end
#if SCALES == 1
    return vec2<f32>(bitcast<f32>(scales[base + g]), $(ZERO).0);
#end
#if SCALES == 2
    return unpack2x16float(scales[base + g]);
#end
#if SCALES == 3
    return vec2<f32>(bitcast<f32>(scales[base + 2u * g]), bitcast<f32>(scales[base + 2u * g + 1u]));
#end
#if SCALES == 4
    let w = scales[base + g];
    return vec2<f32>(unpack2x16float(w).x, f32(w >> 16u));
#end
#if SCALES == 5
    return vec2<f32>(bitcast<f32>(scales[base + 2u * g]), f32(scales[base + 2u * g + 1u]));
#end
#if SCALES == 6
    let sb = base + 5u * (k >> 8u);
    let i = (k >> 4u) & 15u;
    let c = (scales[sb + (i >> 2u)] >> (8u * (i & 3u))) & 255u;
    let d = unpack2x16float(scales[sb + 4u]);
    return vec2<f32>(d.x * f32(c & 15u), -(d.y * f32(c >> 4u)));
#end
#if SCALES == 7
    let sb = base + 4u * (k >> 8u);
    let i = (k >> 4u) & 15u;
    let lo = (scales[sb + (i >> 3u)] >> (4u * (i & 7u))) & 15u;
    let hi = (scales[sb + 2u] >> (2u * i)) & 3u;
    return vec2<f32>(unpack2x16float(scales[sb + 3u]).x * f32(i32(lo | (hi << 4u)) - 32), 4.0);
#end
#if SCALES == 8
    let sb = base + 5u * (k >> 8u);
    let i = (k >> 5u) & 7u;
    let c = (scales[sb + (i >> 2u)] >> (8u * (i & 3u))) & 255u;
    let n = (scales[sb + 2u + (i >> 2u)] >> (8u * (i & 3u))) & 255u;
    let d = unpack2x16float(scales[sb + 4u]);
    return vec2<f32>(d.x * f32(c), -(d.y * f32(n)));
#end
#if SCALES == 9
    let sb = base + 5u * (k >> 8u);
    let i = (k >> 4u) & 15u;
    let c = i32(scales[sb + (i >> 2u)] << (24u - 8u * (i & 3u))) >> 24u;
    return vec2<f32>(unpack2x16float(scales[sb + 4u]).x * f32(c), 32.0);
#end
}

// A code's value: exact where the format's own definition is.
fn value4(q: vec4<f32>, g: vec2<f32>) -> vec4<f32> {
#if TABLE
    return q * g.x;
#else
#if MIN
    return fma(q, vec4<f32>(g.x), vec4<f32>(g.y));
#else
    return (q - g.y) * g.x;
#end
#end
}

// sum of value * x over a group, from t = sum of code * x and sx = sum of x.
fn group_dot(t: f32, sx: f32, g: vec2<f32>) -> f32 {
#if TABLE
    return t * g.x;
#else
#if MIN
    return fma(t, g.x, g.y * sx);
#else
    return (t - g.y * sx) * g.x;
#end
#end
}

fn load4(row: u32, k: u32) -> vec4<f32> {
    let c = codes_at(row * params.w_stride + (k >> 5u) * $(BITS)u, (k >> 2u) & 7u);
    return value4(numbers(c), group_of(row, k));
}
#end

#if FORMAT == 0
fn load4(row: u32, k: u32) -> vec4<f32> {
    let b = row * params.w_stride + k;
    return vec4<f32>(bitcast<f32>(data[b]), bitcast<f32>(data[b + 1u]), bitcast<f32>(data[b + 2u]), bitcast<f32>(data[b + 3u]));
}
#end
#if FORMAT == 1
fn load4(row: u32, k: u32) -> vec4<f32> {
    let b = row * params.w_stride + (k >> 1u);
    return vec4<f32>(unpack2x16float(data[b]), unpack2x16float(data[b + 1u]));
}
#end
#if FORMAT == 2
fn load4(row: u32, k: u32) -> vec4<f32> {
    let b = row * params.w_stride + (k >> 1u);
    let w = vec2<u32>(data[b], data[b + 1u]);
    return bitcast<vec4<f32>>(vec4<u32>(w.x << 16u, w.x & 0xFFFF0000u, w.y << 16u, w.y & 0xFFFF0000u));
}
#end
