//! The manager as its callers have it.

use super::{
    answer::{
        ContainerSpec, Denied, DenyKind, PlanPreview, ReconfigureError, ReservedPlace,
        ResourceUpdate, RestoreReport, Updated,
    },
    book::Book,
    event::{Attempt, ManagerEvent},
    resize::Resize,
    runtime::{Listing, Runtime},
    snapshot::Snapshot,
    ticket::Ticket,
};
use crate::{
    config::{FailPolicies, OnFailure},
    ledger::Durable,
};
use resmgr_policy::{ContainerId, CriResources, Measured, Policy};
use resmgr_topology::Topology;
use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Talks to a running manager. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ManagerHandle {
    pub(super) events: mpsc::Sender<ManagerEvent>,
    pub(super) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(super) durable: Durable<Book>,
    pub(super) poll: Arc<Notify>,
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) fail: Arc<RwLock<Arc<FailPolicies>>>,
    pub(super) stop: CancellationToken,
}

/// The manager has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the manager has ended")]
pub struct Ended;

impl ManagerHandle {
    /// What is placed where, as of the last change.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.borrow().clone()
    }

    /// Snapshots as they come.
    #[must_use]
    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.clone()
    }

    /// Waits until the runtime has been asked once what runs, and all of it is placed.
    ///
    /// # Errors
    /// When the manager ends before.
    pub async fn synced(&self) -> Result<(), Ended> {
        let mut snapshots = self.snapshots.clone();
        snapshots
            .wait_for(|snapshot| snapshot.synced)
            .await
            .map(|_snapshot| ())
            .map_err(|_closed| Ended)
    }

    /// Replaces the policy (or its configuration) and re-places all, or changes nothing. Containers that
    /// run unplaced already do not stand in the way.
    ///
    /// # Errors
    /// Why not: every container without a place, and the reason.
    pub async fn reconfigure(
        &self,
        policy: Arc<dyn Policy>,
    ) -> Result<PlanPreview, ReconfigureError> {
        self.replan(policy, false).await
    }

    /// What [`ManagerHandle::reconfigure`] would do now; nothing changes.
    ///
    /// # Errors
    /// Why it would not be taken over.
    pub async fn preview(&self, policy: Arc<dyn Policy>) -> Result<PlanPreview, ReconfigureError> {
        self.replan(policy, true).await
    }

    async fn replan(
        &self,
        policy: Arc<dyn Policy>,
        dry: bool,
    ) -> Result<PlanPreview, ReconfigureError> {
        self.call(|reply| ManagerEvent::Reconfigure { policy, dry, reply })
            .await
            .map_err(|Ended| ReconfigureError::Ended)?
    }

    /// From now on: what happens to a container the policy does not place, and how long the policy may
    /// take.
    pub async fn set_limits(&self, fail: FailPolicies, timeout: Duration) {
        let shared = Arc::new(fail.clone());
        *self.fail.write().unwrap_or_else(PoisonError::into_inner) = shared;
        self.notify(ManagerEvent::Limits { fail, timeout }).await;
    }

    /// CPUs came or went: re-places what is no longer legal.
    ///
    /// # Errors
    /// Why not, for people. The new topology is kept all the same: it is the truth.
    pub async fn set_topology(&self, topology: Arc<Topology>) -> Result<(), String> {
        self.call(|reply| ManagerEvent::Topology { topology, reply })
            .await
            .map_err(|ended| ended.to_string())?
    }

    /// Hands over what the scheduler did.
    pub async fn set_measured(&self, measured: Arc<Measured>) {
        self.notify(ManagerEvent::Measured(measured)).await;
    }

    /// Gives every container back to the runtime's own last request, and places none from now on.
    ///
    /// # Errors
    /// When the manager has ended.
    pub async fn restore(&self) -> Result<RestoreReport, Ended> {
        self.call(|reply| ManagerEvent::Restore { reply }).await
    }

    /// Ends the manager: containers stay where they are.
    pub fn shutdown(&self) {
        self.stop.cancel();
    }

    /// Places a container that is about to be created. Returns when the placement is on disk and the
    /// others have made room.
    ///
    /// # Errors
    /// [`Denied`] when it must not be created.
    pub async fn reserve(&self, spec: ContainerSpec) -> Result<Ticket, Denied> {
        let permit = self
            .events
            .clone()
            .reserve_owned()
            .await
            .map_err(|_closed| Denied::ended())?;
        let mut ticket = Ticket::new(spec.request.id.clone(), permit);
        let fail = Arc::clone(&self.fail.read().unwrap_or_else(PoisonError::into_inner));
        let choice = fail.choose(&spec.request.pod.namespace, spec.request.qos);
        let mut reserved = self.try_reserve(&spec, Attempt::Initial).await?;
        if reserved.is_none() {
            // What the policy counts may have ended a moment ago: a kubelet creates the next container as
            // soon as it has seen the one before exit, and does not always ask us for a list in between.
            self.relist().await;
            reserved = self.try_reserve(&spec, Attempt::AfterRelist).await?;
        }
        let reserved = reserved.ok_or_else(Denied::ended)?;
        let generation = reserved.generation;
        ticket.hold(reserved);
        let Some(generation) = generation else {
            return Ok(ticket);
        };
        match self.durable.wait(generation).await {
            Ok(()) => Ok(ticket),
            Err(problem) if choice == OnFailure::Pass => {
                tracing::error!(
                    problem,
                    "container created although its placement is not saved, as the fail policy says"
                );
                Ok(ticket)
            }
            Err(problem) => {
                ticket.abort();
                Err(Denied::unsaved(&problem))
            }
        }
    }

    async fn try_reserve(
        &self,
        spec: &ContainerSpec,
        attempt: Attempt,
    ) -> Result<Option<ReservedPlace>, Denied> {
        self.call(|reply| ManagerEvent::Reserve {
            spec: Box::new(spec.clone()),
            attempt,
            reply,
        })
        .await
        .map_err(|_ended| Denied::ended())?
    }

    /// Merges other resources into what a container asked for, and places it anew. Returns when that is on
    /// disk and the others have made room; `None` for a container that is not known.
    ///
    /// # Errors
    /// [`Denied`] when the container must keep what it has.
    pub async fn update(
        &self,
        id: ContainerId,
        update: ResourceUpdate,
    ) -> Result<Option<Resize>, Denied> {
        let updated = self.call(|reply| ManagerEvent::Update {
            id: id.clone(),
            update: Box::new(update),
            reply,
        });
        let updated = updated.await.map_err(|_ended| Denied::ended())??;
        let Some(Updated {
            desired,
            generation,
        }) = updated
        else {
            return Ok(None);
        };
        let resize = Resize::new(self.events.clone(), id, desired);
        match self.durable.wait(generation).await {
            Ok(()) => Ok(Some(resize)),
            Err(problem) => {
                resize.refused().await;
                Err(Denied::unsaved(&problem))
            }
        }
    }

    /// The runtime is about to be asked to start a container: one whose placement changed since it was
    /// created has no cgroup to be written yet, and the runtime is sent its cpuset first.
    ///
    /// # Errors
    /// [`Denied`] when the runtime does not take the cpuset: the container would start on wrong CPUs.
    pub async fn starting(&self, id: ContainerId) -> Result<(), Denied> {
        let news = self.call(|reply| ManagerEvent::Starting {
            id: id.clone(),
            reply,
        });
        let Ok(Some(cpuset)) = news.await else {
            return Ok(());
        };
        let sent = self.runtime.update(&id.0, &cpuset).await;
        sent.map_err(|error| Denied {
            kind: DenyKind::Unavailable,
            message: format!("cri-resmgr cannot move the container before it starts: {error}"),
        })
    }

    /// The runtime has answered. Returns when the kernel has what the policy wants.
    pub async fn start_ended(&self, id: ContainerId, started: bool) {
        let ended = self.call(|reply| ManagerEvent::StartEnded { id, started, reply });
        // A manager that has ended learns the rest from the runtime when it starts again.
        let _ended = ended.await;
    }

    /// A container was stopped or removed, or has exited.
    pub async fn gone(&self, id: ContainerId) {
        self.notify(ManagerEvent::Gone { id }).await;
    }

    /// A pod was stopped or removed.
    pub async fn pod_gone(&self, sandbox: Arc<str>) {
        self.notify(ManagerEvent::PodGone { sandbox }).await;
    }

    /// The runtime was sent other resources of a whole pod.
    pub async fn pod_resources(&self, sandbox: Arc<str>, resources: CriResources) {
        self.notify(ManagerEvent::PodResources { sandbox, resources })
            .await;
    }

    /// The runtime's list, in which a known container is missing.
    pub async fn listed(&self, listing: Listing) {
        let unknown = Vec::new();
        self.notify(ManagerEvent::Listed { listing, unknown }).await;
    }

    /// Has the runtime asked soon what runs: an answer was lost.
    pub fn poll_soon(&self) {
        self.poll.notify_one();
    }

    /// Has the runtime say what runs, and the owner release what does not.
    async fn relist(&self) {
        match self.runtime.list().await {
            Ok(listing) => self.listed(listing).await,
            Err(error) => tracing::debug!(%error, "runtime not listed; deciding on what is known"),
        }
    }

    pub(super) async fn call<T>(
        &self,
        event: impl FnOnce(oneshot::Sender<T>) -> ManagerEvent,
    ) -> Result<T, Ended> {
        let (reply, answer) = oneshot::channel();
        self.events
            .send(event(reply))
            .await
            .map_err(|_closed| Ended)?;
        answer.await.map_err(|_dropped| Ended)
    }

    pub(super) async fn notify(&self, event: ManagerEvent) {
        // A manager that has ended learns the rest from the runtime when it starts again.
        drop(self.events.send(event).await);
    }

    /// Whether the manager knows a container, as of the last change.
    #[must_use]
    pub fn knows(&self, id: &ContainerId) -> bool {
        self.snapshots.borrow().containers.contains(id)
    }
}
