// Reductions over a workgroup of WG invocations; every invocation gets the result. SG == WG: the workgroup is one subgroup.
#if SG == WG
fn sum_all(v: f32, lane: u32) -> f32 {
    return subgroupAdd(v);
}
fn max_all(v: f32, lane: u32) -> f32 {
    return subgroupMax(v);
}
#else
var<workgroup> sh_reduce: array<f32, $WG>;
fn sum_all(v: f32, lane: u32) -> f32 {
    workgroupBarrier(); // a reduction before this one may still be read
    sh_reduce[lane] = v;
    for (var half = $(WG / 2)u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (lane < half) { sh_reduce[lane] += sh_reduce[lane + half]; }
    }
    return workgroupUniformLoad(&sh_reduce[0]);
}
fn max_all(v: f32, lane: u32) -> f32 {
    workgroupBarrier();
    sh_reduce[lane] = v;
    for (var half = $(WG / 2)u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (lane < half) { sh_reduce[lane] = max(sh_reduce[lane], sh_reduce[lane + half]); }
    }
    return workgroupUniformLoad(&sh_reduce[0]);
}
#end
