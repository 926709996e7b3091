// vec4 of all turns of a layer: J and a flag for each pair of blocks of W rows, and what makes layers begin at multiples of 256 bytes.
fn layer_turns(blocks: u32) -> u32 {
    return (blocks / 2u * $(W * W + 1)u + 15u) & 0xfffffff0u;
}

// The i-th of n / 2 disjoint pairs of 0..n in round t of n - 1 (circle method, n even): each pair meets once in all rounds.
fn pair_of(n: u32, t: u32, i: u32) -> vec2<u32> {
    let m = n - 1u;
    let a = select((t + i) % m, m, i == 0u);
    let b = (t + m - i) % m;
    return vec2<u32>(min(a, b), max(a, b));
}
