//! The calls a policy cares about, as hooks of the relay.
//!
//! Both CRI versions are read with the types of v1: the fields used here have the same numbers in both.

use super::{
    Denied, ManagerHandle, Ticket,
    event::{Event, Update, UpdateEnd, Updated},
    export::Exports,
    mark,
    runtime::{Listed, Listing, Stage},
    wire,
};
use crate::cri::{
    intercept::{After, Before, Call, Interceptor, Outcome, Status},
    message as v1,
    newer::UpdatePodSandboxResourcesRequest,
};
use async_trait::async_trait;
use bytes::Bytes;
use prost::Message;
use resmgr_policy::ContainerId;
use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};
use tokio::sync::{Mutex as PodLock, OwnedMutexGuard};

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

/// Reserves, commits and releases as the kubelet's calls go by.
#[derive(Debug)]
pub struct Hooks {
    manager: ManagerHandle,
    export: Option<Arc<Exports>>,
    /// Creations of one pod happen one after the other.
    pods: Mutex<HashMap<String, Weak<PodLock<()>>>>,
    provisional: AtomicU64,
}

impl Hooks {
    pub(super) fn new(manager: ManagerHandle, export: Option<Arc<Exports>>) -> Self {
        Self {
            manager,
            export,
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
        let Ok(create) = wire::CreateContainerRequest::decode(body.clone()) else {
            return unreadable("CreateContainer");
        };
        let turn = self.pod(&create.pod_sandbox_id).lock_owned().await;
        let number = self.provisional.fetch_add(1, Ordering::Relaxed);
        let id = ContainerId(format!("creating/{}/{number}", std::process::id()).into());
        let ask = wire::ask(&create, id, self.memory_bytes());
        let (request, attempt) = (ask.request.remembered(), ask.attempt);
        let mut ticket = match self.manager.reserve(ask).await {
            Ok(ticket) => ticket,
            Err(denied) => return Before::Refuse(denied.into()),
        };
        let reserved = ticket.reserved();
        // Only what is placed learns where it runs; a policy that places nothing changes nothing.
        let export = self.export.as_ref();
        let export = export.filter(|_export| !reserved.wanted.cpus.is_empty());
        let mount = export.and_then(|export| export.mount(&request, attempt));
        let placement = reserved.placement.as_ref();
        let replaced = placement.is_some_and(|placement| placement.command.is_some());
        let mark = replaced
            .then(|| mark::annotation(&request.command))
            .flatten();
        let overlay = wire::create_overlay(
            &create,
            &reserved.wanted,
            placement,
            mount.into_iter().collect(),
            mark,
        );
        let request = match overlay.apply(body) {
            Ok(_same) if overlay.is_empty() => None,
            Ok(request) => Some(request),
            Err(_malformed) => {
                ticket.abort();
                return unreadable("CreateContainer");
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
            return unreadable("UpdateContainerResources");
        };
        let resources = update.linux.unwrap_or_default();
        let id = ContainerId(update.container_id.into());
        let named = wire::asked(&resources);
        let answer = self
            .manager
            .ask(|reply| Event::Update {
                id: id.clone(),
                update: Box::new(Update {
                    cpus: named.cpus,
                    mems: named.mems,
                    numbers: wire::numbers(&resources),
                }),
                reply,
            })
            .await;
        match answer {
            Err(_ended) => Before::Refuse(Denied::ended().into()),
            Ok(Err(denied)) => Before::Refuse(denied.into()),
            Ok(Ok(None)) => pass(),
            Ok(Ok(Some(Updated { wanted, generation }))) => {
                let mut after = Updating {
                    manager: self.manager.clone(),
                    id,
                    end: Some(UpdateEnd::Unknown),
                };
                if let Err(problem) = self.manager.durable.wait(generation).await {
                    after.end = Some(UpdateEnd::Refused);
                    return Before::Refuse(Denied::unsaved(&problem).into());
                }
                let request =
                    (!wanted.is_nothing()).then(|| wire::update_overlay(&wanted).apply(body));
                forward(request, after)
            }
        }
    }

    /// A container whose placement changed between creation and start has no cgroup to be written yet:
    /// the runtime is told, so that it starts where it belongs.
    async fn start(&self, body: &Bytes) -> Before {
        let Ok(start) = v1::StartContainerRequest::decode(body.clone()) else {
            return unreadable("StartContainer");
        };
        let id = ContainerId(start.container_id.as_str().into());
        let news = self
            .manager
            .ask(|reply| Event::Starting {
                id: id.clone(),
                reply,
            })
            .await;
        if let Ok(Some(wanted)) = news
            && let Err(error) = self.manager.runtime.update(&id.0, &wanted).await
        {
            return Before::Refuse(Status {
                code: 14, // UNAVAILABLE
                message: format!("cri-resmgr cannot move the container before it starts: {error}"),
            });
        }
        let after = Starting {
            manager: self.manager.clone(),
            id,
        };
        forward(None, after)
    }

    /// What the runtime is told of a whole pod bounds what its containers may hold.
    fn update_pod(&self, body: &Bytes) -> Before {
        let Ok(update) = UpdatePodSandboxResourcesRequest::decode(body.clone()) else {
            return unreadable("UpdatePodSandboxResources");
        };
        let Some(resources) = update.resources else {
            return pass();
        };
        let after = PodUpdating {
            manager: self.manager.clone(),
            event: Event::PodResources {
                sandbox: update.pod_sandbox_id.into(),
                resources: wire::numbers(&resources),
            },
        };
        forward(None, after)
    }

    /// Tells the manager when the runtime has said yes.
    fn then(&self, event: Event) -> Before {
        let after = Then {
            manager: self.manager.clone(),
            event,
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
            asked_at: Instant::now(),
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
                    Ok(gone) => self.then(Event::Gone {
                        id: ContainerId(gone.container_id.into()),
                    }),
                    Err(_bad) => pass(),
                }
            }
            "StopPodSandbox" | "RemovePodSandbox" => {
                match v1::RemovePodSandboxRequest::decode(request.clone()) {
                    Ok(gone) => self.then(Event::PodGone {
                        sandbox: gone.pod_sandbox_id.into(),
                    }),
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

fn unreadable(method: &str) -> Before {
    Before::Refuse(Status {
        code: 3, // INVALID_ARGUMENT
        message: format!("cri-resmgr cannot read this {method} request; nothing was started"),
    })
}

struct Creating {
    ticket: Ticket,
    _turn: OwnedMutexGuard<()>,
}

#[async_trait]
impl After for Creating {
    async fn after(self: Box<Self>, outcome: Outcome) {
        match outcome {
            Outcome::Reply(body) => match v1::CreateContainerResponse::decode(body) {
                Ok(reply) if !reply.container_id.is_empty() => {
                    self.ticket.commit(&reply.container_id);
                }
                _unreadable => drop(self.ticket),
            },
            Outcome::Failed(_status) => self.ticket.abort(),
            Outcome::Unknown(_how) => drop(self.ticket),
        }
    }
}

struct Updating {
    manager: ManagerHandle,
    id: ContainerId,
    /// What the manager is told when this is dropped.
    end: Option<UpdateEnd>,
}

#[async_trait]
impl After for Updating {
    async fn after(mut self: Box<Self>, outcome: Outcome) {
        self.end = None;
        let end = match outcome {
            Outcome::Reply(_) => UpdateEnd::Done,
            Outcome::Failed(_) => UpdateEnd::Refused,
            Outcome::Unknown(_) => UpdateEnd::Unknown,
        };
        let id = self.id.clone();
        let settle = |reply| Event::UpdateEnded {
            id,
            end,
            reply: Some(reply),
        };
        // The client hears of it when the kernel has what the policy wants. A manager that has ended learns
        // the rest from the runtime when it starts again.
        let _ended = self.manager.ask(settle).await;
    }
}

impl Drop for Updating {
    fn drop(&mut self) {
        if let Some(end) = self.end {
            let id = self.id.clone();
            // A full mailbox: the next list and the reconciliation set it right.
            let reply = None;
            drop(
                self.manager
                    .events
                    .try_send(Event::UpdateEnded { id, end, reply }),
            );
        }
    }
}

struct Starting {
    manager: ManagerHandle,
    id: ContainerId,
}

#[async_trait]
impl After for Starting {
    async fn after(self: Box<Self>, outcome: Outcome) {
        let started = matches!(outcome, Outcome::Reply(_));
        let id = self.id;
        let settle = |reply| Event::StartEnded { id, started, reply };
        // As for updates.
        let _ended = self.manager.ask(settle).await;
        if let Outcome::Unknown(_) = outcome {
            self.manager.poll.notify_one();
        }
    }
}

struct PodUpdating {
    manager: ManagerHandle,
    event: Event,
}

#[async_trait]
impl After for PodUpdating {
    async fn after(self: Box<Self>, outcome: Outcome) {
        // The kubelet goes on where the runtime does not know the call, and resizes the pod by itself. Some
        // versions of containerd say so by another code.
        let goes_on = match &outcome {
            Outcome::Reply(_) => true,
            Outcome::Failed(status) => {
                status.code == 12
                    || (status.code == 2 && status.message.contains("not implemented"))
            }
            Outcome::Unknown(_) => false,
        };
        if goes_on {
            self.manager.tell(self.event).await;
        }
    }
}

struct Then {
    manager: ManagerHandle,
    event: Event,
}

#[async_trait]
impl After for Then {
    async fn after(self: Box<Self>, outcome: Outcome) {
        match outcome {
            Outcome::Reply(_) => self.manager.tell(self.event).await,
            Outcome::Failed(_) => {}
            Outcome::Unknown(_) => self.manager.poll.notify_one(),
        }
    }
}

struct ListEnd {
    manager: ManagerHandle,
    asked_at: Instant,
}

#[async_trait]
impl After for ListEnd {
    async fn after(self: Box<Self>, outcome: Outcome) {
        let Outcome::Reply(body) = outcome else {
            return;
        };
        let snapshot = self.manager.snapshot();
        if !snapshot.synced {
            return;
        }
        // The kubelet lists often: no more than ids and states are read of a list, and the owner is
        // troubled only when somebody we know has ended.
        let Ok(brief) = Brief::decode(body.clone()) else {
            return;
        };
        let exited = v1::ContainerState::ContainerExited as i32;
        let live: HashSet<&[u8]> = (brief.containers.iter())
            .filter(|listed| listed.state != exited)
            .map(|listed| &*listed.id)
            .collect();
        let mut known = snapshot.entries.iter();
        let gone = known
            .any(|(id, entry)| entry.stage != Stage::Reserved && !live.contains(id.0.as_bytes()));
        if gone && let Ok(list) = v1::ListContainersResponse::decode(body) {
            let listing = listing(list, self.asked_at);
            let unknown = Vec::new();
            self.manager.tell(Event::Listed { listing, unknown }).await;
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
pub(super) fn listing(list: v1::ListContainersResponse, asked_at: Instant) -> Listing {
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
        asked_at,
    }
}
