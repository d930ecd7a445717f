//! Has the telemetry follow the running containers, and hands on what it measured.

use super::{
    exclusivity::ExclusivityWatch,
    intervals::Intervals,
    placement::PlacementService,
    pod_events::PodEvents,
    stale_watch::StaleWatch,
    steal::{STAT, StealTime},
    tasks::Tasks,
};
use crate::{
    config::Config,
    control::agent_client::PodEvent,
    cri::{client::RuntimeClient, observe::Observer},
    dump::Measurements,
    enforce::{Cgroups, Hierarchy, Place},
    inspect::{top::TopView, view::MeasuredView},
    intercept::RuntimeView,
    manager::{ManagerHandle, Runtime, Stage},
    record::Recorder,
    telemetry::{
        ContainerTelemetry, Cost, Telemetry, TelemetrySetup, now_ns,
        sample::{ContainerName, LabelledSample},
    },
};
use resmgr_policy::{Condition, ContainerId, HALF_LIFE};
use resmgr_topology::{CpuSet, Nanos, Topology};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, OnceLock, PoisonError, RwLock},
    time::{Duration, SystemTime},
};
use tokio_util::sync::CancellationToken;

/// How often the telemetry is sampled.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often its own cost is measured, when first, and for how long.
const COST_EVERY: Duration = Duration::from_secs(60);
const COST_AFTER: Duration = Duration::from_secs(10);
const COST_DURING: Duration = Duration::from_secs(1);

/// The running telemetry.
#[derive(Debug)]
pub struct Measure {
    telemetry: OnceLock<Arc<Telemetry>>,
    recorder: OnceLock<Arc<Recorder>>,
    topology: Arc<Topology>,
    sample: RwLock<Arc<LabelledSample>>,
    names: RwLock<BTreeMap<ContainerId, ContainerName>>,
    cost: Mutex<Option<Cost>>,
    dumped: Mutex<Intervals>,
}

/// A running container: where its cgroup is and which CPUs it was given.
#[derive(Clone, Debug)]
struct RunningContainer {
    parent: String,
    name: ContainerName,
    cpus: CpuSet,
    exclusive: CpuSet,
}

type RunningContainers = BTreeMap<ContainerId, RunningContainer>;

/// What knows the running containers.
enum ContainerSource {
    Manager(ManagerHandle),
    /// Policy `null` keeps no state: the runtime is asked.
    Runtime(RuntimeView, RunningContainers),
}

impl ContainerSource {
    async fn running(&mut self) -> RunningContainers {
        match self {
            Self::Manager(manager) => {
                let snapshot = manager.snapshot();
                let containers = snapshot.containers.iter();
                containers
                    .filter(|container| container.stage() == Stage::Running)
                    .map(|container| {
                        let placement = container.placement.cloned().unwrap_or_default();
                        let followed = RunningContainer {
                            parent: container.record.cgroup_parent.clone(),
                            name: name(container.request, container.record.attempt),
                            cpus: *placement.cpus,
                            exclusive: *placement.exclusive,
                        };
                        (container.id.clone(), followed)
                    })
                    .collect()
            }
            Self::Runtime(view, known) => {
                let listing = match view.list().await {
                    Ok(listing) => listing,
                    Err(error) => {
                        tracing::debug!(target: "telemetry", "containers cannot be listed; following those known before: {error}");
                        return known.clone();
                    }
                };
                let running = listing
                    .containers
                    .iter()
                    .filter(|container| container.stage == Stage::Running);
                let mut now = RunningContainers::new();
                for container in running {
                    let id = ContainerId(Arc::clone(&container.id));
                    if let Some(followed) = known.get(&id) {
                        now.insert(id, followed.clone());
                        continue;
                    }
                    match view.learn(container).await {
                        Ok(ask) => {
                            let followed = RunningContainer {
                                parent: ask.cgroup_parent,
                                name: name(&ask.request, ask.attempt),
                                cpus: CpuSet::EMPTY,
                                exclusive: CpuSet::EMPTY,
                            };
                            now.insert(id, followed);
                        }
                        Err(error) => {
                            tracing::debug!(target: "telemetry", "container is not followed yet: {error}");
                        }
                    }
                }
                known.clone_from(&now);
                now
            }
        }
    }
}

fn name(request: &resmgr_policy::Request, attempt: u32) -> ContainerName {
    ContainerName {
        namespace: request.pod.namespace.to_string(),
        pod: request.pod.name.to_string(),
        container: request.name.to_string(),
        uid: request.pod.uid.to_string(),
        attempt,
    }
}

impl Measure {
    /// Not measuring yet.
    #[must_use]
    pub fn new(topology: &Arc<Topology>) -> Arc<Self> {
        Arc::new(Self {
            telemetry: OnceLock::new(),
            recorder: OnceLock::new(),
            topology: Arc::clone(topology),
            sample: RwLock::default(),
            names: RwLock::default(),
            cost: Mutex::default(),
            dumped: Mutex::default(),
        })
    }

