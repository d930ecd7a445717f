//! What the scheduler really did, per container.
//!
//! A BPF program at `sched_switch` books every switch ([`Quality::Exact`]); where it cannot run, the
//! kernel's own counters are polled ([`Quality::Polled`]). Starting never fails: [`Telemetry::status`]
//! tells what is measured and why not more. Must never change anything a container sees.

#[cfg(feature = "ebpf")]
mod books;
mod btf;
mod clock;
mod cost;
mod error;
#[cfg(feature = "ebpf")]
mod exact;
#[cfg(feature = "ebpf")]
mod fields;
mod hierarchy;
#[cfg(feature = "ebpf")]
mod load;
#[cfg(feature = "ebpf")]
mod mapped;
mod options;
#[cfg(feature = "ebpf")]
mod overhead;
#[cfg(feature = "ebpf")]
mod patch;
mod polled;
mod resident;
#[cfg(feature = "ebpf")]
mod selfcheck;
#[cfg(feature = "ebpf")]
mod slots;
mod smooth;
mod snapshot;
mod status;
#[cfg(feature = "ebpf")]
pub mod trial;
#[cfg(feature = "ebpf")]
mod words;

pub use btf::{Btf, BtfError};
pub use cost::Cost;
pub use error::RegisterError;
pub use options::TelemetryOptions;
pub use snapshot::{ContainerTelemetry, Culprit, Foreign, Harm, Snapshot, Totals};
pub use status::{Quality, Reason, Status};

use clock::now_ns;
use hierarchy::Hierarchy;
use polled::Polled;
use resident::Resident;
use resmgr_policy::{ContainerId, Measured};
use resmgr_topology::{CpuSet, Topology};
use smooth::Smooth;
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

#[derive(Debug)]
enum Source {
    Off,
    Polled(Polled),
    #[cfg(feature = "ebpf")]
    Exact(Box<exact::Exact>),
}

#[derive(Debug)]
struct Inner {
    source: Source,
    smooth: Smooth,
    resident: Resident,
}

/// Scheduler telemetry. Cheap to ask; every method may be called from any thread.
#[derive(Debug)]
pub struct Telemetry {
    inner: Mutex<Inner>,
    status: Status,
}

impl Telemetry {
    /// Starts measuring the best this machine allows. Blocks for about a tenth of a second while the
    /// self-check runs.
    #[must_use]
    pub fn start(topology: &Topology, options: &TelemetryOptions) -> Self {
        let (source, status) = if options.enabled {
            best(topology, options)
        } else {
            (
                Source::Off,
                Status {
                    reason: Some(Reason::Disabled),
                    ..Status::default()
                },
            )
        };
        match (&status.reason, status.quality) {
            (Some(Reason::Disabled), _) => {}
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
            inner: Mutex::new(Inner {
                source,
                smooth: Smooth::new(options.half_life),
                resident: Resident::default(),
            }),
            status,
        }
    }

    /// What is measured, and why not more.
    #[must_use]
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Follows a container. To be called once its cgroup exists and before it starts; `cgroup` is its
    /// path within the hierarchy (`/kubepods/pod…/…`). Registering it again starts from zero.
    ///
    /// # Errors
    /// When its cgroup is not there or there is no room. The container runs on, unmeasured.
    pub fn register(
        &self,
        id: ContainerId,
        cgroup: &str,
        cpus: CpuSet,
        exclusive: CpuSet,
    ) -> Result<(), RegisterError> {
        let mut inner = self.lock();
        match &mut inner.source {
            Source::Off => return Ok(()),
            Source::Polled(polled) => polled.register(id.clone(), cgroup, cpus, exclusive)?,
            #[cfg(feature = "ebpf")]
            Source::Exact(exact) => exact.register(id.clone(), cgroup, cpus, exclusive)?,
        }
        inner.resident.follow(id, cgroup);
        Ok(())
    }

    /// The container has other CPUs from now on; what it did until now is booked under the old ones.
    pub fn set_placement(&self, id: &ContainerId, cpus: CpuSet, exclusive: CpuSet) {
        match &mut self.lock().source {
            Source::Off => {}
            Source::Polled(polled) => polled.set_placement(id, cpus, exclusive),
            #[cfg(feature = "ebpf")]
            Source::Exact(exact) => exact.set_placement(id, cpus, exclusive),
        }
    }

