// The r smallest of the k keys of each layer, in ascending order of their places; of equal keys the first ones. A workgroup a layer.
//
// Radix select: four passes find the r-th smallest key by counting its bytes from the top, then each invocation counts what lies below
// it in a run of places, and a prefix sum says where they go. ROUND: what is drawn is marked.
#import common/progress

struct Params {
    origin: vec4<u32>,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> keys: array<u32>;
@group(0) @binding(2) var<storage, read> table: array<vec4<u32>>; // (layers, 2), as in draw_keys.wgsl
@group(0) @binding(3) var<storage, read_write> progress: array<u32>;
@group(0) @binding(4) var<storage, read_write> indices: array<u32>;
#if ROUND
@group(0) @binding(5) var<storage, read_write> used: array<atomic<u32>>;
#end

var<workgroup> sh_bins: array<atomic<u32>, 256>;
var<workgroup> sh_scan: array<u32, 256>;
var<workgroup> sh_found: vec2<u32>;

// The sum over this invocation and those before it.
fn scan(v: u32, lane: u32) -> u32 {
    workgroupBarrier();
    sh_scan[lane] = v;
    for (var step = 1u; step < 256u; step *= 2u) {
        workgroupBarrier();
        let other = select(0u, sh_scan[max(lane, step) - step], lane >= step);
        workgroupBarrier();
        sh_scan[lane] += other;
    }
    workgroupBarrier();
    return sh_scan[lane];
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let layer = wid.x + params.origin.x;
    let what = table[2u * layer];
    let more = table[2u * layer + 1u];
    let k = what.y;
    let at = more.x;
    var bound = 0u; // the bytes found of the r-th smallest key
    var need = what.z; // how many of the keys that begin with them are drawn
#for pass in 0..4
#let SHIFT = 24 - 8 * pass
    atomicStore(&sh_bins[lane], 0u);
    workgroupBarrier();
    for (var i = lane; i < k; i += 256u) {
        let key = keys[at + i];
#if pass == 0
        atomicAdd(&sh_bins[key >> 24u], 1u);
#else
        if (key >> $(SHIFT + 8)u == bound >> $(SHIFT + 8)u) { atomicAdd(&sh_bins[(key >> $(SHIFT)u) & 255u], 1u); }
#end
    }
    workgroupBarrier();
    let own$pass = atomicLoad(&sh_bins[lane]);
    let upto$pass = scan(own$pass, lane);
    if (upto$pass >= need && upto$pass - own$pass < need) { sh_found = vec2<u32>(lane, upto$pass - own$pass); }
    let found$pass = workgroupUniformLoad(&sh_found);
    bound |= found$(pass).x << $(SHIFT)u;
    need -= found$(pass).y;
#end
    let per = (k + 255u) / 256u;
    let first = min(lane * per, k);
    let end = min(first + per, k);
    var own = vec2<u32>(0u); // keys below the bound, and equal to it
    for (var i = first; i < end; i++) {
        let key = keys[at + i];
        own += vec2<u32>(select(0u, 1u, key < bound), select(0u, 1u, key == bound));
    }
    // Both are less than 2^16.
    let upto = scan(own.x | (own.y << 16u), lane);
    var before = vec2<u32>(upto & 0xFFFFu, upto >> 16u) - own;
    for (var i = first; i < end; i++) {
        let key = keys[at + i];
        if (key < bound || (key == bound && before.y < need)) {
            indices[what.w + before.x + min(before.y, need)] = i;
#if ROUND
            atomicOr(&used[more.y + i / 32u], 1u << (i % 32u));
#end
        }
        before += vec2<u32>(select(0u, 1u, key < bound), select(0u, 1u, key == bound));
    }
    if (layer == 0u && lane == 0u) { progress[DRAWS] += 1u; }
}
