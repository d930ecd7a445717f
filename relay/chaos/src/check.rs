//! The promises, looked at while the node runs and when it has come to rest.

use crate::{
    disk::Image,
    world::{World, WorldState},
};
use cri_resmgr::{
    cri::message as v1,
    enforce::{CgroupSettings, Cgroups, Place, reconcile::compare},
    ledger::{Disk, StateFile},
    manager::{Book, ContainerRef, Containers, Stage},
};
use resmgr_policy::{ContainerId, check};
use resmgr_topology::CpuSet;
use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};
use tokio::time::Instant;

/// Where the daemon keeps its state.
pub(crate) const STATE: &str = "/state";

/// What others write to a cgroup is repaired within this.
const REPAIRED: Duration = Duration::from_secs(5);

fn books(world: &WorldState) -> Vec<Option<Book>> {
    let images = world.disk.worst().into_iter();
    let load =
        |image| StateFile::on(Arc::new(Image(image)) as Arc<dyn Disk>, Path::new(STATE)).load();
    images.map(|image| load(image).value).collect()
}

fn exclusive(container: &ContainerRef<'_>) -> CpuSet {
    let placement = container.placement;
    placement.map_or(CpuSet::EMPTY, |placement| *placement.exclusive)
}

/// The runtime hears of a creation: its wanted state must survive a power cut.
pub(crate) fn wanted_is_safe(
    world: &mut WorldState,
    asked: &v1::CreateContainerRequest,
    cpus: &CpuSet,
) {
    disjoint(world);
    let sandbox = asked.sandbox_config.as_ref();
    let pod = sandbox.and_then(|sandbox| sandbox.metadata.as_ref());
    if pod.is_some_and(|pod| pod.namespace == crate::kubelet::PASSED) {
        return; // created even if the disk is full
    }
    if cpus.is_empty() {
        return; // nothing is decided: the ledger need not be waited for
    }
    let config = asked.config.as_ref();
    let metadata = config
        .and_then(|config| config.metadata.clone())
        .unwrap_or_default();
    for book in books(world) {
        let containers = book.iter().flat_map(|book| book.containers.iter());
        // An earlier creation of that name may have succeeded unheard.
        let mut kept = containers.filter(|container| {
            *container.request.pod.sandbox == *asked.pod_sandbox_id
                && *container.request.name == *metadata.name
                && container.record.attempt == metadata.attempt
        });
        let safe =
            |kept: ContainerRef<'_>| exclusive(&kept).is_subset(cpus) || is_published(world, &kept);
        if !kept.any(safe) {
            world.broken(format_args!(
                "the runtime hears of {}/{} on {cpus}, which a power cut now would lose",
                asked.pod_sandbox_id, metadata.name
            ));
            return;
        }
    }
}

/// Whether a container has the same exclusive CPUs in the ledger as it is published with: another decision has
/// been made since the call came, and the container is moved before it starts.
fn is_published(world: &WorldState, kept: &ContainerRef<'_>) -> bool {
    let snapshot = world.snapshot();
    let published = snapshot
        .as_ref()
        .and_then(|snapshot| snapshot.containers.get(kept.id));
    published.is_some_and(|published| exclusive(&published) == exclusive(kept))
}

/// The runtime hears of an update: its wanted state must survive a power cut.
pub(crate) fn update_is_safe(
    world: &mut WorldState,
    id: &str,
    asked: &v1::LinuxContainerResources,
    cpus: &CpuSet,
) {
    disjoint(world);
    let id = ContainerId(id.into());
    if !world
        .snapshot()
        .is_some_and(|snapshot| snapshot.containers.contains(&id))
    {
        return; // passes as it is
    }
    for book in books(world) {
        let kept = book.as_ref().and_then(|book| book.containers.get(&id));
        let shares = kept.and_then(|kept| kept.record.requested.cpu_shares);
        if shares != u64::try_from(asked.cpu_shares).ok() {
            world.broken(format_args!(
                "the runtime hears of {} shares for {id}, a power cut now would leave {shares:?}",
                asked.cpu_shares
            ));
            return;
        }
        let reserved = kept.as_ref().map(exclusive).unwrap_or_default();
        let safe = kept.is_some_and(|kept| is_published(world, &kept));
        if !reserved.is_subset(cpus) && !safe {
            world.broken(format_args!(
                "the runtime hears of {id} on {cpus}, the ledger has {reserved}"
            ));
            return;
        }
    }
}

/// No two containers are given the same exclusive CPU.
pub(crate) fn disjoint(world: &mut WorldState) {
    let Some(snapshot) = world.snapshot() else {
        return;
    };
    let mut taken = CpuSet::EMPTY;
    for container in snapshot.containers.iter() {
        let cpus = exclusive(&container);
        if !cpus.is_disjoint(&taken) {
            let both = cpus.intersection(&taken);
            world.broken(format_args!(
                "{both} is given exclusively to {} and another",
                container.id
            ));
            return;
        }
        taken = taken.union(&cpus);
    }
}

