//! Training: files, data and shapes; gradients and losses against recorded ones; resumption.

mod data;
mod digits;
mod files;
mod frozen;
mod memory;
mod presets;
mod prune;
mod resume;
mod spectral;
mod tiny;
mod translator;
