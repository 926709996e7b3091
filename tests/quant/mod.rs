//! Choosing widths.

mod allocate;
mod prune;
mod round;
mod similarity;
mod spectral;
