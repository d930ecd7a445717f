//! The container runtime: it knows pods and containers, answers late, never, or something else than it did,
//! refuses, restarts and forgets.

use crate::{
    check,
    kernel::{KernelState, Writer},
    world::{World, WorldState},
};
use async_trait::async_trait;
use cri_resmgr::{
    cri::{
        intercept::{CallOutcome, Status},
        message as v1,
    },
    enforce::CgroupSettings,
    intercept::{CreateContainerRequest, container_spec},
    manager::{
        ContainerSpec, ExitEventsUnavailable, Listed, Listing, Runtime, RuntimeError, Stage,
    },
};
use prost::Message;
use resmgr_policy::ContainerId;
use resmgr_sim::random::Random;
use resmgr_topology::CpuSet;
use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::{Instant, sleep},
};

/// The machine's memory, for estimates.
pub(crate) const MEMORY_BYTES: u64 = 1 << 34;

/// How the runtime fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Well,
    Slow,
    /// Refuses many calls.
    Refusing,
    /// Loses many replies.
    Losing,
    /// Cannot be reached.
    Down,
}

/// A container that is created or runs.
#[derive(Clone, Debug)]
pub(crate) struct SimulatedContainer {
    /// As the kubelet asked for it, with the resources it has set since.
    pub(crate) request: v1::CreateContainerRequest,
    /// The CPUs that the runtime was told last; empty: those of the pod.
    cpus: CpuSet,
    pub(crate) running: bool,
}

impl SimulatedContainer {
    pub(crate) fn sandbox(&self) -> &str {
        &self.request.pod_sandbox_id
    }

    fn metadata(&self) -> v1::ContainerMetadata {
        let config = self.request.config.as_ref();
        config
            .and_then(|config| config.metadata.clone())
            .unwrap_or_default()
    }

    pub(crate) fn cgroup(&self, id: &str) -> PathBuf {
        pod_cgroup(&self.request).join(id)
    }
}

fn pod_cgroup(request: &v1::CreateContainerRequest) -> PathBuf {
    let config = request.sandbox_config.as_ref();
    let linux = config.and_then(|config| config.linux.as_ref());
    let parent = linux.map(|linux| linux.cgroup_parent.as_str());
    parent.unwrap_or_default().trim_start_matches('/').into()
}

fn resources(request: &v1::CreateContainerRequest) -> v1::LinuxContainerResources {
    let config = request.config.as_ref();
    let linux = config.and_then(|config| config.linux.as_ref());
    linux
        .and_then(|linux| linux.resources.clone())
        .unwrap_or_default()
}

#[derive(Debug)]
pub(crate) struct RuntimeState {
    pub(crate) containers: BTreeMap<String, SimulatedContainer>,
    next: u64,
    pub(crate) mood: Mood,
    /// Counts restarts: a call that one interrupts is lost.
    restarts: u64,
    restarted: Arc<Notify>,
    tells_exits: bool,
    exits: Vec<mpsc::Sender<Arc<str>>>,
}

impl RuntimeState {
    pub(crate) fn new(random: &mut Random) -> Self {
        Self {
            containers: BTreeMap::new(),
            next: 0,
            mood: Mood::Well,
            restarts: 0,
            restarted: Arc::default(),
            tells_exits: random.below(2) == 0,
            exits: Vec::new(),
        }
    }

    pub(crate) fn restart(&mut self) {
        self.restarts += 1;
        self.exits.clear();
        self.restarted.notify_waiters();
    }
}

/// How long a call takes, before and after it is carried out.
fn latency(world: &mut WorldState) -> (Duration, Duration) {
    let slow = world.runtime.mood == Mood::Slow || world.chance(3);
    let most: u64 = if slow { 20_000 } else { 30 };
    let before = Duration::from_millis(world.random.below(most));
    let after = Duration::from_millis(world.random.below(most));
    (before, after)
}

fn failed(message: impl Into<String>) -> CallOutcome {
    CallOutcome::Failed(Status {
        code: 2,
        message: message.into(),
    })
}

