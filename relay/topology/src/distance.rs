//! Spans of the levels, and how far apart two CPUs are.

use crate::{
    cpuset::CpuSet,
    ids::{CpuId, LlcId, PackageId},
    model::{Group, Topology},
};
use serde::{Deserialize, Serialize};

/// Distances firmware typically reports: to a node itself, within the package, beyond.
pub(crate) const LOCAL: u16 = 10;
pub(crate) const IN_PACKAGE: u16 = 12;
pub(crate) const FAR: u16 = 21;

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

    /// CPUs of a last-level cache, online or not.
    #[must_use]
    pub fn cpus_of_llc(&self, id: LlcId) -> CpuSet {
        span(&self.llcs, &id)
    }

    /// CPUs of a package, online or not.
    #[must_use]
    pub fn cpus_of_package(&self, id: PackageId) -> CpuSet {
        span(&self.packages, &id)
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
    fn the_cpus_of_a_group_are_found_by_its_number() {
        let machine = Topology::synthetic("pack:2 numa:2 core:2 pu:2").unwrap();
        assert_eq!(machine.cpus_of_package(PackageId(1)).to_string(), "8-15");
        assert!(machine.cpus_of_package(PackageId(2)).is_empty());
        let machine = Topology::synthetic("pack:2 l3:2 core:2 pu:2").unwrap();
        assert_eq!(machine.cpus_of_llc(LlcId(2)).to_string(), "8-11");
    }
}
