//! Every permutation of every shader through naga: parsed, validated, translated to SPIR-V, MSL and HLSL; and every plan of the
//! kernel tests against the list of permutations.

use etalon::kernel::{Target, Variant, variants};
use etalon::{Facts, Plan, wgpu};
use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ValidationFlags, Validator};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

/// What the crate tells apart: a software driver of 8 lanes and one of 4, GPUs of 32 and 64, a browser without features.
pub fn adapters() -> Vec<Facts> {
    use wgpu::DeviceType::{Cpu, DiscreteGpu, Other};
    let kinds = [(Cpu, Some(8)), (Cpu, Some(4)), (DiscreteGpu, Some(32)), (DiscreteGpu, Some(64)), (Other, None)];
    let facts = kinds.map(|(kind, subgroup)| {
        let mut facts = Facts::browser(subgroup);
        facts.info.device_type = kind;
        if subgroup == Some(32) {
            facts.info.vendor = 0x10de; // NVIDIA, which has variants of its own
        }
        facts
    });
    facts.into()
}

/// Translates to every language; the errors name it.
fn translate(v: &Variant) -> Result<(), String> {
    let source = v.wgsl(Target::Native).map_err(|e| e.to_string())?;
    let module = naga::front::wgsl::parse_str(&source).map_err(|e| e.emit_to_string(&source))?;
    // unpack2x16float counts as a capability; WebGPU requires it.
    let subgroup = if v.subgroup.is_some() { Capabilities::SUBGROUP } else { Capabilities::empty() };
    let capabilities = subgroup | Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    let info = Validator::new(ValidationFlags::all(), capabilities).validate(&module).map_err(|e| e.emit_to_string(&source))?;
    let options = spv::Options { lang_version: (1, 3), ..Default::default() };
    spv::write_vec(&module, &info, &options, None).map_err(|e| format!("SPIR-V: {e}"))?;
    let options = msl::Options { lang_version: (2, 4), ..Default::default() };
    msl::write_string(&module, &info, &options, &msl::PipelineOptions::default()).map_err(|e| format!("MSL: {e}"))?;
    let options = hlsl::Options { shader_model: hlsl::ShaderModel::V6_0, ..Default::default() };
    let mut text = String::new();
    let pipeline = hlsl::PipelineOptions::default();
    let written = hlsl::Writer::new(&mut text, &options, &pipeline).write(&module, &info, None).map_err(|e| format!("HLSL: {e}"))?;
    written.entry_point_names.into_iter().try_for_each(|name| name.map(drop).map_err(|e| format!("HLSL: {e}")))?;
    let memory = module.global_variables.iter().filter(|(_, g)| g.space == naga::AddressSpace::WorkGroup);
    let memory: u32 = memory.map(|(_, g)| module.types[g.ty].inner.size(module.to_ctx())).sum();
    let invocations: u32 = module.entry_points[0].workgroup_size.iter().product();
    if memory > 16 << 10 || invocations > 256 {
        return Err(format!("{memory} bytes of workgroup memory and {invocations} invocations, more than there are everywhere"));
    }
    let bindings = module.global_variables.iter().filter(|(_, g)| g.binding.is_some()).count();
    if bindings != v.access.len() + 1 {
        return Err(format!("{bindings} bindings in the shader, {} and the parameters in the host's list", v.access.len()));
    }
    Ok(())
}

#[test]
fn every_permutation_translates_to_every_language() {
    let all: BTreeMap<String, Variant> = adapters().iter().flat_map(variants).map(|v| (v.name(), v)).collect();
    let all: Vec<(String, Variant)> = all.into_iter().collect();
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some((name, v)) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(e) = translate(v) {
                failures.lock().unwrap().push(format!("{name}: {e}"));
            }
        }
    };
    std::thread::scope(|s| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            s.spawn(work);
        }
    });
    let failures = failures.into_inner().unwrap();
    println!("{} permutations", all.len());
    assert!(failures.is_empty(), "{} of {} permutations:\n{}", failures.len(), all.len(), failures.join("\n"));
    assert!(all.len() > 500, "only {} permutations", all.len());
}

/// Constants of a kernel that may meet, by pairs. Those that may be any number are left out.
fn pairs(v: &Variant) -> Vec<(&'static str, i64, &'static str, i64)> {
    let d: Vec<_> = v.defines.iter().filter(|(name, _)| !matches!(*name, "D" | "GROUP" | "ZERO")).collect();
    d.iter().enumerate().flat_map(|(i, a)| d[i..].iter().map(move |b| (a.0, a.1, b.0, b.1))).collect()
}

type Pairs = HashMap<(&'static str, Option<u32>), HashSet<(&'static str, i64, &'static str, i64)>>;

/// The pairs that `kernel::variants` lists for these facts, made once for each kind of adapter.
fn listed(facts: &Facts) -> Arc<Pairs> {
    static MADE: OnceLock<Mutex<HashMap<String, Arc<Pairs>>>> = OnceLock::new();
    let kind = format!("{:?} {} {:?} {:?}", facts.info.device_type, facts.info.vendor, facts.subgroup(), facts.refused);
    let mut made = MADE.get_or_init(Mutex::default).lock().unwrap();
    let make = || {
        let mut all = Pairs::new();
        for v in variants(facts) {
            all.entry((v.kernel, v.subgroup)).or_default().extend(pairs(&v));
        }
        Arc::new(all)
    };
    made.entry(kind).or_insert_with(make).clone()
}

/// Bytes of a shader's uniform parameters.
fn uniform_bytes(v: &Variant) -> u32 {
    let module = naga::front::wgsl::parse_str(&v.wgsl(Target::Native).unwrap()).unwrap();
    let params = module.global_variables.iter().find(|(_, g)| g.space == naga::AddressSpace::Uniform).unwrap().1;
    module.types[params.ty].inner.size(module.to_ctx())
}

/// Panics where an op of the plan runs a permutation that `kernel::variants` does not list, or pushes parameters of another
/// size than its shader has.
pub fn check(plan: &Plan, facts: &Facts) {
    static BYTES: OnceLock<Mutex<HashMap<String, u32>>> = OnceLock::new();
    let listed = listed(facts);
    for op in plan.ops() {
        let (v, name) = (op.variant(), op.variant().name());
        let known = listed.get(&(v.kernel, v.subgroup)).unwrap_or_else(|| panic!("kernel::variants lists no {name}"));
        if let Some(p) = pairs(v).into_iter().find(|p| !known.contains(p)) {
            panic!("kernel::variants lists no permutation like {name}: {p:?}");
        }
        let bytes = *BYTES.get_or_init(Mutex::default).lock().unwrap().entry(name.clone()).or_insert_with(|| uniform_bytes(v));
        assert_eq!(op.params().len() as u32 * 4, bytes, "bytes of the parameters of {name}");
    }
}

#[test]
fn tuned_variants_are_refused_where_the_subgroup_size_differs() {
    for (facts, lanes) in adapters().iter().zip([Some(8), None, Some(32), Some(64), None]) {
        for v in variants(facts) {
            assert!(v.subgroup.is_none() || v.subgroup == lanes, "{} for subgroups of {lanes:?}", v.name());
        }
    }
}
