use super::*;
use crate::{
    config::FailPolicies,
    cri::{
        intercept::{Before, Call, CallOutcome, Interceptor},
        message as v1,
    },
    enforce::{CgroupSettings, test_support::FakeTree},
    intercept::{CreateContainerRequest, Hooks, container_spec},
};
use async_trait::async_trait;
use prost::Message;
use resmgr_policy::{
    Change, ContainerId, Decision, Explanation, Placement, QosClass, Refusal, Request, State, View,
};
use resmgr_topology::CpuSet;
use std::{collections::BTreeMap, path::Path, sync::Mutex, time::Duration};
use tokio::time::Instant;

mod churn;
mod endings;
mod explain;
mod faults;
mod feedback;
mod life;
mod switch;
mod toy;
mod updates;

use toy::{Mood, Toy};

/// A runtime that is only a list.
#[derive(Debug, Default)]
struct Paper {
    containers: Mutex<Vec<Listed>>,
    /// What the containers were created with, by id; of one that is not among them only the name is known.
    created: Mutex<BTreeMap<Arc<str>, v1::CreateContainerRequest>>,
    updates: Mutex<Vec<(String, CgroupSettings)>>,
    refuses_updates: Mutex<bool>,
    /// Where endings are told; taken away, the stream breaks off.
    told: Mutex<Option<tokio::sync::mpsc::Sender<Arc<str>>>>,
    streams: std::sync::atomic::AtomicU32,
}

#[async_trait]
impl Runtime for Paper {
    async fn list(&self) -> Result<Listing, RuntimeError> {
        let requested_at = Instant::now();
        let containers = self.containers.lock().unwrap().clone();
        Ok(Listing {
            containers,
            requested_at,
        })
    }

    async fn learn(&self, container: &Listed) -> Result<ContainerSpec, RuntimeError> {
        let created = self.created.lock().unwrap().get(&container.id).cloned();
        let create = created
            .unwrap_or_else(|| create_request(&container.name, "default", SHARED, 500))
            .encode_to_vec();
        let mut spec = container_spec(
            &CreateContainerRequest::decode(&*create).unwrap(),
            ContainerId(Arc::clone(&container.id)),
            1 << 30,
        );
        spec.attempt = container.attempt;
        Ok(spec)
    }

    async fn update(&self, id: &str, wanted: &CgroupSettings) -> Result<(), RuntimeError> {
        if *self.refuses_updates.lock().unwrap() {
            return Err(RuntimeError {
                operation: "update",
                problem: "refused by the test".to_owned(),
            });
        }
        self.updates
            .lock()
            .unwrap()
            .push((id.to_owned(), wanted.clone()));
        Ok(())
    }

    async fn exit_events(
        &self,
        exits: tokio::sync::mpsc::Sender<Arc<str>>,
    ) -> ExitEventsUnavailable {
        *self.told.lock().unwrap() = Some(exits.clone());
        self.streams
            .fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        while self.told.lock().unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        ExitEventsUnavailable::Broken(RuntimeError {
            operation: "listen",
            problem: "taken away by the test".to_owned(),
        })
    }
}

struct Node {
    tree: FakeTree,
    cgroups: Arc<Cgroups>,
    state: tempfile::TempDir,
    runtime: Arc<Paper>,
    policy: Arc<Toy>,
}

struct Running {
    handle: ManagerHandle,
    hooks: Arc<Hooks>,
    machine: Option<tokio::runtime::Runtime>,
}

const POD: &str = "/kubepods/pod";

impl Node {
    fn new() -> Self {
        let tree = FakeTree::v1();
        Self {
            cgroups: Arc::new(Cgroups::new(tree.cgroups.hierarchy().clone())),
            tree,
            state: tempfile::tempdir().unwrap(),
            runtime: Arc::default(),
            policy: Toy::new("toy"),
        }
    }

    async fn start(&self) -> Running {
        self.start_looking_every(Duration::from_millis(20)).await
    }

    async fn start_looking_every(&self, reconcile_interval: Duration) -> Running {
        let policy = Arc::clone(&self.policy) as Arc<dyn Policy>;
        self.start_with(policy, machine("0-7"), reconcile_interval)
            .await
    }

    async fn start_with(
        &self,
        policy: Arc<dyn Policy>,
        topology: Topology,
        reconcile_interval: Duration,
    ) -> Running {
        let config = ManagerConfig {
            policy,
            topology: Arc::new(topology),
            cgroups: Arc::clone(&self.cgroups),
            ledger: Ledger::open(self.state.path()).unwrap(),
            runtime: Arc::clone(&self.runtime) as Arc<dyn Runtime>,
            fail: FailPolicies::default(),
            policy_timeout: Duration::from_secs(20),
            reconcile_interval,
            export: Some(self.state.path().join("containers")),
            resources_file: ResourcesFile::Always,
            blocking: Blocking::Threads,
            mailbox: 64,
            reset_policy: false,
        };
        let (manager, handle) = Manager::new(config, CancellationToken::new());
        let hooks = Arc::new(Hooks::new(handle.clone()));
        // Threads of its own, so that all of them can be ended.
        let machine = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        drop(machine.spawn(manager.run()));
        handle.synced().await.unwrap();
        Running {
            handle,
            hooks,
            machine: Some(machine),
        }
    }

