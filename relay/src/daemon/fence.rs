//! Keeps services of the host off exclusive CPUs (`--fence-host`), as containers come and go, and remembers on disk what
//! the host's cgroups had before.

use super::{placement::PlacementService, tasks::Tasks};
use crate::{
    config::{Config, FenceMode},
    enforce::{
        Cgroups, FenceEvent, FenceJournal, Hierarchy, HostFence, Place, fence::SaveJournal,
        pods_cgroups,
    },
    ledger::{StateFile, StateRecord},
    manager::Snapshot,
    metrics::registry::Metrics,
};
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use resmgr_topology::CpuSet;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often cgroups are compared where `--reconcile-interval` is zero: no notice tells of the host's.
const INTERVAL: Duration = Duration::from_secs(1);

/// The random id of the machine's boot: no cgroup outlives it.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The journal as it is stored.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct FenceRecord {
    /// The boot that the cgroups are of.
    boot: String,
    journal: FenceJournal,
}

impl StateRecord for FenceRecord {
    const NAME: &'static str = "host-fence";
    const MAGIC: &'static str = "cri-resmgr-host-fence";
}

/// What is fenced now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FenceStatus {
    /// The CPUs that services of the host are kept off.
    pub cpus: CpuSet,
    /// How many cgroups are confined to the rest.
    pub cgroups: usize,
    /// Whether that is only what would be.
    pub shadow: bool,
}

#[derive(Clone, Debug, Default)]
struct FenceMetrics {
    cgroups: Gauge,
    failures: Counter,
    rewrites: Counter,
}

impl FenceMetrics {
    fn new(metrics: &Metrics) -> Self {
        let new = Self::default();
        metrics.register(|registry| {
            registry.register(
                "fence_host_cgroups",
                "Cgroups of the host that are confined to CPUs that are not exclusive; with shadow, that would be",
                new.cgroups.clone(),
            );
            registry.register(
                "fence_write_failures",
                "Cgroups of the host that could not be read or written, and journals that could not be saved",
                new.failures.clone(),
            );
            registry.register(
                "fence_rewrites",
                "Times that another program set the CPUs of a confined cgroup of the host",
                new.rewrites.clone(),
            );
        });
        new
    }

    fn count(&self, events: &[FenceEvent]) {
        for event in events {
            if event.is_failure() {
                self.failures.inc();
            } else if matches!(event, FenceEvent::Rewritten { .. }) {
                self.rewrites.inc();
            }
        }
    }
}

/// Starts to follow the placement, or takes down the fence that an earlier run left.
pub(super) fn start(
    config: &Config,
    placement: Option<&PlacementService>,
    tasks: &Tasks,
    metrics: &Metrics,
) -> watch::Receiver<FenceStatus> {
    let (status_out, status) = watch::channel(FenceStatus::default());
    let mode = config.enforce.fence_host;
    if mode != FenceMode::On || placement.is_none() {
        match give_back(config) {
            Ok(text) => text.lines().for_each(|line| tracing::info!("{line}")),
            Err(text) => text.lines().for_each(|line| tracing::error!("{line}")),
        }
    }
    let Some(placement) = placement.filter(|_| mode != FenceMode::Off) else {
        if mode != FenceMode::Off {
            let policy = config.policy.name;
            tracing::warn!(
                "--fence-host has no effect: under policy {policy} no container has exclusive CPUs"
            );
        }
        return status;
    };
    let cgroups = Arc::clone(&placement.cgroups);
    if !cgroups.hierarchy().is_v2() {
        tracing::warn!(
            "cgroup v1: only those slices and scopes of the host are kept off exclusive CPUs that exist in the cpuset \
             hierarchy; tasks in its root, as a rule all of the host, run anywhere"
        );
    }
    let fence = match mode {
        FenceMode::On => HostFence::new(
            cgroups.clone(),
            load(&config.enforce.state_dir),
            save_in(&config.enforce.state_dir),
        ),
        _ => HostFence::shadow(cgroups.clone()),
    };
    let follower = Follower {
        fence,
        cgroups,
        shadow: mode == FenceMode::Shadow,
        interval: match config.enforce.reconcile_interval {
            Duration::ZERO => INTERVAL,
            interval => interval,
        },
        metrics: FenceMetrics::new(metrics),
        status: status_out,
        failures: BTreeSet::new(),
    };
    let (snapshots, stop) = (placement.manager.snapshots(), tasks.stop().clone());
    let restore = config.enforce.restore_on_stop;
    tasks.spawn("host fence", async move {
        let follower = follower.follow(snapshots, &stop).await?;
        if restore {
            follower.look_at(HostFence::give_back).await?;
        }
        Ok(())
    });
    status
}

/// Follows the placement.
struct Follower {
    fence: HostFence,
    cgroups: Arc<Cgroups>,
    shadow: bool,
    interval: Duration,
    metrics: FenceMetrics,
    status: watch::Sender<FenceStatus>,
    /// What failed the last time: it is told once.
    failures: BTreeSet<String>,
}