/// Carries a call out that the relay has forwarded. Returns when the relay hears how it ended; what the
/// runtime does goes on whatever becomes of the relay.
async fn call<F>(world: &World, name: String, act: F) -> CallOutcome
where
    F: FnOnce(&mut WorldState) -> Result<Vec<u8>, String> + Send + 'static,
{
    let (before, after, restarts) = {
        let mut world = world.lock();
        world.effects += 1;
        if world.runtime.mood == Mood::Down {
            world.event(format_args!("runtime {name}: not reached"));
            return failed("connection refused");
        }
        world.event(format_args!("runtime {name}: asked"));
        let (before, after) = latency(&mut world);
        (before, after, world.runtime.restarts)
    };
    let (reply, answer) = oneshot::channel();
    let node = world.clone();
    world.spawn(async move {
        sleep(before).await;
        let answer = {
            let mut world = node.lock();
            if world.runtime.restarts != restarts {
                return;
            }
            let refuses = world.runtime.mood == Mood::Refusing && world.chance(50);
            let done = match refuses {
                true => Err("told to refuse".to_owned()),
                false => act(&mut world),
            };
            world.event(format_args!(
                "runtime {name}: {}",
                match &done {
                    Ok(_reply) => "done",
                    Err(why) => why,
                }
            ));
            let loses = if world.runtime.mood == Mood::Losing {
                50
            } else {
                2
            };
            if world.chance(loses) {
                return;
            }
            match done {
                Ok(reply) => CallOutcome::Reply(reply.into()),
                Err(why) => failed(why),
            }
        };
        sleep(after).await;
        if node.lock().runtime.restarts == restarts {
            drop(reply.send(answer));
        }
    });
    let lost = || CallOutcome::Unknown("the connection broke".to_owned());
    answer.await.unwrap_or_else(|_dropped| lost())
}

pub(crate) async fn create(
    world: &World,
    asked: v1::CreateContainerRequest,
    sent: v1::CreateContainerRequest,
) -> CallOutcome {
    let metadata = asked
        .config
        .as_ref()
        .and_then(|config| config.metadata.clone());
    let metadata = metadata.unwrap_or_default();
    let cpus: CpuSet = resources(&sent).cpuset_cpus.parse().unwrap_or_default();
    let name = format!(
        "create {}/{}/{} on {cpus}",
        asked.pod_sandbox_id, metadata.name, metadata.attempt
    );
    check::wanted_is_safe(&mut world.lock(), &asked, &cpus);
    call(world, name, move |world| {
        let taken = world.runtime.containers.values().any(|container| {
            container.sandbox() == asked.pod_sandbox_id && container.metadata() == metadata
        });
        if taken {
            return Err("the name is reserved".to_owned());
        }
        if !world.kernel.cgroups.contains_key(&pod_cgroup(&asked)) {
            return Err("the pod is gone".to_owned());
        }
        world.runtime.next += 1;
        let id = format!("c{:015}", world.runtime.next);
        let container = SimulatedContainer {
            request: asked,
            cpus,
            running: false,
        };
        world.runtime.containers.insert(id.clone(), container);
        let reply = v1::CreateContainerResponse { container_id: id };
        Ok(reply.encode_to_vec())
    })
    .await
}

/// Has runc make the cgroup and fill it in, and the program run, with time in between.
pub(crate) async fn start(world: &World, id: String) -> CallOutcome {
    let name = format!("start {id}");
    let node = world.clone();
    let (ran, runs) = oneshot::channel();
    let made = call(world, name, move |world| {
        let container = world
            .runtime
            .containers
            .get(&id)
            .ok_or("no such container")?;
        if container.running {
            return Err("it runs already".to_owned());
        }
        let (cgroup, pod) = (container.cgroup(&id), pod_cgroup(&container.request));
        if !world.kernel.cgroups.contains_key(&pod) {
            return Err("the pod is gone".to_owned());
        }
        world.kernel.create(&cgroup);
        if !world.kernel.v2
            && let Some(cgroup) = world.kernel.cgroups.get_mut(&cgroup)
        {
            cgroup.cpus = CpuSet::EMPTY; // as the kernel makes it
        }
        let pauses = [world.random.below(20), world.random.below(20)];
        world.spawned.push(crate::tasks::Task {
            lifetime: crate::tasks::Lifetime::Machine,
            future: Box::pin(async move {
                sleep(Duration::from_millis(pauses[0])).await;
                {
                    let mut world = node.lock();
                    let WorldState {
                        runtime, kernel, ..
                    } = &mut *world;
                    let Some(container) = runtime.containers.get(&id) else {
                        return;
                    };
                    // The pod may be narrower by now: the program does not start then.
                    if fill(kernel, container, &id).is_err() {
                        world.event(format_args!("runtime start {id}: cgroup not filled in"));
                        kernel_remove(&mut world, &id);
                        return;
                    }
                }
                sleep(Duration::from_millis(pauses[1])).await;
                let mut world = node.lock();
                let WorldState {
                    runtime, kernel, ..
                } = &mut *world;
                let Some(container) = runtime.containers.get_mut(&id) else {
                    return;
                };
                let Some(cgroup) = kernel.cgroups.get_mut(&container.cgroup(&id)) else {
                    return;
                };
                container.running = true;
                cgroup.tasks = true;
                world.event(format_args!("runtime start {id}: runs"));
                check::starts_alone(&mut world, &id);
                let _gone = ran.send(()); // the relay that asked may be dead
            }),
        });
        Ok(Vec::new())
    })
    .await;
    match (&made, runs.await) {
        (CallOutcome::Reply(_), Err(_dropped)) => failed("the program did not start"),
        _ => made,
    }
}

