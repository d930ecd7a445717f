//! What the owner is told and asked.

use super::{Listing, Report};
use crate::{cri::intercept::Status, enforce::Wanted};
use resmgr_policy::{ContainerId, Measured, Placement, Policy, Request, Requirements};
use resmgr_topology::Topology;
use std::sync::Arc;
use tokio::sync::oneshot;

/// A container to place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// What it asks for; its id is provisional until the runtime has named it.
    pub request: Request,
    /// What the runtime would give it without us.
    pub asked: Wanted,
    /// Its pod's cgroup parent.
    pub cgroup_parent: String,
    /// How often it was created in its pod.
    pub attempt: u32,
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

/// Answer to a changed request of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Updated {
    pub(super) wanted: Wanted,
    pub(super) generation: u64,
}

#[derive(Debug)]
pub(super) enum Event {
    Reserve {
        ask: Box<Ask>,
        reply: oneshot::Sender<Result<Reserved, Denied>>,
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
    Started {
        id: ContainerId,
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
        asked: Box<Wanted>,
        requirements: Box<Requirements>,
        reply: oneshot::Sender<Result<Option<Updated>, Denied>>,
    },
    /// How the runtime took it.
    UpdateEnded {
        id: ContainerId,
        done: bool,
    },
    Listed {
        listing: Listing,
        unknown: Vec<Ask>,
    },
    Measured(Arc<Measured>),
    Reconfigure {
        policy: Arc<dyn Policy>,
        reply: oneshot::Sender<Result<(), String>>,
    },
    Topology {
        topology: Arc<Topology>,
        reply: oneshot::Sender<Result<(), String>>,
    },
    Restore {
        reply: oneshot::Sender<Report>,
    },
}
