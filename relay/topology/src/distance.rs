//! Spans of the levels, and how far apart two CPUs are.

use crate::{
    cpuset::CpuSet,
    ids::{CoreId, CpuId, DieId, LlcId, NodeId, PackageId},
    model::{Group, Topology},
};
use alloc::collections::BTreeSet;
use serde::{Deserialize, Serialize};

/// What a task leaves behind when it moves from one CPU to another, cheapest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DistanceClass {
    /// It stays.
    SameCpu,
    /// Another thread of its core: nothing.
    SameCore,
    /// Another core of its last-level cache: its private caches.
    SameLlc,
    /// Another last-level cache of its NUMA node: its caches.
    SameNode,
    /// Another NUMA node of its package: its caches and local memory.
    SamePackage,
    /// Another package.
    OtherPackage,
}

fn span<Id: Ord>(groups: &[Group<Id>], id: &Id) -> CpuSet {
    let found = groups.binary_search_by(|group| group.id.cmp(id)).ok();
    found
        .and_then(|index| groups.get(index))
        .map_or(CpuSet::EMPTY, |group| group.cpus)
}

impl Topology {
    /// Every CPU that exists, online or not.
    #[must_use]
    pub fn all(&self) -> CpuSet {
        self.cpus.iter().map(|cpu| cpu.id).collect()
    }

    /// CPUs of a core, online or not; empty when there is no such core.
    #[must_use]
    pub fn cpus_of_core(&self, id: CoreId) -> CpuSet {
        span(&self.cores, &id)
    }

    /// CPUs of a last-level cache, online or not.
    #[must_use]
    pub fn cpus_of_llc(&self, id: LlcId) -> CpuSet {
        span(&self.llcs, &id)
    }

    /// CPUs of a die, online or not.
    #[must_use]
    pub fn cpus_of_die(&self, id: DieId) -> CpuSet {
        span(&self.dies, &id)
    }

    /// CPUs of a package, online or not.
    #[must_use]
    pub fn cpus_of_package(&self, id: PackageId) -> CpuSet {
        span(&self.packages, &id)
    }

    /// CPUs of a NUMA node, online or not.
    #[must_use]
    pub fn cpus_of_node(&self, id: NodeId) -> CpuSet {
        let found = self.nodes.binary_search_by_key(&id, |node| node.id).ok();
        found
            .and_then(|index| self.nodes.get(index))
            .map_or(CpuSet::EMPTY, |node| node.cpus)
    }

    /// All threads of the core of this CPU, itself included; empty when there is no such CPU.
    #[must_use]
    pub fn siblings(&self, cpu: CpuId) -> CpuSet {
        self.cpu(cpu)
            .map_or(CpuSet::EMPTY, |cpu| self.cpus_of_core(cpu.core))
    }

    /// The threads of every core that has a CPU in the set.
    #[must_use]
    pub fn whole_cores(&self, cpus: &CpuSet) -> CpuSet {
        let mut whole = CpuSet::EMPTY;
        for group in self.cores.iter().filter(|one| !one.cpus.is_disjoint(cpus)) {
            whole = whole.union(&group.cpus);
        }
        whole
    }

    /// Packages that have a CPU in the set.
    #[must_use]
    pub fn packages_of(&self, cpus: &CpuSet) -> BTreeSet<PackageId> {
        let used = self
            .packages
            .iter()
            .filter(|group| !group.cpus.is_disjoint(cpus));
        used.map(|group| group.id).collect()
    }

    /// NUMA nodes whose memory is local to some CPU of the set: what `cpuset.mems` follows.
    /// Nodes without memory are left out unless no other remains.
    #[must_use]
    pub fn mems_of(&self, cpus: &CpuSet) -> BTreeSet<NodeId> {
        let used = self.nodes_of(cpus).filter(|node| node.memory_bytes > 0);
        let used: BTreeSet<NodeId> = used.map(|node| node.id).collect();
        if used.is_empty() {
            self.nodes_of(cpus).map(|node| node.id).collect()
        } else {
            used
        }
    }

    /// How far two CPUs are apart; unknown CPUs are in another package.
    #[must_use]
    pub fn class(&self, from: CpuId, to: CpuId) -> DistanceClass {
        if from == to {
            return DistanceClass::SameCpu;
        }
        let (Some(from), Some(to)) = (self.cpu(from), self.cpu(to)) else {
            return DistanceClass::OtherPackage;
        };
        if from.package != to.package {
            DistanceClass::OtherPackage
        } else if from.node != to.node {
            DistanceClass::SamePackage
        } else if from.llc != to.llc {
            DistanceClass::SameNode
        } else if from.core != to.core {
            DistanceClass::SameLlc
        } else {
            DistanceClass::SameCore
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_is_classed_by_what_it_leaves() {
        let machine = Topology::synthetic("pack:2 numa:2 l3:2 core:2 pu:2").unwrap();
        let class = |to| machine.class(CpuId(0), CpuId(to));
        assert_eq!(class(0), DistanceClass::SameCpu);
        assert_eq!(class(1), DistanceClass::SameCore);
        assert_eq!(class(3), DistanceClass::SameLlc);
        assert_eq!(class(4), DistanceClass::SameNode);
        assert_eq!(class(8), DistanceClass::SamePackage);
        assert_eq!(class(16), DistanceClass::OtherPackage);
        assert_eq!(class(99), DistanceClass::OtherPackage);
    }

    #[test]
    fn spans_and_siblings_are_found_by_number() {
        let machine = Topology::synthetic("pack:2 numa:2 core:2 pu:2").unwrap();
        assert_eq!(machine.siblings(CpuId(5)).to_string(), "4-5");
        assert_eq!(machine.cpus_of_node(NodeId(2)).to_string(), "8-11");
        assert_eq!(machine.cpus_of_package(PackageId(1)).to_string(), "8-15");
        assert!(machine.cpus_of_package(PackageId(2)).is_empty());
        let some = "1,8".parse().unwrap();
        assert_eq!(machine.whole_cores(&some).to_string(), "0-1,8-9");
        assert_eq!(machine.mems_of(&some), [NodeId(0), NodeId(2)].into());
        assert_eq!(machine.packages_of(&some).len(), 2);
    }
}
