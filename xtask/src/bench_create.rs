//! `cargo xtask bench create`: what a policy adds to the creation of a container.

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
    /// Containers that are created each way.
    #[arg(long, default_value_t = 200)]
    creations: u32,
}

/// Sets up, builds for release, and becomes the measurement.
///
/// # Errors
/// When something is missing or does not build.
pub(crate) fn run_task(arguments: &Arguments) -> Result<()> {
    setup::ensure(Stage::Run, arguments.yes)?;
    step("building for release (some minutes the first time)");
    run(cargo()
        .args([
            "build",
            "--release",
            "-p",
            "cri-resmgr",
            "-p",
            "resmgr-tests",
        ])
        .args(["--bin", "cri-resmgr", "--bin", "bench-create"]))?;
    let words = [arguments.creations.to_string()];
    become_root("bench-create", "a container runtime is started", &words)
}
