//! The self-test and what follows from it, and the caches on disk.

use crate::kernels::{Bench, context};
use crate::portability::adapters;
use etalon::kernel::linear::{Fused, linear};
use etalon::kernel::norm::{Norm, Rows, norm};
use etalon::kernel::{Variant, variants};
use etalon::plan::{Builder, OpSpec, Twin};
use etalon::tensor::Format;
use etalon::{Context, ContextOptions, Facts};
use std::collections::BTreeSet;

fn classes(facts: &Facts) -> BTreeSet<String> {
    variants(facts).iter().filter_map(Variant::class).collect()
}

#[test]
fn every_tuned_class_passes_here() {
    let context = context();
    let found = context.block_on(context.self_test()).unwrap();
    assert!(found.refused().is_empty(), "{found:#?}");
    assert_eq!(found.tested.iter().map(|t| t.class.clone()).collect::<BTreeSet<_>>(), classes(context.facts()));
}

#[test]
fn futures_can_move_between_threads() {
    fn is_send<T: Send>(_: &T) {}
    let context = context();
    is_send(&context.self_test());
    is_send(&Context::new(&ContextOptions::default()));
}

#[test]
fn plain_variants_replace_refused_ones_and_are_right() {
    let context = context().without(classes(context().facts()));
    for m in [1, 4, 7, 20] {
        let mut t = Bench::new(context.facts(), m as u64);
        let (x, y) = (t.random("x", m, 70), t.poisoned("y", m, 41));
        let (w, _) = t.weights(Format::F16, 41, 70);
        linear(&mut t.builder, "plain", &x, &w, &y, &Fused::default()).unwrap();
        let (gain, z) = (t.floats("gain", &[1.5; 41]), t.poisoned("z", m, 41));
        norm(&mut t.builder, "plain", &y, &z, &Norm { gain: (gain, 0), bias: None, rms: true, eps: 1e-5 }, Rows::All).unwrap();
        let plan = t.verify(&z);
        assert_eq!(plan.len(), 41 * m);
    }
    assert!(variants(context.facts()).iter().all(|v| v.subgroup.is_none()));
}

#[test]
fn a_plan_refuses_a_variant_for_another_subgroup_size() {
    let all = adapters();
    let tuned = variants(&all[0]).into_iter().find(|v| v.subgroup == Some(8)).unwrap();
    for facts in all.iter().filter(|f| f.subgroup() != Some(8)) {
        let mut b = Builder::new("test", facts);
        let bindings = (0..tuned.access.len()).map(|i| {
            let slot = b.external(format!("slot {i}"), 64);
            b.whole(slot).unwrap()
        });
        let bindings = bindings.collect();
        let twin = Twin::new(|_| Vec::new());
        let spec =
            OpSpec { label: "x".into(), variant: tuned.clone(), params: Vec::new(), bindings, grid: [1; 3], bytes: 0, flops: 0, twin };
        let e = b.push(spec).unwrap_err().to_string();
        assert!(e.contains("needs subgroups of exactly 8"), "{e}");
    }
}

#[test]
fn results_and_pipelines_are_kept_in_a_folder() {
    let folder = std::env::temp_dir().join(format!("etalon-test-{}", std::process::id()));
    let options = ContextOptions { self_test: true, cache: Some(folder.clone()), ..Default::default() };
    let open = || pollster::block_on(Context::new(&options)).unwrap();
    let first = open();
    assert!(first.facts().refused.is_empty());
    assert!(first.pipelines() > 0 || classes(first.facts()).is_empty());
    first.save_pipelines().unwrap();
    drop(first);
    let second = open();
    assert_eq!(second.pipelines(), 0, "the result of the first self-test was not found");
    let found = second.block_on(second.self_test()).unwrap();
    assert!(found.refused().is_empty(), "with the driver's cache: {found:#?}");
    std::fs::remove_dir_all(&folder).unwrap();
}
