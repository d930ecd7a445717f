//! `cargo xtask simulate`: policies on a model of the kernel's scheduler, side by side.

use anyhow::{Context as _, bail};
use clap::{
    Args, ValueEnum,
    builder::{PossibleValuesParser, TypedValueParser as _},
};
use resmgr_policy::{
    CpuListConfig, PolicySettings, PoolConfig, PoolsConfig, RebalanceMode, Reserved, by_name, trace,
};
use resmgr_sim::{Setup, replay, simulate, workload::standard_mix};
use resmgr_topology::{CpuSet, MilliCpu, Topology};
use std::{fs, path::PathBuf};

/// The origin of the measurements that the policies see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Measurements {
    /// What the threads do in the model.
    Model,
    /// What the daemon saw then: what it decided, it decides again.
    Trace,
}

/// Options of `simulate`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A description such as "pack:2 numa:2 core:2 pu:2", or a topology in JSON.
    #[arg(long)]
    topology: Option<String>,
    /// Policies to try.
    #[arg(long, value_delimiter = ',', default_value = "null,static-plus")]
    policy: Vec<String>,
    /// Whether they may move what runs: off, they are not asked; shadow, they are asked and nothing moves.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "off",
        value_parser = PossibleValuesParser::new(["off", "shadow", "on"]).map(|mode| feedback(&mode))
    )]
    feedback: Vec<RebalanceMode>,
    /// A trace, one JSON object a line; without it a mix of chatty, latency-bound, batch and bursty containers.
    #[arg(long)]
    trace: Option<PathBuf>,
    /// The measurements that the policies see: the model's own, or those that the trace was recorded with.
    #[arg(long, default_value = "model")]
    measurements: Measurements,
    /// Reserved CPUs, a list; without it one CPU of the policy's choice.
    #[arg(long)]
    reserved: Option<CpuSet>,
    /// A CPU list of the pool `shared` of static-pools (stp), for each time it is given; without any, one for
    /// each NUMA node.
    #[arg(long)]
    shared: Vec<CpuSet>,
    /// A CPU list of its pool `exclusive`, for each time it is given.
    #[arg(long)]
    exclusive: Vec<CpuSet>,
    /// Equal seeds give equal runs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Simulated seconds.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Write a drawing of each run into this directory.
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Print JSON, one report a line.
    #[arg(long)]
    json: bool,
}

fn feedback(mode: &str) -> RebalanceMode {
    match mode {
        "on" => RebalanceMode::On,
        "shadow" => RebalanceMode::Shadow,
        _ => RebalanceMode::Off,
    }
}

/// Runs each policy with each kind of feedback, and prints what came of it.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let recorded = match &arguments.trace {
        None => Vec::new(),
        Some(path) => {
            let text = fs::read_to_string(path)
                .with_context(|| format!("cannot read the trace {}", path.display()))?;
            trace::parse(&text).with_context(|| path.display().to_string())?
        }
    };
    let topology = topology(arguments, &recorded)?;
    let lines = if arguments.trace.is_some() {
        recorded
    } else {
        standard_mix(&topology)
    };
    let reserved = match arguments.reserved {
        Some(set) => Reserved::Set(set),
        None => Reserved::Quantity(MilliCpu(1000)),
    };
    let mut settings = PolicySettings::default();
    settings.slices.reserved = Some(reserved);
    settings.pools = pools(arguments, &topology)?;
    // The run says whether it is asked.
    settings.rebalance = RebalanceMode::On;
    for name in &arguments.policy {
        let policy = match by_name(name, &topology, &settings) {
            Ok(policy) => policy,
            Err(problems) => {
                let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
                bail!("{}", problems.join("; "));
            }
        };
        for feedback in &arguments.feedback {
            let setup = Setup {
                topology: &topology,
                policy: &*policy,
                trace: &lines,
                seed: arguments.seed,
                duration_ms: arguments.seconds.saturating_mul(1000),
                interval_ms: 1000,
                feedback: *feedback,
            };
            let report = match arguments.measurements {
                Measurements::Model => simulate(&setup),
                Measurements::Trace => replay(&setup),
            };
            if arguments.json {
                println!("{}", serde_json::to_string(&report)?);
            } else {
                println!("{report}\n");
            }
            if let Some(dir) = &arguments.svg {
                fs::create_dir_all(dir)
                    .with_context(|| format!("cannot make {}", dir.display()))?;
                let title = format!(
                    "{name}, feedback {}\n{} migrations between packages\nrun-queue wait p50 {} µs, p99 {} µs\n\
                     {} moves, {} undone\nseed {}",
                    format!("{feedback:?}").to_lowercase(),
                    report.cross_package(),
                    report.wait_p50_ns / 1_000,
                    report.wait_p99_ns / 1_000,
                    report.moves,
                    report.undone,
                    arguments.seed
                );
                let path = dir.join(format!("{name}-{feedback:?}.svg").to_lowercase());
                fs::write(&path, report.timeline.svg(&title))
                    .with_context(|| format!("cannot write {}", path.display()))?;
            }
        }
    }
    Ok(())
}

/// The pools of static-pools: lists that were asked for, else one shared list for each NUMA node.
fn pools(arguments: &Arguments, topology: &Topology) -> anyhow::Result<PoolsConfig> {
    let nodes = topology.nodes.iter().map(|node| node.cpus);
    let nodes: Vec<CpuSet> = nodes.filter(|cpus| !cpus.is_empty()).collect();
    let shared = if arguments.shared.is_empty() {
        &nodes
    } else {
        &arguments.shared
    };
    let list = |cpus: &CpuSet| {
        let first = cpus.iter().next().and_then(|cpu| topology.cpu(cpu));
        let first = first.with_context(|| format!("CPUs {cpus} are not on this machine"))?;
        Ok(CpuListConfig {
            socket: first.package.0,
            cpuset: cpus.to_string(),
        })
    };
    let mut config = PoolsConfig::default();
    for (name, exclusive, lists) in [
        ("shared", false, shared),
        ("exclusive", true, &arguments.exclusive),
    ] {
        let cpu_lists: anyhow::Result<Vec<_>> = lists.iter().map(list).collect();
        let pool = PoolConfig {
            exclusive,
            cpu_lists: cpu_lists?,
        };
        if !pool.cpu_lists.is_empty() {
            config.pools.insert(name.to_owned(), pool);
        }
    }
    Ok(config)
}

/// What was asked for, else the machine of the trace, else a two-socket one.
fn topology(arguments: &Arguments, recorded: &[trace::Line]) -> anyhow::Result<Topology> {
    match (&arguments.topology, trace::topology(recorded)) {
        (Some(path), _) if path.ends_with(".json") => {
            let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
            let read: Topology = serde_json::from_str(&text).with_context(|| path.clone())?;
            Topology::from_parts(read.into_parts()).with_context(|| path.clone())
        }
        (Some(text), _) => Ok(Topology::synthetic(text)?),
        (None, Some(topology)) => Ok(topology.clone()),
        (None, None) => Ok(Topology::synthetic("pack:2 numa:2 core:2 pu:2")?),
    }
}
