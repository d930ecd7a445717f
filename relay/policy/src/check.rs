//! Each way a placement can be wrong. The manager asks before it executes, tests ask after every step.

use crate::{
    request::ContainerId,
    rules::Rules,
    state::{Placement, State},
};
use alloc::{collections::BTreeMap, vec::Vec};
use resmgr_topology::{CpuId, CpuSet, Cpus, Topology};

/// A placement that must not be, with both culprits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A container may run on another's exclusive CPU.
    #[error("CPU {cpu} belongs to {owner} alone, but {intruder} may run on it")]
    ExclusiveOverlap {
        /// The CPU.
        cpu: CpuId,
        /// The container that holds it.
        owner: ContainerId,
        /// The container that may run there too.
        intruder: ContainerId,
    },
    /// A container has no CPU.
    #[error("{id} has an empty cpuset")]
    EmptyCpuset {
        /// The container.
        id: ContainerId,
    },
    /// A cpuset names a CPU that is offline or does not exist.
    #[error("CPU {cpu} in the cpuset of {id} is not online")]
    OfflineCpu {
        /// The container.
        id: ContainerId,
        /// The CPU.
        cpu: CpuId,
    },
    /// A reserved CPU was given out exclusively.
    #[error("CPU {cpu} is reserved, but {owner} holds it exclusively")]
    ReservedTaken {
        /// The CPU.
        cpu: CpuId,
        /// The container that holds it.
        owner: ContainerId,
    },
    /// A CPU outside of those the policy may use.
    #[error("CPU {cpu} in the cpuset of {id} is not available to containers")]
    NotAvailable {
        /// The container.
        id: ContainerId,
        /// The CPU.
        cpu: CpuId,
    },
    /// A CPU for exclusive use only (kernel-isolated, or of an exclusive pool) is shared.
    #[error("CPU {cpu} is for exclusive use only, but {id} runs there without holding it")]
    IsolatedShared {
        /// The container.
        id: ContainerId,
        /// The CPU.
        cpu: CpuId,
    },
    /// An exclusive CPU is not in its owner's own cpuset.
    #[error("{owner} holds CPU {cpu}, which its cpuset lacks")]
    OwnerElsewhere {
        /// The container.
        owner: ContainerId,
        /// The CPU.
        cpu: CpuId,
    },
}

/// Everything that is wrong, by container.
#[must_use]
pub fn check(topology: &Topology, state: &State, rules: &Rules) -> Vec<Violation> {
    // Nearly always nothing is wrong, and that is quicker to find than what is.
    if !cfg!(debug_assertions) && is_right(topology, state, rules) {
        return Vec::new();
    }
    let found = violations(topology, state, rules);
    debug_assert_eq!(is_right(topology, state, rules), found.is_empty());
    found
}

/// Whether nothing is wrong.
fn is_right(topology: &Topology, state: &State, rules: &Rules) -> bool {
    let mut exclusive = CpuSet::EMPTY;
    for container in state.containers.values() {
        let own = &container.placement.exclusive;
        if !own.is_empty() {
            if !own.is_disjoint(&exclusive) || !own.is_disjoint(&rules.reserved) {
                return false;
            }
            exclusive = exclusive.union(own);
        }
    }
    let taken = exclusive.union(&rules.exclusive_only);
    let usable = rules.usable.unwrap_or(topology.online);
    let usable = usable.intersection(&topology.online);
    // Most have the CPUs of the one before.
    let mut right: Option<&Cpus> = None;
    state.containers.values().all(|container| {
        let (own, cpus) = (&container.placement.exclusive, &container.placement.cpus);
        if cpus.is_empty() {
            return !rules.places || opted_out(&container.placement);
        }
        if own.is_empty() {
            let same = right == Some(cpus);
            right = Some(cpus);
            return same || (cpus.is_subset(&usable) && cpus.is_disjoint(&taken));
        }
        cpus.is_subset(&usable) && own.is_subset(cpus) && cpus.difference(own).is_disjoint(&taken)
    })
}

fn opted_out(placement: &Placement) -> bool {
    let mut env = placement.env.iter();
    env.any(|(key, _)| key == "CMK_CPUS_ASSIGNED")
}

fn violations(topology: &Topology, state: &State, rules: &Rules) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut owners: BTreeMap<CpuId, &ContainerId> = BTreeMap::new();
    for (id, container) in &state.containers {
        for cpu in container.placement.exclusive.iter() {
            if let Some(owner) = owners.insert(cpu, id) {
                found.push(Violation::ExclusiveOverlap {
                    cpu,
                    owner: owner.clone(),
                    intruder: id.clone(),
                });
            }
        }
    }
    let exclusive: CpuSet = owners.keys().copied().collect();
    for (id, container) in &state.containers {
        let (own, cpus) = (&container.placement.exclusive, &container.placement.cpus);
        if rules.places && cpus.is_empty() && !opted_out(&container.placement) {
            found.push(Violation::EmptyCpuset { id: id.clone() });
        }
        for cpu in cpus.difference(own).intersection(&exclusive).iter() {
            if let Some(owner) = owners.get(&cpu) {
                found.push(Violation::ExclusiveOverlap {
                    cpu,
                    owner: (*owner).clone(),
                    intruder: id.clone(),
                });
            }
        }
        let id = || id.clone();
        let mut report = |cpus: CpuSet, make: &dyn Fn(CpuId) -> Violation| {
            found.extend(cpus.iter().map(make));
        };
        let offline = cpus.difference(&topology.online);
        report(offline, &|cpu| Violation::OfflineCpu { id: id(), cpu });
        let reserved = own.intersection(&rules.reserved);
        report(reserved, &|cpu| Violation::ReservedTaken {
            cpu,
            owner: id(),
        });
        let outside = rules
            .usable
            .map_or(CpuSet::EMPTY, |usable| cpus.difference(&usable));
        report(outside, &|cpu| Violation::NotAvailable { id: id(), cpu });
        let isolated = cpus.difference(own).intersection(&rules.exclusive_only);
        report(isolated, &|cpu| Violation::IsolatedShared { id: id(), cpu });
        let lost = if cpus.is_empty() {
            CpuSet::EMPTY
        } else {
            own.difference(cpus)
        };
        report(lost, &|cpu| Violation::OwnerElsewhere { owner: id(), cpu });
    }
    found
}
