//! Reserves, commits and releases as the calls of the kubelet go by.
//!
//! Both CRI versions are read with the types of v1: the fields used here have the same numbers in both.

use super::{
    annotations::isolate_annotation,
    request::{
        CreateContainerRequest, container_spec, create_overlay, numbers, requested, update_overlay,
    },
    status::unreadable,
};
use crate::{
    cri::{
        intercept::{After, Before, Call, CallOutcome, Interceptor},
        message as v1,
        newer::UpdatePodSandboxResourcesRequest,
        overlay::BindMount,
    },
    manager::{Listed, Listing, ManagerHandle, Resize, ResourceUpdate, Stage, Ticket},
};
use async_trait::async_trait;
use bytes::Bytes;
use prost::Message;
use resmgr_policy::{ContainerId, CriResources};
use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{
    sync::{Mutex as PodLock, OwnedMutexGuard},
    time::Instant,
};

const METHODS: [&str; 9] = [
    "StopPodSandbox",
    "RemovePodSandbox",
    "CreateContainer",
    "StartContainer",
    "StopContainer",
    "RemoveContainer",
    "ListContainers",
    "UpdateContainerResources",
    "UpdatePodSandboxResources",
];

/// What the relay calls before and after each call that a policy cares about.
#[derive(Debug)]
pub struct Hooks {
    manager: ManagerHandle,
    /// Creations of one pod happen one after the other.
    pods: Mutex<HashMap<String, Weak<PodLock<()>>>>,
    provisional: AtomicU64,
}

impl Hooks {
    /// Hooks that tell this manager.
    #[must_use]
    pub fn new(manager: ManagerHandle) -> Self {
        Self {
            manager,
            pods: Mutex::default(),
            provisional: AtomicU64::new(0),
        }
    }

    fn pod(&self, sandbox: &str) -> Arc<PodLock<()>> {
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = pods.get(sandbox).and_then(Weak::upgrade) {
            return lock;
        }
        pods.retain(|_sandbox, lock| lock.strong_count() > 0);
        let lock = Arc::new(PodLock::new(()));
        pods.insert(sandbox.to_owned(), Arc::downgrade(&lock));
        lock
    }

    fn memory_bytes(&self) -> u64 {
        let topology = &self.manager.snapshot().topology;
        topology.nodes.iter().map(|node| node.memory_bytes).sum()
    }

    async fn create(&self, body: &Bytes) -> Before {
        let Ok(create) = CreateContainerRequest::decode(body.clone()) else {
            return Before::Refuse(unreadable("CreateContainer"));
        };
        let turn = self.pod(&create.pod_sandbox_id).lock_owned().await;
        let number = self.provisional.fetch_add(1, Ordering::Relaxed);
        let id = ContainerId(format!("creating/{}/{number}", std::process::id()).into());
        let spec = container_spec(&create, id, self.memory_bytes());
        let command = spec.request.remembered().command;
        let mut ticket = match self.manager.reserve(spec).await {
            Ok(ticket) => ticket,
            Err(denied) => return Before::Refuse(denied.into()),
        };
        let reserved = ticket.reserved();
        let placement = reserved.placement.as_ref();
        let replaced = placement.is_some_and(|placement| placement.command.is_some());
        let isolate = replaced.then(|| isolate_annotation(&command)).flatten();
        let mount = reserved.resources.as_deref().map(resources_mount);
        let overlay = create_overlay(
            &create,
            &reserved.desired,
            placement,
            mount.into_iter().collect(),
            isolate,
        );
        let request = match overlay.apply(body) {
            Ok(_same) if overlay.is_empty() => None,
            Ok(request) => Some(request),
            Err(_malformed) => {
                ticket.abort();
                return Before::Refuse(unreadable("CreateContainer"));
            }
        };
        ticket.send();
        let after = Creating {
            ticket,
            _turn: turn,
        };
        forward(request, after)
    }

    async fn update(&self, body: &Bytes) -> Before {
        let Ok(update) = v1::UpdateContainerResourcesRequest::decode(body.clone()) else {
            return Before::Refuse(unreadable("UpdateContainerResources"));
        };
        let resources = update.linux.unwrap_or_default();
        let id = ContainerId(update.container_id.into());
        let named = requested(&resources);
        let update = ResourceUpdate {
            cpus: named.cpus,
            mems: named.mems,
            numbers: numbers(&resources),
        };
        match self.manager.update(id, update).await {
            Err(denied) => Before::Refuse(denied.into()),
            Ok(None) => pass(),
            Ok(Some(resize)) => {
                let desired = resize.desired();
                let overlay = (!desired.is_nothing()).then(|| update_overlay(desired));
                let request = overlay.map(|overlay| overlay.apply(body));
                forward(request, Updating { resize })
            }
        }
    }

