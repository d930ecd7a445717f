//! Smoothed scheduler measurements, as an argument of decisions.

use crate::request::ContainerId;
use alloc::collections::BTreeMap;
use resmgr_topology::{CpuId, Nanos};
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
    /// Time per second others ran on its exclusive CPUs, nanoseconds.
    pub foreign_ns_per_s: u64,
    /// Resident memory in bytes.
    pub resident_bytes: u64,
    /// How much was observed.
    pub confidence: Confidence,
}

/// What the scheduler really did, smoothed; empty when telemetry is off.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// By container.
    pub containers: BTreeMap<ContainerId, Observed>,
    /// Busy time per second of each CPU, thousandths.
    pub cpu_busy_milli: BTreeMap<CpuId, u32>,
    /// When these were taken (`CLOCK_MONOTONIC`).
    pub at: Nanos,
}
