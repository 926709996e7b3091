// Weight rows of every format. Wants `data` and, where QUANT, `scales`, and params with w_stride and s_stride (words of a row in
// either), cols, for TABLE the vec4 table0..table3, for EXACT a word `zero` that is 0. src/quant/mod.rs describes the layout.
// FORMAT: 0 f32, 1 f16, 2 bf16, 3 quantised (QUANT).

// `data` is bound as array<u32> (LOAD 1), array<vec2<u32>> (2) or array<vec4<u32>> (4), `scales` the same (SLOAD).
#if LOAD == 1
fn word(i: u32) -> u32 { return data[i]; }
#else
fn word(i: u32) -> u32 { return data[i / $(LOAD)u][i % $(LOAD)u]; }
#end
#if QUANT
#if SLOAD == 1
fn scale(i: u32) -> u32 { return scales[i]; }
#else
fn scale(i: u32) -> u32 { return scales[i / $(SLOAD)u][i % $(SLOAD)u]; }
#end
#end

#if QUANT
// The four codes of quad j (elements 4 j ..+4) of the block of 32 that begins at word b, one a byte.
fn codes_at(b: u32, j: u32) -> u32 {
#if BITS == 8
    return word(b + j);
#end
#if BITS == 4 || BITS == 5 || BITS == 6
    var c = (word(b + (j >> 1u)) >> ((j & 1u) << 2u)) & 0x0F0F0F0Fu;
#end
#if BITS == 2 || BITS == 3
    var c = (word(b + (j >> 2u)) >> ((j & 3u) << 1u)) & 0x03030303u;
#end
#if BITS == 5
    c |= ((word(b + 4u) >> j) & 0x01010101u) << 4u;
#end
#if BITS == 6
    c |= ((word(b + 4u + (j >> 2u)) >> ((j & 3u) << 1u)) & 0x03030303u) << 4u;
#end
#if BITS == 3
    c |= ((word(b + 2u) >> j) & 0x01010101u) << 2u;
#end
#if BITS != 8
    return c;
#end
}

