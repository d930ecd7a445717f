//! What the scheduler did: the numbers of a picture, and the difference of two.

use crate::telemetry::{
    Cost, InterferenceSource, Quality, TelemetrySnapshot, Totals, sample::ContainerName,
    wait_quantile_ns,
};
use resmgr_common::BUCKETS;
use resmgr_topology::{CpuSet, Topology};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A container since it was first measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopContainer {
    /// The runtime's id.
    pub id: String,
    /// Pod namespace.
    pub namespace: String,
    /// Pod name.
    pub pod: String,
    /// Container name.
    pub container: String,
    /// CPUs it was given, in the kernel's list format; empty when not pinned.
    pub cpus: String,
    /// Those that are its alone.
    pub exclusive: String,
    /// CPU time in nanoseconds, by CPU.
    pub run_ns: BTreeMap<u32, u64>,
    /// Run-queue wait caused by others, nanoseconds.
    pub contention_ns: u64,
    /// Run-queue waits caused by others: their number by length. Below 1 µs, then one bucket per power of two, the
    /// last open.
    #[serde(default)]
    pub wait_histogram: [u64; BUCKETS],
    /// Time throttled by its quota, nanoseconds.
    pub throttled_ns: u64,
    /// Run-queue wait that was that throttling, of all its threads together, nanoseconds.
    pub throttled_wait_ns: u64,
    /// Voluntary switches.
    pub voluntary: u64,
    /// Involuntary switches.
    pub involuntary: u64,
    /// Migrations to: SMT sibling, same LLC, other LLC, other NUMA node, other package.
    pub migrations: [u64; 5],
    /// Time on CPUs outside its cpuset, nanoseconds.
    pub outside_ns: u64,
    /// Time of others on its exclusive CPUs, nanoseconds, by the name of their container, or the cgroup of the host.
    pub foreign_ns: BTreeMap<String, u64>,
    /// Involuntary switches after which a thread of another container, or of none, ran.
    #[serde(default)]
    pub preempted: u64,
    /// Its run-queue wait by what ran meanwhile, nanoseconds, named as in `foreign_ns`; under its own name where its
    /// threads waited for each other. An estimate, but for its sum, which is `contention_ns`.
    #[serde(default)]
    pub waited_for_ns: BTreeMap<String, u64>,
    /// Memory charged to it by NUMA node, bytes; empty where it is not known.
    #[serde(default)]
    pub memory_bytes: BTreeMap<u32, u64>,
}

impl TopContainer {
    /// CPU time on all CPUs, nanoseconds.
    #[must_use]
    pub fn total_run_ns(&self) -> u64 {
        self.run_ns.values().sum()
    }

    /// No more than one wait in a hundred was longer, nanoseconds, rounded up to a power of two; 0 without waits.
    #[must_use]
    pub fn wait_p99_ns(&self) -> u64 {
        wait_quantile_ns(&self.wait_histogram.map(|count| count as f64), 0.99)
    }

    /// What hurts it, in nanoseconds: waits that others or its quota caused, time outside its cpuset,
    /// and others' time on CPUs that should be its alone.
    #[must_use]
    pub fn hurt_ns(&self) -> u64 {
        [
            self.contention_ns,
            self.throttled_ns,
            self.outside_ns,
            self.total_foreign_ns(),
        ]
        .iter()
        .fold(0, |sum, part| sum.saturating_add(*part))
    }

    /// Time of others on its exclusive CPUs, nanoseconds.
    #[must_use]
    pub fn total_foreign_ns(&self) -> u64 {
        self.foreign_ns.values().sum()
    }

    /// `namespace/pod/container`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}/{}", self.namespace, self.pod, self.container)
    }
}

/// Where a CPU sits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// The kernel's number.
    pub cpu: u32,
    /// Its core.
    pub core: u32,
    /// Its last-level cache.
    pub llc: u32,
    /// Its NUMA node.
    pub node: u32,
    /// Its package.
    pub package: u32,
}

