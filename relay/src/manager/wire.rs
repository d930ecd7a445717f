//! Between CRI's messages and the manager's values: what is read from a request, and what is laid over it.

use super::Ask;
use crate::{
    cri::{
        message as v1,
        overlay::{BindMount, CreateOverlay, Resources, UpdateOverlay},
    },
    enforce::Wanted,
};
use resmgr_policy::{
    ContainerId, CriResources, Placement, PodRef, QosClass, RESOURCES_ANNOTATION, Request,
    Requirements, bound, concerns_placement, estimate, qos_from_cgroup_parent,
    requirements_from_annotation,
};
use resmgr_topology::{CpuSet, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};

/// Reads a container's request out of a CreateContainerRequest.
pub(super) fn ask(
    create: &v1::CreateContainerRequest,
    provisional: ContainerId,
    memory_total_bytes: u64,
) -> Ask {
    let config = create.config.clone().unwrap_or_default();
    let sandbox = create.sandbox_config.clone().unwrap_or_default();
    let resources = config
        .linux
        .and_then(|linux| linux.resources)
        .unwrap_or_default();
    let metadata = config.metadata.unwrap_or_default();
    let cgroup_parent = sandbox
        .linux
        .map(|linux| linux.cgroup_parent)
        .unwrap_or_default();
    let pod = sandbox.metadata.unwrap_or_default();
    let about = About {
        id: provisional,
        pod: PodRef {
            sandbox: create.pod_sandbox_id.as_str().into(),
            uid: pod.uid.into(),
            name: pod.name.into(),
            namespace: pod.namespace.into(),
        },
        name: &metadata.name,
        cgroup_parent,
        annotations: sandbox.annotations,
        env: config
            .envs
            .into_iter()
            .map(|env| (env.key, env.value))
            .collect(),
        command: config.command,
        args: config.args,
        attempt: metadata.attempt,
    };
    about.ask(&resources, memory_total_bytes)
}

/// What is known of a container, from whatever source.
#[derive(Debug)]
pub(super) struct About<'a> {
    pub(super) id: ContainerId,
    pub(super) pod: PodRef,
    pub(super) name: &'a str,
    pub(super) cgroup_parent: String,
    pub(super) annotations: HashMap<String, String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) command: Vec<String>,
    pub(super) args: Vec<String>,
    pub(super) attempt: u32,
}

impl About<'_> {
    pub(super) fn ask(
        self,
        resources: &v1::LinuxContainerResources,
        memory_total_bytes: u64,
    ) -> Ask {
        let qos = qos_from_cgroup_parent(&self.cgroup_parent).unwrap_or_default();
        let shown = estimated(resources, qos, memory_total_bytes);
        let claimed = self
            .annotations
            .get(RESOURCES_ANNOTATION)
            .map(|json| requirements_from_annotation(json, self.name));
        let (requirements, init) = match claimed {
            Some(Ok(Some((claimed, init)))) => (bound(claimed, &shown), init),
            Some(Err(error)) => {
                tracing::warn!(%error, pod = %self.pod.name, "requirements are estimated instead");
                (shown, false)
            }
            Some(Ok(None)) | None => (shown, false),
        };
        let request = Request {
            id: self.id,
            pod: self.pod,
            name: self.name.into(),
            qos,
            requirements,
            init,
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
        Ask {
            request,
            asked: asked(resources),
            cgroup_parent: self.cgroup_parent,
            attempt: self.attempt,
            marked: false,
        }
    }
}

/// What the runtime would write without us.
pub(super) fn asked(resources: &v1::LinuxContainerResources) -> Wanted {
    let mems: CpuSet = resources.cpuset_mems.parse().unwrap_or_default();
    let mems: BTreeSet<_> = mems.iter().map(|node| NodeId(node.0)).collect();
    Wanted {
        // A list the kernel would refuse is the runtime's to refuse.
        cpus: resources.cpuset_cpus.parse().unwrap_or_default(),
        mems: (!mems.is_empty()).then_some(mems),
        cpu_shares: u64::try_from(resources.cpu_shares)
            .ok()
            .filter(|shares| *shares > 0),
        cpu_quota: Some(resources.cpu_quota).filter(|quota| *quota != 0),
    }
}

/// Requirements as far as the CRI fields show them.
pub(super) fn estimated(
    resources: &v1::LinuxContainerResources,
    qos: QosClass,
    memory_total_bytes: u64,
) -> Requirements {
    let cri = CriResources {
        cpu_shares: resources.cpu_shares,
        cpu_quota: resources.cpu_quota,
        cpu_period: resources.cpu_period,
        memory_limit_bytes: resources.memory_limit_in_bytes,
        oom_score_adj: resources.oom_score_adj,
    };
    estimate(cri, qos, memory_total_bytes)
}

fn overlaid(wanted: &Wanted) -> Resources {
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let list = |nodes: &BTreeSet<NodeId>| {
        let words: Vec<_> = nodes.iter().map(ToString::to_string).collect();
        words.join(",")
    };
    Resources {
        cpuset_cpus: (!wanted.cpus.is_empty()).then(|| wanted.cpus.to_string()),
        cpuset_mems: wanted
            .mems
            .as_ref()
            .filter(|mems| !mems.is_empty())
            .map(list),
        cpu_shares: wanted.cpu_shares.map(signed),
        cpu_quota: wanted.cpu_quota,
        ..Resources::default()
    }
}

