//! Between CRI's messages and the manager's values: what is read from a request, and what is laid over it.

use super::annotations::original_resources;
use crate::{
    cri::{
        message as v1,
        overlay::{BindMount, CreateOverlay, ResourceOverlay, UpdateOverlay},
    },
    enforce::CgroupSettings,
    manager::ContainerSpec,
};
use bytes::Bytes;
use prost::Message;
use resmgr_policy::{
    AnnotationEntry, Basis, ContainerId, CriResources, Placement, PodRef, RESOURCES_ANNOTATION,
    Request, concerns_placement, entry_of_annotation, judge_pod, qos_from_cgroup_parent,
};
use resmgr_topology::{CpuSet, NodeId};
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

/// A `CreateContainerRequest`, of which only what concerns placement is read. The rest goes on as it came,
/// whatever it is: since Kubernetes 1.36 the values of the environment need not be UTF-8, for instance.
#[derive(Clone, PartialEq, Message)]
pub struct CreateContainerRequest {
    #[prost(string, tag = "1")]
    pub(super) pod_sandbox_id: String,
    #[prost(message, optional, tag = "2")]
    config: Option<ContainerConfig>,
    #[prost(message, optional, tag = "3")]
    sandbox_config: Option<v1::PodSandboxConfig>,
}

/// A `ContainerConfig`; see [`CreateContainerRequest`].
#[derive(Clone, PartialEq, Message)]
struct ContainerConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<v1::ContainerMetadata>,
    #[prost(string, repeated, tag = "3")]
    command: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    args: Vec<String>,
    #[prost(message, repeated, tag = "6")]
    envs: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    linux: Option<LinuxContainerConfig>,
}

/// A `KeyValue`; see [`CreateContainerRequest`].
#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// A `LinuxContainerConfig`; see [`CreateContainerRequest`].
#[derive(Clone, PartialEq, Message)]
struct LinuxContainerConfig {
    #[prost(message, optional, tag = "1")]
    resources: Option<v1::LinuxContainerResources>,
}

/// Reads what is to be placed out of a CreateContainerRequest. Estimates need the machine's memory in bytes.
#[must_use]
pub fn container_spec(
    create: &CreateContainerRequest,
    provisional: ContainerId,
    memory_total_bytes: u64,
) -> ContainerSpec {
    let config = create.config.clone().unwrap_or_default();
    let sandbox = create.sandbox_config.clone().unwrap_or_default();
    let resources = config
        .linux
        .and_then(|linux| linux.resources)
        .unwrap_or_default();
    let metadata = config.metadata.unwrap_or_default();
    let linux = sandbox.linux.unwrap_or_default();
    let pod = sandbox.metadata.unwrap_or_default();
    let meta = ContainerMeta {
        id: provisional,
        pod: PodRef {
            sandbox: create.pod_sandbox_id.as_str().into(),
            uid: pod.uid.into(),
            name: pod.name.into(),
            namespace: pod.namespace.into(),
        },
        name: &metadata.name,
        cgroup_parent: linux.cgroup_parent,
        pod_resources: linux.resources.as_ref().map(numbers),
        annotations: sandbox.annotations,
        env: config
            .envs
            .into_iter()
            .map(|env| (env.key, String::from_utf8_lossy(&env.value).into_owned()))
            .collect(),
        command: config.command,
        args: config.args,
        attempt: metadata.attempt,
    };
    meta.spec(&resources, memory_total_bytes)
}

/// What is known of a container, from whatever source.
#[derive(Debug)]
pub(super) struct ContainerMeta<'a> {
    pub(super) id: ContainerId,
    pub(super) pod: PodRef,
    pub(super) name: &'a str,
    pub(super) cgroup_parent: String,
    /// What CRI shows of the resources of the whole pod, if it does.
    pub(super) pod_resources: Option<CriResources>,
    pub(super) annotations: HashMap<String, String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) command: Vec<String>,
    pub(super) args: Vec<String>,
    pub(super) attempt: u32,
}

