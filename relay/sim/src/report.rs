//! What came of a simulation, for people and for tests.

use crate::{draw::Timeline, kernel::Counters, setup::Setup};
use resmgr_policy::{ContainerId, RebalanceMode, trace::Class};
use resmgr_topology::{CpuSet, DistanceClass};
use serde::Serialize;
use std::{collections::BTreeMap, fmt};

/// What one container experienced in all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ContainerReport {
    /// Which.
    pub id: ContainerId,
    /// What it did.
    pub class: Class,
    /// CPU time, nanoseconds.
    pub run_ns: u64,
    /// Time ready but throttled, nanoseconds.
    pub throttled_ns: u64,
    /// Moves of threads by how far.
    pub migrations: BTreeMap<DistanceClass, u64>,
    /// Every stint on a run queue, nanoseconds, sorted.
    #[serde(skip)]
    pub waits_ns: Vec<u64>,
}

impl ContainerReport {
    pub(crate) fn new(id: ContainerId, class: Class, mut counters: Counters) -> Self {
        counters.waits_ns.sort_unstable();
        Self {
            id,
            class,
            run_ns: counters.run_ns,
            throttled_ns: counters.throttled_ns,
            migrations: counters.migrations,
            waits_ns: counters.waits_ns,
        }
    }
}

/// What the containers of one class experienced together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClassReport {
    /// Median run-queue wait, nanoseconds.
    pub wait_p50_ns: u64,
    /// 99th percentile of it, nanoseconds.
    pub wait_p99_ns: u64,
    /// CPU time, nanoseconds.
    pub run_ns: u64,
    /// Migrations between packages.
    pub cross_package: u64,
}

/// The outcome of a simulation.
#[derive(Clone, Debug, Serialize)]
pub struct SimulationReport {
    /// The policy's name.
    pub policy: &'static str,
    /// Whether it moved what ran.
    pub feedback: RebalanceMode,
    /// Simulated time, milliseconds.
    pub duration_ms: u64,
    /// Every container that ran, in the order they ended.
    pub containers: Vec<ContainerReport>,
    /// By class.
    pub classes: BTreeMap<Class, ClassReport>,
    /// All migrations by how far.
    pub migrations: BTreeMap<DistanceClass, u64>,
    /// Median run-queue wait, nanoseconds.
    pub wait_p50_ns: u64,
    /// 99th percentile of it, nanoseconds.
    pub wait_p99_ns: u64,
    /// Containers moved by feedback; in shadow mode those that would have been, again and again.
    pub moves: usize,
    /// Moves back to where the container was before.
    pub undone: usize,
    /// When the last move was, milliseconds.
    pub last_move_ms: Option<u64>,
    /// Containers the policy refused, and why.
    pub refused: Vec<String>,
    /// The CPUs each container had last; none: it was not pinned.
    pub placements: BTreeMap<ContainerId, CpuSet>,
    /// Promises the policy broke; must be empty.
    pub violations: Vec<String>,
    /// Which container ran where.
    #[serde(skip)]
    pub timeline: Timeline,
}

impl SimulationReport {
    pub(crate) fn new(policy: &'static str, setup: &Setup<'_>) -> Self {
        Self {
            policy,
            feedback: setup.feedback,
            duration_ms: setup.duration_ms,
            containers: Vec::new(),
            classes: BTreeMap::new(),
            migrations: BTreeMap::new(),
            wait_p50_ns: 0,
            wait_p99_ns: 0,
            moves: 0,
            undone: 0,
            last_move_ms: None,
            refused: Vec::new(),
            placements: BTreeMap::new(),
            violations: Vec::new(),
            timeline: Timeline::new(setup.topology, setup.duration_ms),
        }
    }

    pub(crate) fn sum_up(&mut self) {
        let mut all = Vec::new();
        let mut by_class: BTreeMap<Class, Vec<u64>> = BTreeMap::new();
        for container in &self.containers {
            for (class, count) in &container.migrations {
                *self.migrations.entry(*class).or_default() += count;
            }
            let class = self.classes.entry(container.class).or_default();
            class.run_ns += container.run_ns;
            let far = container.migrations.get(&DistanceClass::OtherPackage);
            class.cross_package += far.copied().unwrap_or(0);
            by_class
                .entry(container.class)
                .or_default()
                .extend(&container.waits_ns);
            all.extend(&container.waits_ns);
        }
        for (class, mut waits) in by_class {
            waits.sort_unstable();
            let class = self.classes.entry(class).or_default();
            class.wait_p50_ns = percentile(&waits, 50);
            class.wait_p99_ns = percentile(&waits, 99);
        }
        all.sort_unstable();
        self.wait_p50_ns = percentile(&all, 50);
        self.wait_p99_ns = percentile(&all, 99);
    }

    /// Migrations between packages.
    #[must_use]
    pub fn cross_package(&self) -> u64 {
        let far = self.migrations.get(&DistanceClass::OtherPackage);
        far.copied().unwrap_or(0)
    }
}

/// The value below which that many percent of the sorted values are; 0 of none (nearest rank).
#[must_use]
pub fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(0)
}

impl fmt::Display for SimulationReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let feedback = format!("{:?}", self.feedback).to_lowercase();
        writeln!(
            f,
            "policy {}, feedback {feedback}, {} ms",
            self.policy, self.duration_ms
        )?;
        let count = |class| self.migrations.get(&class).copied().unwrap_or(0);
        writeln!(
            f,
            "  migrations: {} between packages, {} nodes, {} caches; {} within a cache",
            count(DistanceClass::OtherPackage),
            count(DistanceClass::SamePackage),
            count(DistanceClass::SameNode),
            count(DistanceClass::SameLlc) + count(DistanceClass::SameCore),
        )?;
        writeln!(
            f,
            "  moves: {}, undone {}; refused {}, violations {}",
            self.moves,
            self.undone,
            self.refused.len(),
            self.violations.len()
        )?;
        let us = |ns: u64| ns / 1000;
        writeln!(
            f,
            "  class      wait p50 µs   p99 µs    CPU ms  between packages"
        )?;
        for (class, totals) in &self.classes {
            writeln!(
                f,
                "  {:<9} {:>12} {:>8} {:>9} {:>17}",
                format!("{class:?}").to_lowercase(),
                us(totals.wait_p50_ns),
                us(totals.wait_p99_ns),
                totals.run_ns / 1_000_000,
                totals.cross_package,
            )?;
        }
        write!(
            f,
            "  {:<9} {:>12} {:>8}",
            "all",
            us(self.wait_p50_ns),
            us(self.wait_p99_ns)
        )?;
        for line in self.violations.iter().chain(&self.refused).take(10) {
            write!(f, "\n  ! {line}")?;
        }
        Ok(())
    }
}
