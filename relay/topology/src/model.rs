//! The machine as policies see it: read-only, replaced whole when CPUs come or go.

use crate::{
    cpuset::CpuSet,
    ids::{CoreId, CpuId, DieId, L2Id, LlcId, NodeId, PackageId},
};
use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};

/// Performance class of a core on a hybrid processor.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum CoreKind {
    /// All cores are alike, or this is a fast one.
    #[default]
    Performance,
    /// A slower, thriftier core.
    Efficiency,
}

/// Where one logical CPU sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// The kernel's number.
    pub id: CpuId,
    /// Its physical core.
    pub core: CoreId,
    /// Its level-2 cache.
    pub l2: L2Id,
    /// Its last-level cache.
    pub llc: LlcId,
    /// Its die.
    pub die: DieId,
    /// Its NUMA node.
    pub node: NodeId,
    /// Its package.
    pub package: PackageId,
    /// Fast or thrifty.
    pub kind: CoreKind,
}

/// A named group of CPUs at one level: a core, a cache, a die or a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group<Id> {
    /// Which one.
    pub id: Id,
    /// Its CPUs, online or not.
    pub cpus: CpuSet,
}

/// A NUMA node. It may have no CPUs (memory-only) or no memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// The kernel's number.
    pub id: NodeId,
    /// Its CPUs, online or not.
    pub cpus: CpuSet,
    /// Local memory in bytes.
    pub memory_bytes: u64,
}

/// CPUs, caches, memory nodes and their distances.
///
/// Invariants (established by the constructors): `cpus` is sorted by id; every id named by a
/// [`Cpu`] has its group; cores lie in one package, die, NUMA node and cache, caches and dies in one package; groups are sorted by id; `distances` is square over `nodes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// Every CPU that exists, online or not.
    pub cpus: Vec<Cpu>,
    /// CPUs that the kernel runs tasks of containers on now.
    pub online: CpuSet,
    /// CPUs that are online and that the cgroup of all pods lacks: no container can have one.
    #[serde(default, skip_serializing_if = "CpuSet::is_empty")]
    pub withheld: CpuSet,
    /// CPUs kept out of load balancing by the `isolcpus` kernel parameter.
    pub isolated: CpuSet,
    /// Physical cores.
    pub cores: Vec<Group<CoreId>>,
    /// Level-2 caches.
    pub l2s: Vec<Group<L2Id>>,
    /// Last-level caches.
    pub llcs: Vec<Group<LlcId>>,
    /// Dies.
    pub dies: Vec<Group<DieId>>,
    /// Packages.
    pub packages: Vec<Group<PackageId>>,
    /// NUMA nodes, memory-only ones included.
    pub nodes: Vec<Node>,
    /// ACPI SLIT distances, `distances[from][to]` by index into `nodes`; 10 is local.
    pub distances: Vec<Vec<u16>>,
    /// Where this came from: the machine, a file or a synthetic description.
    pub origin: String,
    /// What was mended because its levels did not nest, for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Topology {
    /// The same machine, when no container can have these CPUs. As it is when that would leave none.
    #[must_use]
    pub fn withholding(&self, cpus: &CpuSet) -> Self {
        let all = self.online.union(&self.withheld);
        let withheld = all.intersection(cpus);
        let online = all.difference(&withheld);
        if online.is_empty() {
            return self.clone();
        }
        Self {
            online,
            withheld,
            ..self.clone()
        }
    }

    /// The CPU with this number, if it exists.
    #[must_use]
    pub fn cpu(&self, id: CpuId) -> Option<&Cpu> {
        self.cpus
            .binary_search_by_key(&id, |cpu| cpu.id)
            .ok()
            .and_then(|index| self.cpus.get(index))
    }

    /// NUMA nodes that own any of the CPUs.
    pub fn nodes_of(&self, cpus: &CpuSet) -> impl Iterator<Item = &Node> {
        let cpus = *cpus;
        self.nodes
            .iter()
            .filter(move |node| !node.cpus.is_disjoint(&cpus))
    }

    /// SLIT distance between two nodes; 10 for a node to itself, 255 when unknown.
    #[must_use]
    pub fn distance(&self, from: NodeId, to: NodeId) -> u16 {
        let index = |id| self.nodes.iter().position(|node| node.id == id);
        match (index(from), index(to)) {
            (Some(from), Some(to)) => self
                .distances
                .get(from)
                .and_then(|row| row.get(to))
                .copied()
                .unwrap_or(255),
            _ => 255,
        }
    }
}
