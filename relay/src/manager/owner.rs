//! The owner of the state: one event at a time.

use super::{
    answer::{ContainerSpec, Denied, ReservedPlace, RestoreReport},
    book::Book,
    clock::unix_s,
    containers::{Containers, Stage},
    decide::{Decided, Decider, Failure},
    drift::RepairBackoff,
    event::{Attempt, ManagerEvent},
    feedback::{self, Feedback},
    freshness::ListFreshness,
    presence::CgroupPresence,
    refused::RefusedCreations,
    reservations::{Growing, Reservations},
    resource_files::ResourceFiles,
    restore::restore,
    runtime::Runtime,
    snapshot::{Counts, Snapshot},
};
use crate::{
    config::{FailPolicies, OnFailure},
    enforce::{
        CgroupSettings, Cgroups, Plan,
        watch::{Noticed, Watch},
    },
    ledger::{Blocking, Durable},
};
use resmgr_policy::{ContainerId, Policy, State};
use resmgr_topology::{CpuSet, Topology};
use std::{
    collections::BTreeMap,
    future::{pending, poll_fn},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, Interval, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

/// While the runtime starts a container, its cgroup is looked at this often: between the creation of the
/// cgroup and the start of the container's program pass some 20 ms of runc and shim.
const STARTING_LOOK: Duration = Duration::from_millis(3);

/// What an owner is made of.
pub(super) struct OwnerParts {
    pub(super) policy: Arc<dyn Policy>,
    pub(super) topology: Arc<Topology>,
    pub(super) cgroups: Arc<Cgroups>,
    pub(super) fail: FailPolicies,
    pub(super) policy_timeout: Duration,
    pub(super) tick: Duration,
    pub(super) durable: Durable<Book>,
    pub(super) snapshots: watch::Sender<Arc<Snapshot>>,
    pub(super) poll: Arc<Notify>,
    pub(super) vanishing: mpsc::Sender<ContainerId>,
    pub(super) files: Option<ResourceFiles>,
    pub(super) blocking: Blocking,
    pub(super) runtime: Arc<dyn Runtime>,
}

#[derive(Debug)]
pub(super) struct Owner {
    pub(super) decider: Decider,
    pub(super) cgroups: Arc<Cgroups>,
    fail: FailPolicies,
    tick: Duration,
    pub(super) durable: Durable<Book>,
    pub(super) snapshots: watch::Sender<Arc<Snapshot>>,
    poll: Arc<Notify>,
    /// Tells the poller which container's cgroup has vanished.
    vanishing: mpsc::Sender<ContainerId>,
    pub(super) files: Option<ResourceFiles>,
    pub(super) blocking: Blocking,
    /// Asked for containers whose cgroup is not found on this host.
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) containers: Containers,
    /// Counts what has been published.
    pub(super) generation: u64,
    pub(super) reservations: Reservations,
    pub(super) freshness: ListFreshness,
    /// Containers that the runtime is starting or updating, since when: it writes what the kubelet asked for.
    pub(super) unsettled: BTreeMap<ContainerId, Instant>,
    /// Whether requests name CPUs for containers that the policy places.
    pub(super) other_cpu_manager: bool,
    pub(super) refused: RefusedCreations,
    pub(super) counts: Counts,
    pub(super) synced: bool,
    /// Everything was given back, and nothing is placed any more.
    pub(super) restored: bool,
    /// What runs is to be placed anew once it is known.
    pub(super) reset: bool,
    pub(super) watcher: Option<Box<dyn Watch>>,
    pub(super) feedback: Feedback,
    pub(super) backoff: RepairBackoff,
    pub(super) presence: CgroupPresence,
}

impl Owner {
    pub(super) fn new(parts: OwnerParts, book: Book, reset: bool) -> Self {
        let keeps = !reset && book.policy == parts.policy.name();
        let Book {
            mut containers,
            saved_at,
            policy: _,
        } = book;
        let memory = feedback::inherited(&containers.state().rebalance, saved_at, keeps);
        containers.set_memory(memory);
        if !keeps {
            containers.unplace_all(None);
        }
        Self {
            decider: Decider::new(
                parts.policy,
                parts.topology,
                parts.policy_timeout,
                parts.blocking,
            ),
            cgroups: parts.cgroups,
            fail: parts.fail,
            tick: parts.tick,
            durable: parts.durable,
            snapshots: parts.snapshots,
            poll: parts.poll,
            vanishing: parts.vanishing,
            files: parts.files,
            blocking: parts.blocking,
            runtime: parts.runtime,
            containers,
            generation: 0,
            reservations: Reservations::default(),
            freshness: ListFreshness::default(),
            unsettled: BTreeMap::new(),
            other_cpu_manager: false,
            refused: RefusedCreations::default(),
            counts: Counts::default(),
            synced: false,
            restored: false,
            reset: !keeps,
            watcher: None,
            feedback: Feedback::default(),
            backoff: RepairBackoff::default(),
            presence: CgroupPresence::default(),
        }
    }

