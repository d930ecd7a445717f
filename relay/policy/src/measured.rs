//! Smoothed scheduler measurements, as an argument of decisions.

use crate::request::ContainerId;
use alloc::collections::BTreeMap;
use resmgr_topology::{CpuId, CpuSet, Nanos, NodeId};
use serde::{Deserialize, Serialize};

/// How much was observed of a container: 0 (nothing, or stale) to 1000 (several half-lives).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Confidence(pub u16);

/// Smoothed measurements of one container. Rates are per second of wall time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// CPU time per second, in thousandths of a CPU.
    pub utilisation_mcpu: u32,
    /// Run-queue wait per second caused by contention (quota throttling excluded), nanoseconds.
    pub wait_ns_per_s: u64,
    /// Median run-queue wait of one stint, nanoseconds.
    pub wait_p50_ns: u64,
    /// 99th percentile run-queue wait of one stint, nanoseconds.
    pub wait_p99_ns: u64,
    /// Time per second spent throttled by the quota, nanoseconds.
    pub throttled_ns_per_s: u64,
    /// Migrations per second between last-level caches of one node, thousandths.
    pub llc_migrations_milli_per_s: u64,
    /// Migrations per second between NUMA nodes of one package, thousandths.
    pub node_migrations_milli_per_s: u64,
    /// Migrations per second between packages, thousandths.
    pub package_migrations_milli_per_s: u64,
    /// Time per second that intruders ran on its exclusive CPUs, nanoseconds. The metric and the traces call it
    /// foreign.
    #[serde(rename = "foreign_ns_per_s")]
    pub intruder_ns_per_s: u64,
    /// Containers that took CPUs away from it while it wanted to run on: preemptions per second by each,
    /// thousandths. Only those that matter need be listed.
    #[serde(default)]
    pub preempted_by: BTreeMap<ContainerId, u64>,
    /// Resident memory in bytes.
    pub resident_bytes: u64,
    /// The same by NUMA node; empty when it is not known where the memory is.
    #[serde(default)]
    pub resident_by_node: BTreeMap<NodeId, u64>,
    /// How much was observed.
    pub confidence: Confidence,
}

/// How the numbers were got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MeasurementQuality {
    /// Every switch was counted.
    #[default]
    Exact,
    /// Polled from the kernel's books: no migrations, no quantiles. Nothing is decided by these.
    Polled,
}

/// What the scheduler really did, smoothed; empty when telemetry is off.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// By container.
    pub containers: BTreeMap<ContainerId, Observed>,
    /// Busy time per second of each CPU, thousandths.
    pub cpu_busy_milli: BTreeMap<CpuId, u32>,
    /// Time per second that the hypervisor ran something else in place of each CPU while that had work (steal time),
    /// thousandths; empty where the kernel does not say.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cpu_steal_milli: BTreeMap<CpuId, u32>,
    /// When these were taken (`CLOCK_MONOTONIC`).
    pub at: Nanos,
    /// How they were got.
    #[serde(default, rename = "fidelity")]
    pub quality: MeasurementQuality,
    /// After this long without change an average has come half the way to the present rate; 0:
    /// [`HALF_LIFE`].
    #[serde(default)]
    pub half_life: Nanos,
}

/// The half-life of the averages unless another one is configured, 10 s.
pub const HALF_LIFE: Nanos = Nanos(10_000_000_000);

impl Measured {
    /// A time that was chosen for averages of the standard half-life, for the averages there are.
    #[must_use]
    pub fn scaled_to_half_life(&self, ns: u64) -> u64 {
        match self.half_life {
            Nanos(0) => ns,
            Nanos(half) => (ns / (HALF_LIFE.0 / 1_000_000)).saturating_mul(half / 1_000_000),
        }
    }

    /// How much of the time in which the CPUs were busy the hypervisor stole, thousandths; 0 when unknown. Threads wait
    /// only while their CPU is busy, so this is the part of their waiting that was stolen too.
    #[must_use]
    pub fn stolen_of_busy_milli(&self, cpus: &CpuSet) -> u64 {
        let sum = |of: &BTreeMap<CpuId, u32>| -> u64 {
            let known = cpus.iter().filter_map(|cpu| of.get(&cpu));
            known.map(|milli| u64::from(*milli)).sum()
        };
        let stolen = sum(&self.cpu_steal_milli);
        // Stolen time counts as busy; averages of both may differ by a little.
        stolen * 1000 / sum(&self.cpu_busy_milli).max(stolen).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_follow_the_half_life() {
        let with = |half_life| Measured {
            half_life: Nanos(half_life),
            ..Measured::default()
        };
        assert_eq!(with(0).scaled_to_half_life(20_000_000_000), 20_000_000_000);
        assert_eq!(
            with(2_000_000_000).scaled_to_half_life(20_000_000_000),
            4_000_000_000
        );
        assert_eq!(with(60_000_000_000).scaled_to_half_life(u64::MAX), u64::MAX);
    }
}
