// o[r, h] = softmax(scale q[r, h] . K) V over the keys that row r may see, in one pass (online softmax), grouped heads.
//
// A workgroup takes QUERIES queries that share keys: HEADS heads of one key head, QUERIES / HEADS rows. Teams of 8 invocations take
// KEYS keys at a time, an invocation every 8th vec4 of a key, so that a team reads 128 bytes in a row and the teams read keys that
// lie side by side. Values are loaded with the keys, before the barriers, to have as many loads in flight. Each team keeps its own
// maximum, total and sums until the end. SG == 8: one team, which is a subgroup.
#import common/attention
#let PER = (D + 31) / 32
#let VECTORS = QUERIES * PER
#let SUMS = KEYS * QUERIES
#let ROUND = SUMS / 4 + (SUMS < 4)
#if VEC
@group(0) @binding(3) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> v: array<vec4<f32>>;
#else
@group(0) @binding(3) var<storage, read> k: array<f32>;
@group(0) @binding(4) var<storage, read> v: array<f32>;
#end

const TEAMS: u32 = $(WG / 8)u;
#if SG == 0
var<workgroup> sh_q: array<vec4<f32>, $(VECTORS * 8)>;
var<workgroup> sh_part: array<f32, $((SUMS + (SUMS < 4) * 4) * WG)>;
var<workgroup> sh_score: array<f32, $(SUMS * (WG / 8))>;
var<workgroup> sh_top: array<f32, $(QUERIES * (WG / 8))>;
var<workgroup> sh_total: array<f32, $(QUERIES * (WG / 8))>;
#end

// Four elements of a query from element e on, scaled; zeros past its end.
fn q4(at: u32, e: u32) -> vec4<f32> {
    var x = vec4<f32>(0.0);
#for c in 0..4
    if (e + $(c)u < $(D)u) { x[$c] = q[at + e + $(c)u] * params.scale; }
#end
    return x;
}

// Four elements of a key (or value) from element e on; past its end any of it, which meets zeros or goes nowhere.
fn k4(at: u32, e: u32) -> vec4<f32> {
#if VEC
    return k[(at + min(e, $(D - 4)u)) >> 2u];
#else
    let last = at + $(D - 1)u;
    return vec4<f32>(k[min(at + e, last)], k[min(at + e + 1u, last)], k[min(at + e + 2u, last)], k[min(at + e + 3u, last)]);
#end
}
fn v4(at: u32, e: u32) -> vec4<f32> {
#if VEC
    return v[(at + min(e, $(D - 4)u)) >> 2u];
#else
    let last = at + $(D - 1)u;
    return vec4<f32>(v[min(at + e, last)], v[min(at + e + 1u, last)], v[min(at + e + 2u, last)], v[min(at + e + 3u, last)]);
#end
}

@compute @workgroup_size($WG)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let sequence = wid.z + params.origin.z + params.first_sequence;
    let head = (wid.y + params.origin.y) * $(HEADS)u + params.first_head;
#if SPLIT
    let block = (wid.x + params.origin.x) / params.splits;
    let split = (wid.x + params.origin.x) % params.splits;
#else
    let block = wid.x + params.origin.x;
    let split = 0u;
#end
    let part = lane % 8u;
    let team = lane / 8u;
    let k_at = keys_at(sequence, head);
    let v_at = values_at(sequence, head);
    // Rows past the end repeat the last one; only their stores are left out.
#for n in 0..QUERIES
    let t_$n = min(block * $(QUERIES / HEADS)u + $(n / HEADS)u, params.sequence_rows - 1u);
    let end_$n = part_of_keys(sequence, t_$n, split).y;
    var top_$n = NONE;
    var total_$n = 0.0;
#for i in 0..PER
    var o_$(n * PER + i) = vec4<f32>(0.0);
#if SG == 8
    let q_$(n)_$i = q4(query_at(sequence, t_$n, head + $(n % HEADS)u), $(32 * i)u + 4u * part);
#else
    if (team == $((n * PER + i) % (WG / 8))u) {
        sh_q[$((n * PER + i) * 8)u + part] = q4(query_at(sequence, t_$n, head + $(n % HEADS)u), $(32 * i)u + 4u * part);
    }
#end
#end
#end
#if SG == 0
    workgroupBarrier();
