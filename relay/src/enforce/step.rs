//! The order of writes, as a pure function: shrink others, create, grow others; each with its undo.

use resmgr_policy::{ContainerId, Placement, Quota};
use resmgr_topology::{CpuSet, NodeId};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, sync::Arc};

/// Settings of a container's cgroup. What is empty or `None` is left as the runtime set it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupSettings {
    /// `cpuset.cpus`; empty: not pinned by us.
    pub cpus: CpuSet,
    /// `cpuset.mems`.
    pub mems: Option<Arc<BTreeSet<NodeId>>>,
    /// `cpu.shares`, on the scale of cgroup v1.
    pub cpu_shares: Option<u64>,
    /// CFS quota in µs per period; -1 is none.
    pub cpu_quota: Option<i64>,
}

impl From<&Placement> for CgroupSettings {
    fn from(placement: &Placement) -> Self {
        Self {
            cpus: *placement.cpus,
            mems: placement.mems.clone(),
            cpu_shares: placement.cpu_shares,
            cpu_quota: match placement.quota {
                Quota::Keep => None,
                Quota::Unlimited => Some(-1),
            },
        }
    }
}

impl CgroupSettings {
    /// The cpuset alone: what the runtime is told. Shares and quota are written into the cgroup.
    #[must_use]
    pub fn cpuset(&self) -> Self {
        Self {
            cpus: self.cpus,
            mems: self.mems.clone(),
            ..Self::default()
        }
    }

    /// Whether nothing is asked of the kernel.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self == &Self::default()
    }
}

/// When a step is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Loses CPUs, gains none: before anything else.
    Shrink,
    /// Leaves all its CPUs for others: once those are free.
    Move,
    /// Gains CPUs: when the container that had them has left, and the new container exists.
    Grow,
}

/// One container's move from one placement to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The container.
    pub id: ContainerId,
    /// When.
    pub phase: Phase,
    /// What to write.
    pub to: CgroupSettings,
    /// What undoes it.
    pub undo: CgroupSettings,
}

/// All steps around one creation, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Before the runtime sees the new container.
    pub before: Vec<Step>,
    /// When it exists.
    pub after: Vec<Step>,
}

impl Plan {
    /// Whether nothing is to be written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.before.is_empty() && self.after.is_empty()
    }
}

/// What one container has, and what it shall have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsChange {
    /// The container.
    pub id: ContainerId,
    /// What the kernel says of it now.
    pub from: CgroupSettings,
    /// What it shall say.
    pub to: CgroupSettings,
}

/// Orders the writes that carry out `changes`. Containers that come or go are not among them: the runtime
/// creates and ends them.
///
/// A container that both loses and gains CPUs shrinks to what it keeps first and grows last; one that
/// keeps nothing moves in between, as soon as no other container is left on its new CPUs (in a ring of such
/// moves the first of them goes first).
#[must_use]
pub fn plan(changes: impl IntoIterator<Item = SettingsChange>) -> Plan {
    let mut plan = Plan::default();
    let mut moves = Vec::new();
    for SettingsChange { id, from, to } in changes {
        if from == to {
            continue;
        }
        let step = |phase, to: &CgroupSettings, undo: &CgroupSettings| Step {
            id: id.clone(),
            phase,
            to: to.clone(),
            undo: undo.clone(),
        };
        let kept = from.cpus.intersection(&to.cpus);
        if to.cpus.is_empty() || (from.cpus.is_subset(&to.cpus) && !from.cpus.is_empty()) {
            plan.after.push(step(Phase::Grow, &to, &from));
        } else if to.cpus.is_subset(&from.cpus) || from.cpus.is_empty() {
            plan.before.push(step(Phase::Shrink, &to, &from));
        } else if kept.is_empty() {
            moves.push(step(Phase::Move, &to, &from));
        } else {
            let middle = CgroupSettings {
                cpus: kept,
                ..from.clone()
            };
            plan.before.push(step(Phase::Shrink, &middle, &from));
            plan.after.push(step(Phase::Grow, &to, &middle));
        }
    }
    while !moves.is_empty() {
        let free = moves.iter().position(|candidate| {
            moves
                .iter()
                .filter(|occupant| occupant.id != candidate.id)
                .all(|occupant| occupant.undo.cpus.is_disjoint(&candidate.to.cpus))
        });
        plan.before.push(moves.remove(free.unwrap_or(0)));
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn map(entries: &[(&str, &str)]) -> BTreeMap<ContainerId, CgroupSettings> {
        entries
            .iter()
            .map(|(id, cpus)| {
                let settings = CgroupSettings {
                    cpus: cpus.parse().unwrap(),
                    ..CgroupSettings::default()
                };
                (ContainerId((*id).into()), settings)
            })
            .collect()
    }

    /// The changes that lead from one state of things to another.
    fn plan(
        before: &BTreeMap<ContainerId, CgroupSettings>,
        after: &BTreeMap<ContainerId, CgroupSettings>,
    ) -> Plan {
        super::plan(after.iter().filter_map(|(id, to)| {
            Some(SettingsChange {
                id: id.clone(),
                from: before.get(id)?.clone(),
                to: to.clone(),
            })
        }))
    }

    fn words(steps: &[Step]) -> Vec<String> {
        steps
            .iter()
            .map(|step| format!("{:?} {} {}", step.phase, step.id, step.to.cpus))
            .collect()
    }

    #[test]
    fn others_shrink_before_and_grow_after_the_creation() {
        let plan = plan(
            &map(&[("a", "0-3"), ("b", "4"), ("c", "0-3")]),
            &map(&[("a", "0-1"), ("b", "4-5"), ("c", "0-3"), ("new", "2-3")]),
        );
        assert_eq!(words(&plan.before), ["Shrink a 0-1"]);
        assert_eq!(words(&plan.after), ["Grow b 4-5"]);
    }

    #[test]
    fn losing_and_gaining_shrinks_first_and_grows_last() {
        let plan = plan(&map(&[("a", "0-3")]), &map(&[("a", "2-5")]));
        assert_eq!(words(&plan.before), ["Shrink a 2-3"]);
        assert_eq!(words(&plan.after), ["Grow a 2-5"]);
    }

    #[test]
    fn a_chain_of_moves_starts_at_its_free_end() {
        let plan = plan(
            &map(&[("a", "0"), ("b", "1"), ("c", "2")]),
            &map(&[("a", "1"), ("b", "2"), ("c", "3")]),
        );
        assert_eq!(words(&plan.before), ["Move c 3", "Move b 2", "Move a 1"]);
    }

    #[test]
    fn a_ring_of_moves_ends() {
        let plan = plan(
            &map(&[("a", "0"), ("b", "1")]),
            &map(&[("a", "1"), ("b", "0")]),
        );
        assert_eq!(words(&plan.before), ["Move a 1", "Move b 0"]);
    }

    #[test]
    fn the_undo_of_each_step_is_what_was_there() {
        let before = map(&[("a", "0-3"), ("b", "0-3")]);
        let plan = plan(&before, &map(&[("a", "0"), ("b", "2-5")]));
        for step in &plan.before {
            assert_eq!(&step.undo, &before[&step.id]);
        }
    }

    #[test]
    fn pinning_the_unpinned_happens_before_and_unpinning_after() {
        let plan = plan(
            &map(&[("a", ""), ("b", "1")]),
            &map(&[("a", "0"), ("b", "")]),
        );
        assert_eq!(words(&plan.before), ["Shrink a 0"]);
        assert_eq!(words(&plan.after), ["Grow b "]);
    }
}
