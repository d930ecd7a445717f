//! `cargo xtask bench relay`: what the relay costs, measured in front of a real containerd.

use crate::{
    setup::{self, Stage},
    shell::{cargo, root, run, step},
};
use anyhow::{Result, bail};
use std::{os::unix::process::CommandExt as _, process::Command};

/// What to measure.
#[derive(Clone, Debug, clap::Subcommand)]
pub(crate) enum Bench {
    /// Latency, calls a second and memory: direct, through a byte copier, through the relay.
    Relay(Arguments),
}

/// How much of it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Install what is missing without asking.
    #[arg(long, short)]
    yes: bool,
    /// Calls in each cell of the table.
    #[arg(long, default_value_t = 20_000)]
    calls: u32,
    /// Afterwards send a million calls through one relay and print its memory as it goes.
    #[arg(long)]
    million: bool,
}

/// Sets up, builds for release, and becomes the measurement.
///
/// # Errors
/// When something is missing or does not build.
pub(crate) fn run_task(bench: &Bench) -> Result<()> {
    let Bench::Relay(arguments) = bench;
    setup::ensure(Stage::Run, arguments.yes)?;
    step("building cri-resmgr for release (some minutes the first time)");
    run(cargo()
        .args(["build", "--release", "-p", "cri-resmgr", "--bin"])
        .arg("cri-resmgr"))?;
    run(cargo()
        .args(["build", "--release", "-p", "resmgr-tests", "--bin"])
        .arg("bench-relay"))?;
    let program = root().join("target/release/bench-relay");
    let mut command = if setup::is_root() {
        Command::new(program)
    } else {
        step("a container runtime is started, which needs root");
        let mut sudo = Command::new("sudo");
        sudo.arg(program);
        sudo
    };
    command.arg(arguments.calls.to_string());
    if arguments.million {
        command.arg("million");
    }
    // Becoming it, rather than waiting for it: ^C then goes to the one that cleans up.
    let error = command.exec();
    bail!("cannot start the measurement: {error}")
}
