//! Whole runs on a small tree.

use super::{link_split, node_split, ring, tree};
use crate::kernels::context;
use etalon::graphs::{Division, Graph, Outcome, Preset, Request, run, sst};
use etalon::train::job::Control;
use etalon::train::{Geometry, Method};

fn request(method: Method, geometry: Geometry, epochs: usize) -> Request {
    let preset = Preset { rate: 0.02, dropout: 0.1, dropout_low: 0.1, weight_decay: 1e-3, normalise: false, ..Preset::default() };
    Request { method, preset, geometry, width: 8, epochs, patience: epochs, evaluate_every: 5, seed: 1 }
}

fn outcome(g: &Graph, division: Division<'_>, r: &Request) -> Outcome {
    let c = context();
    c.block_on(run(&c, g, division, "test", r, &mut |_, _, _| Control::Continue)).unwrap().unwrap()
}

#[test]
fn classes_and_links_are_learnt() {
    let (g, h) = (tree(90, 2), ring(90));
    let (nodes, links) = (node_split(&g), link_split(&h));
    for method in [Method::Full, sst(1), Method::Lora { rank: 2, scale: 1.0 }] {
        let o = outcome(&g, Division::Nodes(&nodes), &request(method, Geometry::Lorentz, 150));
        // A guess is right a third of the time.
        assert!(o.test > 0.7 && o.diverged.is_none(), "{o:?}");
        let o = outcome(&h, Division::Links(&links), &request(method, Geometry::Lorentz, 150));
        assert!(o.test > 0.8 && o.roc_auc.is_some_and(|a| a > 0.8), "{o:?}");
    }
    let o = outcome(&g, Division::Nodes(&nodes), &request(Method::Full, Geometry::Euclidean, 150));
    assert!(o.test > 0.8, "{o:?}");
}

/// The numbers of a run follow from its request: seed, and nothing else.
#[test]
fn equal_requests_give_equal_outcomes() {
    let g = tree(40, 3);
    let links = link_split(&g);
    let of = |seed: u64| {
        let o = outcome(&g, Division::Links(&links), &Request { seed, ..request(sst(1), Geometry::Lorentz, 60) });
        (o.loss.to_bits(), o.test.to_bits(), o.best_epoch)
    };
    assert_eq!(of(1), of(1));
    assert_ne!(of(1).0, of(2).0);
}

#[test]
fn runs_end_when_patience_does() {
    let g = tree(40, 3);
    let nodes = node_split(&g);
    let r = Request { patience: 20, evaluate_every: 3, ..request(Method::Full, Geometry::Lorentz, 400) };
    let o = outcome(&g, Division::Nodes(&nodes), &r);
    assert!(o.epochs < 400 && o.epochs >= o.best_epoch + 20 && o.epochs < o.best_epoch + 23, "{o:?}");
}

#[test]
fn bad_requests_are_refused() {
    let c = context();
    let g = tree(30, 3);
    let (nodes, links) = (node_split(&g), link_split(&g));
    let refused =
        |division: Division<'_>, r: &Request| c.block_on(run(&c, &g, division, "test", r, &mut |_, _, _| Control::Continue)).unwrap_err();
    let good = request(Method::Full, Geometry::Lorentz, 5);
    refused(Division::Nodes(&nodes), &Request { width: 1, ..good.clone() });
    refused(Division::Nodes(&nodes), &Request { epochs: 0, ..good.clone() });
    refused(Division::Nodes(&nodes), &Request { evaluate_every: 0, ..good.clone() });
    refused(Division::Nodes(&nodes), &Request { method: sst(0), ..good.clone() });
    let e = refused(Division::Links(&links), &Request { geometry: Geometry::Euclidean, ..good.clone() });
    assert!(e.to_string().contains("Lorentz"), "{e}");
}

#[test]
fn a_run_that_is_stopped_gives_nothing() {
    let (c, g) = (context(), tree(30, 3));
    let nodes = node_split(&g);
    let r = request(Method::Full, Geometry::Lorentz, 400);
    let stopped = c.block_on(run(&c, &g, Division::Nodes(&nodes), "test", &r, &mut |_, _, _| Control::Stop)).unwrap();
    assert!(stopped.is_none());
    assert_ne!(g.fingerprint(), tree(30, 4).fingerprint());
    assert_eq!(g.fingerprint(), tree(30, 3).fingerprint());
}
