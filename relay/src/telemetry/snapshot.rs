//! What was measured, as plain values for metrics, the dumper and `top`.

use super::status::Quality;
use resmgr_common::{BUCKETS, SlotCounters};
use resmgr_policy::ContainerId;
use resmgr_topology::{CpuId, CpuSet, NodeId};
use std::{collections::BTreeMap, sync::Arc};

/// Scheduler totals since registration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// CPU time, time in flight included, nanoseconds.
    pub run_ns: u64,
    /// Run-queue wait after a wake-up, throttling excluded, nanoseconds.
    pub wait_wake_ns: u64,
    /// Run-queue wait after a preemption, throttling excluded, nanoseconds.
    pub wait_preempt_ns: u64,
    /// Wait that was quota throttling, summed over threads, nanoseconds.
    pub wait_throttled_ns: u64,
    /// Time throttled, summed over CPUs, nanoseconds.
    pub throttled_ns: u64,
    /// Voluntary switches.
    pub voluntary: u64,
    /// Involuntary switches.
    pub involuntary: u64,
    /// Involuntary switches after which a thread of another slot ran.
    pub preempted_by_others: u64,
    /// Migrations to: SMT sibling, same LLC, other LLC, other node, other package.
    pub migrations: [u64; 5],
    /// NUMA distances of all migrations summed.
    pub distance: u64,
    /// Contention waits by bucket: below 1 µs, then one per power of two, the last open.
    pub wait_histogram: [u64; BUCKETS],
}

impl Totals {
    /// Wait of every kind, nanoseconds.
    #[must_use]
    pub fn wait_ns(&self) -> u64 {
        self.wait_wake_ns + self.wait_preempt_ns + self.wait_throttled_ns
    }

    /// Adds the totals of another slot.
    #[cfg_attr(
        not(feature = "ebpf"),
        expect(dead_code, reason = "only the program has slots")
    )]
    pub(super) fn absorb(&mut self, slot: &Self) {
        self.run_ns += slot.run_ns;
        self.wait_wake_ns += slot.wait_wake_ns;
        self.wait_preempt_ns += slot.wait_preempt_ns;
        self.wait_throttled_ns += slot.wait_throttled_ns;
        self.throttled_ns += slot.throttled_ns;
        self.voluntary += slot.voluntary;
        self.involuntary += slot.involuntary;
        self.preempted_by_others += slot.preempted_by_others;
        self.distance += slot.distance;
        let migrations = self.migrations.iter_mut().zip(slot.migrations);
        let waits = self.wait_histogram.iter_mut().zip(slot.wait_histogram);
        for (sum, count) in migrations.chain(waits) {
            *sum += count;
        }
    }

    /// Adds what the counters of a slot gained between two sweeps, but for CPU time, which the caller adds together
    /// with the time in flight.
    #[cfg_attr(
        not(feature = "ebpf"),
        expect(dead_code, reason = "only the program's counters gain")
    )]
    pub(super) fn add(&mut self, before: &SlotCounters, after: &SlotCounters) {
        let long = |after: u64, before: u64| after.saturating_sub(before);
        let short = |after: u32, before: u32| u64::from(after.wrapping_sub(before));
        self.wait_wake_ns += long(after.wait_wake_ns, before.wait_wake_ns);
        self.wait_preempt_ns += long(after.wait_preempt_ns, before.wait_preempt_ns);
        self.wait_throttled_ns += long(after.wait_throttled_ns, before.wait_throttled_ns);
        self.throttled_ns += long(after.throttled_ns, before.throttled_ns);
        self.distance += long(after.distance, before.distance);
        self.voluntary += short(after.voluntary, before.voluntary);
        self.involuntary += short(after.involuntary, before.involuntary);
        self.preempted_by_others += short(after.preempted_by_others, before.preempted_by_others);
        for (sum, (after, before)) in self
            .migrations
            .iter_mut()
            .zip(after.migrations.iter().zip(before.migrations))
        {
            *sum += short(*after, before);
        }
        for (sum, (after, before)) in self
            .wait_histogram
            .iter_mut()
            .zip(after.histogram.iter().zip(before.histogram))
        {
            *sum += short(*after, before);
        }
    }
}

/// CPU time of an intruder on an exclusive CPU, kernel threads apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignRun {
    /// The CPU.
    pub cpu: CpuId,
    /// The intruder.
    pub source: InterferenceSource,
    /// For how long, nanoseconds.
    pub run_ns: u64,
}

