//! `cargo xtask demo`: from a bare machine to pods on their own CPUs, to look at.

use crate::{
    build_ebpf,
    setup::{self, Stage},
    shell::{cargo, paint, root, run, step},
};
use anyhow::{Result, bail};
use std::{os::unix::process::CommandExt as _, process::Command};

/// How to show it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Install what is missing without asking.
    #[arg(long, short)]
    yes: bool,
    /// The policy to show beside `null`.
    #[arg(long, default_value = "static", value_parser = ["none", "static", "static-plus", "stp"])]
    policy: String,
    /// How long the pods run under each policy, in seconds.
    #[arg(long, default_value_t = 8)]
    seconds: u32,
}

/// Sets up, builds for release, and becomes the demo.
///
/// # Errors
/// When something is missing or does not build.
pub(crate) fn run_task(arguments: &Arguments) -> Result<()> {
    setup::ensure(Stage::Run, arguments.yes)?;
    step("building the BPF program");
    if let Err(error) = build_ebpf::run() {
        eprintln!("{}", paint("33", &format!("no telemetry: {error:#}")));
    }
    step("building cri-resmgr for release (some minutes the first time)");
    run(cargo().args([
        "build",
        "--release",
        "-p",
        "cri-resmgr",
        "-p",
        "resmgr-tests",
        "--bins",
    ]))?;
    let program = root().join("target/release/demo");
    let mut command = if setup::is_root() {
        Command::new(program)
    } else {
        step("the demo starts a container runtime, which needs root");
        let mut sudo = Command::new("sudo");
        sudo.arg(program);
        sudo
    };
    // Becoming it, rather than waiting for it: ^C then goes to the one that cleans up.
    let error = command
        .arg(&arguments.policy)
        .arg(arguments.seconds.to_string())
        .exec();
    bail!("cannot start the demo: {error}")
}
