//! The container runtime, asked through CRI: what runs, and all about what we did not see being created.

use super::{
    annotations::{isolate_words, undo_overlay, was_overlaid},
    hooks::listing,
    request::{ContainerMeta, resources},
};
use crate::{
    cri::{
        client::{CallError, RuntimeClient},
        message as v1,
    },
    enforce::{CgroupResources, CgroupSettings, Cgroups, EnforceError},
    manager::{ContainerSpec, ExitEventsUnavailable, Listed, Listing, Runtime, RuntimeError},
};
use async_trait::async_trait;
use futures::StreamExt;
use resmgr_policy::{ContainerId, CriResources, PodRef};
use serde_json::Value;
use std::{collections::HashMap, sync::Arc};
use tokio::{sync::mpsc, time::Instant};

/// The runtime behind a client.
#[derive(Clone, Debug)]
pub struct RuntimeView {
    client: RuntimeClient,
    memory_total_bytes: u64,
    cgroups: Option<Arc<Cgroups>>,
}

impl RuntimeView {
    /// Asks through this client; estimates need the machine's memory.
    #[must_use]
    pub fn new(client: RuntimeClient, memory_total_bytes: u64) -> Self {
        Self {
            client,
            memory_total_bytes,
            cgroups: None,
        }
    }

    /// Reads from these cgroups what the runtime does not tell of a container.
    #[must_use]
    pub fn with_cgroups(self, cgroups: Arc<Cgroups>) -> Self {
        Self {
            cgroups: Some(cgroups),
            ..self
        }
    }

    /// What the cgroup of a container says; nothing where it cannot be read.
    async fn origin(&self, id: &Arc<str>) -> Option<CgroupResources> {
        let cgroups = Arc::clone(self.cgroups.as_ref()?);
        let container = Arc::clone(id);
        let read = tokio::task::spawn_blocking(move || cgroups.origin(&container)).await;
        match read.ok()? {
            Ok(origin) => Some(origin),
            Err(EnforceError::Absent { .. }) => None,
            Err(error) => {
                tracing::warn!(%error, container = %id, "cgroup not readable");
                None
            }
        }
    }
}

fn failed(operation: &'static str) -> impl Fn(CallError) -> RuntimeError {
    move |error| RuntimeError {
        operation,
        problem: error.to_string(),
    }
}

#[async_trait]
impl Runtime for RuntimeView {
    async fn list(&self) -> Result<Listing, RuntimeError> {
        let requested_at = Instant::now();
        let containers = match self.client.list_containers().await {
            Ok(containers) => containers,
            // A runtime without v1 is asked once which version it speaks.
            Err(error) if error.status.code == 12 => {
                self.client
                    .version()
                    .await
                    .map_err(failed("ask the version"))?;
                self.client
                    .list_containers()
                    .await
                    .map_err(failed("list containers"))?
            }
            Err(error) => return Err(failed("list containers")(error)),
        };
        Ok(listing(
            v1::ListContainersResponse { containers },
            requested_at,
        ))
    }

