//! Training: data, model shapes and random numbers of the host.

pub mod data;
pub mod presets;
pub mod random;
