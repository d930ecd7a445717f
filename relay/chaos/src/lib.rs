//! A node in a box: the real manager, ledger and enforcement run against a simulated runtime, kernel, disk and
//! clock, which fail in every way that docs/reliability.md lists. All comes from one seed: equal seeds give
//! equal runs.

mod check;
mod disk;
mod kernel;
mod kubelet;
mod node;
mod runtime;
mod tasks;
mod world;

use resmgr_policy::{
    CpuListConfig, Policy, PolicySettings, PoolConfig, PoolsConfig, Reserved, StaticConfig, by_name,
};
use resmgr_topology::Topology;
use std::{fmt, sync::Arc};

/// A defect that is put in on purpose, to see that it is found. None is in the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// The kernel gets writes that take CPUs away late: after the runtime has been asked.
    GrowBeforeShrink,
    /// What is fsynced is not safe.
    ForgetFsync,
    /// The manager never hears that the runtime has refused.
    ForgetAbort,
}

impl Mutation {
    /// Every one, by its name.
    pub const ALL: [(&str, Self); 3] = [
        ("grow-before-shrink", Self::GrowBeforeShrink),
        ("forget-fsync", Self::ForgetFsync),
        ("forget-abort", Self::ForgetAbort),
    ];
}

impl fmt::Display for Mutation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Self::ALL.iter().find(|(_name, mutation)| mutation == self);
        f.write_str(named.map_or("", |(name, _mutation)| name))
    }
}

/// One run.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// All follows from it.
    pub seed: u64,
    /// How many things happen.
    pub steps: u64,
    /// A defect to be found.
    pub mutation: Option<Mutation>,
    /// Print each event.
    pub verbose: bool,
}

/// A run in which every promise was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Of all events: equal runs have equal ones.
    pub digest: u64,
    /// Cgroup writes, disk writes and calls of the runtime.
    pub effects: u64,
    /// How often the daemon was started.
    pub starts: u64,
    /// Simulated seconds.
    pub seconds: u64,
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Of the run.
    pub seed: u64,
    /// At which step.
    pub step: u64,
    /// What was broken.
    pub problem: String,
    /// The defect that was put in.
    pub mutation: Option<Mutation>,
    /// What happened last.
    pub events: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, step, .. } = self;
        for event in &self.events {
            writeln!(f, "  {event}")?;
        }
        writeln!(f, "seed {seed}, step {step}: {}", self.problem)?;
        write!(
            f,
            "again: cargo xtask chaos --seed {seed} --steps {step} --verbose"
        )
    }
}

impl std::error::Error for Failure {}

impl Run {
    /// Runs.
    ///
    /// # Errors
    /// The first promise that was broken.
    ///
    /// # Panics
    /// When the system has no clock.
    pub fn perform(self) -> Result<Report, Box<Failure>> {
        let clock = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without threads and sockets needs nothing of the system");
        clock.block_on(node::run(self))
    }
}

/// The machine.
pub(crate) fn topology() -> Topology {
    Topology::synthetic("pack:1 numa:2 core:3 pu:2").expect("the description is right")
}

/// Policies that are switched between, by number.
pub(crate) const POLICIES: u64 = 6;

pub(crate) fn policy(number: u64) -> Arc<dyn Policy> {
    let (name, reserved, pin_memory) = match number {
        0 => ("static", "0", false),
        1 => ("static", "0-1", true),
        2 => ("static-plus", "0-1", false),
        3 => ("static-plus", "0,6", true),
        4 => ("static-pools", "0", false),
        _ => ("none", "0", false),
    };
    let settings = PolicySettings {
        slices: StaticConfig {
            reserved: Some(Reserved::Set(reserved.parse().expect("the list is right"))),
            pin_memory,
            ..StaticConfig::default()
        },
        pools: pools(),
        ..PolicySettings::default()
    };
    let policy = by_name(name, &topology(), &settings);
    policy
        .expect("the policy is configured for this machine")
        .into()
}

fn pools() -> PoolsConfig {
    let pool = |exclusive, lists: &[&str]| PoolConfig {
        exclusive,
        cpu_lists: lists
            .iter()
            .map(|list| CpuListConfig {
                socket: 0,
                cpuset: (*list).to_owned(),
            })
            .collect(),
    };
    let pools = [
        ("exclusive", pool(true, &["2-3", "4-5", "6-7", "8-9"])),
        ("shared", pool(false, &["10", "11"])),
        ("infra", pool(false, &["0-1"])),
    ];
    PoolsConfig {
        pools: pools.map(|(name, pool)| (name.to_owned(), pool)).into(),
    }
}
