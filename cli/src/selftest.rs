//! `selftest`: the tuned variants that this adapter may get, each against its CPU twin.

use crate::common::{Global, open_untested, print, print_json};
use anyhow::{Result, bail};
use serde_json::{Value, json};

pub(crate) fn run(g: &Global) -> Result<()> {
    let context = open_untested(g)?;
    let found = context.block_on(context.self_test())?;
    let (adapter, refused) = (context.facts().summary(), found.refused());
    if g.json {
        let tested: Vec<Value> = found
            .tested
            .iter()
            .map(|t| json!({ "class": t.class, "variant": t.variant, "of_allowed": t.outcome.as_ref().ok(), "failure": t.outcome.as_ref().err() }))
            .collect();
        print_json(&json!({ "adapter": adapter, "tested": tested, "refused": refused }))?;
    } else {
        for t in &found.tested {
            let outcome = match &t.outcome {
                Ok(of_allowed) => format!("ok, worst element {:.1} % of what is allowed", 100.0 * of_allowed),
                Err(why) => format!("FAILED: {why}"),
            };
            print(&format!("{:20} {outcome}  {}\n", t.class, t.variant))?;
        }
        match found.tested.len() {
            0 => print(&format!("{adapter}: only plain variants are chosen here, which need no self-test\n"))?,
            n => print(&format!("{adapter}: {n} tuned variants tried, {} classes refused\n", refused.len()))?,
        }
    }
    if refused.is_empty() {
        return Ok(());
    }
    bail!(
        "{} failed on {adapter}: plain variants take their place; a newer driver may help",
        refused.into_iter().collect::<Vec<_>>().join(", ")
    )
}
