//! Choosing widths.

mod allocate;
