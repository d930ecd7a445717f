//! The containers of the node: the policy's state, and beside it what no policy looks at. Pure.
//!
//! Each thing is kept once. The request and the placement of a placed container are in the policy's
//! [`State`]; a container without a placement is not in there, and its request is in its record.

use super::{answer::ContainerSpec, pool_changes::PoolChanges};
use crate::enforce::{CgroupSettings, Plan, SettingsChange, plan};
use resmgr_policy::{
    Basis, Container, ContainerId, CriResources, Decision, Explanation, Placement, Request, State,
};
use resmgr_topology::CpuSet;
use serde::{Deserialize, Serialize};
use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// How many explanations are kept of one container: the first, which placed it, and the last ones.
pub const MAX_HISTORY: usize = 16;

/// How far a container has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The runtime was asked to create it, or is about to be; its id is a provisional one.
    Reserved,
    /// The runtime has it; it may not run yet.
    #[default]
    Created,
    /// It was started.
    Running,
}

/// One decision about a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Seconds since 1970.
    pub at_unix_s: u64,
    /// The CPUs it was given.
    pub cpus: CpuSet,
    /// Why.
    pub why: Explanation,
}

/// What is known of a container beside its request and its placement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// What its requirements are worked out from. Earlier versions did not keep it.
    #[serde(default)]
    pub basis: Basis,
    /// How far it has come.
    pub stage: Stage,
    /// What the runtime itself was last asked for: what the container would have without us.
    #[serde(rename = "asked")]
    pub requested: CgroupSettings,
    /// Its pod's cgroup parent.
    pub cgroup_parent: String,
    /// How often it was created in its pod (`ContainerMetadata.attempt`).
    #[serde(default)]
    pub attempt: u32,
    /// Decisions about it, the latest last.
    #[serde(default)]
    pub history: Vec<Note>,
    /// `None` for a placed container.
    #[serde(skip)]
    unplaced: Option<UnplacedRecord>,
}

/// What the policy's state would hold of a container if it were placed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct UnplacedRecord {
    request: Arc<Request>,
    arrival: u64,
    /// Why it has no placement; `None` for a container that the policy does not place at all.
    reason: Option<Arc<str>>,
}

impl ContainerRecord {
    fn note(&mut self, note: Note) {
        self.history.push(note);
        let extra = self.history.len().saturating_sub(MAX_HISTORY);
        self.history.drain(1..=extra);
    }
}

/// All that is known of one container.
#[derive(Clone, Copy, Debug)]
pub struct ContainerRef<'a> {
    /// Its id: the runtime's, or a provisional one.
    pub id: &'a ContainerId,
    /// What it asks for.
    pub request: &'a Arc<Request>,
    /// Where it runs; `None` for an unplaced container.
    pub placement: Option<&'a Placement>,
    /// Why it is unplaced; `None` also for a container that the policy does not place at all.
    pub unplaced: Option<&'a Arc<str>>,
    /// Order of arrival.
    pub arrival: u64,
    /// The rest.
    pub record: &'a Arc<ContainerRecord>,
}

impl ContainerRef<'_> {
    /// How far it has come.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.record.stage
    }
}

/// Every container of the node. A clone shares everything with the original until either changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Containers {
    state: Arc<State>,
    records: Arc<BTreeMap<ContainerId, Arc<ContainerRecord>>>,
    pool_changes: PoolChanges,
}

impl Containers {
    /// No containers, beside what a policy remembers and what became of its pools.
    pub(super) fn of(state: State, pool_changes: PoolChanges) -> Self {
        Self {
            state: Arc::new(state),
            records: Arc::default(),
            pool_changes,
        }
    }

    /// What became of the pools.
    #[must_use]
    pub fn pool_changes(&self) -> &PoolChanges {
        &self.pool_changes
    }

    /// What the policy sees.
    #[must_use]
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Whether there is one of this id.
    #[must_use]
    pub fn contains(&self, id: &ContainerId) -> bool {
        self.records.contains_key(id)
    }

