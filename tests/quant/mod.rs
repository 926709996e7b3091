//! Choosing widths.

mod allocate;
mod round;
mod similarity;
