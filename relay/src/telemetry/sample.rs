//! A sample with the names that people know containers by.

use super::{cost::Cost, snapshot::TelemetrySnapshot};
use resmgr_policy::ContainerId;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// What the telemetry measured last, for metrics and views.
#[derive(Debug, Default)]
pub struct LabelledSample {
    /// What was measured.
    pub snapshot: TelemetrySnapshot,
    /// Names of the containers in it.
    pub names: BTreeMap<ContainerId, ContainerName>,
    /// Containers on whose exclusive CPUs others ran too long.
    pub violated: BTreeSet<ContainerId>,
    /// What the measuring itself costs.
    pub cost: Option<Cost>,
}

/// The names of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerName {
    /// Pod namespace.
    pub namespace: String,
    /// Pod name.
    pub pod: String,
    /// Container name.
    pub container: String,
    /// Kubernetes UID of the pod, in which two pods of one name differ; empty when the runtime does not tell.
    pub uid: String,
    /// How often the container was created in its pod (`ContainerMetadata.attempt`).
    pub attempt: u32,
}

/// `namespace/pod/container`.
impl fmt::Display for ContainerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.namespace, self.pod, self.container)
    }
}