    /// One container.
    #[must_use]
    pub fn get(&self, id: &ContainerId) -> Option<ContainerRef<'_>> {
        let (id, record) = self.records.get_key_value(id)?;
        self.view(id, record)
    }

    /// All containers, by id.
    pub fn iter(&self) -> impl Iterator<Item = ContainerRef<'_>> {
        let records = self.records.iter();
        records.filter_map(|(id, record)| self.view(id, record))
    }

    fn view<'a>(
        &'a self,
        id: &'a ContainerId,
        record: &'a Arc<ContainerRecord>,
    ) -> Option<ContainerRef<'a>> {
        if let Some(unplaced) = &record.unplaced {
            return Some(ContainerRef {
                id,
                request: &unplaced.request,
                placement: None,
                unplaced: unplaced.reason.as_ref(),
                arrival: unplaced.arrival,
                record,
            });
        }
        let container = self.state.containers.get(id)?;
        Some(ContainerRef {
            id,
            request: &container.request,
            placement: Some(&container.placement),
            unplaced: None,
            arrival: container.arrival,
            record,
        })
    }

    /// Whether the policy has placed a container.
    #[must_use]
    pub fn is_placed(&self, id: &ContainerId) -> bool {
        self.state.containers.contains_key(id)
    }

    /// How far a container has come; `None` for an unknown one.
    #[must_use]
    pub fn stage(&self, id: &ContainerId) -> Option<Stage> {
        self.records.get(id).map(|record| record.stage)
    }

    /// Adds a container that is to be placed, as one the policy does not place.
    pub(super) fn insert(&mut self, spec: &ContainerSpec) {
        let unplaced = UnplacedRecord {
            request: Arc::new(spec.request.remembered()),
            arrival: self.state.next_arrival,
            reason: None,
        };
        let record = ContainerRecord {
            basis: spec.basis.clone(),
            stage: Stage::Reserved,
            requested: spec.requested.clone(),
            cgroup_parent: spec.cgroup_parent.clone(),
            attempt: spec.attempt,
            history: Vec::new(),
            unplaced: Some(unplaced),
        };
        Arc::make_mut(&mut self.records).insert(spec.request.id.clone(), Arc::new(record));
    }

    /// Adds a container that was stored.
    pub(super) fn insert_stored(&mut self, container: Stored) {
        let Stored {
            request,
            placement,
            unplaced,
            arrival,
            record,
        } = container;
        let id = request.id.clone();
        let mut record = ContainerRecord::clone(&record);
        match placement {
            Some(placement) => {
                let container = Container {
                    request,
                    placement,
                    arrival,
                };
                let state = Arc::make_mut(&mut self.state);
                state.containers.insert(id.clone(), container);
            }
            None => {
                record.unplaced = Some(UnplacedRecord {
                    request,
                    arrival,
                    reason: unplaced,
                });
            }
        }
        Arc::make_mut(&mut self.records).insert(id, Arc::new(record));
    }

    /// Carries out a decision that leads to the state `after`.
    pub(super) fn apply(&mut self, decision: &Decision, after: Arc<State>, at_unix_s: u64) {
        let records = Arc::make_mut(&mut self.records);
        for id in &decision.released {
            if !after.containers.contains_key(id) {
                records.remove(id);
            }
        }
        for change in &decision.changes {
            let Some(record) = records.get_mut(&change.id) else {
                continue;
            };
            if record.unplaced.is_none() && change.explanation.is_none() {
                continue; // it merely follows its pool
            }
            let record = Arc::make_mut(record);
            record.unplaced = None;
            if let Some(why) = &change.explanation {
                record.note(Note {
                    at_unix_s,
                    cpus: *change.placement.cpus,
                    why: why.clone(),
                });
            }
        }
        let pools = &mut self.pool_changes;
        pools.add_decision(decision, &self.state, &after, at_unix_s);
        self.state = after;
        for (id, why) in &decision.notes {
            self.note(id, why.clone(), at_unix_s);
        }
    }

    /// Replaces the placement of everything, which `occasion` led to: containers that `after` lacks are unplaced,
    /// for the reason given. Explanations are those of `changes`.
    pub(super) fn replace(
        &mut self,
        occasion: &str,
        after: Arc<State>,
        reasons: &BTreeMap<ContainerId, String>,
        explanations: &BTreeMap<ContainerId, Explanation>,
        at_unix_s: u64,
    ) {
        let before = std::mem::replace(&mut self.state, after);
        let pools = &mut self.pool_changes;
        pools.add_replacement(occasion, &before, &self.state, at_unix_s);
        for (id, record) in Arc::make_mut(&mut self.records) {
            let was = before.containers.get(id);
            if let Some(container) = self.state.containers.get(id) {
                if was.is_some_and(|was| was.placement == container.placement) {
                    continue;
                }
                let record = Arc::make_mut(record);
                record.unplaced = None;
                if let Some(why) = explanations.get(id) {
                    record.note(Note {
                        at_unix_s,
                        cpus: *container.placement.cpus,
                        why: why.clone(),
                    });
                }
            } else {
                let reason = reasons.get(id).map(|reason| Arc::from(reason.as_str()));
                unplace(record, was, reason, at_unix_s);
            }
        }
    }

    /// A container runs without a placement, for a reason that its history tells.
    pub(super) fn set_unplaced(&mut self, id: &ContainerId, reason: &str, at_unix_s: u64) {
        let was = match self.is_placed(id) {
            true => Arc::make_mut(&mut self.state).containers.remove(id),
            false => None,
        };
        if let Some(record) = Arc::make_mut(&mut self.records).get_mut(id) {
            unplace(record, was.as_ref(), Some(reason.into()), at_unix_s);
        }
    }

    /// Takes every placement away, for one reason, or because nothing is placed yet. That is no decision:
    /// histories stay.
    pub(super) fn unplace_all(&mut self, reason: Option<&str>) {
        let containers = std::mem::take(&mut Arc::make_mut(&mut self.state).containers);
        let reason: Option<Arc<str>> = reason.map(Arc::from);
        for (id, record) in Arc::make_mut(&mut self.records) {
            let record = Arc::make_mut(record);
            match (&mut record.unplaced, containers.get(id)) {
                (Some(unplaced), _) if reason.is_some() => unplaced.reason.clone_from(&reason),
                (Some(_unplaced), _) => {}
                (empty @ None, Some(container)) => {
                    *empty = Some(UnplacedRecord {
                        request: Arc::clone(&container.request),
                        arrival: container.arrival,
                        reason: reason.clone(),
                    });
                }
                (None, None) => {}
            }
        }
    }

    /// Says something of a container whose placement stays.
    fn note(&mut self, id: &ContainerId, why: Explanation, at_unix_s: u64) {
        let placed = self.state.containers.get(id);
        let cpus = placed.map_or(CpuSet::EMPTY, |container| *container.placement.cpus);
        if let Some(record) = self.change(id) {
            record.note(Note {
                at_unix_s,
                cpus,
                why,
            });
        }
    }

    /// The record of a container, to be changed.
    pub(super) fn change(&mut self, id: &ContainerId) -> Option<&mut ContainerRecord> {
        self.records.get(id)?;
        let record = Arc::make_mut(&mut self.records).get_mut(id)?;
        Some(Arc::make_mut(record))
    }

    /// A container asks for something else; where it runs stays.
    pub(super) fn set_request(&mut self, id: &ContainerId, request: &Arc<Request>) {
        if self
            .get(id)
            .is_none_or(|container| container.request == request)
        {
            return;
        }
        if let Some(container) = Arc::make_mut(&mut self.state).containers.get_mut(id) {
            container.request = Arc::clone(request);
        } else if let Some(record) = self.change(id)
            && let Some(unplaced) = &mut record.unplaced
        {
            unplaced.request = Arc::clone(request);
        }
    }

    /// How far a container has come. Whether that is news.
    pub(super) fn set_stage(&mut self, id: &ContainerId, stage: Stage) -> bool {
        if self.stage(id).is_none_or(|known| known == stage) {
            return false;
        }
        self.change(id).map(|record| record.stage = stage).is_some()
    }

    /// What CRI shows of the resources of a whole pod has changed.
    pub(super) fn set_pod_resources(&mut self, sandbox: &str, resources: &CriResources) {
        let of_pod = self
            .iter()
            .filter(|container| *container.request.pod.sandbox == *sandbox);
        let ids: Vec<_> = of_pod.map(|container| container.id.clone()).collect();
        for id in ids {
            if let Some(record) = self.change(&id) {
                record.basis.pod.get_or_insert_default().merge(resources);
            }
        }
    }

    /// What rebalancing remembers from now on.
    pub(super) fn set_memory(&mut self, memory: resmgr_policy::RebalanceMemory) {
        Arc::make_mut(&mut self.state).rebalance = memory;
    }

    /// The runtime has named a container.
    pub(super) fn rename(&mut self, provisional: &ContainerId, id: &ContainerId) {
        let Some(mut record) = Arc::make_mut(&mut self.records).remove(provisional) else {
            return;
        };
        let changed = Arc::make_mut(&mut record);
        changed.stage = Stage::Created;
        if let Some(unplaced) = &mut changed.unplaced {
            Arc::make_mut(&mut unplaced.request).id = id.clone();
        }
        Arc::make_mut(&mut self.records).insert(id.clone(), record);
        if self.is_placed(provisional) {
            let state = Arc::make_mut(&mut self.state);
            if let Some(mut container) = state.containers.remove(provisional) {
                Arc::make_mut(&mut container.request).id = id.clone();
                state.containers.insert(id.clone(), container);
            }
        }
    }

    /// Takes a container out. What it held stays in the policy's state until the policy has released it.
    pub(super) fn remove(&mut self, id: &ContainerId) -> bool {
        self.contains(id) && Arc::make_mut(&mut self.records).remove(id).is_some()
    }

    /// What the kernel shall have for each container, on a machine with these CPUs online.
    pub(super) fn desired(&self, online: &CpuSet) -> DesiredSettings<'_> {
        DesiredSettings {
            containers: self,
            online: *online,
            unreserved: OnceCell::new(),
        }
    }

    /// The writes that lead from `before` to these containers.
    pub(super) fn plan_from(&self, before: &Self, online: &CpuSet) -> Plan {
        self.plan_of(self.records.keys(), before, online)
    }

    /// The writes that a decision needs, which has led from `before` to these containers.
    pub(super) fn plan_for(&self, decision: &Decision, before: &Self, online: &CpuSet) -> Plan {
        let records = self.records.iter();
        // UnplacedRecord containers follow what the others hold.
        let unplaced = records.filter(|(_id, record)| record.unplaced.is_some());
        let changed = decision.changes.iter().map(|change| &change.id);
        let ids: BTreeSet<_> = changed.chain(unplaced.map(|(id, _)| id)).collect();
        self.plan_of(ids.into_iter(), before, online)
    }

    fn plan_of<'a>(
        &self,
        ids: impl Iterator<Item = &'a ContainerId>,
        before: &Self,
        online: &CpuSet,
    ) -> Plan {
        let (from, to) = (before.desired(online), self.desired(online));
        plan(ids.filter_map(|id| {
            Some(SettingsChange {
                id: id.clone(),
                from: from.of(id)?,
                to: to.of(id)?,
            })
        }))
    }
}

