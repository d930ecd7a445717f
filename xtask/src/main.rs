//! `cargo xtask`: everything that is done to this project from a command line, one file per task.
//!
//! Depends on light crates only: it must build on a machine that has nothing but rustup's cargo,
//! because it is what installs the rest.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool talks on its standard streams"
)]

mod bench_create;
mod bench_feedback;
mod bench_relay;
mod bench_repin;
mod bench_telemetry;
mod build_ebpf;
mod chaos;
mod demo;
mod dist;
mod fuzz;
mod go;
mod setup;
mod shell;
mod simulate;
mod test;
mod tidy;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Tasks of the cri-resmgr project.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Measure what the product costs.
    #[command(subcommand)]
    Bench(bench_relay::Bench),
    /// Build the BPF object that `cri-resmgr` embeds.
    BuildEbpf,
    /// Run the manager on simulated nodes on which all fails that can.
    Chaos(chaos::Arguments),
    /// Show pods under `null` and under a policy, in front of a private containerd.
    Demo(demo::Arguments),
    /// Build what is handed out: tarballs, Debian package, images, checksums.
    Dist(dist::Arguments),
    /// Give every reader of foreign input what libFuzzer makes up.
    Fuzz(fuzz::Arguments),
    /// Install what building, running and testing need, asking first.
    Setup(setup::Arguments),
    /// Try policies on a model of the kernel's scheduler.
    Simulate(Box<simulate::Arguments>),
    /// Run every test and check there is; list all that failed at the end.
    Test(test::Arguments),
    /// Check the rules of docs/architecture.md that the compiler cannot.
    Tidy {
        /// Writes the table of modules into docs/architecture.md first.
        #[arg(long)]
        write: bool,
    },
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Bench(bench) => bench_relay::run_task(&bench),
        Task::BuildEbpf => build_ebpf::run(),
        Task::Chaos(arguments) => chaos::run_task(&arguments),
        Task::Demo(arguments) => demo::run_task(&arguments),
        Task::Dist(arguments) => dist::run_task(&arguments),
        Task::Fuzz(arguments) => fuzz::run(&arguments),
        Task::Setup(arguments) => setup::run_task(&arguments),
        Task::Simulate(arguments) => simulate::run(&arguments),
        Task::Test(arguments) => test::run(&arguments),
        Task::Tidy { write } => tidy::run(write),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
