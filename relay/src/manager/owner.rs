//! The owner of the state: one event at a time.

use super::{
    Ask, Counts, Denied, Listing, Reserved, Snapshot,
    decide::{self, Decider, Failure},
    event::{Event, NotTaken, Round},
    export::Exports,
    restore::{Report, restore},
};
use crate::{
    config::{FailPolicies, OnFailure},
    enforce::{
        Cgroups, EnforceError, Place, Plan, Step, Wanted, plan,
        reconcile::{self, Field},
        watch::{Noticed, Watcher},
    },
    ledger::{Book, Durable, Entry, Note, Stage},
};
use resmgr_policy::{ContainerId, Decision, Explanation, Policy, State};
use resmgr_topology::Topology;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use steps::unplaced_note;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

mod adopt;
mod feedback;
mod steps;
mod switch;
mod update;

type Entries = BTreeMap<ContainerId, Arc<Entry>>;

/// How long a reservation of unknown end is kept while the runtime does not show its container.
const UNKNOWN_PATIENCE: Duration = Duration::from_secs(30);

/// While the runtime starts a container, its cgroup is looked at this often: between the creation of the
/// cgroup and the start of the container's program pass some 20 ms of runc and shim.
const STARTING_LOOK: Duration = Duration::from_millis(3);

/// A start that takes longer is left to the regular look.
const STARTING_LIMIT: Duration = Duration::from_secs(60);

/// How long the ids of the gone are kept, so that a list made before does not bring them back.
const MEMORY_OF_THE_GONE: Duration = Duration::from_secs(120);

pub(super) struct Parts {
    pub(super) policy: Arc<dyn Policy>,
    pub(super) topology: Arc<Topology>,
    pub(super) cgroups: Arc<Cgroups>,
    pub(super) fail: FailPolicies,
    pub(super) policy_timeout: Duration,
    pub(super) tick: Duration,
    pub(super) durable: Durable,
    pub(super) snapshots: watch::Sender<Arc<Snapshot>>,
    pub(super) poll: Arc<Notify>,
    pub(super) vanishing: mpsc::Sender<ContainerId>,
    pub(super) export: Option<Arc<Exports>>,
}

/// A reservation that has not ended.
#[derive(Debug)]
struct Pending {
    /// State and entries before it, and the generation it made: while nothing else has changed, taking
    /// it back is exact.
    before: (Arc<State>, Entries),
    generation: u64,
    /// Who grows when it is over, from what.
    growing: BTreeMap<ContainerId, Wanted>,
    /// Since when its end is unknown.
    unknown_since: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Owner {
    decider: Decider,
    cgroups: Arc<Cgroups>,
    fail: FailPolicies,
    tick: Duration,
    durable: Durable,
    snapshots: watch::Sender<Arc<Snapshot>>,
    poll: Arc<Notify>,
    /// Tells the poller whose cgroup has vanished.
    vanishing: mpsc::Sender<ContainerId>,
    export: Option<Arc<Exports>>,
    state: Arc<State>,
    entries: Entries,
    generation: u64,
    pending: BTreeMap<ContainerId, Pending>,
    /// The cpusets that the runtime was told of containers whose cgroup may not exist yet.
    told: BTreeMap<ContainerId, Wanted>,
    /// Containers that the runtime is starting or updating, since when: it writes what the kubelet asked for.
    unsettled: BTreeMap<ContainerId, Instant>,
    /// Whether requests name CPUs for containers that the policy places.
    other_cpu_manager: bool,
    /// Containers whose creation was refused a short while ago.
    refused: update::Refused,
    /// When containers were first known to exist, and to be gone: an older list says nothing of them.
    since: BTreeMap<ContainerId, Instant>,
    left: BTreeMap<ContainerId, Instant>,
    counts: Counts,
    synced: bool,
    restored: bool,
    reset: bool,
    watcher: Option<Watcher>,
    feedback: feedback::Feedback,
}

impl Owner {
    pub(super) fn new(parts: Parts, book: Book, reset: bool) -> Self {
        let mut state = State {
            next_arrival: book.next_arrival,
            ..State::default()
        };
        let keeps = !reset && book.policy == parts.policy.name();
        let mut entries = book.entries;
        for entry in entries.values_mut() {
            Arc::make_mut(entry).complete();
        }
        state.rebalance = feedback::kept(book.rebalance, book.saved_at, keeps);
        if keeps {
            for (id, entry) in &entries {
                if let Some(placement) = &entry.placement {
                    let container = resmgr_policy::Container {
                        request: Arc::new(entry.request.clone()),
                        placement: placement.clone(),
                        arrival: entry.arrival,
                    };
                    state.containers.insert(id.clone(), container);
                }
            }
        } else {
            for entry in entries.values_mut() {
                Arc::make_mut(entry).placement = None;
            }
        }
        Self {
            decider: Decider::new(parts.policy, parts.topology, parts.policy_timeout),
            cgroups: parts.cgroups,
            fail: parts.fail,
            tick: parts.tick,
            durable: parts.durable,
            snapshots: parts.snapshots,
            poll: parts.poll,
            vanishing: parts.vanishing,
            export: parts.export,
            state: Arc::new(state),
            entries,
            generation: 0,
            pending: BTreeMap::new(),
            told: BTreeMap::new(),
            unsettled: BTreeMap::new(),
            other_cpu_manager: false,
            refused: update::Refused::default(),
            since: BTreeMap::new(),
            left: BTreeMap::new(),
            counts: Counts::default(),
            synced: false,
            restored: false,
            reset: !keeps,
            feedback: feedback::Feedback::default(),
            watcher: None,
        }
    }

