//! `cargo xtask chaos`: many runs, one after the other.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool talks on its standard streams"
)]

use clap::Parser;
use resmgr_chaos::{Mutation, Run};
use std::{process::ExitCode, time::Instant};

/// Runs the manager on simulated nodes on which all fails that can.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many nodes, each of a seed of its own.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// Things that happen on each.
    #[arg(long, default_value_t = 1000)]
    steps: u64,
    /// This seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// The first of the seeds.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// A defect that is put in, to be found: grow-before-shrink, forget-fsync or forget-abort.
    #[arg(long, value_parser = mutation)]
    mutation: Option<Mutation>,
    /// Print each event.
    #[arg(long)]
    verbose: bool,
}

fn mutation(name: &str) -> Result<Mutation, String> {
    let mut all = Mutation::ALL.into_iter();
    let found = all.find(|(known, _mutation)| *known == name);
    found.map(|(_name, mutation)| mutation).ok_or_else(|| {
        let names = Mutation::ALL.map(|(name, _mutation)| name);
        format!("expected one of {}", names.join(", "))
    })
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.verbose {
        tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG)
            .without_time()
            .init();
    }
    let seeds = match arguments.seed {
        Some(seed) => seed..seed + 1,
        None => arguments.first..arguments.first + arguments.seeds,
    };
    let begin = Instant::now();
    let (mut done, mut effects, mut starts, mut seconds) = (0_u64, 0, 0, 0);
    for seed in seeds {
        let run = Run {
            seed,
            steps: arguments.steps,
            mutation: arguments.mutation,
            verbose: arguments.verbose,
        };
        match run.perform() {
            Ok(report) => {
                done += 1;
                effects += report.effects;
                starts += report.starts;
                seconds += report.seconds;
                if done.is_multiple_of(100) {
                    eprintln!("{done} seeds, {effects} effects, {starts} starts");
                }
            }
            Err(failure) => {
                println!("{failure}");
                return ExitCode::FAILURE;
            }
        }
    }
    println!(
        "{done} seeds of {} steps: {effects} effects, {starts} starts of the daemon, {} simulated hours, \
         every promise kept; {:.0} s",
        arguments.steps,
        seconds / 3600,
        begin.elapsed().as_secs_f64()
    );
    ExitCode::SUCCESS
}
