//! What is remembered of workloads.

use alloc::{collections::BTreeMap, string::String};
use resmgr_topology::{CpuSet, Nanos};
use serde::{Deserialize, Serialize};

/// What the containers of a workload did, smoothed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadProfile {
    /// CPU time per second, thousandths of a CPU.
    pub utilisation_mcpu: u32,
    /// Run-queue wait per second, nanoseconds.
    pub wait_ns_per_s: u64,
    /// Migrations per second between nodes and packages, thousandths.
    pub far_migrations_milli_per_s: u64,
    /// CPUs it was confined to when it was last seen, if a rebalancing had confined it.
    pub confined: Option<CpuSet>,
    /// A move of it was undone: not again before this time.
    #[serde(rename = "rests_until")]
    pub cooldown_until: Option<Nanos>,
    /// Order of the last looks; the smallest is forgotten first.
    pub seen: u64,
}

/// Profiles by namespace, workload and container name, joined by `/`.
pub type WorkloadHistory = BTreeMap<String, WorkloadProfile>;

impl WorkloadProfile {
    /// Whether nothing worth a write to the disk is new: an eighth, and what is too little to matter.
    pub(crate) fn close_to(&self, now: &Self) -> bool {
        let close = |old: u64, new: u64, least: u64| old.abs_diff(new) <= least.max(old / 8);
        self.confined == now.confined
            && close(
                self.utilisation_mcpu.into(),
                now.utilisation_mcpu.into(),
                50,
            )
            && close(self.wait_ns_per_s, now.wait_ns_per_s, 5_000_000)
            && close(
                self.far_migrations_milli_per_s,
                now.far_migrations_milli_per_s,
                10_000,
            )
    }

    /// Half the way to what is seen now: one odd life does not count as much as many even ones.
    pub(crate) fn towards(&self, now: &Self) -> Self {
        let half = |old: u64, new: u64| old / 2 + new / 2 + (old % 2 + new % 2) / 2;
        let mcpu = half(self.utilisation_mcpu.into(), now.utilisation_mcpu.into());
        Self {
            utilisation_mcpu: u32::try_from(mcpu).unwrap_or(u32::MAX),
            wait_ns_per_s: half(self.wait_ns_per_s, now.wait_ns_per_s),
            far_migrations_milli_per_s: half(
                self.far_migrations_milli_per_s,
                now.far_migrations_milli_per_s,
            ),
            confined: now.confined,
            ..self.clone()
        }
    }
}
