//! Events about pods, which the agent writes for cri-resmgr.

use resmgr_proto::v1::RecordEventRequest;
use std::time::{SystemTime, UNIX_EPOCH};

/// What happened to a container of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodEventReason {
    /// The policy has no place for it, and its creation was refused.
    PlacementRefused,
    /// It runs without a placement.
    Unplaced,
    /// It ran without a placement, and has one now.
    Placed,
    /// Rebalancing moved it.
    Moved,
    /// Rebalancing moved it back.
    MovedBack,
    /// It has no cgroup on this host.
    NotEnforced,
    /// Another program keeps changing its cgroup.
    Contested,
    /// Others ran on its exclusive CPUs.
    ExclusivityViolated,
    /// They no longer do.
    ExclusivityRestored,
}

impl PodEventReason {
    /// The reason as Kubernetes has it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::PlacementRefused => "CPUPlacementRefused",
            Self::Unplaced => "CPUUnplaced",
            Self::Placed => "CPUPlaced",
            Self::Moved => "CPUMoved",
            Self::MovedBack => "CPUMovedBack",
            Self::NotEnforced => "CPUPlacementNotEnforced",
            Self::Contested => "CPUPlacementContested",
            Self::ExclusivityViolated => "CPUExclusivityViolated",
            Self::ExclusivityRestored => "CPUExclusivityRestored",
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Self::Placed | Self::Moved | Self::MovedBack | Self::ExclusivityRestored => "Normal",
            Self::PlacementRefused
            | Self::Unplaced
            | Self::NotEnforced
            | Self::Contested
            | Self::ExclusivityViolated => "Warning",
        }
    }
}

/// An Event about a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodEvent {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// UID of the pod; empty when unknown.
    pub uid: String,
    /// What happened.
    pub reason: PodEventReason,
    /// The same for people: of which container, and why.
    pub message: String,
    /// When it happened.
    pub at: SystemTime,
}

impl From<&PodEvent> for RecordEventRequest {
    fn from(event: &PodEvent) -> Self {
        let at_unix = event.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            namespace: event.namespace.clone(),
            pod: event.pod.clone(),
            uid: event.uid.clone(),
            r#type: event.reason.kind().to_owned(),
            reason: event.reason.word().to_owned(),
            message: event.message.clone(),
            at_unix_ms: i64::try_from(at_unix.as_millis()).unwrap_or(i64::MAX),
        }
    }
}