/// Tasks that belong to no container: CPU time and switches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NonContainerTotals {
    /// CPU time on all CPUs, nanoseconds.
    pub run_ns: u64,
    /// Run-queue wait of every kind, nanoseconds.
    pub wait_ns: u64,
    /// Context switches of every kind.
    pub switches: u64,
}

impl NonContainerTotals {
    fn of(totals: &Totals) -> Self {
        Self {
            run_ns: totals.run_ns,
            wait_ns: totals.wait_ns(),
            switches: totals.voluntary + totals.involuntary,
        }
    }

    fn less(&mut self, before: &Self) {
        self.run_ns = self.run_ns.saturating_sub(before.run_ns);
        self.wait_ns = self.wait_ns.saturating_sub(before.wait_ns);
        self.switches = self.switches.saturating_sub(before.switches);
    }
}

/// The whole picture.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TopView {
    /// `exact`, `partial` (exact, but not all containers are measured), `polled` or `off`.
    pub quality: String,
    /// Why the numbers are not exact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When, `CLOCK_MONOTONIC` nanoseconds.
    pub at_ns: u64,
    /// What the numbers cover, nanoseconds up to `at_ns`; 0 when the numbers of a container count from when
    /// it was first measured.
    pub over_ns: u64,
    /// Online CPUs, by package, node, cache, core and number.
    pub cpus: Vec<Seat>,
    /// Time each CPU was not idle, nanoseconds.
    pub busy_ns: BTreeMap<u32, u64>,
    /// Context switches on all CPUs.
    pub switches: u64,
    /// What the measuring costs per switch, nanoseconds, the floor of that measurement taken off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_ns: Option<f64>,
    /// Containers, those that are hurt most first ([`TopContainer::hurt_ns`]).
    pub containers: Vec<TopContainer>,
    /// Processes outside containers.
    #[serde(rename = "other")]
    pub outside: NonContainerTotals,
    /// Kernel threads.
    pub kernel: NonContainerTotals,
}

fn list(cpus: &CpuSet) -> String {
    cpus.to_string()
}

/// Takes earlier sums off later ones.
fn subtract<K: Ord>(now: &mut BTreeMap<K, u64>, before: &BTreeMap<K, u64>) {
    for (key, sum) in now {
        *sum = sum.saturating_sub(before.get(key).copied().unwrap_or_default());
    }
}

pub(super) fn worst_first(containers: &mut [TopContainer]) {
    containers.sort_by(|a, b| {
        let harm = b.hurt_ns().cmp(&a.hurt_ns());
        let work = b.total_run_ns().cmp(&a.total_run_ns());
        harm.then(work).then_with(|| a.id.cmp(&b.id))
    });
}

impl TopView {
    /// Whether every switch is counted. Otherwise there are no migrations, no lengths of waits and no causes.
    pub(super) fn is_exact(&self) -> bool {
        matches!(&*self.quality, "exact" | "partial")
    }