#end
    let keys = part_of_keys(sequence, t_$(QUERIES - 1), split); // the last row sees the most
    for (var j0 = keys.x; j0 < keys.y; j0 += $(KEYS * WG / 8)u) {
#for t in 0..KEYS
        let j_$t = j0 + $(t * (WG / 8))u + team;
        let in_$t = min(j_$t, keys.y - 1u);
#for i in 0..PER
        let k_$(t)_$i = k4(k_at + in_$t * params.k_row, $(32 * i)u + 4u * part);
#end
#end
#for t in 0..KEYS
#for i in 0..PER
        let v_$(t)_$i = v4(v_at + in_$t * params.v_row, $(32 * i)u + 4u * part);
#end
#end
#for n in 0..QUERIES
#for t in 0..KEYS
        var s_$(t)_$n = 0.0;
#end
#for i in 0..PER
#if SG == 0
        let q_$(n)_$i = sh_q[$((n * PER + i) * 8)u + part];
#end
#for t in 0..KEYS
        s_$(t)_$n += dot(q_$(n)_$i, k_$(t)_$i);
#end
#end
#end
#if SG == 8
#for n in 0..QUERIES
#for t in 0..KEYS
        s_$(t)_$n = subgroupAdd(s_$(t)_$n);
#end
#end
#else
#for n in 0..QUERIES
#for t in 0..KEYS
        sh_part[$((t * QUERIES + n) * WG)u + lane] = s_$(t)_$n;
#end
#end
        workgroupBarrier();
        // Each of a team adds up some of its sums; they begin at different places to meet different banks of the memory.
#for r in 0..((SUMS + 7) / 8)
        if ($(8 * r)u + part < $(SUMS)u) {
            let at = ($(8 * r)u + part) * $(WG)u + 8u * team;
            var sum = sh_part[at + part];
#for e in 1..8
            sum += sh_part[at + ((part + $(e)u) & 7u)];
#end
            sh_score[team * $(SUMS)u + $(8 * r)u + part] = sum;
        }
#end
        workgroupBarrier();
#for n in 0..QUERIES
#for t in 0..KEYS
        s_$(t)_$n = sh_score[team * $(SUMS)u + $(t * QUERIES + n)u];
#end
#end
#end
#for n in 0..QUERIES
        var next_$n = top_$n;
#for t in 0..KEYS
        next_$n = select(next_$n, max(next_$n, s_$(t)_$n), j_$t < end_$n);
#end
        let keep_$n = exp(top_$n - next_$n);
        top_$n = next_$n;
        total_$n *= keep_$n;
#for i in 0..PER
        o_$(n * PER + i) *= keep_$n;
#end
#for t in 0..KEYS
        let p_$(t)_$n = select(0.0, exp(s_$(t)_$n - next_$n), j_$t < end_$n);
        total_$n += p_$(t)_$n;
#for i in 0..PER
        o_$(n * PER + i) += p_$(t)_$n * v_$(t)_$i;
#end
#end
#end
    }
    let rows = params.sequence_rows - block * $(QUERIES / HEADS)u;
#if SG == 8
    // A row without keys (an empty or masked sequence) gets zeros.
#for n in 0..QUERIES
    if ($(n / HEADS)u < rows) {
        let at = result_at(sequence, t_$n, head + $(n % HEADS)u, split);
        let share = select(0.0, 1.0 / total_$n, total_$n > 0.0);
#for i in 0..PER
#for c in 0..4
        if ($(32 * i + c)u + 4u * part < $(D)u) { o[at + $(32 * i + c)u + 4u * part] = o_$(n * PER + i)[$c] * share; }
#end
#end
#if SPLIT
        if (part == 0u) { o[at + $(D)u] = log_total(top_$n, total_$n); }
#end
#if SAVE
        if (part == 0u) { save(sequence, t_$n, head + $(n % HEADS)u, top_$n, total_$n); }
#end
    }
#end
#else
    if (part == 0u) {
#for n in 0..QUERIES
        sh_top[$(n)u * TEAMS + team] = top_$n;
        sh_total[$(n)u * TEAMS + team] = total_$n;
#end
    }
    workgroupBarrier();
#for n in 0..QUERIES
    var top_all_$n = NONE;
    for (var i = 0u; i < TEAMS; i++) { top_all_$n = max(top_all_$n, sh_top[$(n)u * TEAMS + i]); }
    var all_$n = 0.0;
    for (var i = 0u; i < TEAMS; i++) { all_$n += sh_total[$(n)u * TEAMS + i] * exp(sh_top[$(n)u * TEAMS + i] - top_all_$n); }
    // A row without keys (an empty or masked sequence) gets zeros.
    let share_$n = select(0.0, exp(top_$n - top_all_$n) / all_$n, all_$n > 0.0);
#if SPLIT
    if (lane == 0u && $(n / HEADS)u < rows) {
        o[result_at(sequence, t_$n, head + $(n % HEADS)u, split) + $(D)u] = log_total(top_all_$n, all_$n);
    }
#end
#if SAVE
    if (lane == 0u && $(n / HEADS)u < rows) { save(sequence, t_$n, head + $(n % HEADS)u, top_all_$n, all_$n); }
#end
#end
#for r in 0..((VECTORS + ROUND - 1) / ROUND)
#if r > 0
    workgroupBarrier(); // the previous round was read
#end
#for c in 0..ROUND
#if r * ROUND + c < VECTORS
#for e in 0..4
    sh_part[$((4 * c + e) * WG)u + lane] = o_$(r * ROUND + c)[$e] * share_$((r * ROUND + c) / PER);
#end
#end
#end
    workgroupBarrier();
    {
        // An invocation an element: the vec4's number, then the element within all 8 invocations' vec4s.
        let vector = $(r)u * $(ROUND)u + lane / 32u;
        let n = vector / $(PER)u;
        let element = vector % $(PER)u * 32u + lane % 32u;
        let row = n / $(HEADS)u;
        if (lane < $(32 * ROUND)u && n < $(QUERIES)u && row < rows && element < $(D)u) {
            let at = (lane / 32u * 4u + lane % 4u) * $(WG)u + lane % 32u / 4u;
            var sum = 0.0;
            for (var i = 0u; i < TEAMS; i++) { sum += sh_part[at + 8u * i]; }
            o[result_at(sequence, block * $(QUERIES / HEADS)u + row, head + n % $(HEADS)u, split) + element] = sum;
        }
    }
#end
#end
}
