//! Times the stages of a command and prints them at the end, also when one failed.

use anyhow::Result;
use std::time::{Duration, Instant};

#[derive(Debug, Default)]
pub(crate) struct Stages(Vec<(String, Duration, bool)>);

impl Stages {
    pub(crate) fn run<T>(&mut self, name: &str, stage: impl FnOnce() -> Result<T>) -> Result<T> {
        eprintln!("== {name}");
        let start = Instant::now();
        let result = stage();
        self.0.push((name.into(), start.elapsed(), result.is_ok()));
        result
    }
}

impl Drop for Stages {
    fn drop(&mut self) {
        let total: Duration = self.0.iter().map(|(_, time, _)| *time).sum();
        eprintln!("\n{:>8}  stage", "seconds");
        for (name, time, passed) in &self.0 {
            eprintln!("{:8.1}  {name}{}", time.as_secs_f64(), if *passed { "" } else { ": FAILED" });
        }
        eprintln!("{:8.1}  total", total.as_secs_f64());
    }
}