// The same of a block already in registers; j is a constant.
alias Block = array<u32, $BITS>;
fn fetch(row: u32, kb: u32) -> Block {
    let b = row * params.w_stride + kb * $(BITS)u;
#if LOAD == 4
#for w in 0..(BITS / 4)
    let p$w = data[(b >> 2u) + $(w)u];
#end
#end
    return Block(
#for w in 0..BITS
#if LOAD == 4
        p$(w / 4)[$(w % 4)],
#else
        word(b + $(w)u),
#end
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

// A code in bits of its own as a number. MANTISSA: where conversions are slow, the code is put into the mantissa of a power of two whose
// last place is the code's own, which is then taken away: 2^(23 - p) + q, exact for a code that ends below bit 23.
#if MANTISSA
fn mantissa(c: u32, mask: u32, p: u32) -> f32 {
    let one = 0x4B000000u - (p << 23u);
    return bitcast<f32>((c & mask) | one) - bitcast<f32>(one);
}
#end

// Codes, one a byte, as numbers, or through the 16-entry table.
fn numbers(c: u32) -> vec4<f32> {
#if TABLE
    return vec4<f32>(lookup(c & 15u), lookup((c >> 8u) & 15u), lookup((c >> 16u) & 15u), lookup(c >> 24u));
#else
#if MANTISSA
    let h = c >> 16u;
    return vec4<f32>(mantissa(c, 0xFFu, 0u), mantissa(c, 0xFF00u, 8u), mantissa(h, 0xFFu, 0u), mantissa(h, 0xFF00u, 8u));
#else
    return vec4<f32>(vec4<i32>(unpack4xU8(c)));
#end
#end
}
#if BITS == 4
// The same of half j of a word: the low or the high four bits of each byte.
#for j in 0..2
fn nibbles$j(w: u32) -> vec4<f32> {
#if MANTISSA && TABLE == 0
    let h = w >> 16u;
#if j == 0
    return vec4<f32>(mantissa(w, 0xFu, 0u), mantissa(w, 0xF00u, 8u), mantissa(h, 0xFu, 0u), mantissa(h, 0xF00u, 8u));
#else
    return vec4<f32>(mantissa(w, 0xF0u, 4u), mantissa(w, 0xF000u, 12u), mantissa(h, 0xF0u, 4u), mantissa(h, 0xF000u, 12u));
#end
#else
    return numbers((w >> $(4 * j)u) & 0x0F0F0F0Fu);
#end
}
#end
#end
#if TABLE
fn lookup(i: u32) -> f32 {
    var t = params.table0;
    if ((i >> 2u) == 1u) { t = params.table1; }
    if ((i >> 2u) == 2u) { t = params.table2; }
    if ((i >> 2u) == 3u) { t = params.table3; }
    return t[i & 3u];
}
#end

// A product that is rounded before anything is added to it. Compilers fuse products and sums, and see through fma(a, b, 0); EXACT
// puts a word between them that only the host knows to be 0, so that values are those of the format bit for bit.
fn times(a: f32, b: f32) -> f32 {
#if EXACT
    return bitcast<f32>(bitcast<u32>(a * b) | params.zero);
#else
    return a * b;
#end
}

// (s, z) or (s, m) of the group that holds element k of a row.
fn group_of(row: u32, k: u32) -> vec2<f32> {
    let base = row * params.s_stride;
#if PER_TENSOR
    let g = 0u;
#else
    let g = k / $(GROUP)u;
#end
#if SCALES == 0
    return group_in(scale(base + (g >> 1u)) >> ((g & 1u) << 4u));
#end
#if SCALES == 1 || SCALES == 2 || SCALES == 4
    return group_in(scale(base + g));
#end
#if SCALES == 3
    return vec2<f32>(bitcast<f32>(scale(base + 2u * g)), bitcast<f32>(scale(base + 2u * g + 1u)));
#end
#if SCALES == 5
    return vec2<f32>(bitcast<f32>(scale(base + 2u * g)), f32(scale(base + 2u * g + 1u)));
#end
#if SCALES == 6
    let sb = base + 5u * (k >> 8u);
    let i = (k >> 4u) & 15u;
    let c = (scale(sb + (i >> 2u)) >> (8u * (i & 3u))) & 255u;
    let d = unpack2x16float(scale(sb + 4u));
    return vec2<f32>(times(d.x, f32(c & 15u)), -times(d.y, f32(c >> 4u)));
#end
#if SCALES == 7
    let sb = base + 4u * (k >> 8u);
    let i = (k >> 4u) & 15u;
    let lo = (scale(sb + (i >> 3u)) >> (4u * (i & 7u))) & 15u;
    let hi = (scale(sb + 2u) >> (2u * i)) & 3u;
    return vec2<f32>(unpack2x16float(scale(sb + 3u)).x * f32(i32(lo | (hi << 4u)) - 32), 4.0);
#end
#if SCALES == 8
    let sb = base + 5u * (k >> 8u);
    let i = (k >> 5u) & 7u;
    let c = (scale(sb + (i >> 2u)) >> (8u * (i & 3u))) & 255u;
    let n = (scale(sb + 2u + (i >> 2u)) >> (8u * (i & 3u))) & 255u;
    let d = unpack2x16float(scale(sb + 4u));
    return vec2<f32>(times(d.x, f32(c)), -times(d.y, f32(n)));
#end
#if SCALES == 9
    let sb = base + 5u * (k >> 8u);
    let i = (k >> 4u) & 15u;
    let c = i32(scale(sb + (i >> 2u)) << (24u - 8u * (i & 3u))) >> 24u;
    return vec2<f32>(unpack2x16float(scale(sb + 4u)).x * f32(c), 32.0);
#end
}

// The same from the one word of a group that has one, or from the low half of it.
#if SCALES == 0 || SCALES == 1 || SCALES == 2 || SCALES == 4
fn group_in(w: u32) -> vec2<f32> {
#if SCALES == 0
    return vec2<f32>(unpack2x16float(w).x, $(ZERO).0);
#end
#if SCALES == 1
    return vec2<f32>(bitcast<f32>(w), $(ZERO).0);
#end
#if SCALES == 2
    return unpack2x16float(w);
#end
#if SCALES == 4
    return vec2<f32>(unpack2x16float(w).x, f32(w >> 16u));
#end
}
#end

// A code's value: exact where the format's own definition is.
fn value4(q: vec4<f32>, g: vec2<f32>) -> vec4<f32> {
#if TABLE
    return q * g.x;
#else
#if MIN
    return vec4<f32>(times(q.x, g.x), times(q.y, g.x), times(q.z, g.x), times(q.w, g.x)) + g.y;
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
#if LOAD == 4
    return bitcast<vec4<f32>>(data[b >> 2u]);
#else
    return bitcast<vec4<f32>>(vec4<u32>(word(b), word(b + 1u), word(b + 2u), word(b + 3u)));
#end
}
#end
#if FORMAT == 1 || FORMAT == 2
fn halves(b: u32) -> vec2<u32> {
#if LOAD == 2
    return data[b >> 1u];
#else
    return vec2<u32>(word(b), word(b + 1u));
#end
}
#end
#if FORMAT == 1
fn load4(row: u32, k: u32) -> vec4<f32> {
    let w = halves(row * params.w_stride + (k >> 1u));
    return vec4<f32>(unpack2x16float(w.x), unpack2x16float(w.y));
}
#end
#if FORMAT == 2
fn load4(row: u32, k: u32) -> vec4<f32> {
    let w = halves(row * params.w_stride + (k >> 1u));
    return bitcast<vec4<f32>>(vec4<u32>(w.x << 16u, w.x & 0xFFFF0000u, w.y << 16u, w.y & 0xFFFF0000u));
}
#end
