//! `cargo xtask bench telemetry`: what the BPF program costs, beside the tools one would use instead.

use crate::{
    build_ebpf,
    setup::{self, Stage, become_root},
    shell::{cargo, run, step},
};
use anyhow::Result;

/// How much of it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Install what is missing without asking.
    #[arg(long, short)]
    yes: bool,
    /// Turns of every program under every load; the table has their medians.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

/// Sets up, builds for release, and becomes the measurement.
///
/// # Errors
/// When something is missing or does not build.
pub(crate) fn run_task(arguments: &Arguments) -> Result<()> {
    setup::ensure(Stage::Test, arguments.yes)?;
    build_ebpf::run()?;
    build_ebpf::run_switchable()?;
    step("building the measurement for release (some minutes the first time)");
    run(cargo()
        .args(["build", "--release", "-p", "resmgr-tests"])
        .args(["--features", "telemetry", "--bin", "bench-telemetry"]))?;
    let words = [arguments.rounds.to_string()];
    become_root(
        "bench-telemetry",
        "programs are attached to the kernel",
        &words,
    )
}