    pub(super) async fn run(
        mut self,
        mut events: mpsc::Receiver<ManagerEvent>,
        stop: CancellationToken,
    ) {
        self.watcher = (self.cgroups.watch())
            .inspect_err(|error| {
                tracing::warn!(%error, "inotify unavailable; cpuset drift is detected by polling");
            })
            .ok();
        // Nothing is placed before it is known what runs.
        let mut early = Vec::new();
        while !self.synced {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                event = events.recv() => match event {
                    Some(ManagerEvent::Listed { listing, unknown }) => self.sync(&listing, unknown).await,
                    Some(event) => early.push(event),
                    None => return,
                },
            }
        }
        for event in early {
            self.handle(event).await;
        }
        let looks = !self.tick.is_zero();
        let mut tick = delayed(self.tick.max(Duration::from_millis(1)));
        let mut starting = delayed(STARTING_LOOK);
        loop {
            // In this order, so that equal runs are equal. Looks come first and then pause for their whole
            // period, however long they took: events come in between. A file that is written without pause
            // keeps only later notices waiting.
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = tick.tick(), if looks => {
                    let ids: Vec<_> = self.containers.iter().map(|container| container.id.clone()).collect();
                    self.reconcile_paced(ids).await;
                    self.check_measurements();
                    tick.reset();
                }
                _ = starting.tick(), if !self.unsettled.is_empty() => {
                    self.settle_starting().await;
                    starting.reset();
                }
                event = events.recv() => match event {
                    Some(event) => self.handle(event).await,
                    None => return,
                },
                () = pause_end(self.backoff.next()) => {
                    let due = self.backoff.due(Instant::now());
                    self.reconcile_some(&due).await;
                }
                noticed = next_notice(&mut self.watcher) => match noticed {
                    Ok(Noticed::Written(id)) => self.reconcile_paced(vec![id]).await,
                    // A full queue: the regular list says the same, later.
                    Ok(Noticed::Vanished(id)) => drop(self.vanishing.try_send(id)),
                    Err(error) => {
                        tracing::warn!(%error, "inotify ended; cpuset drift is detected by polling");
                        self.watcher = None;
                    }
                },
            }
        }
    }

    async fn handle(&mut self, event: ManagerEvent) {
        match event {
            ManagerEvent::Reserve {
                spec,
                attempt,
                reply,
            } => {
                let reserved = self.reserve(*spec, attempt).await;
                drop(reply.send(reserved)); // the ticket of a caller that went away says Abort
            }
            ManagerEvent::Commit { provisional, id } => self.commit(&provisional, id).await,
            ManagerEvent::Abort { provisional } => self.abort(&provisional).await,
            ManagerEvent::Unknown { provisional } => {
                if self.reservations.unknown(&provisional, Instant::now()) {
                    self.counts.unknown_ends += 1;
                    self.poll.notify_one();
                }
            }
            ManagerEvent::Starting { id, reply } => {
                let news = self.starting(id);
                drop(reply.send(news)); // a client that went away starts nothing
            }
            ManagerEvent::StartEnded { id, started, reply } => {
                if started && self.containers.set_stage(&id, Stage::Running) {
                    self.publish();
                }
                if started {
                    self.reconcile_some(std::slice::from_ref(&id)).await;
                }
                self.unsettled.remove(&id);
                let _gone = reply.send(()); // the client need not wait for it
            }
            ManagerEvent::Gone { id } => self.release(&[id]).await,
            ManagerEvent::PodGone { sandbox } => {
                let of_pod = self.containers.iter().filter(|container| {
                    container.request.pod.sandbox == sandbox && container.stage() != Stage::Reserved
                });
                let gone: Vec<_> = of_pod.map(|container| container.id.clone()).collect();
                self.release(&gone).await;
                self.refused.pod_gone(&sandbox);
            }
            ManagerEvent::Update { id, update, reply } => {
                let updated = self.update(&id, *update).await;
                drop(reply.send(updated)); // UpdateEnded follows, or the reconciliation repairs
            }
            ManagerEvent::UpdateEnded { id, end, reply } => {
                self.update_ended(&id, end).await;
                let _gone = reply.map(|reply| reply.send(())); // the client need not wait for it
            }
            ManagerEvent::PodResources { sandbox, resources } => {
                self.containers.set_pod_resources(&sandbox, &resources);
                self.publish();
            }
            ManagerEvent::Listed { listing, unknown } => self.listed(&listing, unknown).await,
            ManagerEvent::Measured(measured) => self.measured(measured).await,
            ManagerEvent::Reconfigure { policy, dry, reply } => {
                drop(reply.send(self.reconfigure(policy, dry).await)); // the caller may not care
            }
            ManagerEvent::Limits { fail, timeout } => {
                self.fail = fail;
                self.decider.timeout = timeout;
            }
            ManagerEvent::Topology { topology, reply } => {
                self.decider.topology = topology;
                drop(reply.send(self.repair().await)); // the caller may not care
            }
            ManagerEvent::Restore { reply } => drop(reply.send(self.restore().await)),
        }
    }

    async fn reserve(
        &mut self,
        mut spec: ContainerSpec,
        attempt: Attempt,
    ) -> Result<Option<ReservedPlace>, Denied> {
        let id = spec.request.id.clone();
        // The kubelet tries again: a creation that it has not heard of did not happen, or the next list
        // tells of the container.
        for older in self.same_container(&spec) {
            self.abort(&older).await;
        }
        let judged = self.judge_pod(&mut spec);
        if judged.news && attempt == Attempt::Initial {
            return Ok(None);
        }
        let revised = !judged.revised.is_empty();
        self.revise(judged.revised).await;
        let named = spec.requested.cpus;
        let by_kubelet = resmgr_policy::qos_from_cgroup_parent(&spec.cgroup_parent).is_some();
        let before = self.containers.clone();
        let growing = match self.place(&spec).await {
            Ok(growing) => {
                self.counts.placed += 1;
                self.refused.created(&spec.request);
                growing
            }
            Err(failure) => {
                self.containers = before.clone();
                if attempt == Attempt::Initial && matches!(failure, Failure::Refused(_)) {
                    return Ok(None);
                }
                self.count(&failure);
                self.refuse_or_pass(&spec, &failure)?;
                Growing::new()
            }
        };
        let desired = self.desired(&id).unwrap_or_default();
        if by_kubelet {
            self.note_named_cpus(&named, &desired);
        }
        // Where nothing is written anywhere, for this container or for others, the runtime need not wait for
        // the ledger.
        let steps = || self.containers.plan_from(&before, &self.online());
        let waits = revised || !desired.is_nothing() || !steps().is_empty();
        self.publish();
        self.reservations
            .begin(&id, before, self.generation, growing, desired.cpuset());
        let container = self.containers.get(&id);
        let files = self.files.as_ref().zip(container);
        Ok(Some(ReservedPlace {
            placement: container.and_then(|container| container.placement.cloned()),
            resources: files.and_then(|(files, container)| files.directory(container)),
            desired,
            generation: waits.then_some(self.generation),
        }))
    }

    /// What the fail policy says of a container that could not be placed: it is refused, or runs unplaced.
    fn refuse_or_pass(&mut self, spec: &ContainerSpec, failure: &Failure) -> Result<(), Denied> {
        let request = &spec.request;
        let choice = self.fail.choose(&request.pod.namespace, request.qos);
        if choice == OnFailure::Refuse && !self.restored {
            self.counts.refused += 1;
            self.refused.add(spec, &failure.to_string(), unix_s());
            self.show();
            tracing::warn!(container = %request.name, pod = %request.pod.name,
                namespace = %request.pod.namespace, why = %failure, "creation refused");
            return Err(Denied {
                kind: failure.kind(),
                message: format!(
                    "cri-resmgr: container {} of pod {}/{} was not placed by policy {}: {failure}",
                    request.name,
                    request.pod.namespace,
                    request.pod.name,
                    self.decider.policy.name(),
                ),
            });
        }
        self.insert_unplaced(spec, &failure.to_string());
        Ok(())
    }

    /// Adds a container that runs without a placement.
    pub(super) fn insert_unplaced(&mut self, spec: &ContainerSpec, why: &str) {
        let request = &spec.request;
        tracing::error!(container = %request.name, pod = %request.pod.name,
            namespace = %request.pod.namespace, why, "container runs UNPLACED, as the fail policy says");
        self.counts.passed_unplaced += 1;
        self.containers.insert(spec);
        self.containers.set_unplaced(&request.id, why, unix_s());
    }

    /// Decides, and has the others make room. On failure the kernel is as before; the containers are the
    /// caller's to put back.
    pub(super) async fn place(&mut self, spec: &ContainerSpec) -> Result<Growing, Failure> {
        if self.restored {
            return Err(Failure::Restored);
        }
        let before = self.containers.clone();
        let decided = self.decider.place(before.state(), spec.request.clone());
        let decided = decided.await?;
        self.containers.insert(spec);
        let plan = self.apply_from(&before, &decided);
        self.make_room(plan).await
    }

    pub(super) async fn commit(&mut self, provisional: &ContainerId, id: ContainerId) {
        self.containers.rename(provisional, &id);
        self.reservations.rename(provisional, &id);
        self.freshness.created(id.clone(), Instant::now());
        self.publish();
        self.end_growth(provisional).await;
        self.reconcile_some(&[id]).await;
    }

    pub(super) async fn abort(&mut self, provisional: &ContainerId) {
        self.reservations.forget_sent(provisional);
        if let Some(before) = self.reservations.before(provisional, self.generation) {
            let now = std::mem::replace(&mut self.containers, before.clone());
            let back = self.containers.plan_from(&now, &self.online());
            self.run_plan(&back).await;
            self.publish();
        } else {
            self.release(std::slice::from_ref(provisional)).await;
        }
        self.end_growth(provisional).await;
    }

    /// Takes containers out that are known to be gone.
    pub(super) async fn release(&mut self, gone: &[ContainerId]) {
        let mut changed = false;
        for id in gone {
            if !self.containers.remove(id) {
                continue;
            }
            changed = true;
            self.freshness.removed(id.clone(), Instant::now());
            self.reservations.forget_sent(id);
            self.unsettled.remove(id);
            self.backoff.forget(id);
            self.presence.forget(id);
            self.cgroups.forget(&id.0);
            if let Some(watcher) = &mut self.watcher {
                watcher.remove(id);
            }
            if !self.containers.is_placed(id) {
                continue;
            }
            let state = Arc::clone(self.containers.state());
            let decided = match self.decider.release(&state, id).await {
                Ok(decided) => decided,
                Err(failure) => {
                    tracing::error!(%failure, container = %id,
                        "container released without a decision; its CPUs are free, no other gets them yet");
                    let mut after = State::clone(&state);
                    after.containers.remove(id);
                    self.count(&failure);
                    Decided {
                        after: Arc::new(after),
                        ..Decided::default()
                    }
                }
            };
            let plan = self.apply(&decided);
            self.run_plan(&plan).await;
        }
        if changed {
            self.publish();
        }
    }

    async fn restore(&mut self) -> RestoreReport {
        self.restored = true;
        let (containers, cgroups) = (self.containers.clone(), Arc::clone(&self.cgroups));
        let report = (self.blocking)
            .run(move || restore(&containers, &cgroups))
            .await;
        self.containers
            .unplace_all(Some("given back to the runtime"));
        self.publish();
        report.unwrap_or_else(|panic| RestoreReport {
            failed: vec![(ContainerId("".into()), panic.to_string())],
            ..RestoreReport::default()
        })
    }

    pub(super) fn count(&mut self, failure: &Failure) {
        match failure {
            // A write that fails is counted where it is made.
            Failure::Refused(_) | Failure::NoRoom(_) | Failure::Restored => {}
            Failure::Late(_) => self.counts.policy_late += 1,
            Failure::Broken(_) => {
                self.counts.policy_broken += 1;
                tracing::error!(policy = self.decider.policy.name(), %failure);
            }
            Failure::Illegal(_) => {
                self.counts.policy_illegal += 1;
                tracing::error!(policy = self.decider.policy.name(), %failure, "decision not applied");
            }
        }
    }

    pub(super) fn online(&self) -> CpuSet {
        self.decider.topology.online
    }

    /// What the kernel shall have for a container; `None` for an unknown one.
    pub(super) fn desired(&self, id: &ContainerId) -> Option<CgroupSettings> {
        self.containers.desired(&self.online()).of(id)
    }

    /// Carries a decision out in the containers; the writes it needs.
    pub(super) fn apply(&mut self, decided: &Decided) -> Plan {
        let before = self.containers.clone();
        self.apply_from(&before, decided)
    }

    fn apply_from(&mut self, before: &Containers, decided: &Decided) -> Plan {
        let Decided { decision, after } = decided;
        for id in &decision.released {
            let released = before.state().containers.get(id);
            let name = released.map(|container| container.request.full_name());
            let name = name.unwrap_or_default();
            crate::log::placement(self.decider.policy.name(), id, &format!("{name}: released"));
        }
        for change in &decision.changes {
            if let Some(why) = &change.explanation {
                crate::log::placement(self.decider.policy.name(), &change.id, &why.summary);
            }
        }
        self.containers.apply(decision, Arc::clone(after), unix_s());
        self.containers.plan_for(decision, before, &self.online())
    }
}

fn delayed(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Waits for the end of a pause, for ever where there is none.
async fn pause_end(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => pending().await,
    }
}

async fn next_notice(watcher: &mut Option<Box<dyn Watch>>) -> std::io::Result<Noticed> {
    match watcher {
        Some(watcher) => poll_fn(|context| watcher.poll_next(context)).await,
        None => pending().await,
    }
}
