//! Which container runs where: the only state there is. Pools are derived from it, never stored beside it.

pub(crate) mod rebalance;
pub(crate) mod workloads;

use crate::request::{ContainerId, Request};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    string::String,
    sync::Arc,
    vec::Vec,
};
use rebalance::RebalanceMemory;
use resmgr_topology::{CpuSet, Cpus, MilliCpu, NodeId};
use serde::{Deserialize, Serialize};

/// What happens to a container's CFS quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quota {
    /// As requested.
    #[default]
    Keep,
    /// Removed: an exclusively pinned container cannot be throttled to less than its own CPUs
    /// (kubelet since 1.33, `DisableCPUQuotaWithExclusiveCPUs`).
    Unlimited,
}

/// Where a container runs, and what is written for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// CPUs no other container may run on. Empty for shared containers.
    pub exclusive: Cpus,
    /// Name of the pool its shared part runs in (`shared`, `reserved`, or an stp pool); `None` for a
    /// purely exclusive or an unplaced container.
    pub pool: Option<Arc<str>>,
    /// Part of the request served from the shared pool.
    pub shared: MilliCpu,
    /// `cpuset.cpus` to write: exclusive and shared CPUs together. Empty: not pinned.
    pub cpus: Cpus,
    /// `cpuset.mems` to write, if the policy pins memory.
    pub mems: Option<Arc<BTreeSet<NodeId>>>,
    /// `cpu.shares` to write in place of the requested ones (cgroup v1 scale).
    pub cpu_shares: Option<u64>,
    /// CFS quota treatment.
    pub quota: Quota,
    /// The part of the machine its shared part is confined to, by a rebalancing; `None`: all of its pool.
    #[serde(default)]
    pub confined: Option<Cpus>,
    /// CPU lists of an stp pool this container holds (exclusive) or runs on (shared).
    #[serde(default)]
    pub lists: Vec<CpuSet>,
    /// The socket an stp container asked for; `None`: any.
    #[serde(default)]
    pub socket: Option<u32>,
    /// Environment entries to append to the create request.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// Replaces the command and empties the arguments of the create request (`cmk isolate`).
    #[serde(default, skip)]
    pub command: Option<Vec<String>>,
}

/// A placed container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// What it asked for.
    pub request: Arc<Request>,
    /// What it was given.
    pub placement: Placement,
    /// Order of arrival; ties between equals are broken by it.
    pub arrival: u64,
}

/// Every container that holds CPUs, by id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The containers.
    pub containers: BTreeMap<ContainerId, Container>,
    /// The next arrival number.
    pub next_arrival: u64,
    /// What rebalancing has to remember.
    #[serde(default)]
    pub rebalance: RebalanceMemory,
}

/// A pool of a policy: what its containers run on, and what of it can still be given out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolUse {
    /// Its name, as [`Placement::pool`] has it.
    pub name: String,
    /// Its CPUs: of a pool that exclusive CPUs are sliced off, those that are left.
    pub cpus: CpuSet,
    /// What a container that asks for exclusive CPUs may be given; a pool of CPU lists lists those that no container
    /// is on.
    pub free: Vec<CpuSet>,
}

impl State {
    /// CPUs held exclusively by any container.
    #[must_use]
    pub fn exclusive(&self) -> CpuSet {
        self.containers
            .values()
            .fold(CpuSet::EMPTY, |all, container| {
                all.union(&container.placement.exclusive)
            })
    }
}