fn kernel_remove(world: &mut WorldState, id: &str) {
    if let Some(container) = world.runtime.containers.get(id) {
        let cgroup = container.cgroup(id);
        world.kernel.remove(&cgroup);
    }
}

/// What runc writes of a container's resources.
fn fill(kernel: &mut KernelState, container: &SimulatedContainer, id: &str) -> io::Result<()> {
    let path = container.cgroup(id);
    let asked = resources(&container.request);
    let inherited = kernel.cgroups.get(&pod_cgroup(&container.request));
    let inherited = inherited.map(|pod| pod.cpus).unwrap_or_default();
    let cpus = match container.cpus.is_empty() {
        true if kernel.v2 => CpuSet::EMPTY,
        true => inherited,
        false => container.cpus,
    };
    kernel.set_cpus(&path, cpus, Writer::Runtime)?;
    if let Some(cgroup) = kernel.cgroups.get_mut(&path) {
        let shares = u64::try_from(asked.cpu_shares).unwrap_or_default();
        cgroup.shares = match kernel.v2 {
            true => 1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142,
            false => shares.max(2),
        };
        cgroup.quota = if asked.cpu_quota > 0 {
            asked.cpu_quota
        } else {
            -1
        };
    }
    Ok(())
}

pub(crate) async fn update(
    world: &World,
    id: String,
    asked: v1::LinuxContainerResources,
    sent: v1::LinuxContainerResources,
) -> CallOutcome {
    let cpus: CpuSet = sent.cpuset_cpus.parse().unwrap_or_default();
    let name = format!(
        "update {id} to {}m on {cpus}",
        asked.cpu_shares * 1000 / 1024
    );
    check::update_is_safe(&mut world.lock(), &id, &asked, &cpus);
    call(world, name, move |world| {
        change(world, &id, cpus, Some(asked))?;
        Ok(Vec::new())
    })
    .await
}

/// Other resources for a container: its cgroup, if it has one, then the record.
fn change(
    world: &mut WorldState,
    id: &str,
    cpus: CpuSet,
    asked: Option<v1::LinuxContainerResources>,
) -> Result<(), String> {
    let container = world
        .runtime
        .containers
        .get(id)
        .ok_or("no such container")?;
    let mut changed = container.clone();
    if !cpus.is_empty() {
        changed.cpus = cpus;
    }
    if let Some(asked) = asked
        && let Some(config) = changed.request.config.as_mut()
        && let Some(linux) = config.linux.as_mut()
    {
        let has = linux.resources.get_or_insert_default();
        has.cpu_shares = asked.cpu_shares;
        has.cpu_quota = asked.cpu_quota;
        has.cpu_period = asked.cpu_period;
    }
    if changed.running {
        fill(&mut world.kernel, &changed, id).map_err(|error| error.to_string())?;
    }
    world.runtime.containers.insert(id.to_owned(), changed);
    Ok(())
}

/// Stops or removes a container; it need not exist.
pub(crate) async fn stop(world: &World, id: String) -> CallOutcome {
    let name = format!("stop {id}");
    call(world, name, move |world| {
        end(world, &id);
        Ok(Vec::new())
    })
    .await
}

pub(crate) async fn stop_pod(world: &World, sandbox: String) -> CallOutcome {
    let name = format!("stop pod {sandbox}");
    call(world, name, move |world| {
        end_pod(world, &sandbox);
        Ok(Vec::new())
    })
    .await
}

pub(crate) async fn list(world: &World) -> CallOutcome {
    call(world, "list for the kubelet".to_owned(), |world| {
        let containers = world.runtime.containers.iter();
        let containers = containers.map(|(id, container)| v1::Container {
            id: id.clone(),
            pod_sandbox_id: container.sandbox().to_owned(),
            metadata: Some(container.metadata()),
            state: match container.running {
                true => v1::ContainerState::ContainerRunning.into(),
                false => v1::ContainerState::ContainerCreated.into(),
            },
            ..v1::Container::default()
        });
        let containers = containers.collect();
        Ok(v1::ListContainersResponse { containers }.encode_to_vec())
    })
    .await
}

/// A container ends: its cgroup goes, and those that listen are told.
pub(crate) fn end(world: &mut WorldState, id: &str) {
    let Some(container) = world.runtime.containers.get(id) else {
        return;
    };
    let cgroup = container.cgroup(id);
    world.kernel.remove(&cgroup);
    world.runtime.containers.remove(id);
    let id: Arc<str> = id.into();
    for listener in &world.runtime.exits {
        drop(listener.try_send(Arc::clone(&id))); // a full queue: the list has to do
    }
}