    pub(super) async fn run(mut self, mut events: mpsc::Receiver<Event>, stop: CancellationToken) {
        self.watcher = Watcher::new()
            .inspect_err(|error| {
                tracing::warn!(%error, "no inotify: other people's writes are noticed by looking");
            })
            .ok();
        // Nothing is placed before it is known what runs.
        let mut early = Vec::new();
        while !self.synced {
            tokio::select! {
                event = events.recv() => match event {
                    Some(Event::Listed { listing, unknown }) => self.sync(&listing, unknown).await,
                    Some(event) => early.push(event),
                    None => return,
                },
                () = stop.cancelled() => return,
            }
        }
        for event in early {
            self.handle(event).await;
        }
        let looks = !self.tick.is_zero();
        let mut tick = tokio::time::interval(self.tick.max(Duration::from_millis(1)));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut starting = tokio::time::interval(STARTING_LOOK);
        starting.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.handle(event).await,
                    None => return,
                },
                noticed = next_notice(&mut self.watcher) => match noticed {
                    Ok(Noticed::Written(id)) => self.reconcile_some(&[id]).await,
                    // A full queue: the regular list says the same, later.
                    Ok(Noticed::Vanished(id)) => drop(self.vanishing.try_send(id)),
                    Err(error) => {
                        tracing::warn!(%error, "inotify ended; other people's writes are noticed by looking");
                        self.watcher = None;
                    }
                },
                _ = starting.tick(), if !self.unsettled.is_empty() => {
                    self.settle_starting().await;
                }
                _ = tick.tick(), if looks => {
                    self.reconcile_all().await;
                    self.heed_measurements();
                }
                () = stop.cancelled() => return,
            }
        }
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::Reserve { ask, round, reply } => {
                let reserved = self.reserve(*ask, round).await;
                drop(reply.send(reserved)); // the ticket of a caller that went away says Abort
            }
            Event::Commit { provisional, id } => self.commit(&provisional, id).await,
            Event::Abort { provisional } => self.abort(&provisional).await,
            Event::Unknown { provisional } => {
                if let Some(pending) = self.pending.get_mut(&provisional) {
                    pending.unknown_since = Some(Instant::now());
                    self.counts.unknown_ends += 1;
                    self.poll.notify_one();
                }
            }
            Event::Starting { id, reply } => {
                let cpuset = self.wanted(&id).map(|wanted| wanted.cpuset());
                let told = self.told.get(&id);
                let news = cpuset.filter(|cpuset| told.is_some_and(|told| told != cpuset));
                if let Some(news) = &news {
                    self.told.insert(id.clone(), news.clone());
                }
                self.unsettle(id);
                drop(reply.send(news)); // a client that went away starts nothing
            }
            Event::StartEnded { id, started, reply } => {
                if started && let Some(entry) = self.entries.get_mut(&id) {
                    Arc::make_mut(entry).stage = Stage::Running;
                    self.generation += 1;
                    self.publish();
                    self.reconcile_some(std::slice::from_ref(&id)).await;
                }
                self.unsettled.remove(&id);
                let _gone = reply.send(()); // the client need not wait for it
            }
            Event::Gone { id } => self.release(&[id]).await,
            Event::PodGone { sandbox } => {
                let gone: Vec<_> = self
                    .entries
                    .iter()
                    .filter(|(_id, entry)| {
                        entry.request.pod.sandbox == sandbox && entry.stage != Stage::Reserved
                    })
                    .map(|(id, _entry)| id.clone())
                    .collect();
                self.release(&gone).await;
                self.refused.forget(&sandbox);
            }
            Event::Update { id, update, reply } => {
                let updated = self.update(&id, *update).await;
                drop(reply.send(updated)); // UpdateEnded follows, or the reconciliation repairs
            }
            Event::UpdateEnded { id, end, reply } => {
                self.update_ended(&id, end).await;
                let _gone = reply.map(|reply| reply.send(())); // the client need not wait for it
            }
            Event::PodResources { sandbox, resources } => self.pod_resources(&sandbox, &resources),
            Event::Listed { listing, unknown } => self.listed(&listing, unknown).await,
            Event::Measured(measured) => self.measured(measured).await,
            Event::Reconfigure { policy, dry, reply } => {
                drop(reply.send(self.reconfigure(policy, dry).await)); // the asker may not care
            }
            Event::Limits { fail, timeout } => {
                self.fail = fail;
                self.decider.timeout = timeout;
            }
            Event::Topology { topology, reply } => {
                self.decider.topology = topology;
                drop(reply.send(self.repair().await)); // the asker may not care
            }
            Event::Restore { reply } => drop(reply.send(self.restore().await)),
        }
    }

    async fn reserve(&mut self, mut ask: Ask, round: Round) -> Result<Option<Reserved>, Denied> {
        let id = ask.request.id.clone();
        // The kubelet tries again: what it does not know of was not created, or will be met as a stranger.
        for older in self.same_container(&ask) {
            self.abort(&older).await;
        }
        let judged = self.judge_pod(&mut ask);
        if judged.news && round == Round::First {
            return Ok(None);
        }
        self.revise(judged.revised).await;
        let named = ask.asked.cpus;
        let kubelets = resmgr_policy::qos_from_cgroup_parent(&ask.cgroup_parent).is_some();
        let before = (Arc::clone(&self.state), self.entries.clone());
        match self.place(&ask).await {
            Ok(growing) => {
                self.counts.placed += 1;
                self.refused.take(&ask.request);
                self.generation += 1;
                let pending = Pending {
                    before,
                    generation: self.generation,
                    growing,
                    unknown_since: None,
                };
                self.pending.insert(id.clone(), pending);
            }
            Err(Failure::Refused(_)) if round == Round::First => {
                (self.state, self.entries) = before;
                return Ok(None);
            }
            Err(failure) => {
                (self.state, self.entries) = before.clone();
                self.count(&failure);
                let request = &ask.request;
                let choice = self.fail.choose(&request.pod.namespace, request.qos);
                if choice == OnFailure::Refuse && !self.restored {
                    self.counts.refused += 1;
                    self.refused.add(&ask);
                    self.publish();
                    tracing::warn!(container = %request.name, pod = %request.pod.name,
                        namespace = %request.pod.namespace, why = %failure, "creation refused");
                    return Err(Denied {
                        code: failure.code(),
                        message: format!(
                            "cri-resmgr: container {} of pod {}/{} was not placed by policy {}: {failure}",
                            request.name,
                            request.pod.namespace,
                            request.pod.name,
                            self.decider.policy.name(),
                        ),
                    });
                }
                self.insert_unplaced(ask, &failure.to_string());
                self.generation += 1;
                let pending = Pending {
                    before,
                    generation: self.generation,
                    growing: BTreeMap::new(),
                    unknown_since: None,
                };
                self.pending.insert(id.clone(), pending);
            }
        }
        let wanted = self.wanted(&id).unwrap_or_default();
        if kubelets {
            self.heed_named_cpus(&named, &wanted);
        }
        self.publish();
        self.told.insert(id.clone(), wanted.cpuset());
        Ok(Some(Reserved {
            placement: self
                .entries
                .get(&id)
                .and_then(|entry| entry.placement.clone()),
            wanted,
            generation: self.generation,
        }))
    }

    /// Decides, applies and makes the others shrink. On failure the kernel is as before; state and
    /// entries are the caller's to put back.
    async fn place(&mut self, ask: &Ask) -> Result<BTreeMap<ContainerId, Wanted>, Failure> {
        if self.restored {
            let text =
                "cri-resmgr has given all containers back and places none until it is restarted";
            return Err(Failure::Broken(text.to_owned()));
        }
        let request = ask.request.clone();
        let decision = self
            .decider
            .ask(&self.state, move |policy, view| {
                policy.place(view, &request)
            })
            .await?;
        self.decider.check(&self.state, &decision)?;
        self.insert(ask);
        let plan = self.apply(&decision);
        if let Err(error) = self.execute(&plan.before, true).await {
            return Err(Failure::Broken(format!("room could not be made: {error}")));
        }
        Ok(growing(plan))
    }

    async fn commit(&mut self, provisional: &ContainerId, id: ContainerId) {
        if let Some(mut entry) = self.entries.remove(provisional) {
            let new = Arc::make_mut(&mut entry);
            new.stage = Stage::Created;
            new.request.id = id.clone();
            self.entries.insert(id.clone(), entry);
        }
        let state = Arc::make_mut(&mut self.state);
        if let Some(mut container) = state.containers.remove(provisional) {
            Arc::make_mut(&mut container.request).id = id.clone();
            state.containers.insert(id.clone(), container);
        }
        if let Some(told) = self.told.remove(provisional) {
            self.told.insert(id.clone(), told);
        }
        self.since.insert(id.clone(), Instant::now());
        self.generation += 1;
        self.publish();
        self.end_growth(provisional).await;
        self.reconcile_some(&[id]).await;
    }

    async fn abort(&mut self, provisional: &ContainerId) {
        let exact = self
            .pending
            .get(provisional)
            .filter(|pending| pending.generation == self.generation)
            .map(|pending| pending.before.clone());
        if let Some((state, entries)) = exact {
            let wanted = self.wanted_all();
            if let (Some(entry), Some(export)) = (self.entries.get(provisional), &self.export)
                && let Err(error) = export.remove(entry)
            {
                tracing::warn!(%error, container = %provisional, "its exported directory stays behind");
            }
            (self.state, self.entries) = (state, entries);
            self.export_all();
            self.generation += 1;
            let back = plan(&wanted, &self.wanted_all());
            self.told.remove(provisional);
            self.run_plan(&back).await;
            self.publish();
        } else {
            self.release(std::slice::from_ref(provisional)).await;
        }
        self.end_growth(provisional).await;
    }

    /// Takes containers out that are known to be gone.
    async fn release(&mut self, gone: &[ContainerId]) {
        let mut changed = false;
        for id in gone {
            let Some(entry) = self.entries.remove(id) else {
                continue;
            };
            changed = true;
            self.since.remove(id);
            self.left.insert(id.clone(), Instant::now());
            if let Some(export) = &self.export
                && let Err(error) = export.remove(&entry)
            {
                tracing::warn!(%error, container = %id, "its exported directory stays behind");
            }
            self.told.remove(id);
            self.unsettled.remove(id);
            self.cgroups.forget(&id.0);
            if let Some(watcher) = &mut self.watcher {
                watcher.remove(id);
            }
            if !self.state.containers.contains_key(id) {
                continue;
            }
            let who = id.clone();
            let decision = self
                .decider
                .ask(&self.state, move |policy, view| {
                    Ok(policy.release(view, &who))
                })
                .await
                .and_then(|decision| {
                    self.decider.check(&self.state, &decision)?;
                    Ok(decision)
                });
            let mut decision = match decision {
                Ok(decision) => decision,
                Err(failure) => {
                    self.count(&failure);
                    tracing::error!(%failure, container = %id, "released without the policy's word");
                    Decision::default()
                }
            };
            if !decision.released.contains(id) {
                decision.released.push(id.clone());
            }
            let plan = self.apply(&decision);
            self.run_plan(&plan).await;
        }
        if changed {
            self.generation += 1;
            self.publish();
        }
    }

    async fn restore(&mut self) -> Report {
        self.restored = true;
        let (book, cgroups) = (self.book(), Arc::clone(&self.cgroups));
        let report = tokio::task::spawn_blocking(move || restore(&book, &cgroups)).await;
        for entry in self.entries.values_mut() {
            let entry = Arc::make_mut(entry);
            entry.placement = None;
            entry.unplaced = Some("given back to the runtime".to_owned());
        }
        Arc::make_mut(&mut self.state).containers.clear();
        self.generation += 1;
        self.publish();
        report.unwrap_or_else(|panic| Report {
            failed: vec![(ContainerId("".into()), panic.to_string())],
            ..Report::default()
        })
    }

    fn count(&mut self, failure: &Failure) {
        match failure {
            Failure::Refused(_) => {}
            Failure::Late(_) => self.counts.policy_late += 1,
            Failure::Broken(_) => {
                self.counts.policy_broken += 1;
                tracing::error!(policy = self.decider.policy.name(), %failure);
            }
            Failure::Illegal(_) => {
                self.counts.policy_illegal += 1;
                tracing::error!(policy = self.decider.policy.name(), %failure, "not carried out");
            }
        }
    }

    fn book(&self) -> Book {
        Book {
            policy: self.decider.policy.name().to_owned(),
            next_arrival: self.state.next_arrival,
            entries: self.entries.clone(),
            rebalance: self.state.rebalance.clone(),
            saved_at: decide::now(),
        }
    }

    /// Tells the ledger and the onlookers.
    fn publish(&mut self) {
        self.durable
            .hand_over(self.generation, Arc::new(self.book()));
        self.show();
    }

    fn show(&mut self) {
        self.snapshots.send_replace(Arc::new(Snapshot {
            generation: self.generation,
            synced: self.synced,
            policy: self.decider.policy.name(),
            topology: Arc::clone(&self.decider.topology),
            state: Arc::clone(&self.state),
            entries: Arc::new(self.entries.clone()),
            counts: self.counts.clone(),
            moves: self.feedback.moves.clone(),
            measurements: self.feedback.condition,
            other_cpu_manager: self.other_cpu_manager,
            ledger: self.durable.health(),
        }));
    }
}

async fn next_notice(watcher: &mut Option<Watcher>) -> std::io::Result<Noticed> {
    match watcher {
        Some(watcher) => watcher.next().await,
        None => std::future::pending().await,
    }
}

/// Who grows when a creation is over, from what.
fn growing(plan: Plan) -> BTreeMap<ContainerId, Wanted> {
    let steps = plan.after.into_iter();
    steps.map(|step| (step.id, step.undo)).collect()
}

fn unix_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map(|since| since.as_secs())
        .unwrap_or_default()
}