    /// Forgets a container. Nothing of it stays in the kernel.
    pub fn unregister(&self, id: &ContainerId) {
        let mut inner = self.lock();
        inner.smooth.forget(id);
        inner.resident.forget(id);
        match &mut inner.source {
            Source::Off => {}
            Source::Polled(polled) => polled.unregister(id),
            #[cfg(feature = "ebpf")]
            Source::Exact(exact) => {
                exact.unregister(id);
            }
        }
    }

    /// Everything measured until now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.lock().snapshot(true)
    }

    /// One look for the smoothed measurements; to be called about once a second.
    pub fn sample(&self) -> Snapshot {
        let mut inner = self.lock();
        inner.resident.look();
        let snapshot = inner.snapshot(false);
        inner.smooth.feed(&snapshot);
        snapshot
    }

    /// The smoothed measurements, as decisions use them. Empty while nothing is measured.
    #[must_use]
    pub fn measured(&self) -> Measured {
        self.lock().smooth.measured()
    }

    /// What the program itself costs, measured for this long with an empty twin beside it; `None`
    /// when no program is loaded or the kernel keeps no statistics (before 5.8). Blocks.
    #[must_use]
    pub fn cost(&self, during: Duration) -> Option<Cost> {
        #[cfg(feature = "ebpf")]
        return overhead::measure(during, |ask| match &mut self.lock().source {
            Source::Exact(exact) => ask(&mut exact.program),
            _ => None,
        });
        #[cfg(not(feature = "ebpf"))]
        {
            let _asked = during;
            None
        }
    }

    /// Entries the kernel's tables hold on account of containers: 0 when none is registered.
    #[must_use]
    pub fn map_entries(&self) -> usize {
        match &self.lock().source {
            Source::Off | Source::Polled(_) => 0,
            #[cfg(feature = "ebpf")]
            Source::Exact(exact) => exact.entries(),
        }
    }

    /// Cgroups whose owner the program remembers: fewer than there were when the kernel reuses ids.
    #[must_use]
    pub fn remembered_cgroups(&self) -> usize {
        match &self.lock().source {
            Source::Off | Source::Polled(_) => 0,
            #[cfg(feature = "ebpf")]
            Source::Exact(exact) => exact.remembered(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nobody leaves the books half-written: a panic elsewhere does not spoil them.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    #[cfg_attr(
        not(feature = "ebpf"),
        expect(unused_variables, reason = "only a sweep of the maps can be partial")
    )]
    fn snapshot(&mut self, all: bool) -> Snapshot {
        let at_ns = now_ns();
        let mut snapshot = match &mut self.source {
            Source::Off => Snapshot {
                at_ns,
                ..Snapshot::default()
            },
            Source::Polled(polled) => polled.snapshot(at_ns),
            #[cfg(feature = "ebpf")]
            Source::Exact(exact) => exact.snapshot(at_ns, all),
        };
        for container in &mut snapshot.containers {
            container.resident = self.resident.of(&container.id);
        }
        snapshot
    }
}

fn best(topology: &Topology, options: &TelemetryOptions) -> (Source, Status) {
    let Some(hierarchy) = Hierarchy::find() else {
        return (
            Source::Off,
            Status {
                reason: Some(Reason::NoHierarchy),
                ..Status::default()
            },
        );
    };
    match exact(topology, &hierarchy, options) {
        Ok(found) => found,
        Err(reason) => (
            Source::Polled(Polled::new(hierarchy)),
            Status {
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
    hierarchy: &Hierarchy,
    options: &TelemetryOptions,
) -> Result<(Source, Status), Reason> {
    let program = load::Program::load(topology, hierarchy, options, &[])?;
    selfcheck::seed(&topology.online.difference(&topology.isolated));
    selfcheck::check(&program)?;
    let status = Status {
        quality: Quality::Exact,
        reason: None,
        absent: program.absent.clone(),
        capacity: options.max_containers,
        map_bytes: program.map_bytes(),
    };
    Ok((
        Source::Exact(Box::new(exact::Exact::new(program, hierarchy.clone()))),
        status,
    ))
}

#[cfg(not(feature = "ebpf"))]
fn exact(_: &Topology, _: &Hierarchy, _: &TelemetryOptions) -> Result<(Source, Status), Reason> {
    Err(Reason::WithoutFeature)
}