impl ContainerMeta<'_> {
    pub(super) fn spec(
        self,
        resources: &v1::LinuxContainerResources,
        memory_total_bytes: u64,
    ) -> ContainerSpec {
        let qos = qos_from_cgroup_parent(&self.cgroup_parent).unwrap_or_default();
        let annotation = match self.annotations.get(RESOURCES_ANNOTATION) {
            Some(json) => entry_of_annotation(json, self.name).unwrap_or_else(|error| {
                tracing::warn!(%error, pod = %self.pod.name, "requirements are estimated instead");
                AnnotationEntry::default()
            }),
            None => AnnotationEntry::default(),
        };
        let mut basis = Basis {
            shown: numbers(resources),
            pod: self.pod_resources,
            annotated: annotation.own,
            ..Basis::default()
        };
        if basis.pod.is_none() {
            basis.pod = annotation.pod.map(|pod| pod.shown());
        }
        judge_pod(&mut [&mut basis]);
        let request = Request {
            id: self.id,
            pod: self.pod,
            name: self.name.into(),
            qos,
            requirements: basis.requirements(qos, memory_total_bytes),
            init: annotation.init,
            annotations: self
                .annotations
                .into_iter()
                .filter(|(key, _value)| concerns_placement(key))
                .collect(),
            env: self
                .env
                .into_iter()
                .filter(|(key, _value)| key.starts_with("STP_") || key.starts_with("CMK_"))
                .collect(),
            command: self.command,
            args: self.args,
        };
        ContainerSpec {
            request,
            basis,
            requested: requested(resources),
            cgroup_parent: self.cgroup_parent,
            attempt: self.attempt,
            created_by_us: false,
        }
    }
}

/// What the runtime would write without us.
pub(super) fn requested(resources: &v1::LinuxContainerResources) -> CgroupSettings {
    let mems: CpuSet = resources.cpuset_mems.parse().unwrap_or_default();
    let mems: BTreeSet<_> = mems.iter().map(|node| NodeId(node.0)).collect();
    CgroupSettings {
        // A list the kernel would refuse is the runtime's to refuse.
        cpus: resources.cpuset_cpus.parse().unwrap_or_default(),
        mems: (!mems.is_empty()).then(|| Arc::new(mems)),
        cpu_shares: u64::try_from(resources.cpu_shares)
            .ok()
            .filter(|shares| *shares > 0),
        cpu_quota: Some(resources.cpu_quota).filter(|quota| *quota != 0),
    }
}

/// The numbers of a message about resources.
pub(super) fn numbers(resources: &v1::LinuxContainerResources) -> CriResources {
    CriResources {
        cpu_shares: resources.cpu_shares,
        cpu_quota: resources.cpu_quota,
        cpu_period: resources.cpu_period,
        memory_limit_bytes: resources.memory_limit_in_bytes,
        oom_score_adj: resources.oom_score_adj,
    }
}

/// What the runtime is told of a placement: the cpuset alone. Shares, quota and period stay in its records
/// as the kubelet asked for them, for the kubelet reads them back (`ContainerStatus.resources`) and waits
/// until they are what its pod's spec says. Where a policy wants others they are written into the cgroup.
fn overlaid(desired: &CgroupSettings) -> ResourceOverlay {
    let list = |nodes: &BTreeSet<NodeId>| {
        let words: Vec<_> = nodes.iter().map(ToString::to_string).collect();
        words.join(",")
    };
    ResourceOverlay {
        cpuset_cpus: (!desired.cpus.is_empty()).then(|| desired.cpus.to_string()),
        cpuset_mems: desired
            .mems
            .as_deref()
            .filter(|mems| !mems.is_empty())
            .map(list),
        ..ResourceOverlay::default()
    }
}

/// What to lay over a CreateContainerRequest.
pub(super) fn create_overlay(
    create: &CreateContainerRequest,
    desired: &CgroupSettings,
    placement: Option<&Placement>,
    mounts: Vec<BindMount>,
    isolate: Option<(String, String)>,
) -> CreateOverlay {
    let resources = overlaid(desired);
    let config = create.config.as_ref();
    let linux = config.and_then(|config| config.linux.as_ref());
    let was = linux.and_then(|linux| linux.resources.clone());
    let original = original_resources(was.unwrap_or_default(), &resources);
    CreateOverlay {
        annotations: original.into_iter().chain(isolate).collect(),
        resources,
        envs: placement
            .map(|placement| placement.env.clone())
            .unwrap_or_default(),
        command: placement.and_then(|placement| placement.command.clone()),
        mounts,
    }
}

