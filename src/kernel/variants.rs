//! Which permutations there are: for the portability test, the self-test, browsers' compilers and pipeline caches.

use super::{
    Variant, activate, adam, add, attention, attention_backward, batch, columns, cross_entropy, dots, draw, dropout, edges, embedding,
    fill, freeze, gate, grad_norm, hinge, jacobi, kl, linear, lorentz, lorentz_adam, matmul, negatives, nll, norm, norm_backward, polar,
    progress, roof, rope, rows, sample, scatter, select, spmm, svd, thaw, turn,
};
use crate::gpu::Facts;
use crate::quant::{QuantFormat, Scales};
use crate::tensor::Format;
use std::collections::HashSet;

/// Permutations that plans on such an adapter may request: every value of every constant, and every pair of values of two
/// constants that can meet, in at least one of them.
///
/// All combinations would be millions, most of which differ in parts that do not see each other. Constants that may be any
/// number (`D`: head dimensions, `GROUP`: weights a scale, `ZERO`: zero points) stand for the rest with a few of their values.
/// Plain variants that would replace a refused one are listed too.
pub fn variants(facts: &Facts) -> Vec<Variant> {
    let families: &[fn(&Facts) -> Vec<Variant>] = &[
        activate::variants,
        adam::variants,
        add::variants,
        attention::variants,
        attention_backward::variants,
        batch::variants,
        columns::variants,
        cross_entropy::variants,
        dots::variants,
        draw::variants,
        dropout::variants,
        edges::variants,
        embedding::variants,
        fill::variants,
        freeze::variants,
        gate::variants,
        grad_norm::variants,
        hinge::variants,
        jacobi::variants,
        kl::variants,
        linear::variants,
        lorentz::variants,
        lorentz_adam::variants,
        matmul::variants,
        negatives::variants,
        nll::variants,
        norm::variants,
        norm_backward::variants,
        polar::variants,
        progress::variants,
        roof::variants,
        rope::variants,
        rows::variants,
        sample::variants,
        scatter::variants,
        select::variants,
        spmm::variants,
        svd::variants,
        thaw::variants,
        turn::variants,
    ];
    let plain = facts.plain();
    pairwise(families.iter().flat_map(|family| [family(facts), family(&plain)]).flatten())
}

/// Permutations that a browser may get: with subgroups of the sizes that kernels are tuned for, and without.
pub fn browser_variants() -> Vec<Variant> {
    let mut names = HashSet::new();
    let all = [None, Some(32), Some(64)].into_iter().flat_map(|subgroup| variants(&Facts::browser(subgroup)));
    all.filter(|v| names.insert(v.name())).collect()
}

/// Weights that share a scale; any multiple of 16 is possible.
const GROUPS: [u32; 4] = [16, 32, 64, 128];

/// Leaves out what adds no new pair of constants.
fn pairwise(all: impl Iterator<Item = Variant>) -> Vec<Variant> {
    let mut seen = HashSet::new();
    let mut news = |v: &Variant| {
        let mut new = false;
        for (i, a) in v.defines.iter().enumerate() {
            // The pair of a constant with itself counts too: a kernel may have only one.
            for b in &v.defines[i..] {
                new |= seen.insert((v.kernel, v.subgroup, Some((*a, *b))));
            }
        }
        new | seen.insert((v.kernel, v.subgroup, None))
    };
    all.filter(|v| news(v)).collect()
}

/// Every element format that the loaders make, and every width with every kind of scale; groups take turns.
pub(super) fn formats() -> Vec<Format> {
    let mut out = vec![Format::F32, Format::F16, Format::Bf16];
    let mut quant =
        |bits, group, scales, table, per_tensor| out.push(Format::Quant(QuantFormat { bits, group, scales, table, per_tensor }));
    for (i, bits) in [2, 3, 4, 5, 6, 8].into_iter().enumerate() {
        let zero = 1u8 << (bits - 1);
        let kinds = [Scales::F16 { zero }, Scales::F32 { zero }, Scales::F16Min, Scales::F32Min, Scales::F16Zero, Scales::F32Zero];
        for (j, scales) in kinds.into_iter().enumerate() {
            quant(bits, GROUPS[(i + j) % 4], scales, None, false);
        }
        quant(bits, GROUPS[i % 4], kinds[i], None, true);
    }
    for scales in [Scales::F16 { zero: 0 }, Scales::F32 { zero: 0 }] {
        GROUPS.iter().for_each(|group| quant(4, *group, scales, Some([0.0; 16]), false));
        quant(4, 32, scales, Some([0.0; 16]), true);
    }
    let two_level = [(2, 16, Scales::K2), (3, 16, Scales::K3), (4, 32, Scales::K4), (5, 32, Scales::K4), (6, 16, Scales::K6)];
    for (bits, group, scales) in two_level {
        quant(bits, group, scales, None, false);
    }
    out
}
