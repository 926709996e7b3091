// Threefry-4x32-20 (Salmon et al., SC 2011): counter-based random bits from adds, rotations and xors.
fn threefry(counter: vec4<u32>, key: vec4<u32>) -> vec4<u32> {
    var ks = array<u32, 5>(key.x, key.y, key.z, key.w, 0x1BD11BDAu ^ key.x ^ key.y ^ key.z ^ key.w);
    var x = counter + key;
#for r in 0..20
#if r % 8 == 0
    x = mix_even(x, 10u, 26u);
#end
#if r % 8 == 1
    x = mix_odd(x, 11u, 21u);
#end
#if r % 8 == 2
    x = mix_even(x, 13u, 27u);
#end
#if r % 8 == 3
    x = mix_odd(x, 23u, 5u);
#end
#if r % 8 == 4
    x = mix_even(x, 6u, 20u);
#end
#if r % 8 == 5
    x = mix_odd(x, 17u, 11u);
#end
#if r % 8 == 6
    x = mix_even(x, 25u, 10u);
#end
#if r % 8 == 7
    x = mix_odd(x, 18u, 20u);
#end
#if r % 4 == 3
    x += vec4<u32>(ks[$((r / 4 + 1) % 5)], ks[$((r / 4 + 2) % 5)], ks[$((r / 4 + 3) % 5)], ks[$((r / 4 + 4) % 5)] + $(r / 4 + 1)u);
#end
#end
    return x;
}
fn rotate(v: u32, by: u32) -> u32 {
    return (v << by) | (v >> (32u - by));
}
fn mix_even(x: vec4<u32>, a: u32, b: u32) -> vec4<u32> {
    let p = x.x + x.y;
    let q = x.z + x.w;
    return vec4<u32>(p, rotate(x.y, a) ^ p, q, rotate(x.w, b) ^ q);
}
fn mix_odd(x: vec4<u32>, a: u32, b: u32) -> vec4<u32> {
    let p = x.x + x.w;
    let q = x.z + x.y;
    return vec4<u32>(p, rotate(x.y, b) ^ q, q, rotate(x.w, a) ^ p);
}
// In (0, 1), exact in f32.
fn uniform_open(bits: u32) -> f32 {
    return (f32(bits >> 9u) + 0.5) * 1.1920929e-7;
}
