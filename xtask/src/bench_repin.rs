//! `cargo xtask bench repin`: what it takes to pin many containers anew, by cgroup and by runtime.

use crate::{
    setup::{self, Stage},
    shell::{cargo, root, run, step},
};
use anyhow::{Result, bail};
use std::{os::unix::process::CommandExt as _, process::Command};

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
    let program = root().join("target/release/bench-repin");
    let mut command = if setup::is_root() {
        Command::new(program)
    } else {
        step("a container runtime is started, which needs root");
        let mut sudo = Command::new("sudo");
        sudo.arg(program);
        sudo
    };
    // Becoming it, rather than waiting for it: ^C then goes to the one that cleans up.
    let error = command
        .arg(arguments.containers.to_string())
        .arg(arguments.sample.to_string())
        .exec();
    bail!("cannot start the measurement: {error}")
}
