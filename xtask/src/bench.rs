//! `bench`: the criterion benchmarks, then the kernel table of the command line.

use crate::adapter;
use crate::command::{cargo, run};
use anyhow::Result;

pub(crate) fn bench(args: &[String]) -> Result<()> {
    adapter::ensure()?;
    run(cargo(&["bench", "--bench", "main", "--"]).args(args))?;
    run(&mut cargo(&["run", "--quiet", "--release", "--package", "etalon-cli", "--", "bench"]))
}