    async fn learn(&self, container: &Listed) -> Result<ContainerSpec, RuntimeError> {
        let status = self
            .client
            .container_status(&container.id)
            .await
            .map_err(failed("ask the status of a container"))?;
        let gone = v1::ContainerState::ContainerExited;
        if status
            .status
            .as_ref()
            .is_some_and(|status| status.state() == gone)
        {
            return Err(RuntimeError {
                operation: "learn of a container",
                problem: format!("{} has exited", container.id),
            });
        }
        let pod = self
            .client
            .pod_sandbox_status(&container.sandbox)
            .await
            .map_err(failed("ask the status of a pod"))?;
        let annotations = status
            .status
            .as_ref()
            .map(|status| status.annotations.clone())
            .unwrap_or_default();
        let spec = details(&status.info).get("runtimeSpec").cloned();
        let told = spec.is_some();
        let spec = spec.unwrap_or_default();
        let pod_info = details(&pod.info);
        let pod = pod.status.unwrap_or_default();
        let metadata = pod.metadata.unwrap_or_default();
        let env = words(&spec, "/process/env")
            .into_iter()
            .filter_map(|entry| {
                entry
                    .split_once('=')
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
            })
            .collect();
        let mut cgroup_parent = cgroup_parent(&pod_info, &spec);
        let mut has = spec_resources(&spec);
        if !told {
            let status = status.status.as_ref();
            let shown = status.and_then(|status| status.resources.as_ref()?.linux.clone());
            let replaced = was_overlaid(&annotations);
            let origin = self.origin(&container.id).await;
            let source = resource_source(shown.is_some(), origin.is_some(), replaced);
            has = shown.unwrap_or_else(|| origin_resources(origin.as_ref(), replaced));
            if let Some(origin) = origin.filter(|_origin| cgroup_parent.is_empty()) {
                cgroup_parent = origin.parent;
            }
            tracing::warn!(container = %container.id, name = %container.name, source,
                cgroup_parent, "the runtime's verbose status has no runtimeSpec: resources are taken from elsewhere, \
                 command line and environment are unknown");
        }
        let isolate = isolate_words(&annotations);
        let created_by_us = undo_overlay(&annotations, &mut has) || isolate.is_some();
        let command = isolate.unwrap_or_else(|| words(&spec, "/process/args"));
        let meta = ContainerMeta {
            id: ContainerId(Arc::clone(&container.id)),
            pod: PodRef {
                sandbox: Arc::clone(&container.sandbox),
                uid: metadata.uid.into(),
                name: metadata.name.into(),
                namespace: metadata.namespace.into(),
            },
            name: &container.name,
            cgroup_parent,
            pod_resources: pod_resources(&pod_info),
            annotations: pod.annotations,
            env,
            command,
            args: Vec::new(),
            attempt: container.attempt,
        };
        Ok(ContainerSpec {
            created_by_us,
            ..meta.spec(&has, self.memory_total_bytes)
        })
    }

    async fn update(&self, id: &str, settings: &CgroupSettings) -> Result<(), RuntimeError> {
        self.client
            .update_container_resources(id, resources(settings))
            .await
            .map_err(failed("update a container's resources"))
    }

    async fn exit_events(&self, exits: mpsc::Sender<Arc<str>>) -> ExitEventsUnavailable {
        let broken =
            |error| ExitEventsUnavailable::Broken(failed("listen to containers that end")(error));
        match self.client.tells_all_listeners().await {
            Ok(true) => {}
            Ok(false) => return ExitEventsUnavailable::NotOffered,
            Err(error) => return broken(error),
        }
        let mut events = match self.client.container_events().await {
            Ok(events) => std::pin::pin!(events),
            Err(error) if error.status.code == 12 => return ExitEventsUnavailable::NotOffered,
            Err(error) => return broken(error),
        };
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    let ended = matches!(
                        event.container_event_type(),
                        v1::ContainerEventType::ContainerStoppedEvent
                            | v1::ContainerEventType::ContainerDeletedEvent
                    );
                    if ended && exits.send(event.container_id.into()).await.is_err() {
                        break; // the manager has ended
                    }
                }
                Err(error) => return broken(error),
            }
        }
        ExitEventsUnavailable::Broken(RuntimeError {
            operation: "listen to containers that end",
            problem: "the runtime ended the stream".to_owned(),
        })
    }
}

/// The JSON that containerd and CRI-O put under `info` of a verbose status.
fn details(info: &HashMap<String, String>) -> Value {
    info.get("info")
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default()
}

