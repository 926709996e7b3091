//! Kernel families: each checks shapes, chooses a variant and appends dispatches to a [`crate::plan::Builder`].
//!
//! A family's five files share one stem: `shaders/X.wgsl`, `src/kernel/X.rs`, `src/reference/X.rs`, `tests/kernels/X.rs`
//! and `benches/X.rs`.

pub mod activate;
pub mod adam;
pub mod add;
pub mod attention;
pub mod attention_backward;
pub mod batch;
pub mod columns;
pub mod cross_entropy;
pub mod dots;
pub mod draw;
pub mod dropout;
pub mod edges;
mod elementwise;
pub mod embedding;
pub mod fill;
pub mod freeze;
pub mod gate;
pub mod grad_norm;
pub mod hinge;
pub mod jacobi;
pub mod kl;
pub mod linear;
pub mod lorentz;
pub mod lorentz_adam;
pub mod matmul;
pub mod negatives;
pub mod nll;
pub mod norm;
pub mod norm_backward;
pub mod polar;
pub mod progress;
pub mod roof;
pub mod rope;
pub mod rows;
pub mod sample;
pub mod scatter;
pub mod select;
mod self_test;
mod shader;
pub mod spmm;
pub mod state;
pub mod svd;
pub mod thaw;
pub mod turn;
mod variants;

#[cfg(not(target_arch = "wasm32"))]
pub(crate) use self_test::fingerprint;
pub use self_test::{SelfTest, Tested};
pub use shader::Target;
pub use variants::{browser_variants, variants};

use crate::Result;

/// How a dispatch uses a binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// Only read.
    Read,
    /// Written, or read and written.
    Write,
}

/// One permutation of a shader: what a pipeline is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    /// The stem of the kernel's files.
    pub kernel: &'static str,
    /// Its WGSL text, before expansion.
    pub source: &'static str,
    /// The constants of this permutation.
    pub defines: Vec<(&'static str, i64)>,
    /// Bindings 1, 2, …; binding 0 is the uniform parameter block.
    pub access: &'static [Access],
    /// `Some(n)`: right only where every subgroup has exactly `n` invocations.
    pub subgroup: Option<u32>,
}

impl Variant {
    /// Kernel and constants, unique among all variants.
    pub fn name(&self) -> String {
        let mut s = String::from(self.kernel);
        for (i, (n, v)) in self.defines.iter().enumerate() {
            s += &format!("{}{n}={v}", if i == 0 { "[" } else { "," });
        }
        if !self.defines.is_empty() {
            s.push(']');
        }
        s
    }

    /// The class of a tuned variant, which stands or falls as a whole in the self-test: kernel and subgroup size. `None` for a
    /// plain one, which is right anywhere.
    pub fn class(&self) -> Option<String> {
        self.subgroup.map(|lanes| class(self.kernel, lanes))
    }

    /// The expanded WGSL text.
    ///
    /// # Errors
    /// A fault of the shader's own text, which the portability test would find.
    pub fn wgsl(&self, target: Target) -> Result<String> {
        let body = shader::expand(self.source, &self.defines)?;
        Ok(match target {
            Target::Browser if self.subgroup.is_some() => format!("enable subgroups;\n{body}"),
            _ => body,
        })
    }

    /// The value of a constant of this permutation; 0 where it has none of that name.
    pub fn define(&self, name: &str) -> i64 {
        self.defines.iter().find(|(n, _)| *n == name).map_or(0, |(_, v)| *v)
    }
}

pub(crate) fn class(kernel: &str, lanes: u32) -> String {
    format!("{kernel}/{lanes}")
}

/// Fragments that shaders import.
fn fragments() -> &'static [(&'static str, &'static str)] {
    &[
        ("common/activation", include_str!("../../shaders/common/activation.wgsl")),
        ("common/attention", include_str!("../../shaders/common/attention.wgsl")),
        ("common/attention_backward", include_str!("../../shaders/common/attention_backward.wgsl")),
        ("common/decode", include_str!("../../shaders/common/decode.wgsl")),
        ("common/product", include_str!("../../shaders/common/product.wgsl")),
        ("common/linear", include_str!("../../shaders/common/linear.wgsl")),
        ("common/lorentz", include_str!("../../shaders/common/lorentz.wgsl")),
        ("common/pairs", include_str!("../../shaders/common/pairs.wgsl")),
        ("common/progress", include_str!("../../shaders/common/progress.wgsl")),
        ("common/reduce", include_str!("../../shaders/common/reduce.wgsl")),
        ("common/slope", include_str!("../../shaders/common/slope.wgsl")),
        ("common/state", include_str!("../../shaders/common/state.wgsl")),
        ("common/svd", include_str!("../../shaders/common/svd.wgsl")),
        ("common/threefry", include_str!("../../shaders/common/threefry.wgsl")),
    ]
}

/// Size of the workgroup of a row-wise kernel: one subgroup where the driver runs it as one SIMD register, so that reductions
/// need no barrier; else `wanted`, reduced in workgroup memory.
fn row_workgroup(facts: &crate::Facts, kernel: &str, wanted: i64) -> (i64, i64, Option<u32>) {
    if facts.wide_lanes() && facts.trusts(kernel, 8) {
        return (8, 8, Some(8));
    }
    (wanted, 0, None)
}