    /// Records what decisions are made of, from the start on.
    pub fn record(&self, recorder: &Arc<Recorder>) {
        // There is only one recorder: a second call brings the same.
        drop(self.recorder.set(Arc::clone(recorder)));
    }

    /// Loads the program and starts to sample, once a second.
    ///
    /// # Errors
    /// When the containers' cgroups cannot be found at all.
    pub fn start(
        self: &Arc<Self>,
        config: &Config,
        placement: Option<&PlacementService>,
        observers: &[Arc<dyn Observer>],
        events: Option<PodEvents>,
        tasks: &Tasks,
    ) -> anyhow::Result<()> {
        let options = TelemetrySetup {
            enabled: true,
            max_containers: config.telemetry.max_containers,
            half_life: Nanos(
                u64::try_from(config.telemetry.half_life.as_nanos()).unwrap_or(u64::MAX),
            ),
            cgroup_mount: Some(config.enforce.cgroup_mount.clone()),
        };
        let telemetry = Arc::new(Telemetry::start(&self.topology, &options));
        let telemetry = self.telemetry.get_or_init(|| telemetry);
        let (source, cgroups) = if let Some(placement) = placement {
            (
                ContainerSource::Manager(placement.manager.clone()),
                Arc::clone(&placement.cgroups),
            )
        } else if let Some(socket) = config.relay.runtime_socket.as_deref() {
            let client =
                RuntimeClient::new(socket, config.relay.runtime_timeout, observers.to_vec());
            let hierarchy = Hierarchy::detect(Some(&config.enforce.cgroup_mount))?;
            let view = RuntimeView::new(client, 0);
            (
                ContainerSource::Runtime(view, RunningContainers::new()),
                Arc::new(Cgroups::new(hierarchy)),
            )
        } else {
            tracing::warn!(target: "resource-manager", "telemetry measures nothing: there is no runtime");
            return Ok(());
        };
        let manager = placement.map(|placement| placement.manager.clone());
        let measure = Arc::clone(self);
        let telemetry = Arc::clone(telemetry);
        let stop = tasks.stop().clone();
        let measure_cost = Arc::clone(self).measure_cost(Arc::clone(&telemetry), stop.clone());
        tasks.spawn("telemetry cost", measure_cost);
        tasks.spawn(
            "telemetry",
            measure.follow(telemetry, source, cgroups, manager, events, stop),
        );
        Ok(())
    }

