//! Kullback-Leibler divergences between rows of logits: what changed weights did to a model's predictions.

use super::{Access, Variant, row_workgroup};
use crate::gpu::Facts;
use crate::plan::{Builder, OpSpec};
use crate::reference;
use crate::tensor::Tensor;
use crate::{Error, Result};

const ACCESS: [Access; 3] = [Access::Read, Access::Read, Access::Write];

fn variant(facts: &Facts) -> Variant {
    let (wg, sg, subgroup) = row_workgroup(facts, "kl", 256);
    let source = include_str!("../../shaders/kl.wgsl");
    Variant { kernel: "kl", source, defines: vec![("WG", wg), ("SG", sg)], access: &ACCESS, subgroup }
}

pub(crate) fn variants(facts: &Facts) -> Vec<Variant> {
    vec![variant(facts)]
}

/// Appends `y[r] = sum_i P[r, i] log(P[r, i] / Q[r, i])` in nats, P and Q being the softmax of rows of `p` and `q`; y is `(1, rows)`.
///
/// It is never below 0, and keeps its digits where the two are nearly alike: with `d = q - p` and its mean `m` under P it is
/// `log(1 + sum_i P[i] (exp(d[i] - m) - 1 - (d[i] - m)))`, a sum of terms that are not negative. Where a
/// logit is not a number, neither is y.
///
/// # Errors
/// [`Error::Shape`] where the operands do not fit each other; [`Error::Limit`].
pub fn kl(b: &mut Builder, label: &str, p: &Tensor, q: &Tensor, y: &Tensor) -> Result<()> {
    if (p.rows, p.cols) != (q.rows, q.cols) || y.cols != p.rows || y.rows != 1 || p.cols == 0 {
        let show = |t: &Tensor| format!("({}, {})", t.rows, t.cols);
        return Err(Error::shape("kl", format!("{label}: {} and {} into {}", show(p), show(q), show(y))));
    }
    let (pw, qw, yw) = (b.view(p)?, b.view(q)?, b.view(y)?);
    let elements = (p.rows * p.cols) as u64;
    b.push(OpSpec {
        label: label.into(),
        variant: variant(b.facts()),
        params: vec![p.cols as u32, pw.offset, p.stride as u32, yw.offset, qw.offset, q.stride as u32, 0, 0],
        bindings: vec![pw, qw, yw],
        grid: [p.rows as u32, 1, 1],
        bytes: 8 * elements,
        flops: 16 * elements,
        twin: reference::kl::twin(p.rows),
    })
}