impl Follower {
    /// Follows snapshots until `stop`. What an earlier run left stays until the runtime has said what runs.
    async fn follow(
        mut self,
        mut snapshots: watch::Receiver<Arc<Snapshot>>,
        stop: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let (mut is_over, mut is_needed) = (false, true);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(self),
                changed = snapshots.changed(), if !is_over => is_over = changed.is_err(),
                () = tokio::time::sleep(self.interval), if !is_over && is_needed => {}
            }
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            if is_over || !snapshot.synced {
                continue;
            }
            let exclusive = snapshot.containers.state().exclusive();
            let cpus = exclusive.difference(&snapshot.reserved);
            let cgroups = Arc::clone(&self.cgroups);
            self = self
                .look_at(move |fence| look(fence, &cgroups, &snapshot))
                .await?;
            is_needed = self.fence.confined() > 0 || !exclusive.is_empty();
            self.status.send_replace(FenceStatus {
                cpus,
                cgroups: self.fence.confined(),
                shadow: self.shadow,
            });
        }
    }

    /// Has a thread do something with the fence, and tells of what happened.
    async fn look_at(
        mut self,
        work: impl FnOnce(&mut HostFence) -> Vec<FenceEvent> + Send + 'static,
    ) -> anyhow::Result<Self> {
        let mut fence = self.fence;
        let done = tokio::task::spawn_blocking(move || {
            let events = work(&mut fence);
            (fence, events)
        });
        let (fence, events) = done.await?;
        self.fence = fence;
        self.metrics.count(&events);
        let confined = i64::try_from(self.fence.confined()).unwrap_or(i64::MAX);
        self.metrics.cgroups.set(confined);
        let shadow = if self.shadow {
            "shadow, nothing is written: "
        } else {
            ""
        };
        let failures = events.iter().filter(|event| event.is_failure());
        let failures: BTreeSet<_> = failures.map(ToString::to_string).collect();
        for event in events {
            match event.is_warning() {
                true if self.failures.contains(&event.to_string()) => {}
                true => tracing::warn!("{shadow}{event}"),
                false => tracing::info!("{shadow}{event}"),
            }
        }
        self.failures = failures;
        Ok(self)
    }
}

/// Compares the cgroups of the host with a placement.
fn look(fence: &mut HostFence, cgroups: &Cgroups, snapshot: &Snapshot) -> Vec<FenceEvent> {
    let places = snapshot.containers.iter().map(|container| Place {
        id: &container.id.0,
        parent: &container.record.cgroup_parent,
    });
    let pods = pods_cgroups(cgroups, places);
    let exclusive = snapshot.containers.state().exclusive();
    let events = fence.look(exclusive, snapshot.reserved, &pods, Instant::now());
    events.unwrap_or_else(|error| vec![FenceEvent::Failed(error)])
}

/// Gives the host's cgroups back what a daemon that no longer runs took from them; what became of each, a line each.
///
/// # Errors
/// What became of each, where one could not be given back.
pub(super) fn give_back(config: &Config) -> Result<String, String> {
    let directory = &config.enforce.state_dir;
    if !StateFile::<FenceRecord>::at(directory).exists() {
        return Ok(String::new());
    }
    let under = config.enforce.cgroup_mount.as_path();
    let hierarchy = Hierarchy::detect(Some(under)).map_err(|error| error.to_string())?;
    give_back_in(directory, hierarchy)
}

fn give_back_in(directory: &Path, hierarchy: Hierarchy) -> Result<String, String> {
    let cgroups = Arc::new(Cgroups::new(hierarchy));
    let events = HostFence::new(cgroups, load(directory), save_in(directory)).give_back();
    let text = events.iter().map(|event| format!("{event}\n")).collect();
    match events.iter().any(FenceEvent::is_failure) {
        true => Err(text),
        false => Ok(text),
    }
}

/// The journal of this boot.
fn load(directory: &Path) -> FenceJournal {
    let loaded = StateFile::<FenceRecord>::at(directory).load();
    for problem in loaded.problems {
        let problem = anyhow::Error::new(problem);
        tracing::warn!("the journal of host cgroups cannot be read: {problem:#}");
    }
    let record = loaded.value.unwrap_or_default();
    match boot() {
        Ok(boot) if boot != record.boot => FenceJournal::default(),
        _same_or_unknown => record.journal,
    }
}

/// Stores the journal, and removes the files once there is nothing to undo.
fn save_in(directory: &Path) -> SaveJournal {
    let file = StateFile::<FenceRecord>::at(directory);
    Box::new(move |journal| {
        let saved = if *journal == FenceJournal::default() {
            file.forget()
        } else {
            let boot = boot().map_err(|error| format!("{BOOT_ID}: {error}"))?;
            let journal = journal.clone();
            file.store(&FenceRecord { boot, journal })
        };
        saved.map_err(|error| format!("{:#}", anyhow::Error::new(error)))
    })
}

fn boot() -> std::io::Result<String> {
    Ok(fs::read_to_string(BOOT_ID)?.trim_end().to_owned())
}

#[cfg(test)]
mod tests;