    /// A container whose placement changed between creation and start has no cgroup to be written yet:
    /// the runtime is sent its cpuset, so that it starts where it belongs.
    async fn start(&self, body: &Bytes) -> Before {
        let Ok(start) = v1::StartContainerRequest::decode(body.clone()) else {
            return Before::Refuse(unreadable("StartContainer"));
        };
        let id = ContainerId(start.container_id.into());
        if let Err(denied) = self.manager.starting(id.clone()).await {
            return Before::Refuse(denied.into());
        }
        let after = Starting {
            manager: self.manager.clone(),
            id,
        };
        forward(None, after)
    }

    /// What the runtime is sent for a whole pod bounds what its containers may hold.
    fn update_pod(&self, body: &Bytes) -> Before {
        let Ok(update) = UpdatePodSandboxResourcesRequest::decode(body.clone()) else {
            return Before::Refuse(unreadable("UpdatePodSandboxResources"));
        };
        let Some(resources) = update.resources else {
            return pass();
        };
        let after = PodUpdating {
            manager: self.manager.clone(),
            sandbox: update.pod_sandbox_id.into(),
            resources: numbers(&resources),
        };
        forward(None, after)
    }

    /// Tells the manager when the runtime has said yes.
    fn ending(&self, ended: StopTarget) -> Before {
        let after = Ending {
            manager: self.manager.clone(),
            ended,
        };
        forward(None, after)
    }

    fn list(&self, body: &Bytes) -> Before {
        let unfiltered = v1::ListContainersRequest::decode(body.clone())
            .is_ok_and(|list| list.filter.unwrap_or_default() == v1::ContainerFilter::default());
        if !unfiltered {
            return pass();
        }
        let after = ListEnd {
            manager: self.manager.clone(),
            requested_at: Instant::now(),
        };
        forward(None, after)
    }
}

#[async_trait]
impl Interceptor for Hooks {
    fn wants(&self, path: &str) -> bool {
        path.contains(".RuntimeService/")
            && path
                .rsplit('/')
                .next()
                .is_some_and(|method| METHODS.contains(&method))
    }

    async fn before(&self, call: &Call, request: &Bytes) -> Before {
        match call.method() {
            "CreateContainer" => self.create(request).await,
            "UpdateContainerResources" => self.update(request).await,
            "UpdatePodSandboxResources" => self.update_pod(request),
            "StartContainer" => self.start(request).await,
            "ListContainers" => self.list(request),
            // Both carry the id in field 1; a StopContainerRequest's timeout is of no interest here.
            "StopContainer" | "RemoveContainer" => {
                match v1::RemoveContainerRequest::decode(request.clone()) {
                    Ok(gone) => {
                        self.ending(StopTarget::Container(ContainerId(gone.container_id.into())))
                    }
                    Err(_bad) => pass(),
                }
            }
            "StopPodSandbox" | "RemovePodSandbox" => {
                match v1::RemovePodSandboxRequest::decode(request.clone()) {
                    Ok(gone) => self.ending(StopTarget::Pod(gone.pod_sandbox_id.into())),
                    Err(_bad) => pass(),
                }
            }
            _ => pass(),
        }
    }
}

fn pass() -> Before {
    Before::Forward {
        request: None,
        after: None,
    }
}

fn forward(request: Option<Bytes>, after: impl After + 'static) -> Before {
    Before::Forward {
        request,
        after: Some(Box::new(after)),
    }
}

/// The mount that shows a container the directory with its `resources.sh`.
fn resources_mount(directory: &Path) -> BindMount {
    BindMount {
        container_path: "/.cri-resmgr".to_owned(),
        host_path: directory.to_string_lossy().into_owned(),
    }
}

struct Creating {
    ticket: Ticket,
    _turn: OwnedMutexGuard<()>,
}

#[async_trait]
impl After for Creating {
    async fn after(self: Box<Self>, outcome: CallOutcome) {
        match outcome {
            CallOutcome::Reply(body) => match v1::CreateContainerResponse::decode(body) {
                Ok(reply) if !reply.container_id.is_empty() => {
                    self.ticket.commit(&reply.container_id);
                }
                _unreadable => drop(self.ticket),
            },
            CallOutcome::Failed(_status) => self.ticket.abort(),
            CallOutcome::Unknown(_how) => drop(self.ticket),
        }
    }
}

struct Updating {
    resize: Resize,
}

#[async_trait]
impl After for Updating {
    async fn after(self: Box<Self>, outcome: CallOutcome) {
        // The client hears of it when the kernel has what the policy wants.
        match outcome {
            CallOutcome::Reply(_) => self.resize.done().await,
            CallOutcome::Failed(_) => self.resize.refused().await,
            CallOutcome::Unknown(_) => self.resize.unknown().await,
        }
    }
}

