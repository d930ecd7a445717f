//! What the scheduler really did, per container.
//!
//! A BPF program at `sched_switch` counts every switch ([`Quality::Exact`]); where it cannot run, the
//! kernel's own counters are polled ([`Quality::Polled`]). Starting never fails: [`Telemetry::status`]
//! tells what is measured and why not more. Telemetry must never change anything a container sees.

#[cfg(feature = "bench")]
pub mod bench;
#[cfg(feature = "ebpf")]
mod blame;
mod btf;
mod clock;
mod cost;
mod error;
#[cfg(feature = "ebpf")]
mod exact;
mod hierarchy;
#[cfg(feature = "ebpf")]
mod host_cgroups;
#[cfg(feature = "ebpf")]
mod kernel_offsets;
#[cfg(feature = "ebpf")]
mod load;
#[cfg(feature = "ebpf")]
mod mapped;
mod options;
#[cfg(feature = "ebpf")]
mod overhead;
mod polled;
#[cfg(feature = "ebpf")]
mod relocate;
mod resident;
pub mod sample;
#[cfg(feature = "ebpf")]
mod selfcheck;
#[cfg(feature = "ebpf")]
mod slots;
mod smooth;
mod snapshot;
mod status;
#[cfg(feature = "ebpf")]
mod totals;
#[cfg(feature = "ebpf")]
mod warnings;

pub use btf::{Btf, BtfError};
pub use clock::now_ns;
pub use cost::Cost;
pub use error::RegisterError;
pub use options::TelemetrySetup;
pub(crate) use smooth::wait_quantile_ns;
pub use snapshot::{
    ContainerTelemetry, ForeignRun, Interference, InterferenceSource, TelemetrySnapshot, Totals,
};
pub use status::{OffReason, Quality, TelemetryStatus};

use hierarchy::CgroupHierarchy;
use polled::PolledBackend;
use resident::ResidentMemory;
use resmgr_policy::{ContainerId, Measured};
use resmgr_topology::{CpuSet, Topology};
use smooth::Smoother;
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

#[derive(Debug)]
enum Backend {
    Off,
    Polled(PolledBackend),
    #[cfg(feature = "ebpf")]
    Exact(Box<exact::ExactBackend>),
}

#[derive(Debug)]
struct Collector {
    backend: Backend,
    smooth: Smoother,
    resident: ResidentMemory,
    /// Containers that run, registered or not.
    running: usize,
}

/// Scheduler telemetry. Every method may be called from any thread.
#[derive(Debug)]
pub struct Telemetry {
    collector: Mutex<Collector>,
    status: TelemetryStatus,
}

impl Telemetry {
    /// Starts measuring the best this machine allows. Blocks for about a tenth of a second while the
    /// self-check runs.
    #[must_use]
    pub fn start(topology: &Topology, options: &TelemetrySetup) -> Self {
        let (backend, status) = if options.enabled {
            best(topology, options)
        } else {
            (
                Backend::Off,
                TelemetryStatus {
                    reason: Some(OffReason::Disabled),
                    ..TelemetryStatus::default()
                },
            )
        };
        match (&status.reason, status.quality) {
            (Some(OffReason::Disabled), _) => {}
            (Some(reason), quality) => {
                tracing::warn!(?quality, "telemetry is not exact: {reason}");
            }
            (None, quality) => tracing::info!(
                ?quality,
                capacity = status.capacity,
                map_bytes = status.map_bytes,
                absent = ?status.absent,
                "telemetry is on"
            ),
        }
        Self {
            collector: Mutex::new(Collector {
                backend,
                smooth: Smoother::new(options.half_life),
                resident: ResidentMemory::new(options.cgroup_mount.clone()),
                running: 0,
            }),
            status,
        }
    }

    /// What is measured, and why not more.
    #[must_use]
    pub fn status(&self) -> &TelemetryStatus {
        &self.status
    }

    /// Measures a container from now on. To be called once its cgroup exists and before it starts; `cgroup` is
    /// the path within the hierarchy (`/kubepods/pod…/…`). Registering a container again starts from zero.
    ///
    /// # Errors
    /// When the cgroup does not exist or all slots are taken. The container runs on, unmeasured.
    pub fn register(
        &self,
        id: ContainerId,
        cgroup: &str,
        cpus: CpuSet,
        exclusive: CpuSet,
    ) -> Result<(), RegisterError> {
        let mut collector = self.lock();
        match &mut collector.backend {
            Backend::Off => return Ok(()),
            Backend::Polled(polled) => polled.register(id.clone(), cgroup, cpus, exclusive)?,
            #[cfg(feature = "ebpf")]
            Backend::Exact(exact) => exact.register(id.clone(), cgroup, cpus, exclusive)?,
        }
        collector.resident.register(id, cgroup);
        Ok(())
    }

    /// Gives the container another cpuset; what it ran until now is counted under the old one.
    pub fn set_placement(&self, id: &ContainerId, cpus: CpuSet, exclusive: CpuSet) {
        match &mut self.lock().backend {
            Backend::Off => {}
            Backend::Polled(polled) => polled.set_placement(id, cpus, exclusive),
            #[cfg(feature = "ebpf")]
            Backend::Exact(exact) => exact.set_placement(id, cpus, exclusive),
        }
    }