/// A container's program begins: in the kernel no managed container runs on its exclusive CPUs.
pub(crate) fn starts_alone(world: &mut WorldState, id: &str) {
    let Some(snapshot) = world.snapshot().filter(|snapshot| snapshot.synced) else {
        return;
    };
    let own = snapshot.containers.get(&ContainerId(id.into()));
    let cpus = own.as_ref().map(exclusive).unwrap_or_default();
    if cpus.is_empty() || world.started_at.elapsed() < REPAIRED {
        return;
    }
    if let Some(intruder) = intruder(world, &snapshot.containers, id, &cpus) {
        world.broken(format_args!(
            "{id} starts on {cpus} exclusively, where {intruder} runs"
        ));
    }
}

/// A container that runs on `cpus` of another, unless something else than the daemon put it there just now.
fn intruder(world: &WorldState, known: &Containers, owner: &str, cpus: &CpuSet) -> Option<String> {
    let running = world.runtime.containers.iter();
    let mut neighbours = running.filter(|(id, container)| container.running && *id != owner);
    neighbours.find_map(|(id, container)| {
        let known = known.get(&ContainerId(id.as_str().into()))?;
        if !is_confined(&known) {
            return None;
        }
        let path = container.cgroup(id);
        let cgroup = world.kernel.cgroups.get(&path)?;
        let recent = |at: Instant| at.elapsed() < REPAIRED;
        if cgroup.disturbed.is_some_and(recent) {
            return None;
        }
        let has = world.kernel.effective(&path);
        (!has.is_disjoint(cpus)).then(|| format!("{id} on {has}"))
    })
}

/// Whether the daemon keeps a container off the exclusive CPUs of others.
fn is_confined(container: &ContainerRef<'_>) -> bool {
    match container.placement {
        Some(placement) => !placement.cpus.is_empty(),
        None => container.unplaced.is_some(),
    }
}

/// All has come to rest: runtime, snapshot, ledger, kernel and the files that are shown agree, and nothing is
/// left over.
///
/// # Errors
/// What does not agree.
pub(crate) fn at_rest(node: &World, cgroups: &Cgroups, shown: bool) -> Result<(), String> {
    let snapshot = node.lock().snapshot().ok_or("no daemon runs")?;
    if !snapshot.synced {
        return Err("the daemon has not heard what runs".to_owned());
    }
    let containers = &snapshot.containers;
    let runtime = node.lock().runtime.containers.clone();
    let known: BTreeSet<&str> = containers
        .iter()
        .map(|container| &*container.id.0)
        .collect();
    let live: BTreeSet<&str> = runtime.keys().map(String::as_str).collect();
    if known != live {
        return Err(format!("known are {known:?}, alive {live:?}"));
    }
    disjoint(&mut node.lock());
    let topology = &snapshot.topology;
    let rules = node.lock().policy.rules(topology);
    if let Some(wrong) = check(topology, containers.state(), &rules).first() {
        return Err(format!("the policy's promise is broken: {wrong}"));
    }
    for container in containers.iter() {
        let id = &container.id.0;
        let Some(simulated) = runtime.get(&**id) else {
            continue;
        };
        if (container.stage() == Stage::Running) != simulated.running {
            return Err(format!("{id} is known as {:?}", container.stage()));
        }
        if !simulated.running {
            continue;
        }
        if let Some(placement) = container.placement {
            let place = Place {
                id,
                parent: &container.record.cgroup_parent,
            };
            let actual = cgroups.read(&place).map_err(|error| error.to_string())?;
            let wanted = CgroupSettings::from(placement);
            if let Some(drift) = compare(cgroups, container.id, &wanted, &actual).first() {
                return Err(drift.to_string());
            }
        }
        let cpus = exclusive(&container);
        let intruder = intruder(&node.lock(), containers, id, &cpus);
        if let Some(intruder) = intruder {
            return Err(format!(
                "{id} has {cpus} exclusively, where {intruder} runs"
            ));
        }
    }
    let world = node.lock();
    let kept = books(&world);
    let text = |book: &Book| serde_json::to_string(&book).map_err(|error| error.to_string());
    for book in kept {
        let book = book.ok_or("the ledger is lost")?;
        let published = Book {
            containers: containers.clone(),
            ..book.clone()
        };
        if text(&book)? != text(&published)? {
            return Err("the ledger is not what is published".to_owned());
        }
    }
    let directories = world.disk.list(&Path::new(STATE).join("containers"));
    let mut directories: BTreeSet<_> = directories.unwrap_or_default().into_iter().collect();
    for container in containers.iter() {
        let request = container.request;
        let (sandbox, attempt) = (&request.pod.sandbox, container.record.attempt);
        let there = directories.remove(&format!("{sandbox}-{}-{attempt}", request.name));
        let pinned = (container.placement).is_some_and(|placement| !placement.cpus.is_empty());
        if pinned && shown && !there {
            return Err(format!("{} is not shown where it runs", container.id));
        }
    }
    match directories.first() {
        None => Ok(()),
        Some(left) => Err(format!("the directory {left} of no container is left")),
    }
}
