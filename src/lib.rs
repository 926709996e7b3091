//! etalon
