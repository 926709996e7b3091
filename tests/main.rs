//! The integration tests, one binary so that it can travel to machines without a toolchain.

mod embed;
mod format;
mod kernels;
mod models;
mod plan;
mod portability;
mod self_test;
