//! `cargo xtask bench repin`: what it takes to pin many containers anew, by cgroup and by runtime.

use crate::{
    setup::{self, Stage, become_root},
    shell::{cargo, run, step},
};
use anyhow::Result;

/// How many.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Install what is missing without asking.
    #[arg(long, short)]
    yes: bool,
    /// Containers that are pinned anew.
    #[arg(long, default_value_t = 500)]
    containers: u32,
    /// How many of them the runtime is asked for in each round.
    #[arg(long, default_value_t = 50)]
    sample: u32,
}

/// Sets up, builds for release, and becomes the measurement.
///
/// # Errors
/// When something is missing or does not build.
pub(crate) fn run_task(arguments: &Arguments) -> Result<()> {
    setup::ensure(Stage::Run, arguments.yes)?;
    step("building for release (some minutes the first time)");
    run(cargo()
        .args(["build", "--release", "-p", "resmgr-tests", "--bin"])
        .arg("bench-repin"))?;
    let words = [
        arguments.containers.to_string(),
        arguments.sample.to_string(),
    ];
    become_root("bench-repin", "a container runtime is started", &words)
}