/// What to lay over an UpdateContainerResourcesRequest.
pub(super) fn update_overlay(desired: &CgroupSettings) -> UpdateOverlay {
    UpdateOverlay {
        resources: overlaid(desired),
    }
}

/// The message that has the runtime confine a container as desired.
pub(super) fn resources(desired: &CgroupSettings) -> v1::LinuxContainerResources {
    let overlaid = overlaid(desired);
    v1::LinuxContainerResources {
        cpuset_cpus: overlaid.cpuset_cpus.unwrap_or_default(),
        cpuset_mems: overlaid.cpuset_mems.unwrap_or_default(),
        ..v1::LinuxContainerResources::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intercept::annotations::undo_overlay;

    #[test]
    fn an_environment_that_is_no_text_does_not_stand_in_the_way() {
        let env = |key: &str, value: &'static [u8]| KeyValue {
            key: key.into(),
            value: Bytes::from_static(value),
        };
        let create = CreateContainerRequest {
            config: Some(ContainerConfig {
                envs: vec![env("BLOB", b"\xff\xfe"), env("STP_POOL", b"infra")],
                ..ContainerConfig::default()
            }),
            ..CreateContainerRequest::default()
        };
        let bytes = Bytes::from(create.encode_to_vec());
        assert!(v1::CreateContainerRequest::decode(bytes.clone()).is_err());
        let read = CreateContainerRequest::decode(bytes).unwrap();
        let spec = container_spec(&read, ContainerId("c".into()), 0);
        assert_eq!(
            spec.request.env,
            [("STP_POOL".to_owned(), "infra".to_owned())]
        );
    }

    const KEY: &str = "cri-resource-manager.intel.com/replaced-resources";

    #[test]
    fn what_an_overlay_replaces_is_known_from_the_container_itself() {
        let was = v1::LinuxContainerResources {
            cpu_shares: 2458,
            cpu_quota: 240_000,
            cpu_period: 100_000,
            cpuset_mems: "0".into(),
            ..v1::LinuxContainerResources::default()
        };
        let create = CreateContainerRequest {
            config: Some(ContainerConfig {
                linux: Some(LinuxContainerConfig {
                    resources: Some(was.clone()),
                }),
                ..ContainerConfig::default()
            }),
            ..CreateContainerRequest::default()
        };
        let desired = CgroupSettings {
            cpus: "2-7".parse().unwrap(),
            cpu_shares: Some(409),
            ..CgroupSettings::default()
        };
        let overlay = create_overlay(&create, &desired, None, Vec::new(), None);
        let annotations = overlay.annotations.iter().cloned().collect();
        // The kubelet reads back its own shares and quota.
        let sent = overlay.resources;
        assert_eq!(
            (sent.cpu_shares, sent.cpu_quota, sent.cpu_period),
            (None, None, None)
        );
        // What the runtime shows: our CPUs, and a quota that the kubelet has changed since.
        let mut has = v1::LinuxContainerResources {
            cpuset_cpus: "2-7".into(),
            cpu_quota: 300_000,
            ..was.clone()
        };
        undo_overlay(&annotations, &mut has);
        let expected = v1::LinuxContainerResources {
            cpu_quota: 300_000,
            ..was.clone()
        };
        assert_eq!(has, expected);

        // An earlier version replaced shares and quota too.
        let earlier = r#"{"cpuset_cpus":"","cpu_shares":2458,"cpu_quota":240000}"#.to_owned();
        let mut earlier_has = v1::LinuxContainerResources {
            cpu_shares: 409,
            cpu_quota: -1,
            ..was.clone()
        };
        undo_overlay(
            &HashMap::from([(KEY.to_owned(), earlier)]),
            &mut earlier_has,
        );
        assert_eq!(earlier_has, was);

        let none = create_overlay(&create, &CgroupSettings::default(), None, Vec::new(), None);
        assert!(none.is_empty());
        let foreign = HashMap::from([(KEY.to_owned(), "[".to_owned())]);
        undo_overlay(&foreign, &mut has);
        assert_eq!(has, expected);
    }
}
