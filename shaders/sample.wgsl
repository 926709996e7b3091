// Chooses the next token of each sequence from its logits and advances the sequence's state. A workgroup a sequence.
//
// Temperature 0: the largest logit, the lowest index among equals. Else tokens are kept that pass top-k, then top-p over what
// top-k kept, and min-p; among them the largest l / T - ln(-ln u) wins, which draws from the softmax (Gumbel's trick) without a
// prefix sum. Passes are unrolled, as llvmpipe leaves a shader's loops for good after 65,535 iterations in all. u comes from Threefry at counter (token, step). The thresholds of top-k and top-p are found by bisection over the
// order-preserving bits of the logits: 32 passes each, no atomics.
#import common/reduce
#import common/state
#import common/threefry

struct Params {
    origin: vec4<u32>,
    vocabulary: u32, l_offset: u32, l_stride: u32, ring: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>; // (sequences, vocabulary)
@group(0) @binding(2) var<storage, read_write> state: array<u32>; // (sequences, 32)
@group(0) @binding(3) var<storage, read_write> next: array<u32>; // (sequences): the input of the next step
@group(0) @binding(4) var<storage, read_write> output: array<u32>; // (sequences, ring)

const WG: u32 = $(WG)u;
const NONE: u32 = 0xFFFFFFFFu;
var<workgroup> sh_settings: vec4<u32>;
#if SG != WG
var<workgroup> sh_best: array<f32, $WG>;
var<workgroup> sh_token: array<u32, $WG>;
#end

// Larger floats have larger keys.
fn key(v: f32) -> u32 {
    let b = bitcast<u32>(v);
    return select(b | 0x80000000u, ~b, (b & 0x80000000u) != 0u);
}

// The largest value of all invocations; the lowest token among equals.
fn best_of(value: f32, token: u32, lane: u32) -> u32 {
#if SG == WG
    let top = subgroupMax(value);
    return subgroupMin(select(NONE, token, value == top));
#else
    workgroupBarrier();
    sh_best[lane] = value;
    sh_token[lane] = token;
    for (var half = WG / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (lane < half) {
            let other = sh_best[lane + half];
            let better = other > sh_best[lane] || (other == sh_best[lane] && sh_token[lane + half] < sh_token[lane]);
            if (better) {
                sh_best[lane] = other;
                sh_token[lane] = sh_token[lane + half];
            }
        }
    }
    return workgroupUniformLoad(&sh_token[0]);
#end
}

@compute @workgroup_size($WG)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let sequence = wid.x + params.origin.x;
    let s = sequence * 32u;
    let at = params.l_offset + sequence * params.l_stride;
    let n = params.vocabulary;
    // The state is writable, so only a uniform load of a copy counts as uniform for loops with reductions in them.
    if (lane == 0u) { sh_settings = vec4<u32>(state[s + TEMPERATURE], state[s + TOP_K], state[s + TOP_P], state[s + MIN_P]); }
    let settings = workgroupUniformLoad(&sh_settings);
    let temperature = bitcast<f32>(settings.x);
    let top_k = settings.y;
    let top_p = bitcast<f32>(settings.z);
    let least = bitcast<f32>(settings.w);
    var best = -3.4e38;
    var token = NONE;
    for (var i = lane; i < n; i += WG) {
        let l = logits[at + i];
        if (l > best) {
            best = l;
            token = i;
        }
    }
    let top = max_all(best, lane);
    let greedy = best_of(best, token, lane);
    // Everything below runs for greedy sequences too, with its result dropped: control flow stays uniform.
    let inverse = select(1.0, 1.0 / temperature, temperature > 0.0);
    var threshold = 0u;
    let passes_k = select(0u, 32u, temperature > 0.0 && top_k > 0u && top_k < n);
    for (var bit = 0u; bit < passes_k; bit++) {
        let candidate = threshold | (0x80000000u >> bit);
        var count = 0.0;
        for (var i0 = lane; i0 < n; i0 += $(8 * WG)u) {
#for u in 0..8
            if (i0 + $(u * WG)u < n) { count += select(0.0, 1.0, key(logits[at + i0 + $(u * WG)u]) >= candidate); }
#end
        }
        if (sum_all(count, lane) >= f32(top_k)) { threshold = candidate; }
    }
    let passes_p = select(0u, 32u, temperature > 0.0 && top_p < 1.0);
    var mass = 0.0;
    if (passes_p > 0u) {
        for (var i = lane; i < n; i += WG) {
            let l = logits[at + i];
            mass += select(0.0, exp((l - top) * inverse), key(l) >= threshold);
        }
    }
    let wanted = top_p * sum_all(mass, lane);
    var nucleus = 0u; // the largest threshold whose tokens still hold the wanted mass
    for (var bit = 0u; bit < passes_p; bit++) {
        let candidate = nucleus | (0x80000000u >> bit);
        var held = 0.0;
        for (var i0 = lane; i0 < n; i0 += $(8 * WG)u) {
#for u in 0..8
            if (i0 + $(u * WG)u < n) {
                let l = logits[at + i0 + $(u * WG)u];
                held += select(0.0, exp((l - top) * inverse), key(l) >= max(candidate, threshold));
            }
#end
        }
        if (sum_all(held, lane) >= wanted) { nucleus = candidate; }
    }
    threshold = max(threshold, nucleus);
    best = -3.4e38;
    token = greedy;
    let draws = select(0u, n, temperature > 0.0);
    for (var i = lane; i < draws; i += WG) {
        let l = logits[at + i];
        if (key(l) >= threshold && exp((l - top) * inverse) >= least) {
            let bits = threefry(vec4<u32>(i, state[s + STEP], 0u, 0u), vec4<u32>(state[s + SEED], state[s + SEED + 1u], 0u, 0u));
            let value = l * inverse - log(-log(uniform_open(bits.x)));
            if (value > best) {
                best = value;
                token = i;
            }
        }
    }
    let chosen = best_of(best, token, lane);
    if (lane == 0u && state[s + ACTIVE] != 0u) {
        state[s + LENGTH] += state[s + COUNT];
        state[s + COUNT] = 1u;
        state[s + STEP] += 1u;
        output[sequence * params.ring + state[s + PRODUCED] % params.ring] = chosen;
        state[s + PRODUCED] += 1u;
        next[sequence] = chosen;
        for (var i = 0u; i < min(state[s + STOPS], 20u); i++) {
            if (state[s + STOP + i] == chosen) { state[s + ACTIVE] = 0u; }
        }
    }
}