    /// The picture of a telemetry snapshot.
    #[must_use]
    pub fn new(
        snapshot: &TelemetrySnapshot,
        reason: Option<String>,
        cost: Option<Cost>,
        topology: &Topology,
        name: impl Fn(&str) -> ContainerName,
    ) -> Self {
        let mut containers: Vec<_> = snapshot
            .containers
            .iter()
            .map(|measured| {
                let ContainerName {
                    namespace,
                    pod,
                    container,
                    ..
                } = name(&measured.id.0);
                let Totals {
                    wait_wake_ns,
                    wait_preempt_ns,
                    ..
                } = measured.total;
                let label = |source: &InterferenceSource| match source {
                    InterferenceSource::Rest => "(outside containers)".to_owned(),
                    source => source.label(|id| Some(name(&id.0).to_string())),
                };
                let mut foreign_ns = BTreeMap::new();
                for foreign in &measured.foreign {
                    *foreign_ns.entry(label(&foreign.source)).or_default() += foreign.run_ns;
                }
                let mut waited_for_ns = BTreeMap::new();
                for (source, interference) in &measured.interference {
                    if interference.wait_ns > 0 {
                        *waited_for_ns.entry(label(source)).or_default() += interference.wait_ns;
                    }
                }
                TopContainer {
                    id: measured.id.0.to_string(),
                    namespace,
                    pod,
                    container,
                    cpus: list(&measured.cpus),
                    exclusive: list(&measured.exclusive),
                    run_ns: measured
                        .run_ns
                        .iter()
                        .map(|(cpu, ns)| (cpu.0, *ns))
                        .collect(),
                    contention_ns: wait_wake_ns + wait_preempt_ns,
                    wait_histogram: measured.total.wait_histogram,
                    throttled_ns: measured.total.throttled_ns,
                    throttled_wait_ns: measured.total.wait_throttled_ns,
                    voluntary: measured.total.voluntary,
                    involuntary: measured.total.involuntary,
                    migrations: measured.total.migrations,
                    outside_ns: measured.outside_ns,
                    foreign_ns,
                    preempted: measured.total.preempted_by_others,
                    waited_for_ns,
                    memory_bytes: measured
                        .resident
                        .iter()
                        .map(|(node, bytes)| (node.0, *bytes))
                        .collect(),
                }
            })
            .collect();
        worst_first(&mut containers);
        let online = topology
            .cpus
            .iter()
            .filter(|cpu| topology.online.contains(cpu.id));
        let mut cpus: Vec<_> = online
            .map(|cpu| Seat {
                cpu: cpu.id.0,
                core: cpu.core.0,
                llc: cpu.llc.0,
                node: cpu.node.0,
                package: cpu.package.0,
            })
            .collect();
        cpus.sort_by_key(|seat| (seat.package, seat.node, seat.llc, seat.core, seat.cpu));
        Self {
            quality: match snapshot.quality {
                Quality::Exact => "exact",
                Quality::Partial => "partial",
                Quality::Polled => "polled",
                Quality::Off => "off",
            }
            .to_owned(),
            reason: reason.or_else(|| snapshot.shortfall()),
            at_ns: snapshot.at_ns,
            over_ns: 0,
            cpus,
            busy_ns: snapshot
                .busy_ns
                .iter()
                .map(|(cpu, ns)| (cpu.0, *ns))
                .collect(),
            switches: snapshot.switches,
            cost_ns: cost.map(|cost| cost.net_ns()),
            containers,
            outside: NonContainerTotals::of(&snapshot.outside),
            kernel: NonContainerTotals::of(&snapshot.kernel),
        }
    }

    /// What happened between an earlier picture and this one; containers that are new count from zero.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut view = self.clone();
        for container in &mut view.containers {
            let Some(before) = earlier
                .containers
                .iter()
                .find(|before| before.id == container.id)
            else {
                continue;
            };
            let less = |now: &mut u64, then: u64| *now = now.saturating_sub(then);
            subtract(&mut container.run_ns, &before.run_ns);
            subtract(&mut container.foreign_ns, &before.foreign_ns);
            subtract(&mut container.waited_for_ns, &before.waited_for_ns);
            less(&mut container.preempted, before.preempted);
            less(&mut container.contention_ns, before.contention_ns);
            less(&mut container.throttled_ns, before.throttled_ns);
            less(&mut container.throttled_wait_ns, before.throttled_wait_ns);
            less(&mut container.voluntary, before.voluntary);
            less(&mut container.involuntary, before.involuntary);
            less(&mut container.outside_ns, before.outside_ns);
            let histograms = container.wait_histogram.iter_mut();
            for (now, then) in histograms.zip(before.wait_histogram) {
                less(now, then);
            }
            for (now, then) in container.migrations.iter_mut().zip(before.migrations) {
                less(now, then);
            }
        }
        subtract(&mut view.busy_ns, &earlier.busy_ns);
        view.over_ns = self.at_ns.saturating_sub(earlier.at_ns);
        view.switches = self.switches.saturating_sub(earlier.switches);
        view.outside.less(&earlier.outside);
        view.kernel.less(&earlier.kernel);
        worst_first(&mut view.containers);
        view
    }
}
