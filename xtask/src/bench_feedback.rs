//! `cargo xtask bench feedback`: what the feedback of measurements into placement is worth, in a guest of
//! two sockets with real containers.

use crate::{
    build_ebpf,
    setup::{self, Stage},
    shell::{cargo, root, run, step},
};
use anyhow::{Result, bail};
use std::{os::unix::process::CommandExt as _, process::Command};

/// How much of it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Install what is missing without asking.
    #[arg(long, short)]
    yes: bool,
    /// How long each way is measured once it has settled, seconds.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Only some of the ways, with commas: parts of `null/off`, `static-plus/shadow`, `static-pools/on`.
    #[arg(long, default_value = "")]
    only: String,
}

/// Sets up, builds, and becomes the measurement.
///
/// # Errors
/// When something is missing or does not build.
pub(crate) fn run_task(arguments: &Arguments) -> Result<()> {
    setup::ensure(Stage::Test, arguments.yes)?;
    step("building the BPF program");
    build_ebpf::run()?;
    step("building cri-resmgr and the workload");
    run(cargo().args(["build", "-p", "cri-resmgr", "-p", "resmgr-tests", "--bins"]))?;
    if !setup::is_root() {
        bail!("a container runtime is started in a virtual machine, which needs root");
    }
    // Becoming it, rather than waiting for it: ^C then goes to the one that cleans up.
    let error = Command::new(root().join("target/debug/bench-feedback"))
        .arg(arguments.seconds.to_string())
        .arg(&arguments.only)
        .exec();
    bail!("cannot start the measurement: {error}")
}