    /// What the runtime does when it creates and starts: a cgroup and an entry of the list.
    fn runs(&self, id: &'static str, parent: &'static str, list: &str) {
        self.tree
            .container(parent.trim_start_matches('/'), id, list, "0");
        self.listed(id, id);
    }

    /// Has each later write of the ledger fail.
    fn break_ledger(&self) {
        for name in ["ledger.a", "ledger.b"] {
            let file = self.state.path().join(name);
            if file.exists() {
                std::fs::remove_file(&file).unwrap();
            }
            std::fs::create_dir(file).unwrap();
        }
    }

    fn listed(&self, id: &str, name: &str) {
        self.runtime.containers.lock().unwrap().push(Listed {
            id: id.into(),
            sandbox: "sandbox".into(),
            name: name.into(),
            attempt: 0,
            stage: Stage::Running,
        });
    }

    /// Waits until the kernel has confined a container to `cpus`.
    async fn comes_to(&self, parent: &str, id: &str, cpus: &str) {
        let there = async {
            while self.kernel(parent, id) != cpus {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let there = tokio::time::timeout(Duration::from_secs(20), there).await;
        assert!(there.is_ok(), "{id} is on {}", self.kernel(parent, id));
    }

    fn kernel(&self, parent: &str, id: &str) -> String {
        let crate::enforce::Hierarchy::V1 { cpuset, .. } = self.tree.cgroups.hierarchy() else {
            panic!("the tree is v1");
        };
        let path = cpuset.join(parent.trim_start_matches('/')).join(id);
        std::fs::read_to_string(path.join("cpuset.cpus")).unwrap()
    }
}

impl Running {
    async fn call(&self, method: &str, body: &impl Message) -> Before {
        let call = Call {
            seq: 1,
            path: format!("/runtime.v1.RuntimeService/{method}").into(),
            received: std::time::Instant::now(),
            deadline: None,
        };
        assert!(self.hooks.wants(&call.path));
        self.hooks.before(&call, &body.encode_to_vec().into()).await
    }

    /// Creates and starts through the hooks; the CPUs in the request the runtime saw.
    async fn create(
        &self,
        node: &Node,
        id: &'static str,
        parent: &'static str,
        milli: i64,
    ) -> String {
        let before = self
            .call(
                "CreateContainer",
                &create_request(id, "default", parent, milli),
            )
            .await;
        let Before::Forward { request, after } = before else {
            panic!("{before:?}");
        };
        let sent = v1::CreateContainerRequest::decode(request.unwrap()).unwrap();
        let list = sent
            .config
            .unwrap()
            .linux
            .unwrap()
            .resources
            .unwrap()
            .cpuset_cpus;
        node.runs(id, parent, &list);
        let reply = v1::CreateContainerResponse {
            container_id: id.into(),
        };
        let outcome = CallOutcome::Reply(reply.encode_to_vec().into());
        after.unwrap().after(outcome).await;
        list
    }

    /// Waits until the snapshot is as it should be.
    async fn eventually(&self, state: &str, is: impl Fn(&Snapshot) -> bool) {
        let mut snapshots = self.handle.snapshots();
        let waited =
            tokio::time::timeout(Duration::from_secs(20), snapshots.wait_for(|now| is(now)));
        if waited.await.is_err() {
            panic!("never: {state}; {:?}", self.handle.snapshot());
        }
    }

    /// How many decisions about a container are remembered.
    fn decisions(&self, name: &str) -> usize {
        let snapshot = self.handle.snapshot();
        snapshot.find(name).unwrap().record.history.len()
    }

    async fn kill(mut self) {
        let machine = self.machine.take().unwrap();
        let end = move || machine.shutdown_timeout(Duration::from_secs(30));
        tokio::task::spawn_blocking(end).await.unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(machine) = self.machine.take() {
            machine.shutdown_background();
        }
    }
}

/// A container of its own name that asks for nothing.
pub(super) fn spec(name: &str) -> ContainerSpec {
    let request = create_request(name, "default", SHARED, 0).encode_to_vec();
    let request = CreateContainerRequest::decode(&*request).unwrap();
    container_spec(&request, ContainerId(name.into()), 1 << 30)
}

/// A machine of which only its online CPUs are known.
fn machine(online: &str) -> Topology {
    Topology {
        cpus: Vec::new(),
        online: cpus(online),
        withheld: CpuSet::EMPTY,
        isolated: CpuSet::EMPTY,
        cores: Vec::new(),
        l2s: Vec::new(),
        llcs: Vec::new(),
        dies: Vec::new(),
        packages: Vec::new(),
        nodes: Vec::new(),
        distances: Vec::new(),
        origin: "test".into(),
        notes: Vec::new(),
    }
}

fn cpus(list: &str) -> CpuSet {
    list.parse().unwrap()
}

fn create_request(
    name: &str,
    namespace: &str,
    parent: &str,
    milli: i64,
) -> v1::CreateContainerRequest {
    v1::CreateContainerRequest {
        pod_sandbox_id: "sandbox".into(),
        config: Some(v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata {
                name: name.into(),
                attempt: 0,
            }),
            linux: Some(v1::LinuxContainerConfig {
                resources: Some(v1::LinuxContainerResources {
                    cpu_shares: milli * 1024 / 1000,
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }),
        sandbox_config: Some(v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                namespace: namespace.into(),
                ..Default::default()
            }),
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent: parent.into(),
                ..Default::default()
            }),
            ..Default::default()
        }),
    }
}

const SHARED: &str = "/kubepods/burstable/pod";