/// Annotation of a container: the resources of its request that were replaced, as they were. The runtime
/// keeps it, so that what was asked for is known even without our own state.
const REPLACED: &str = "cri-resource-manager.intel.com/replaced-resources";

/// Resources of a request that an overlay replaced; what it left alone is `None`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Replaced {
    #[serde(skip_serializing_if = "Option::is_none")]
    cpuset_cpus: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpuset_mems: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_shares: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_quota: Option<i64>,
}

fn replaced(create: &v1::CreateContainerRequest, by: &Resources) -> Option<(String, String)> {
    if *by == Resources::default() {
        return None;
    }
    let linux = create
        .config
        .as_ref()
        .and_then(|config| config.linux.as_ref());
    let was = linux
        .and_then(|linux| linux.resources.clone())
        .unwrap_or_default();
    let replaced = Replaced {
        cpuset_cpus: by.cpuset_cpus.as_ref().map(|_| was.cpuset_cpus),
        cpuset_mems: by.cpuset_mems.as_ref().map(|_| was.cpuset_mems),
        cpu_shares: by.cpu_shares.map(|_| was.cpu_shares),
        cpu_quota: by.cpu_quota.map(|_| was.cpu_quota),
    };
    let text = serde_json::to_string(&replaced).ok()?;
    Some((REPLACED.to_owned(), text))
}

/// Undoes in what the runtime has what an overlay replaced when the container was created. A later change
/// of the same fields by the kubelet is not in there: only our own state knows it. Whether anything was
/// replaced.
pub(super) fn put_back(
    annotations: &HashMap<String, String>,
    has: &mut v1::LinuxContainerResources,
) -> bool {
    let Some(text) = annotations.get(REPLACED) else {
        return false;
    };
    let replaced: Replaced = match serde_json::from_str(text) {
        Ok(replaced) => replaced,
        Err(error) => {
            tracing::warn!(%error, text, "{REPLACED} is not ours; taken for what was asked: what is");
            return false;
        }
    };
    if let Some(cpus) = replaced.cpuset_cpus {
        has.cpuset_cpus = cpus;
    }
    if let Some(mems) = replaced.cpuset_mems {
        has.cpuset_mems = mems;
    }
    if let Some(shares) = replaced.cpu_shares {
        has.cpu_shares = shares;
    }
    if let Some(quota) = replaced.cpu_quota {
        has.cpu_quota = quota;
    }
    true
}

/// What to lay over a CreateContainerRequest.
pub(super) fn create_overlay(
    create: &v1::CreateContainerRequest,
    wanted: &Wanted,
    placement: Option<&Placement>,
    mounts: Vec<BindMount>,
    mark: Option<(String, String)>,
) -> CreateOverlay {
    let resources = overlaid(wanted);
    CreateOverlay {
        annotations: replaced(create, &resources)
            .into_iter()
            .chain(mark)
            .collect(),
        resources,
        envs: placement
            .map(|placement| placement.env.clone())
            .unwrap_or_default(),
        command: placement.and_then(|placement| placement.command.clone()),
        mounts,
    }
}

/// What to lay over an UpdateContainerResourcesRequest.
pub(super) fn update_overlay(wanted: &Wanted) -> UpdateOverlay {
    UpdateOverlay {
        resources: overlaid(wanted),
    }
}

/// The message that has the runtime carry out `wanted` itself.
pub(super) fn resources(wanted: &Wanted) -> v1::LinuxContainerResources {
    let overlaid = overlaid(wanted);
    v1::LinuxContainerResources {
        cpuset_cpus: overlaid.cpuset_cpus.unwrap_or_default(),
        cpuset_mems: overlaid.cpuset_mems.unwrap_or_default(),
        cpu_shares: overlaid.cpu_shares.unwrap_or_default(),
        cpu_quota: overlaid.cpu_quota.unwrap_or_default(),
        ..v1::LinuxContainerResources::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_overlay_replaces_is_known_from_the_container_itself() {
        let was = v1::LinuxContainerResources {
            cpu_shares: 2458,
            cpu_quota: 240_000,
            cpu_period: 100_000,
            cpuset_mems: "0".into(),
            ..v1::LinuxContainerResources::default()
        };
        let create = v1::CreateContainerRequest {
            config: Some(v1::ContainerConfig {
                linux: Some(v1::LinuxContainerConfig {
                    resources: Some(was.clone()),
                    ..v1::LinuxContainerConfig::default()
                }),
                ..v1::ContainerConfig::default()
            }),
            ..v1::CreateContainerRequest::default()
        };
        let wanted = Wanted {
            cpus: "2-7".parse().unwrap(),
            cpu_shares: Some(409),
            ..Wanted::default()
        };
        let overlay = create_overlay(&create, &wanted, None, Vec::new(), None);
        let annotations = overlay.annotations.into_iter().collect();
        // What the runtime shows: ours, and a quota that the kubelet has changed since.
        let mut has = v1::LinuxContainerResources {
            cpuset_cpus: "2-7".into(),
            cpu_shares: 409,
            cpu_quota: 300_000,
            ..was.clone()
        };
        put_back(&annotations, &mut has);
        let expected = v1::LinuxContainerResources {
            cpu_quota: 300_000,
            ..was
        };
        assert_eq!(has, expected);

        let none = create_overlay(&create, &Wanted::default(), None, Vec::new(), None);
        assert!(none.is_empty());
        let foreign = HashMap::from([(REPLACED.to_owned(), "[".to_owned())]);
        put_back(&foreign, &mut has);
        assert_eq!(has, expected);
    }
}