pub(crate) fn end_pod(world: &mut WorldState, sandbox: &str) {
    let containers = world.runtime.containers.iter();
    let of_pod = containers.filter(|(_id, container)| container.sandbox() == sandbox);
    let ids: Vec<_> = of_pod.map(|(id, _container)| id.clone()).collect();
    for id in ids {
        end(world, &id);
    }
    let name = std::ffi::OsStr::new(sandbox);
    let mut paths = world.kernel.cgroups.keys();
    let pod = paths.find(|path| path.file_name() == Some(name)).cloned();
    if let Some(pod) = pod {
        world.kernel.remove(&pod);
    }
}

/// The runtime as the daemon's own client sees it.
#[derive(Clone, Debug)]
pub(crate) struct SimulatedRuntime {
    pub(crate) world: World,
    pub(crate) start: u64,
}

impl SimulatedRuntime {
    /// Asks, and waits for the answer.
    async fn ask<T>(
        &self,
        operation: &'static str,
        act: impl FnOnce(&mut WorldState) -> Result<T, String>,
    ) -> Result<T, RuntimeError> {
        let error = |problem: String| RuntimeError { operation, problem };
        let (before, after, restarts) = {
            let mut world = self.world.lock();
            let (before, after) = latency(&mut world);
            (before, after, world.runtime.restarts)
        };
        sleep(before).await;
        let (done, loses) = {
            let mut world = self.world.lock();
            let mood = world.runtime.mood;
            if mood == Mood::Down || world.runtime.restarts != restarts {
                return Err(error("the connection broke".to_owned()));
            }
            let refuses = mood == Mood::Refusing && world.chance(30);
            let done = match refuses {
                true => Err("told to refuse".to_owned()),
                false => act(&mut world),
            };
            (done, mood == Mood::Losing && world.chance(30))
        };
        sleep(after).await;
        if loses || self.world.lock().runtime.restarts != restarts {
            return Err(error("the reply is lost".to_owned()));
        }
        done.map_err(error)
    }
}

#[async_trait]
impl Runtime for SimulatedRuntime {
    async fn list(&self) -> Result<Listing, RuntimeError> {
        let requested_at = Instant::now();
        let containers = self.ask("list containers", |world| {
            let containers = world.runtime.containers.iter();
            let listed = containers.map(|(id, container)| {
                let metadata = container.metadata();
                Listed {
                    id: id.as_str().into(),
                    sandbox: container.sandbox().into(),
                    name: metadata.name.into(),
                    attempt: metadata.attempt,
                    stage: match container.running {
                        true => Stage::Running,
                        false => Stage::Created,
                    },
                }
            });
            Ok(listed.collect())
        });
        Ok(Listing {
            containers: containers.await?,
            requested_at,
        })
    }

    async fn learn(&self, container: &Listed) -> Result<ContainerSpec, RuntimeError> {
        let id = Arc::clone(&container.id);
        let request = self.ask("ask the status of a container", |world| {
            let container = world.runtime.containers.get(&*id);
            let container = container.ok_or("no such container")?;
            Ok(container.request.encode_to_vec())
        });
        let request = CreateContainerRequest::decode(request.await?.as_slice());
        let request = request.map_err(|error| RuntimeError {
            operation: "read a container",
            problem: error.to_string(),
        })?;
        Ok(container_spec(&request, ContainerId(id), MEMORY_BYTES))
    }

    async fn update(&self, id: &str, settings: &CgroupSettings) -> Result<(), RuntimeError> {
        let cpus = settings.cpus;
        self.world
            .lock()
            .effect(self.start)
            .map_err(|error| RuntimeError {
                operation: "update a container's resources",
                problem: error.to_string(),
            })?;
        self.ask("update a container's resources", |world| {
            world.event(format_args!("runtime moves {id} to {cpus} for the daemon"));
            change(world, id, cpus, None)
        })
        .await
    }

    async fn exit_events(&self, exits: mpsc::Sender<Arc<str>>) -> ExitEventsUnavailable {
        let restarted = {
            let mut world = self.world.lock();
            if !world.runtime.tells_exits {
                return ExitEventsUnavailable::NotOffered;
            }
            world.runtime.exits.push(exits);
            Arc::clone(&world.runtime.restarted)
        };
        restarted.notified().await;
        ExitEventsUnavailable::Broken(RuntimeError {
            operation: "listen to containers that end",
            problem: "the runtime was restarted".to_owned(),
        })
    }
}
