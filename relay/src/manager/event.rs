//! What the owner is told and asked.

use super::{Listing, Report};
use crate::{
    config::FailPolicies,
    cri::intercept::Status,
    enforce::Wanted,
    ledger::{Entry, Stage},
};
use resmgr_policy::{Basis, ContainerId, CriResources, Measured, Placement, Policy, Request};
use resmgr_topology::{CpuSet, NodeId, Topology};
use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};
use tokio::sync::oneshot;

/// A container to place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// What it asks for; its id is provisional until the runtime has named it.
    pub request: Request,
    /// What its requirements are worked out from.
    pub basis: Basis,
    /// What the runtime would give it without us.
    pub asked: Wanted,
    /// Its pod's cgroup parent.
    pub cgroup_parent: String,
    /// How often it was created in its pod.
    pub attempt: u32,
    /// Whether it was created through us, as its annotation says.
    pub marked: bool,
}

impl Ask {
    /// The container as it is remembered before anything is decided.
    #[must_use]
    pub fn entry(&self, arrival: u64) -> Entry {
        Entry {
            request: self.request.remembered(),
            placement: None,
            unplaced: None,
            arrival,
            stage: Stage::Reserved,
            basis: self.basis.clone(),
            asked: self.asked.clone(),
            cgroup_parent: self.cgroup_parent.clone(),
            attempt: self.attempt,
            history: Vec::new(),
        }
    }
}

/// A place held for a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reserved {
    /// What the policy decided; `None` when it passes through unplaced.
    pub placement: Option<Placement>,
    /// What goes into the create request.
    pub wanted: Wanted,
    /// The ledger's generation that holds it.
    pub generation: u64,
}

/// No.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// A code of `google.rpc.Code`.
    pub code: u32,
    /// For the kubelet's event.
    pub message: String,
}

impl Denied {
    pub(super) fn ended() -> Self {
        Self {
            code: 14, // UNAVAILABLE
            message: "cri-resmgr is shutting down; the container was not created".to_owned(),
        }
    }

    pub(super) fn unsaved(problem: &str) -> Self {
        Self {
            code: 13, // INTERNAL
            message: format!(
                "cri-resmgr cannot save the placement, the container was not created: {problem}"
            ),
        }
    }
}

impl From<Denied> for Status {
    fn from(denied: Denied) -> Self {
        Self {
            code: denied.code,
            message: denied.message,
        }
    }
}

/// What another policy, or another configuration of it, changes for the containers that run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outlook {
    /// Who moves, by name.
    pub moves: Vec<Move>,
    /// How many keep their CPUs.
    pub staying: usize,
}

/// One container that gets other CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// `namespace/pod/name`.
    pub container: String,
    /// Its CPUs before; `None` when it is not confined.
    pub from: Option<CpuSet>,
    /// Its CPUs after.
    pub to: Option<CpuSet>,
}

impl fmt::Display for Outlook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (moving, staying) = (self.moves.len(), self.staying);
        write!(f, "{moving} of {} containers move", moving + staying)
    }
}

impl fmt::Display for Move {
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
pub enum NotTaken {
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
    GivenBack,
    /// The manager has ended.
    #[error("cri-resmgr is shutting down")]
    Ended,
}

fn listed(containers: &[(String, String)]) -> String {
    let each: Vec<_> = containers
        .iter()
        .map(|(name, why)| format!("{name}: {why}"))
        .collect();
    each.join("; ")
}

/// Other resources for a container that exists. What a field does not set stays as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Update {
    /// `cpuset_cpus`; empty: not set.
    pub(super) cpus: CpuSet,
    /// `cpuset_mems`.
    pub(super) mems: Option<BTreeSet<NodeId>>,
    pub(super) numbers: CriResources,
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

/// Answer to a changed request of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Updated {
    pub(super) wanted: Wanted,
    pub(super) generation: u64,
}

/// Whether a refusal may still turn out to be one too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Round {
    First,
    Last,
}

#[derive(Debug)]
pub(super) enum Event {
    Reserve {
        ask: Box<Ask>,
        round: Round,
        /// `None`: the policy refuses, or the pod's containers seem to ask for more than their pod, and it
        /// is worth asking the runtime what has ended.
        reply: oneshot::Sender<Result<Option<Reserved>, Denied>>,
    },
    Commit {
        provisional: ContainerId,
        id: ContainerId,
    },
    Abort {
        provisional: ContainerId,
    },
    Unknown {
        provisional: ContainerId,
    },
    /// About to start: what the runtime must be told first, if anything changed since it was created.
    Starting {
        id: ContainerId,
        reply: oneshot::Sender<Option<Wanted>>,
    },
    /// How the runtime took it. Answered when the kernel has what the policy wants.
    StartEnded {
        id: ContainerId,
        started: bool,
        reply: oneshot::Sender<()>,
    },
    Gone {
        id: ContainerId,
    },
    PodGone {
        sandbox: Arc<str>,
    },
    /// The kubelet asks for other resources of a container.
    Update {
        id: ContainerId,
        update: Box<Update>,
        reply: oneshot::Sender<Result<Option<Updated>, Denied>>,
    },
    /// How the runtime took it. Answered when the kernel has what the policy wants.
    UpdateEnded {
        id: ContainerId,
        end: UpdateEnd,
        reply: Option<oneshot::Sender<()>>,
    },
    /// The runtime was told of other resources of a whole pod.
    PodResources {
        sandbox: Arc<str>,
        resources: CriResources,
    },
    Listed {
        listing: Listing,
        unknown: Vec<Ask>,
    },
    Measured(Arc<Measured>),
    Reconfigure {
        policy: Arc<dyn Policy>,
        /// Only say what it would do.
        dry: bool,
        reply: oneshot::Sender<Result<Outlook, NotTaken>>,
    },
    Limits {
        fail: FailPolicies,
        timeout: Duration,
    },
    Topology {
        topology: Arc<Topology>,
        reply: oneshot::Sender<Result<(), String>>,
    },
    Restore {
        reply: oneshot::Sender<Report>,
    },
}
