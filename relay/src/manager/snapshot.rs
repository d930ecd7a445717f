//! The manager's state as others see it.

use super::{
    containers::{ContainerRef, Containers},
    moves::MoveCounts,
    presence::RuntimeAnswer,
    refused::{RefusedCreation, RefusedCreations},
};
use crate::ledger::Health;
use resmgr_policy::{Condition, ContainerId, Measured, Policy, PoolUse, Request, View};
use resmgr_topology::{CpuSet, Nanos, Topology};
use std::{collections::BTreeMap, sync::Arc};

/// The state after a change. Immutable.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Counts changes.
    pub generation: u64,
    /// Whether the runtime has been asked what runs.
    pub synced: bool,
    /// Name of the policy.
    pub policy: &'static str,
    /// The machine.
    pub topology: Arc<Topology>,
    /// CPUs that the policy never gives out exclusively.
    pub reserved: CpuSet,
    /// Every container, unplaced ones included.
    pub containers: Containers,
    /// Creations that were refused within the last hour.
    pub refused: RefusedCreations,
    /// The policy.
    pub(super) in_force: Arc<dyn Policy>,
    /// Events counted since start.
    pub counts: Counts,
    /// Moves of what runs, counted since start.
    pub moves: MoveCounts,
    /// What the measurements were good for when they were last looked at.
    pub measurements: Condition,
    /// Whether another CPU manager is at work: the last request for a container that the policy places
    /// named CPUs.
    pub other_cpu_manager: bool,
    /// Containers that run and have no cgroup on this host: their placement is wanted, not enforced.
    pub unenforced: Arc<BTreeMap<ContainerId, RuntimeAnswer>>,
    /// Containers whose cgroup another program keeps changing, and the processes that may be it.
    pub contested: Arc<BTreeMap<ContainerId, Arc<str>>>,
    /// How the ledger fares.
    pub ledger: Health,
}

/// Events counted since start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Containers placed.
    pub placed: u64,
    /// Creations refused.
    pub refused: u64,
    /// Containers passed through unplaced.
    pub passed_unplaced: u64,
    /// Requests of a client that named CPUs for a container the policy places.
    pub overridden_cpusets: u64,
    /// Settings that another program has changed, repaired.
    pub drifts: u64,
    /// Repairs of a container that had been repaired shortly before.
    pub repeated_repairs: u64,
    /// Writes the kernel refused.
    pub write_failures: u64,
    /// Reservations whose end was not heard of.
    pub unknown_ends: u64,
    /// Answers that came too late.
    pub policy_late: u64,
    /// Breakdowns of the policy.
    pub policy_broken: u64,
    /// Decisions that broke the policy's own promises; none was carried out.
    pub policy_illegal: u64,
}

/// Why no container is meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// There is none of that name.
    #[error("no container is called {0:?}")]
    NotFound(String),
    /// There are several.
    #[error("{text:?} is both {first} and {second}; name it by its id")]
    Ambiguous {
        /// What was asked for.
        text: String,
        /// A container that fits.
        first: ContainerId,
        /// Another one.
        second: ContainerId,
    },
}

impl Snapshot {
    pub(crate) fn empty(policy: &Arc<dyn Policy>, topology: Arc<Topology>) -> Self {
        Self {
            generation: 0,
            synced: false,
            policy: policy.name(),
            reserved: policy.rules(&topology).reserved,
            topology,
            containers: Containers::default(),
            refused: RefusedCreations::default(),
            in_force: Arc::clone(policy),
            counts: Counts::default(),
            moves: MoveCounts::default(),
            measurements: Condition::Missing,
            other_cpu_manager: false,
            unenforced: Arc::default(),
            contested: Arc::default(),
            ledger: Health::default(),
        }
    }

    /// A container by its id, by its name (`name`, `pod/name` or `namespace/pod/name`), or by the beginning
    /// of its id: the first of these that fits any container counts.
    ///
    /// # Errors
    /// When it fits none, or several.
    pub fn find(&self, text: &str) -> Result<ContainerRef<'_>, FindError> {
        let named = |container: &ContainerRef<'_>| is_called(container.request, text);
        let ways: [&dyn Fn(&ContainerRef<'_>) -> bool; 3] = [
            &|container| *container.id.0 == *text,
            &named,
            &|container| !text.is_empty() && container.id.0.starts_with(text),
        ];
        for fits in ways {
            let mut found = self.containers.iter().filter(|container| fits(container));
            match (found.next(), found.next()) {
                (None, _) => {}
                (Some(container), None) => return Ok(container),
                (Some(first), Some(second)) => {
                    return Err(FindError::Ambiguous {
                        text: text.to_owned(),
                        first: first.id.clone(),
                        second: second.id.clone(),
                    });
                }
            }
        }
        Err(FindError::NotFound(text.to_owned()))
    }

    /// The pools of the policy, with what of each is free.
    #[must_use]
    pub fn pools(&self) -> Vec<PoolUse> {
        self.in_force.pools(View {
            topology: &self.topology,
            state: self.containers.state(),
            measured: &Measured::default(),
            now: Nanos(0),
        })
    }

    /// The creation refused last, within the last hour, of a container of this name (as in [`Snapshot::find`]).
    #[must_use]
    pub fn find_refused(&self, text: &str) -> Option<&RefusedCreation> {
        let mut recent = self.refused.recent();
        recent.find(|refused| is_called(&refused.request, text))
    }
}

/// Whether a container is meant by `name`, `pod/name` or `namespace/pod/name`.
fn is_called(request: &Request, text: &str) -> bool {
    let short = format!("{}/{}", request.pod.name, request.name);
    *request.name == *text || short == text || format!("{}/{short}", request.pod.namespace) == text
}
