//! What the manager is asked and answers.

use crate::enforce::CgroupSettings;
use resmgr_policy::{Basis, ContainerId, CriResources, Placement, Request};
use resmgr_topology::{CpuSet, NodeId};
use std::{collections::BTreeSet, fmt, path::PathBuf, sync::Arc};

/// A container to place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerSpec {
    /// What it asks for; its id is provisional until the runtime has named it.
    pub request: Request,
    /// What its requirements are worked out from.
    pub basis: Basis,
    /// What the runtime would give it without us.
    pub requested: CgroupSettings,
    /// Its pod's cgroup parent.
    pub cgroup_parent: String,
    /// How often it was created in its pod.
    pub attempt: u32,
    /// Whether it was created through us, as its annotations say.
    pub created_by_us: bool,
}

/// A place held for a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReservedPlace {
    /// What the policy decided; `None` when it passes through unplaced.
    pub placement: Option<Placement>,
    /// What goes into the create request.
    pub desired: CgroupSettings,
    /// The directory to show it its placement in; `None`: it is shown none.
    pub resources: Option<PathBuf>,
    /// The generation that must be on disk before the runtime hears of the container; `None` where nothing is
    /// decided.
    pub(super) generation: Option<u64>,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenyKind {
    /// The policy finds no place.
    NoPlace,
    /// The policy gave no answer in time.
    PolicyLate,
    /// The policy broke down or its own promises, room could not be made, or the placement not be saved.
    Internal,
    /// The runtime cannot be asked for what must come first, or cri-resmgr is shutting down.
    Unavailable,
}

/// A request is refused; nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// Which kind of refusal it is.
    pub kind: DenyKind,
    /// For the kubelet's event.
    pub message: String,
}

impl Denied {
    pub(super) fn ended() -> Self {
        Self {
            kind: DenyKind::Unavailable,
            message: "cri-resmgr is shutting down; the container was not created".to_owned(),
        }
    }

    pub(super) fn unsaved(problem: &str) -> Self {
        Self {
            kind: DenyKind::Internal,
            message: format!(
                "cri-resmgr cannot save the placement, the container was not created: {problem}"
            ),
        }
    }
}

/// Other resources for a container that exists. What a field does not set stays as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourceUpdate {
    /// `cpuset_cpus`; empty: not set.
    pub cpus: CpuSet,
    /// `cpuset_mems`.
    pub mems: Option<Arc<BTreeSet<NodeId>>>,
    /// Shares, quota, period, memory.
    pub numbers: CriResources,
}

/// How the runtime took an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UpdateEnd {
    /// It was done.
    Done,
    /// The runtime said no.
    Refused,
    /// The runtime's answer is lost.
    Unknown,
}

/// What an update leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Updated {
    /// What the kernel shall have.
    pub(super) desired: CgroupSettings,
    /// The ledger's generation that holds it.
    pub(super) generation: u64,
}

/// What another policy, or another configuration of it, changes for the containers that run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanPreview {
    /// Containers that get other CPUs, by name.
    pub moves: Vec<CpuChange>,
    /// How many containers keep their CPUs.
    pub staying: usize,
}

/// One container that gets other CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuChange {
    /// `namespace/pod/name`.
    pub container: String,
    /// Its CPUs before; `None` when it is not confined.
    pub from: Option<CpuSet>,
    /// Its CPUs after.
    pub to: Option<CpuSet>,
}

impl fmt::Display for PlanPreview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (moving, staying) = (self.moves.len(), self.staying);
        write!(f, "{moving} of {} containers move", moving + staying)
    }
}

impl fmt::Display for CpuChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cpus = |cpus: &Option<CpuSet>| match cpus {
            Some(cpus) => format!("CPUs {cpus}"),
            None => "no confinement".to_owned(),
        };
        let (from, to) = (cpus(&self.from), cpus(&self.to));
        write!(f, "{}: from {from} to {to}", self.container)
    }
}

/// Why another policy, or another configuration of it, was not taken over. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReconfigureError {
    /// It has no place for some of what runs.
    #[error("policy {policy} has no place for {} of the containers that run; nothing was changed. {}",
        .containers.len(), listed(.containers))]
    NoPlace {
        /// The policy refused.
        policy: &'static str,
        /// Each container without a place (`namespace/pod/name`), and why.
        containers: Vec<(String, String)>,
    },
    /// It cannot keep what runs where it must stay, broke down or was late.
    #[error("{0}; nothing was changed")]
    Policy(String),
    /// A cgroup could not be written; those written before have their old values again.
    #[error("the new placement could not be written, the old one is in force again: {0}")]
    Kernel(String),
    /// Containers were given back to the runtime.
    #[error("cri-resmgr has given all containers back and places none until it is restarted")]
    Restored,
    /// The manager has ended.
    #[error("cri-resmgr is shutting down")]
    Ended,
}

fn listed(containers: &[(String, String)]) -> String {
    let lines: Vec<_> = containers
        .iter()
        .map(|(name, why)| format!("{name}: {why}"))
        .collect();
    lines.join("; ")
}

/// What was given back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoreReport {
    /// Containers that have the runtime's own last request again.
    pub restored: Vec<ContainerId>,
    /// Containers without a cgroup: not started, or ended.
    pub absent: Vec<ContainerId>,
    /// Containers that could not be restored, and why.
    pub failed: Vec<(ContainerId, String)>,
}
