use crate::common::Global;
#[derive(clap::Args)]
pub(crate) struct Args {}
pub(crate) fn run(_: &Global, _: &Args) -> anyhow::Result<()> { anyhow::bail!("not yet") }
