//! What others may see of the manager's state.

use super::MoveCounts;
use crate::ledger::{Entry, Health};
use resmgr_policy::{Condition, ContainerId, State};
use resmgr_topology::Topology;
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
    /// Who sits where.
    pub state: Arc<State>,
    /// Everything known of every container, unplaced ones included.
    pub entries: Arc<BTreeMap<ContainerId, Arc<Entry>>>,
    /// Events counted since start.
    pub counts: Counts,
    /// Moves of what runs, counted since start.
    pub moves: MoveCounts,
    /// What the measurements were good for when they were last looked at.
    pub measurements: Condition,
    /// Whether another CPU manager is at work: the last request for a container that the policy places
    /// named CPUs.
    pub other_cpu_manager: bool,
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
    /// Settings changed behind our back and repaired.
    pub drifts: u64,
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

impl Snapshot {
    pub(super) fn empty(policy: &'static str, topology: Arc<Topology>) -> Self {
        Self {
            generation: 0,
            synced: false,
            policy,
            topology,
            state: Arc::default(),
            entries: Arc::default(),
            counts: Counts::default(),
            moves: MoveCounts::default(),
            measurements: Condition::Missing,
            other_cpu_manager: false,
            ledger: Health::default(),
        }
    }

    /// A container by its id, a unique prefix of it, or its unique name.
    #[must_use]
    pub fn find(&self, text: &str) -> Option<&Arc<Entry>> {
        if let Some(entry) = self.entries.get(&ContainerId(text.into())) {
            return Some(entry);
        }
        let unique = |fits: &dyn Fn(&ContainerId, &Entry) -> bool| {
            let mut found = self.entries.iter().filter(|(id, entry)| fits(id, entry));
            match (found.next(), found.next()) {
                (Some((_id, entry)), None) => Some(entry),
                _ => None,
            }
        };
        unique(&|id, _entry| !text.is_empty() && id.0.starts_with(text))
            .or_else(|| unique(&|_id, entry| *entry.request.name == *text))
    }
}