    async fn follow(
        self: Arc<Self>,
        telemetry: Arc<Telemetry>,
        mut source: ContainerSource,
        cgroups: Arc<Cgroups>,
        manager: Option<ManagerHandle>,
        events: Option<PodEvents>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let mut followed = RunningContainers::new();
        let mut stale_watch = StaleWatch::default();
        let mut exclusivity = ExclusivityWatch::default();
        let mut steal = StealTime::default();
        let mut ticks = tokio::time::interval(INTERVAL);
        let mut snapshots = manager.as_ref().map(ManagerHandle::snapshots);
        loop {
            let tick = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _tick = ticks.tick() => true,
                // A new container is followed at once, not at the next tick.
                () = changes(&mut snapshots) => false,
            };
            let running = source.running().await;
            reconcile(&telemetry, &cgroups, &mut followed, &running);
            telemetry.set_running(running.len());
            *self.names.write().unwrap_or_else(PoisonError::into_inner) = followed
                .iter()
                .map(|(id, followed)| (id.clone(), followed.name.clone()))
                .collect();
            if !tick {
                continue;
            }
            let sampled = {
                let telemetry = Arc::clone(&telemetry);
                tokio::task::spawn_blocking(move || {
                    let stat = std::fs::read_to_string(STAT);
                    (telemetry.sample(), telemetry.measured(), stat)
                })
            };
            let (snapshot, mut measured, stat) = sampled.await?;
            measured.cpu_steal_milli = steal.sample(stat, measured.at, measured.half_life);
            stale_watch.observe(measured.at, Nanos(snapshot.at_ns));
            let measured = Arc::new(measured);
            if let Some(recorder) = self.recorder.get() {
                recorder.measured(&measured);
            }
            if let Some(manager) = &manager {
                manager.set_measured(measured).await;
            }
            let names = self
                .names
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            let violated = exclusivity.observe(
                &snapshot,
                |id| names.get(id).map(ToString::to_string),
                |id, reason, text| {
                    if let (Some(events), Some(name)) = (&events, names.get(id)) {
                        events.send(PodEvent {
                            namespace: name.namespace.clone(),
                            pod: name.pod.clone(),
                            uid: name.uid.clone(),
                            reason,
                            message: format!("container {}: {text}", name.container),
                            at: SystemTime::now(),
                        });
                    }
                },
            );
            let cost = *self.cost.lock().unwrap_or_else(PoisonError::into_inner);
            *self.sample.write().unwrap_or_else(PoisonError::into_inner) =
                Arc::new(LabelledSample {
                    snapshot,
                    names,
                    violated,
                    cost,
                });
        }
    }

    /// Measures now and then what the measuring costs, beside the samples: it takes a second each time.
    async fn measure_cost(
        self: Arc<Self>,
        telemetry: Arc<Telemetry>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let mut ticks =
            tokio::time::interval_at(tokio::time::Instant::now() + COST_AFTER, COST_EVERY);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _tick = ticks.tick() => {}
            }
            let asked = Arc::clone(&telemetry);
            let cost = tokio::task::spawn_blocking(move || asked.cost(COST_DURING)).await?;
            *self.cost.lock().unwrap_or_else(PoisonError::into_inner) = cost;
        }
    }

    /// The last sample.
    #[must_use]
    pub fn sample(&self) -> Arc<LabelledSample> {
        Arc::clone(&self.sample.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the measurements are good for now.
    #[must_use]
    pub fn condition(&self) -> Condition {
        let measured = self.telemetry.get().map(|telemetry| telemetry.measured());
        Condition::of(&measured.unwrap_or_default(), Nanos(now_ns()))
    }

    /// What was measured of a container, as decisions see it; `None` where nothing was.
    #[must_use]
    pub fn measured_of(&self, id: &ContainerId) -> Option<MeasuredView> {
        let measured = self.telemetry.get()?.measured();
        let averages = measured.containers.get(id)?.clone();
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        let ids = averages.preempted_by.keys();
        let named = ids.filter_map(|id| {
            let name = names.get(id)?;
            Some((id.clone(), name.to_string()))
        });
        let half_life_ns = measured.scaled_to_half_life(HALF_LIFE.0);
        let sample = self.sample();
        let mut containers = sample.snapshot.containers.iter();
        let seen = containers.find(|container| container.id == *id);
        let worst = seen.and_then(ContainerTelemetry::worst_intruder);
        let worst = worst.map(|source| source.label(|id| names.get(id).map(ToString::to_string)));
        Some(MeasuredView::new(
            half_life_ns,
            averages.clone(),
            &named.collect(),
            worst.as_deref(),
        ))
    }

    /// The picture for `top`, as of now; `None` when nothing is measured.
    #[must_use]
    pub fn top(&self) -> Option<TopView> {
        let telemetry = self.telemetry.get()?;
        let reason = telemetry.status().reason.as_ref().map(ToString::to_string);
        let names = self
            .names
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let name = |id: &str| {
            names
                .get(&ContainerId(id.into()))
                .cloned()
                .unwrap_or_else(|| ContainerName {
                    container: id.to_owned(),
                    ..ContainerName::default()
                })
        };
        Some(TopView::new(
            &telemetry.snapshot(),
            reason,
            *self.cost.lock().unwrap_or_else(PoisonError::into_inner),
            &self.topology,
            name,
        ))
    }
}

async fn changes(
    snapshots: &mut Option<tokio::sync::watch::Receiver<Arc<crate::manager::Snapshot>>>,
) {
    if let Some(snapshots) = snapshots
        && snapshots.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// Makes the telemetry follow exactly what runs.
fn reconcile(
    telemetry: &Telemetry,
    cgroups: &Cgroups,
    followed: &mut RunningContainers,
    running: &RunningContainers,
) {
    followed.retain(|id, _| {
        let runs = running.contains_key(id);
        if !runs {
            telemetry.unregister(id);
        }
        runs
    });
    for (id, now) in running {
        match followed.get_mut(id) {
            Some(before) => {
                if (before.cpus, before.exclusive) != (now.cpus, now.exclusive) {
                    telemetry.set_placement(id, now.cpus, now.exclusive);
                    *before = now.clone();
                }
            }
            None => {
                if register(telemetry, cgroups, id, now) {
                    followed.insert(id.clone(), now.clone());
                }
            }
        }
    }
}

fn register(
    telemetry: &Telemetry,
    cgroups: &Cgroups,
    id: &ContainerId,
    now: &RunningContainer,
) -> bool {
    let place = Place {
        id: &id.0,
        parent: &now.parent,
    };
    // Without a cgroup yet (or any more) there is nothing to follow; the next change or tick tries again.
    let found = match cgroups.locate(&place) {
        Ok(found) => found,
        Err(error) => {
            tracing::debug!(target: "telemetry", "container is not followed yet: {error}");
            return false;
        }
    };
    let within = |directory: &Path, root: &Path| {
        directory
            .strip_prefix(root)
            .ok()
            .map(|path| format!("/{}", path.display()))
    };
    let hierarchy = cgroups.hierarchy();
    let path = match (&found.cpu, hierarchy.cpu_root()) {
        (Some(directory), Some(root)) => within(directory, root),
        _ => within(&found.cpuset, hierarchy.cpuset_root()),
    };
    let Some(path) = path else { return false };
    match telemetry.register(id.clone(), &path, now.cpus, now.exclusive) {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(target: "telemetry", "container {id} is not measured: {error}");
            // Not registered again at every tick.
            true
        }
    }
}

impl Measurements for Measure {
    fn since_last(&self, containers: &[String]) -> Vec<serde_json::Value> {
        let sample = self.sample();
        let mut intervals = self.dumped.lock().unwrap_or_else(PoisonError::into_inner);
        intervals.next(&sample.snapshot, containers)
    }
}