    /// Forgets a container, in the kernel too.
    pub fn unregister(&self, id: &ContainerId) {
        let mut collector = self.lock();
        collector.smooth.forget(id);
        collector.resident.forget(id);
        match &mut collector.backend {
            Backend::Off => {}
            Backend::Polled(polled) => polled.unregister(id),
            #[cfg(feature = "ebpf")]
            Backend::Exact(exact) => {
                exact.unregister(id);
            }
        }
    }

    /// How many containers run, whether they could be registered or not.
    pub fn set_running(&self, running: usize) {
        self.lock().running = running;
    }

    /// Everything measured until now.
    #[must_use]
    pub fn snapshot(&self) -> TelemetrySnapshot {
        self.lock().snapshot(true)
    }

    /// Reads all counters once and feeds the smoothed measurements; to be called about once a second.
    pub fn sample(&self) -> TelemetrySnapshot {
        let mut collector = self.lock();
        collector.resident.sample();
        let snapshot = collector.snapshot(false);
        collector.smooth.feed(&snapshot);
        snapshot
    }

    /// The smoothed measurements, as decisions use them. Empty while nothing is measured.
    #[must_use]
    pub fn measured(&self) -> Measured {
        self.lock().smooth.measured()
    }

    /// Measures for this long what the program itself costs, with an empty twin beside it; `None` when no
    /// program is loaded or the kernel keeps no statistics (before 5.8). Blocks.
    #[must_use]
    pub fn cost(&self, during: Duration) -> Option<Cost> {
        #[cfg(feature = "ebpf")]
        return overhead::measure(during, |visit| match &mut self.lock().backend {
            Backend::Exact(exact) => visit(&mut exact.program),
            _ => None,
        });
        #[cfg(not(feature = "ebpf"))]
        {
            let _unused = during;
            None
        }
    }

    /// Entries of the program's tables that name a container: 0 when none is registered.
    #[must_use]
    pub fn map_entries(&self) -> usize {
        match &self.lock().backend {
            Backend::Off | Backend::Polled(_) => 0,
            #[cfg(feature = "ebpf")]
            Backend::Exact(exact) => exact.entries(),
        }
    }

    /// Cgroups whose slot the program remembers. The kernel's reuse of css ids makes them fewer.
    #[must_use]
    pub fn remembered_cgroups(&self) -> usize {
        match &self.lock().backend {
            Backend::Off | Backend::Polled(_) => 0,
            #[cfg(feature = "ebpf")]
            Backend::Exact(exact) => exact.remembered(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Collector> {
        // No method leaves the totals half-written: a panic elsewhere does not spoil them.
        self.collector
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector {
    #[cfg_attr(
        not(feature = "ebpf"),
        expect(unused_variables, reason = "only a sweep of the maps can be partial")
    )]
    fn snapshot(&mut self, all: bool) -> TelemetrySnapshot {
        let at_ns = now_ns();
        let mut snapshot = match &mut self.backend {
            Backend::Off => TelemetrySnapshot {
                at_ns,
                ..TelemetrySnapshot::default()
            },
            Backend::Polled(polled) => polled.snapshot(at_ns),
            #[cfg(feature = "ebpf")]
            Backend::Exact(exact) => exact.snapshot(at_ns, all),
        };
        snapshot.running = self.running.max(snapshot.containers.len());
        if snapshot.quality == Quality::Exact && snapshot.shortfall().is_some() {
            snapshot.quality = Quality::Partial;
        }
        for container in &mut snapshot.containers {
            container.resident = self.resident.of(&container.id);
        }
        snapshot
    }
}

fn best(topology: &Topology, options: &TelemetrySetup) -> (Backend, TelemetryStatus) {
    let Some(hierarchy) = CgroupHierarchy::find(options.cgroup_mount.as_deref()) else {
        return (
            Backend::Off,
            TelemetryStatus {
                reason: Some(OffReason::NoHierarchy),
                ..TelemetryStatus::default()
            },
        );
    };
    match exact(topology, &hierarchy, options) {
        Ok(found) => found,
        Err(reason) => (
            Backend::Polled(PolledBackend::new(hierarchy)),
            TelemetryStatus {
                quality: Quality::Polled,
                reason: Some(reason),
                absent: vec![
                    "migrations",
                    "wait histogram",
                    "foreign time",
                    "throttled wait",
                ],
                capacity: u32::MAX,
                map_bytes: 0,
            },
        ),
    }
}

#[cfg(feature = "ebpf")]
fn exact(
    topology: &Topology,
    hierarchy: &CgroupHierarchy,
    options: &TelemetrySetup,
) -> Result<(Backend, TelemetryStatus), OffReason> {
    let program = load::Program::load(topology, hierarchy, options)?;
    selfcheck::prime_cpus(&topology.online.difference(&topology.isolated));
    selfcheck::check(&program)?;
    let status = TelemetryStatus {
        quality: Quality::Exact,
        reason: None,
        absent: program.absent.clone(),
        capacity: options.max_containers,
        map_bytes: program.map_bytes(),
    };
    Ok((
        Backend::Exact(Box::new(exact::ExactBackend::new(
            program,
            hierarchy.clone(),
        ))),
        status,
    ))
}

#[cfg(not(feature = "ebpf"))]
fn exact(
    _: &Topology,
    _: &CgroupHierarchy,
    _: &TelemetrySetup,
) -> Result<(Backend, TelemetryStatus), OffReason> {
    Err(OffReason::WithoutFeature)
}
