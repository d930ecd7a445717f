//! `cargo xtask bench relay`: what the relay costs, measured in front of a real containerd.

use crate::{
    bench_create, bench_feedback, bench_repin,
    setup::{self, Stage, become_root},
    shell::{cargo, run, step},
};
use anyhow::Result;

/// What to measure.
#[derive(Clone, Debug, clap::Subcommand)]
pub(crate) enum Bench {
    /// Latency, calls a second and memory: direct, through a byte copier, through the relay.
    Relay(Arguments),
    /// What a policy adds to the creation of a container.
    Create(bench_create::Arguments),
    /// Migrations between sockets, waiting and moves under each policy, with feedback off, shadowed and on.
    Feedback(bench_feedback::Arguments),
    /// Pinning 500 containers anew: by their cgroups as the relay does, and by asking the runtime for each.
    Repin(bench_repin::Arguments),
    /// Nanoseconds a switch, throughput lost, and the time of a sweep: our program beside runqlat and cpudist.
    Telemetry(crate::bench_telemetry::Arguments),
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
    let arguments = match bench {
        Bench::Relay(arguments) => arguments,
        Bench::Create(arguments) => return bench_create::run_task(arguments),
        Bench::Feedback(arguments) => return bench_feedback::run_task(arguments),
        Bench::Repin(arguments) => return bench_repin::run_task(arguments),
        Bench::Telemetry(arguments) => return crate::bench_telemetry::run_task(arguments),
    };
    setup::ensure(Stage::Run, arguments.yes)?;
    step("building cri-resmgr for release (some minutes the first time)");
    run(cargo()
        .args(["build", "--release", "-p", "cri-resmgr", "--bin"])
        .arg("cri-resmgr"))?;
    run(cargo()
        .args(["build", "--release", "-p", "resmgr-tests", "--bin"])
        .arg("bench-relay"))?;
    let mut words = vec![arguments.calls.to_string()];
    if arguments.million {
        words.push("million".to_owned());
    }
    become_root("bench-relay", "a container runtime is started", &words)
}