/// What the kernel shall have for the containers.
#[derive(Debug)]
pub(super) struct DesiredSettings<'a> {
    containers: &'a Containers,
    online: CpuSet,
    /// The CPUs that no container holds exclusively; empty when none holds any.
    unreserved: OnceCell<CpuSet>,
}

impl DesiredSettings<'_> {
    /// What the kernel shall have for a container; `None` for an unknown one. A container that the policy
    /// should have placed and did not may run on all CPUs that no other holds exclusively.
    pub(super) fn of(&self, id: &ContainerId) -> Option<CgroupSettings> {
        let record = self.containers.records.get(id)?;
        let Some(unplaced) = &record.unplaced else {
            let container = self.containers.state.containers.get(id)?;
            return Some(CgroupSettings::from(&container.placement));
        };
        if unplaced.reason.is_none() {
            return Some(CgroupSettings::default());
        }
        let unreserved = self.unreserved_cpus();
        let requested = record.requested.cpus.intersection(unreserved);
        Some(CgroupSettings {
            cpus: if requested.is_empty() {
                *unreserved
            } else {
                requested
            },
            ..CgroupSettings::default()
        })
    }

    fn unreserved_cpus(&self) -> &CpuSet {
        self.unreserved.get_or_init(|| {
            let exclusive = self.containers.state.exclusive();
            if exclusive.is_empty() {
                return CpuSet::EMPTY;
            }
            self.online.difference(&exclusive)
        })
    }
}

