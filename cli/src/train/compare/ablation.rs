//! SST short of one part at a time.

use super::Way;
use crate::train::options::{MethodArgs, MethodName};
use etalon::autograd::Gradient;
use etalon::kernel::draw::Law;
use etalon::train::{Basis, Method, Sst};

/// Rates that plain gradient descent is tried with: it wants larger ones than Adam.
pub(super) const SGD_RATES: [f64; 3] = [0.1, 0.3, 1.0];

/// The method as it was asked for, and without each of its parts.
pub(super) fn ways(args: &MethodArgs, rest: Option<f64>) -> Vec<Way> {
    let Method::Sst(base) = args.method(MethodName::Sst) else { return Vec::new() };
    let without = |name: &str, s: Sst| Way::new(format!("sst {name}"), Method::Sst(s), rest);
    let law = |name: &str, law| without(name, Sst { law, ..base });
    let sgd = |name: &str, s: Sst| Way { sgd: true, rest: None, ..without(name, s) };
    let default = Sst { gradient: Gradient::Default, ..base };
    vec![
        Way::new("sst", Method::Sst(base), rest),
        without("sampled sigma only", Sst { sampled_sigma: true, ..base }),
        without("random basis", Sst { basis: Basis::Random, ..base }),
        without("zero values", Sst { basis: Basis::Zero, ..base }),
        without("no re-SVD", Sst { re_svd: false, ..base }),
        without("half T3", Sst { steps: (base.steps / 2).max(1), ..base }),
        without("double T3", Sst { steps: 2 * base.steps, ..base }),
        law("uniform law", Law::Uniform),
        law("sigma law", Law::Sigma),
        law("top law", Law::Top),
        law("sequential law", Law::Sequential),
        without("default gradient", default),
        sgd("gradient descent", base),
        sgd("gradient descent default gradient", default),
    ]
}
