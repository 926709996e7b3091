// Gradients of attention by tiles in workgroup memory: see common/attention_backward.wgsl for what is computed.
//
// 256 invocations own 32 rows and stream over tiles of 32. A tile's S and dP are sums over chunks of CHUNK elements, two rows by two
// of either an invocation; then P and dS go through workgroup memory, and each invocation adds to the vec4 of the outputs that it
// keeps in registers: of PASSES column ranges, each PW vec4 wide, rows TALL apart.
#import common/attention_backward
#let W = (D + 3) / 4
#let CHUNKS = (D + 31) / 32
#let C4 = (W + CHUNKS - 1) / CHUNKS
#let PAD = C4 + 1 - C4 % 2
#let PW = W * (W < 2 * C4) + 2 * C4 * (W >= 2 * C4)
#let PASSES = (W + PW - 1) / PW
#let TALL = 32 - 16 * (PW > 8)

var<workgroup> rows: array<vec4<f32>, $(64 * PAD)>; // own and streamed rows [32 + 32][PAD], or streamed ones alone [32][PW]
var<workgroup> weights: array<vec4<f32>, $(32 * 9)>; // [own][streamed / 4]

// Four elements of a row from element e on; zeros past its end.
#for s in 0..4
fn fetch$s(at: u32, e: u32) -> vec4<f32> {
    var x = vec4<f32>(0.0);
#if VEC
    if (e < $(D)u) {
#if s == 0
        x = own1[(at + e) >> 2u];
#end
#if s == 1
        x = own2[(at + e) >> 2u];
#end
#if s == 2
        x = stream1[(at + e) >> 2u];
#end
#if s == 3
        x = stream2[(at + e) >> 2u];
#end
    }
#else
#for c in 0..4
    if (e + $(c)u < $(D)u) {
#if s == 0
        x[$c] = own1[at + e + $(c)u];
#end
#if s == 1
        x[$c] = own2[at + e + $(c)u];
#end
#if s == 2
        x[$c] = stream1[at + e + $(c)u];
#end
#if s == 3
        x[$c] = stream2[at + e + $(c)u];
#end
    }
#end
#end
    return x;
}
#end

#for o in 1..(2 + KEYS)
fn store$o(at: u32, e: u32, v: vec4<f32>) {
#if VEC
    if (e < $(D)u) { out$o[(at + e) >> 2u] = v; }
#else
#for c in 0..4
    if (e + $(c)u < $(D)u) { out$o[at + e + $(c)u] = v[$c]; }
#end
#end
}
#end

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let own0 = (wid.x + params.origin.x) * 32u;
    let head = wid.y + params.origin.y;
    let sequence = wid.z + params.origin.z;
    let counts = valid(sequence);
    let range = met(own0, 32u, counts);
    let first_own = sequence * params.own_rows;
    let first_other = sequence * params.stream_rows;
    let tx = lane % 16u;
    let ty = lane / 16u;
    // What this invocation keeps of the outputs.
    let column = lane % $(PW)u;
    let row = lane / $(PW)u;
#for o in 1..(2 + KEYS)
#for p in 0..PASSES
#for r in 0..(32 / TALL)
    var sum$(o)_$(p)_$r = vec4<f32>(0.0);
#end
#end
#end
#for a in 0..2
    let own_$a = own0 + ty + $(16 * a)u;
#if !KEYS
    let stats_$a = stats[stats_at(sequence, min(own_$a, params.own_rows - 1u), head)];
#end
#end
    // What lies past the valid rows is the last of them again, and weighs nothing.
    let last = max(counts, vec2<u32>(1u)) - 1u;
