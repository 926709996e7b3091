//! Linear algebra that takes more than one run of a plan: the host looks at a few words in between.

mod run;
mod svd;

pub use svd::{Factors, LayerReport, Options, Place, Report, Scratch, Svd};
