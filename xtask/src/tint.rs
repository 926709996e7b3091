//! `tint`: to come.

use anyhow::Result;

pub(crate) fn tint() -> Result<()> {
    anyhow::bail!("`cargo xtask tint` is not there yet")
}