#if KEYS
    for (var other_head = head * params.group; other_head < (head + 1u) * params.group; other_head++) {
#else
    let other_head = head / params.group;
    {
#end
    for (var other0 = range.x; other0 < range.y; other0 += 32u) {
#for x in 1..3
#for a in 0..2
#for b in 0..2
        var s$(x)_$(a)_$b = 0.0;
#end
#end
        for (var chunk = 0u; chunk < $(C4 * CHUNKS)u; chunk += $(C4)u) {
            workgroupBarrier(); // what was there has been read
#for l in 0..((64 * C4 + 255) / 256)
            {
                let i = lane + $(256 * l)u;
                let at = i / $(C4)u;
                let e = 4u * (chunk + i % $(C4)u);
                if (at < 32u) {
                    let r = first_own + min(own0 + at, last.x);
                    rows[at * $(PAD)u + i % $(C4)u] = fetch$(x - 1)(params.own$(x)_offset + r * params.own$(x)_stride + head * $(D)u, e);
                } else if (at < 64u) {
                    let r = first_other + min(other0 + at - 32u, last.y);
                    let source = params.stream$(x)_offset + r * params.stream$(x)_stride + other_head * $(D)u;
                    rows[at * $(PAD)u + i % $(C4)u] = fetch$(x + 1)(source, e);
                }
            }
#end
            workgroupBarrier();
#for c in 0..C4
#for a in 0..2
            let a$(c)_$a = rows[(ty + $(16 * a)u) * $(PAD)u + $(c)u];
            let b$(c)_$a = rows[(tx + $(32 + 16 * a)u) * $(PAD)u + $(c)u];
#end
#for a in 0..2
#for b in 0..2
            s$(x)_$(a)_$b += dot(a$(c)_$a, b$(c)_$b);
#end
#end
#end
        }
#end
#for b in 0..2
        let other_$b = other0 + tx + $(16 * b)u;
#if KEYS
        let stats_$b = stats[stats_at(sequence, min(other_$b, last.y), other_head)];
#end
#end
#for a in 0..2
#for b in 0..2
#if KEYS
        let of_$(a)_$b = stats_$b;
#else
        let of_$(a)_$b = stats_$a;
#end
        let p_$(a)_$b = select(0.0, exp(params.scale * s1_$(a)_$b - of_$(a)_$b.x), meets(own_$a, other_$b, counts));
        let d_$(a)_$b = select(0.0, p_$(a)_$b * (s2_$(a)_$b - of_$(a)_$b.y), p_$(a)_$b > 0.0);
#end
#end
        // P for out2, then dS for out1.
#for step in (1 - KEYS)..2
#let O = 2 - step
#for p in 0..PASSES
        workgroupBarrier(); // what was there has been read
#if p == 0
#for a in 0..2
#for b in 0..2
#if step == 0
        weights[(ty + $(16 * a)u) * 9u + (tx + $(16 * b)u) / 4u][tx % 4u] = p_$(a)_$b;
#else
        weights[(ty + $(16 * a)u) * 9u + (tx + $(16 * b)u) / 4u][tx % 4u] = d_$(a)_$b;
#end
#end
#end
#end
#for l in 0..((32 * PW + 255) / 256)
        {
            let i = lane + $(256 * l)u;
            let r = first_other + min(other0 + i / $(PW)u, last.y);
            let source = params.stream$(O)_offset + r * params.stream$(O)_stride + other_head * $(D)u;
            if (i < $(32 * PW)u) { rows[i] = fetch$(O + 1)(source, 4u * ($(p * PW)u + i % $(PW)u)); }
        }
#end
        workgroupBarrier();
        if (row < $(TALL)u) {
            for (var j = 0u; j < 8u; j++) {
#for r in 0..(32 / TALL)
                let w$r = weights[(row + $(r * TALL)u) * 9u + j];
#end
#for e in 0..4
                let x$e = rows[(4u * j + $(e)u) * $(PW)u + column];
#for r in 0..(32 / TALL)
                sum$(O)_$(p)_$r += w$(r)[$e] * x$e;
#end
#end
            }
        }
#end
#end
    }
    }
    if (row < $(TALL)u) {
#for p in 0..PASSES
#for r in 0..(32 / TALL)
        if (own0 + row + $(r * TALL)u < params.own_rows && $(p * PW)u + column < $(W)u) {
            let r = first_own + own0 + row + $(r * TALL)u;
            let e = 4u * ($(p * PW)u + column);
            store1(params.out1_offset + r * params.out1_stride + head * $(D)u, e, params.scale * sum1_$(p)_$r);
#if KEYS
            store2(params.out2_offset + r * params.out2_stride + head * $(D)u, e, sum2_$(p)_$r);
#end
        }
#end
#end
    }
}