/// Takes a container's placement away. A reason that is news is noted in its history: where it runs is the
/// explanation's to say, for its CPUs follow what the others hold.
fn unplace(
    record: &mut Arc<ContainerRecord>,
    was: Option<&Container>,
    reason: Option<Arc<str>>,
    at_unix_s: u64,
) {
    let known = record.unplaced.as_ref().map(|unplaced| &unplaced.reason);
    if known == Some(&reason) {
        return;
    }
    let record = Arc::make_mut(record);
    if let Some(why) = &reason {
        record.note(Note {
            at_unix_s,
            cpus: CpuSet::EMPTY,
            why: Explanation {
                summary:
                    "not placed: it runs on all CPUs that no other container holds exclusively"
                        .to_owned(),
                reasons: vec![why.to_string().into()],
                candidates: Vec::new(),
            },
        });
    }
    match (&mut record.unplaced, was) {
        (Some(unplaced), _) => unplaced.reason = reason,
        (empty @ None, Some(container)) => {
            *empty = Some(UnplacedRecord {
                request: Arc::clone(&container.request),
                arrival: container.arrival,
                reason,
            });
        }
        (None, None) => {}
    }
}

/// A container as it is stored. The keys are those of the versions before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stored {
    pub(super) request: Arc<Request>,
    placement: Option<Placement>,
    #[serde(default)]
    unplaced: Option<Arc<str>>,
    arrival: u64,
    #[serde(flatten)]
    pub(super) record: Arc<ContainerRecord>,
}

impl From<ContainerRef<'_>> for Stored {
    fn from(container: ContainerRef<'_>) -> Self {
        Self {
            request: Arc::clone(container.request),
            placement: container.placement.cloned(),
            unplaced: container.unplaced.cloned(),
            arrival: container.arrival,
            record: Arc::clone(container.record),
        }
    }
}

#[cfg(test)]
mod tests;
