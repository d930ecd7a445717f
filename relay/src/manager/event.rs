//! What the owner is sent.

use super::{
    answer::{
        ContainerSpec, Denied, PlanPreview, ReconfigureError, ReservedPlace, ResourceUpdate,
        RestoreReport, UpdateEnd, Updated,
    },
    runtime::Listing,
};
use crate::{config::FailPolicies, enforce::CgroupSettings};
use resmgr_policy::{ContainerId, CriResources, Measured, Policy};
use resmgr_topology::Topology;
use std::{sync::Arc, time::Duration};
use tokio::sync::oneshot;

/// Whether a refusal may still turn out to be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    /// What the policy counts may have ended unnoticed.
    Initial,
    /// The runtime has been asked what runs.
    AfterRelist,
}

#[derive(Debug)]
pub(super) enum ManagerEvent {
    Reserve {
        spec: Box<ContainerSpec>,
        attempt: Attempt,
        /// `None`: the policy refuses, or the pod's containers seem to ask for more than their pod, and it
        /// is worth asking the runtime what has ended.
        reply: oneshot::Sender<Result<Option<ReservedPlace>, Denied>>,
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
    /// About to start: what the runtime must be sent first, if anything changed since it was created.
    Starting {
        id: ContainerId,
        reply: oneshot::Sender<Option<CgroupSettings>>,
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
    /// The kubelet asks for other resources of a container. `None`: the container is not known.
    Update {
        id: ContainerId,
        update: Box<ResourceUpdate>,
        reply: oneshot::Sender<Result<Option<Updated>, Denied>>,
    },
    /// How the runtime took it. Answered when the kernel has what the policy wants.
    UpdateEnded {
        id: ContainerId,
        end: UpdateEnd,
        reply: Option<oneshot::Sender<()>>,
    },
    /// The runtime was sent other resources of a whole pod.
    PodResources {
        sandbox: Arc<str>,
        resources: CriResources,
    },
    Listed {
        listing: Listing,
        unknown: Vec<ContainerSpec>,
    },
    Measured(Arc<Measured>),
    Reconfigure {
        policy: Arc<dyn Policy>,
        /// Only say what it would do.
        dry: bool,
        reply: oneshot::Sender<Result<PlanPreview, ReconfigureError>>,
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
        reply: oneshot::Sender<RestoreReport>,
    },
}
