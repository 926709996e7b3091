//! The integration tests, one binary so that it can travel to machines without a toolchain.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(unreachable_pub, missing_debug_implementations, reason = "helpers of one binary")]
#![allow(clippy::type_complexity, reason = "tables of cases")]

mod compress;
mod embed;
mod format;
mod graphs;
mod kernels;
mod linalg;
mod models;
mod plan;
mod portability;
mod quant;
mod self_test;
mod train;
mod translation;
