//! Choosing widths.

mod allocate;
mod round;