/// What keeps a container from running, or runs on its exclusive CPUs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InterferenceSource {
    /// A container; itself when its own threads wait for each other.
    Container(ContainerId),
    /// A cgroup of the host without containers, by its path: at most two levels below the root
    /// (`system.slice/chronyd.service`).
    HostCgroup(Arc<str>),
    /// Threads of the kernel.
    Kernel,
    /// Containers, as they ended: from the last sweep before the end to the end.
    Ended,
    /// Anything else outside containers, such as processes in the root cgroup; and sources beyond those that are told
    /// apart.
    Rest,
}

impl InterferenceSource {
    /// As metrics and views call it; `name` is that of a container, if it is known.
    #[must_use]
    pub fn label(&self, name: impl FnOnce(&ContainerId) -> Option<String>) -> String {
        match self {
            Self::Container(id) => name(id).unwrap_or_else(|| id.0.to_string()),
            Self::HostCgroup(path) => path.to_string(),
            Self::Kernel => "kernel".to_owned(),
            Self::Ended => "ended".to_owned(),
            Self::Rest => "other".to_owned(),
        }
    }
}

/// What an interference source does to a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interference {
    /// Times it took the CPU from a thread that wanted to run on: counted at each switch.
    pub preemptions: u64,
    /// Its part of the container's contention wait, nanoseconds: an estimate, but for its sum. The wait on each CPU
    /// between two sweeps is divided in proportion to the CPU time of each source there.
    pub wait_ns: u64,
}

/// One container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerTelemetry {
    /// The container.
    pub id: ContainerId,
    /// CPUs it was given; empty when not pinned.
    pub cpus: CpuSet,
    /// The part of them that it has exclusively.
    pub exclusive: CpuSet,
    /// Over all CPUs.
    pub total: Totals,
    /// CPU time by CPU, nanoseconds.
    pub run_ns: BTreeMap<CpuId, u64>,
    /// Time on CPUs outside its cpuset, nanoseconds: 0 proves the pinning.
    pub outside_ns: u64,
    /// Intruders on its exclusive CPUs, kernel threads apart: empty proves exclusivity.
    pub foreign: Vec<ForeignRun>,
    /// What kept it from running: containers that run now, and everything else. A container that ends takes its
    /// sums along.
    pub interference: BTreeMap<InterferenceSource, Interference>,
    /// Memory charged to it by NUMA node, bytes; at most ten seconds old, empty where the kernel does not
    /// count it.
    pub resident: BTreeMap<NodeId, u64>,
}

impl ContainerTelemetry {
    /// What has run most on its exclusive CPUs.
    #[must_use]
    pub fn worst_intruder(&self) -> Option<&InterferenceSource> {
        let mut by_source = BTreeMap::<_, u64>::new();
        for run in &self.foreign {
            *by_source.entry(&run.source).or_default() += run.run_ns;
        }
        let worst = by_source.into_iter().max_by_key(|(_, run_ns)| *run_ns);
        worst.map(|(source, _)| source)
    }
}

/// Everything measured at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TelemetrySnapshot {
    /// How good the numbers are.
    pub quality: Quality,
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub at_ns: u64,
    /// Registered containers, by id.
    pub containers: Vec<ContainerTelemetry>,
    /// Containers that run, measured or not: at least as many.
    pub running: usize,
    /// Tasks outside registered containers.
    pub outside: Totals,
    /// Kernel threads.
    pub kernel: Totals,
    /// Busy time by CPU, nanoseconds since start.
    pub busy_ns: BTreeMap<CpuId, u64>,
    /// How long reading the program's maps took, nanoseconds.
    pub sweep_ns: u64,
    /// Switches counted since start.
    pub switches: u64,
    /// Switches the kernel hid from the program since start, as the next switch on that CPU showed. CPU time and
    /// wait around them are counted nevertheless.
    pub unseen_switches: u64,
}

impl TelemetrySnapshot {
    /// How many of the containers that run are measured, 0 to 1.
    #[must_use]
    pub fn followed_ratio(&self) -> f64 {
        if self.running == 0 {
            return 1.0;
        }
        self.containers.len() as f64 / self.running as f64
    }

    /// Says so if not all containers that run are measured.
    #[must_use]
    pub fn shortfall(&self) -> Option<String> {
        let followed = self.containers.len();
        (followed < self.running).then(|| {
            format!(
                "only {followed} of {} containers are measured",
                self.running
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_that_are_not_measured_are_told() {
        let snapshot = TelemetrySnapshot::default();
        assert_eq!(
            (snapshot.shortfall(), snapshot.followed_ratio()),
            (None, 1.0)
        );
        let snapshot = TelemetrySnapshot {
            running: 3,
            ..snapshot
        };
        let told = "only 0 of 3 containers are measured".to_owned();
        assert_eq!(
            (snapshot.shortfall(), snapshot.followed_ratio()),
            (Some(told), 0.0)
        );
    }
}
