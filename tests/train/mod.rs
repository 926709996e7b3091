//! What training needs around the device: files, data and shapes.

mod data;
mod files;
mod presets;
