//! What a container asks for.

pub(crate) mod annotation;
pub(crate) mod basis;
pub(crate) mod cmk_isolate;
pub(crate) mod estimate;
pub(crate) mod qos;

use alloc::{collections::BTreeMap, format, string::String, sync::Arc, vec::Vec};
use cmk_isolate::isolate_words;
use derive_more::Display;
use resmgr_topology::MilliCpu;
use serde::{Deserialize, Serialize};

/// A container's identity: the runtime's id, or a provisional one while it is being created.
#[derive(Clone, Debug, Display, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContainerId(pub Arc<str>);

/// A Kubernetes namespace.
pub type Namespace = Arc<str>;

/// The pod a container belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodRef {
    /// The runtime's id of the pod sandbox.
    pub sandbox: Arc<str>,
    /// Kubernetes UID; empty when the runtime does not tell.
    pub uid: Arc<str>,
    /// Pod name.
    pub name: Arc<str>,
    /// Pod namespace.
    pub namespace: Namespace,
}

/// Kubernetes quality-of-service class of a pod.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum QosClass {
    /// Requests equal limits for every container.
    Guaranteed,
    /// Some request or limit.
    Burstable,
    /// None.
    #[default]
    BestEffort,
}

/// Where requirements were learnt from.
#[derive(Clone, Copy, Debug, Default, Display, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The pod annotation `intel.com/resources` the webhook writes.
    #[display("from the pod annotation")]
    Annotation,
    /// Estimated from the CRI request's shares, quota and memory limit.
    #[display("from CPU shares and quota")]
    #[default]
    Estimate,
    /// From the CRI request, which is newer than the pod annotation: an annotation does not follow a pod
    /// that is resized in place.
    #[display(
        "from CPU shares and quota, which are newer than the {annotated}m of the pod annotation"
    )]
    Newer {
        /// The CPU request that the annotation has.
        annotated: MilliCpu,
    },
    /// It has no CPU request of its own: what the CRI request shows was filled in from the limits of its
    /// pod (pod-level resources).
    #[display("none of its own: CPU shares and quota are filled in from its pod's limits")]
    Pod,
    /// From the CRI request, but no more than the other containers of its pod leave of what the pod has.
    #[display("CPU shares show {shown}m, more than its pod has left beside its other containers")]
    PodRest {
        /// The CPU request that was shown.
        shown: MilliCpu,
    },
}

/// Resource requirements of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requirements {
    /// CPU request.
    pub cpu_request: MilliCpu,
    /// CPU limit, if any.
    pub cpu_limit: Option<MilliCpu>,
    /// Memory request in bytes, if known.
    pub memory_request_bytes: Option<u64>,
    /// Memory limit in bytes, if any.
    pub memory_limit_bytes: Option<u64>,
    /// Extended resources requested, whole units by resource name.
    pub extended: BTreeMap<String, i64>,
    /// Where these were learnt from.
    pub source: Source,
}

/// All that a policy may know of a container it is asked to place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The container.
    pub id: ContainerId,
    /// Its pod.
    pub pod: PodRef,
    /// Container name in the pod.
    pub name: Arc<str>,
    /// QoS class of the pod.
    pub qos: QosClass,
    /// What it asks for.
    pub requirements: Requirements,
    /// Whether it is an init container that ends before the pod's containers start.
    pub init: bool,
    /// Annotations of the pod whose key concerns placement (no others are kept: they may be secret).
    pub annotations: BTreeMap<String, String>,
    /// Environment entries named `STP_*` or `CMK_*`, in order (no others are kept).
    pub env: Vec<(String, String)>,
    /// Entry point as requested; needed to recognise `cmk isolate`. Of it only that is persisted: the rest
    /// may be secret.
    #[serde(default, serialize_with = "isolate_alone")]
    pub command: Vec<String>,
    /// Arguments as requested. Not persisted.
    #[serde(skip)]
    pub args: Vec<String>,
}

impl Request {
    /// `namespace/pod/container`.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}/{}/{}", self.pod.namespace, self.pod.name, self.name)
    }

    /// The request without what is not needed to place the container again: of its command line only a
    /// `cmk isolate` with its options remains.
    #[must_use]
    pub fn remembered(&self) -> Self {
        Self {
            command: isolate_words(&self.command, &self.args),
            args: Vec::new(),
            ..self.clone()
        }
    }
}

fn isolate_alone<S: serde::Serializer>(command: &[String], to: S) -> Result<S::Ok, S::Error> {
    isolate_words(command, &[]).serialize(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_command_line_only_cmk_isolate_is_remembered_and_written_down() {
        let words = |text: &str| text.split(' ').map(String::from).collect::<Vec<_>>();
        for (command, args, kept) in [
            (
                "/opt/bin/cmk isolate --conf-dir=/etc/cmk --pool=exclusive --socket-id 0x1",
                "--no-affinity -- db --password=hunter2",
                "cmk isolate --pool=exclusive --socket-id=1 --no-affinity",
            ),
            ("cmk", "isolate db --password=hunter2", "cmk isolate"),
        ] {
            let request = Request {
                id: ContainerId("c".into()),
                pod: PodRef {
                    sandbox: "s".into(),
                    uid: "u".into(),
                    name: "p".into(),
                    namespace: "n".into(),
                },
                name: "db".into(),
                qos: QosClass::Guaranteed,
                requirements: Requirements::default(),
                init: false,
                annotations: BTreeMap::new(),
                env: Vec::new(),
                command: words(command),
                args: words(args),
            };
            let remembered = request.remembered();
            assert_eq!(remembered.command.join(" "), kept);
            assert!(remembered.args.is_empty());
            let text = serde_json::to_string(&remembered).unwrap();
            assert!(!text.contains("hunter2"), "{text}");
            let read: Request = serde_json::from_str(&text).unwrap();
            assert_eq!(read, remembered);
            // Even what was never shortened is not written down.
            let text = serde_json::to_string(&request).unwrap();
            assert!(!text.contains("hunter2"), "{text}");
        }
    }
}