struct Starting {
    manager: ManagerHandle,
    id: ContainerId,
}

#[async_trait]
impl After for Starting {
    async fn after(self: Box<Self>, outcome: CallOutcome) {
        let started = matches!(outcome, CallOutcome::Reply(_));
        // As for updates.
        self.manager.start_ended(self.id, started).await;
        if let CallOutcome::Unknown(_) = outcome {
            self.manager.poll_soon();
        }
    }
}

struct PodUpdating {
    manager: ManagerHandle,
    sandbox: Arc<str>,
    resources: CriResources,
}

#[async_trait]
impl After for PodUpdating {
    async fn after(self: Box<Self>, outcome: CallOutcome) {
        // The kubelet goes on where the runtime does not know the call, and resizes the pod by itself. Some
        // versions of containerd say so by another code.
        let goes_on = match &outcome {
            CallOutcome::Reply(_) => true,
            CallOutcome::Failed(status) => {
                status.code == 12
                    || (status.code == 2 && status.message.contains("not implemented"))
            }
            CallOutcome::Unknown(_) => false,
        };
        if goes_on {
            let Self {
                manager,
                sandbox,
                resources,
            } = *self;
            manager.pod_resources(sandbox, resources).await;
        }
    }
}

/// What a stop or a removal ends.
enum StopTarget {
    Container(ContainerId),
    Pod(Arc<str>),
}

struct Ending {
    manager: ManagerHandle,
    ended: StopTarget,
}

#[async_trait]
impl After for Ending {
    async fn after(self: Box<Self>, outcome: CallOutcome) {
        match (outcome, self.ended) {
            (CallOutcome::Reply(_), StopTarget::Container(id)) => self.manager.gone(id).await,
            (CallOutcome::Reply(_), StopTarget::Pod(sandbox)) => {
                self.manager.pod_gone(sandbox).await
            }
            (CallOutcome::Failed(_), _) => {}
            (CallOutcome::Unknown(_), _) => self.manager.poll_soon(),
        }
    }
}

struct ListEnd {
    manager: ManagerHandle,
    requested_at: Instant,
}

#[async_trait]
impl After for ListEnd {
    async fn after(self: Box<Self>, outcome: CallOutcome) {
        let CallOutcome::Reply(body) = outcome else {
            return;
        };
        let snapshot = self.manager.snapshot();
        if !snapshot.synced {
            return;
        }
        // The kubelet lists often: no more than ids and states are read of a list, and the manager hears of
        // it only when a container that it knows has ended.
        let Ok(brief) = Brief::decode(body.clone()) else {
            return;
        };
        let exited = v1::ContainerState::ContainerExited as i32;
        let live: HashSet<&[u8]> = (brief.containers.iter())
            .filter(|listed| listed.state != exited)
            .map(|listed| &*listed.id)
            .collect();
        let gone = snapshot
            .containers
            .iter()
            .any(|known| known.stage() != Stage::Reserved && !live.contains(known.id.0.as_bytes()));
        if gone && let Ok(list) = v1::ListContainersResponse::decode(body) {
            self.manager.listed(listing(list, self.requested_at)).await;
        }
    }
}

/// A `ListContainersResponse`, of which only what tells the living from the dead is read.
#[derive(Clone, PartialEq, Message)]
struct Brief {
    #[prost(message, repeated, tag = "1")]
    containers: Vec<BriefContainer>,
}

/// A `Container`; see [`Brief`].
#[derive(Clone, PartialEq, Message)]
struct BriefContainer {
    #[prost(bytes = "bytes", tag = "1")]
    id: Bytes,
    #[prost(int32, tag = "6")]
    state: i32,
}

/// The live ones of a runtime's list.
pub(super) fn listing(list: v1::ListContainersResponse, requested_at: Instant) -> Listing {
    let containers = list
        .containers
        .into_iter()
        .filter_map(|container| {
            let stage = match container.state() {
                v1::ContainerState::ContainerCreated => Stage::Created,
                v1::ContainerState::ContainerRunning => Stage::Running,
                v1::ContainerState::ContainerExited => return None,
                // Unknown: it may still hold its CPUs.
                v1::ContainerState::ContainerUnknown => Stage::Running,
            };
            let metadata = container.metadata.unwrap_or_default();
            Some(Listed {
                id: container.id.into(),
                sandbox: container.pod_sandbox_id.into(),
                name: metadata.name.into(),
                attempt: metadata.attempt,
                stage,
            })
        })
        .collect();
    Listing {
        containers,
        requested_at,
    }
}