fn words(spec: &Value, pointer: &str) -> Vec<String> {
    let list = spec.pointer(pointer).and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

/// ResourceOverlay of an OCI runtime spec (`config-linux.md` of the specification).
fn spec_resources(spec: &Value) -> v1::LinuxContainerResources {
    let number = |pointer| spec.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let text = |pointer| {
        spec.pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    v1::LinuxContainerResources {
        cpu_shares: number("/linux/resources/cpu/shares"),
        cpu_quota: number("/linux/resources/cpu/quota"),
        cpu_period: number("/linux/resources/cpu/period"),
        memory_limit_in_bytes: number("/linux/resources/memory/limit"),
        oom_score_adj: number("/process/oomScoreAdj"),
        cpuset_cpus: text("/linux/resources/cpu/cpus"),
        cpuset_mems: text("/linux/resources/cpu/mems"),
        ..v1::LinuxContainerResources::default()
    }
}

/// Where the resources come from of a container that the runtime has no specification of.
fn resource_source(shown: bool, found: bool, replaced: bool) -> &'static str {
    match (shown, found, replaced) {
        (true, _, _) => "ContainerStatus.resources",
        (false, true, false) => "cgroup",
        // The policy has written its own shares and quota there.
        (false, true, true) => "none: the cgroup has what the policy wrote",
        (false, false, _) => "none: no cgroup found",
    }
}

/// Resources of a cgroup. The cpuset there is the parent's where nothing was asked for: it counts as not asked.
fn origin_resources(
    origin: Option<&CgroupResources>,
    replaced: bool,
) -> v1::LinuxContainerResources {
    let Some(origin) = origin.filter(|_origin| !replaced) else {
        return v1::LinuxContainerResources::default();
    };
    let shares = origin.cpu_shares.and_then(|shares| shares.try_into().ok());
    v1::LinuxContainerResources {
        cpu_shares: shares.unwrap_or(0),
        cpu_quota: origin.cpu_quota.unwrap_or(0),
        cpu_period: origin.cpu_period.unwrap_or(0),
        ..v1::LinuxContainerResources::default()
    }
}

/// ResourceOverlay of the whole pod as it was run with: containerd keeps the sandbox's configuration.
fn pod_resources(pod: &Value) -> Option<CriResources> {
    let resources = pod.pointer("/config/linux/resources")?;
    let number = |name| resources.get(name).and_then(Value::as_i64).unwrap_or(0);
    Some(CriResources {
        cpu_shares: number("cpu_shares"),
        cpu_quota: number("cpu_quota"),
        cpu_period: number("cpu_period"),
        memory_limit_bytes: number("memory_limit_in_bytes"),
        oom_score_adj: number("oom_score_adj"),
    })
}

/// The pod's cgroup parent: as containerd tells it, as CRI-O does, else from the container's own path.
fn cgroup_parent(pod: &Value, spec: &Value) -> String {
    let told = [
        pod.pointer("/config/linux/cgroup_parent"),
        pod.pointer("/runtimeSpec/annotations/io.kubernetes.cri-o.CgroupParent"),
    ];
    if let Some(parent) = told.into_iter().flatten().filter_map(Value::as_str).next() {
        return parent.to_owned();
    }
    let path = spec
        .pointer("/linux/cgroupsPath")
        .and_then(Value::as_str)
        .unwrap_or_default();
    match (path.split_once(':'), path.rsplit_once('/')) {
        (Some((slice, _scope)), _) => slice.to_owned(),
        (None, Some((parent, _id))) => parent.to_owned(),
        (None, None) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cri::client::tests::replying, enforce::test_support::FakeTree};
    use prost::Message as _;
    use resmgr_policy::QosClass;
    use serde_json::json;
    use std::path::Path;

    #[test]
    fn a_container_of_which_only_the_cgroup_is_known_is_what_it_was_created_as() {
        let origin = CgroupResources {
            parent: "/kubepods/podX".to_owned(),
            cpu_shares: Some(2048),
            cpu_quota: Some(200_000),
            cpu_period: Some(100_000),
        };
        let meta = ContainerMeta {
            id: ContainerId("c1".into()),
            pod: PodRef {
                sandbox: "s1".into(),
                uid: "".into(),
                name: "db-0".into(),
                namespace: "default".into(),
            },
            name: "db",
            cgroup_parent: origin.parent.clone(),
            pod_resources: None,
            annotations: HashMap::new(),
            env: Vec::new(),
            command: Vec::new(),
            args: Vec::new(),
            attempt: 0,
        };
        let request = meta
            .spec(&origin_resources(Some(&origin), false), 1 << 30)
            .request;
        assert_eq!(request.qos, resmgr_policy::QosClass::Guaranteed);
        assert_eq!(request.requirements.cpu_request.0, 2000);
        // What the policy wrote there is no request.
        let replaced = origin_resources(Some(&origin), true);
        assert_eq!(replaced, v1::LinuxContainerResources::default());
    }

    #[test]
    fn the_cgroup_parent_is_learnt_from_either_runtime_or_the_containers_path() {
        let containerd = json!({"config": {"linux": {"cgroup_parent": "/kubepods/podX"}}});
        let crio = json!({"runtimeSpec": {"annotations":
            {"io.kubernetes.cri-o.CgroupParent": "kubepods-podX.slice"}}});
        let path = |path: &str| json!({"linux": {"cgroupsPath": path}});
        let none = Value::Null;
        assert_eq!(cgroup_parent(&containerd, &none), "/kubepods/podX");
        assert_eq!(cgroup_parent(&crio, &none), "kubepods-podX.slice");
        assert_eq!(
            cgroup_parent(&none, &path("/kubepods/podX/abc")),
            "/kubepods/podX"
        );
        assert_eq!(
            cgroup_parent(&none, &path("kubepods-podX.slice:cri-containerd:abc")),
            "kubepods-podX.slice"
        );
    }

    #[test]
    fn the_pods_resources_are_read_where_the_runtime_keeps_them() {
        let told = json!({"config": {"linux": {"resources":
            {"cpu_shares": 1024, "cpu_quota": 100_000, "cpu_period": 100_000}}}});
        let read = pod_resources(&told).unwrap();
        assert_eq!((read.cpu_shares, read.memory_limit_bytes), (1024, 0));
        assert_eq!(pod_resources(&json!({"config": {"linux": {}}})), None);
    }

    /// A runtime whose verbose status says nothing under `info`.
    fn terse_runtime(socket: &Path, shown: Option<v1::LinuxContainerResources>) {
        let status = v1::ContainerStatusResponse {
            status: Some(v1::ContainerStatus {
                resources: shown.map(|linux| v1::ContainerResources {
                    linux: Some(linux),
                    ..v1::ContainerResources::default()
                }),
                ..v1::ContainerStatus::default()
            }),
            ..v1::ContainerStatusResponse::default()
        };
        let status = status.encode_to_vec();
        let listener = tokio::net::UnixListener::bind(socket).unwrap();
        replying(listener, move |path| match path.rsplit('/').next()? {
            "ContainerStatus" => Some(status.clone()),
            "PodSandboxStatus" => Some(Vec::new()),
            _ => None,
        });
    }

    #[tokio::test]
    async fn without_info_resources_are_taken_from_the_status_or_else_from_the_cgroup() {
        const ID: &str = "0123456789abcdef";
        let tree = FakeTree::v2();
        tree.container("kubepods/pod5", ID, "0-7", "0");
        let cgroup = tree
            .cgroups
            .hierarchy()
            .cpuset_root()
            .join("kubepods/pod5")
            .join(ID);
        for (file, text) in [("cpu.max", "300000 100000"), ("cpu.weight", "118")] {
            std::fs::write(cgroup.join(file), text).unwrap();
        }
        let cgroups = Arc::new(Cgroups::new(tree.cgroups.hierarchy().clone()));
        let shown = v1::LinuxContainerResources {
            cpu_shares: 2048,
            cpu_quota: 200_000,
            cpu_period: 100_000,
            ..v1::LinuxContainerResources::default()
        };
        for (shown, found, milli, qos) in [
            (Some(&shown), true, 2000, QosClass::Guaranteed),
            (None, true, 3000, QosClass::Guaranteed),
            // The class is in the cgroup's path alone.
            (Some(&shown), false, 2000, QosClass::BestEffort),
            (None, false, 0, QosClass::BestEffort),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let socket = dir.path().join("runtime.sock");
            terse_runtime(&socket, shown.cloned());
            let client = RuntimeClient::new(&socket, std::time::Duration::from_secs(10), vec![]);
            let mut view = RuntimeView::new(client, 1 << 30);
            if found {
                view = view.with_cgroups(Arc::clone(&cgroups));
            }
            let listed = Listed {
                id: ID.into(),
                sandbox: "s1".into(),
                name: "db".into(),
                attempt: 0,
                stage: crate::manager::Stage::Running,
            };
            let spec = view.learn(&listed).await.unwrap();
            let requirements = spec.request.requirements;
            assert_eq!(
                (requirements.cpu_request.0, spec.request.qos),
                (milli, qos),
                "{shown:?} {found}"
            );
        }
    }

    #[test]
    fn resources_are_read_from_the_oci_spec() {
        let spec = json!({"linux": {"resources": {
            "cpu": {"shares": 2048, "quota": 200_000, "period": 100_000, "cpus": "2-3", "mems": "0"},
            "memory": {"limit": 1024}}}, "process": {"oomScoreAdj": -997}});
        let read = spec_resources(&spec);
        assert_eq!(
            (read.cpu_shares, read.cpu_quota, read.cpu_period),
            (2048, 200_000, 100_000)
        );
        assert_eq!(
            (read.cpuset_cpus.as_str(), read.oom_score_adj),
            ("2-3", -997)
        );
    }
}
