//! The last hour, in memory: every 10 s what the status page draws of each CPU and of each container.
//!
//! The rates of a sample are those since the sample before, as the page makes them of two answers of `/api/v1/top`.

use super::view::{ContainerView, StateView};
use crate::telemetry::{ContainerTelemetry, TelemetrySnapshot, sample::LabelledSample};
use resmgr_policy::ContainerId;
use resmgr_topology::CpuId;
use serde::Serialize;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

/// From one sample to the next.
pub const INTERVAL: Duration = Duration::from_secs(10);
/// Samples that are kept: an hour.
const SAMPLES: usize = 360;
/// Containers of a sample: those that ran and waited most.
const CONTAINERS: usize = 256;
/// What the samples may hold, octets; beyond it the oldest go. On a machine of 512 CPUs an hour needs less than half.
const OCTETS: usize = 8 << 20;

/// The last hour.
#[derive(Debug, Default)]
pub struct History {
    samples: VecDeque<Sample>,
    /// What the samples hold, octets.
    octets: usize,
    /// What was measured last.
    before: Option<Arc<LabelledSample>>,
}

#[derive(Debug)]
struct Sample {
    at_unix_s: u64,
    busy: Box<[(u16, u16)]>,
    wait: Box<[(u16, u32)]>,
    containers: Box<[ContainerSample]>,
    left_out: usize,
    /// What came into memory with it, octets.
    octets: usize,
}

#[derive(Clone, Debug)]
struct ContainerSample {
    /// Shared with the sample before, where nothing of it has changed.
    container: Arc<ContainerView>,
    used_mcpu: u32,
    wait_us_per_s: u32,
}

/// Which moments there are samples of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HistoryView {
    /// Seconds from one sample to the next.
    pub interval_s: u64,
    /// When each was taken, seconds since 1970, oldest first.
    pub samples: Vec<u64>,
}

/// The machine as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PastView {
    /// When, seconds since 1970.
    pub at_unix_s: u64,
    /// How much of the time each CPU was not idle, in thousandths.
    pub busy_milli: BTreeMap<u16, u16>,
    /// Waiting for each CPU, microseconds a second: that of containers, shared out by where they ran.
    pub wait_us_per_s: BTreeMap<u16, u32>,
    /// Containers, those that ran and waited most first.
    pub containers: Vec<PastContainerView>,
    /// Further containers, which ran and waited less.
    pub left_out: usize,
}

/// A container as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PastContainerView {
    /// Where it was wanted.
    #[serde(flatten)]
    pub container: Arc<ContainerView>,
    /// CPU time, in thousandths of a CPU.
    pub used_mcpu: u32,
    /// Run-queue wait that others caused, microseconds a second.
    pub wait_us_per_s: u32,
}

/// What happened between two readings.
struct Interval {
    ns: u64,
}

impl Interval {
    /// A part of the interval, in units of which `whole` are all of it.
    fn rate<N: TryFrom<u64>>(&self, ns: u64, whole: u64, most: N) -> N {
        let rate = u128::from(ns) * u128::from(whole) / u128::from(self.ns.max(1));
        let rate = u64::try_from(rate).ok().map(N::try_from);
        rate.and_then(Result::ok).unwrap_or(most)
    }
}

impl History {
    /// Takes a sample of what is wanted and of what was measured now. The first measurement, and one that is not newer
    /// than the last, makes none.
    pub fn observe(&mut self, at_unix_s: u64, state: StateView, now: Arc<LabelledSample>) {
        if now.snapshot.at_ns == 0 {
            return; // nothing was measured yet
        }
        let Some(before) = self.before.replace(Arc::clone(&now)) else {
            return;
        };
        let (before, now) = (&before.snapshot, &*now);
        let interval = Interval {
            ns: now.snapshot.at_ns.saturating_sub(before.at_ns),
        };
        if interval.ns == 0 {
            return;
        }
        let (mut containers, wait) = containers(before, now, &interval, state);
        let left_out = containers.len().saturating_sub(CONTAINERS);
        containers.sort_by(|a, b| {
            let worth = |sample: &ContainerSample| {
                u64::from(sample.used_mcpu) * 1000 + u64::from(sample.wait_us_per_s)
            };
            let by_worth = worth(b).cmp(&worth(a));
            by_worth.then_with(|| a.container.id.cmp(&b.container.id))
        });
        containers.truncate(CONTAINERS);
        let owned = self.share(&mut containers);
        let wait = wait
            .into_iter()
            .filter_map(|(cpu, ns)| Some((number(cpu)?, interval.rate(ns, 1_000_000, u32::MAX))));
        let mut sample = Sample {
            at_unix_s,
            busy: busy(before, &now.snapshot, &interval),
            wait: wait.collect(),
            containers: containers.into(),
            left_out,
            octets: 0,
        };
        sample.octets = size_of::<Sample>()
            + size_of_val(&*sample.busy)
            + size_of_val(&*sample.wait)
            + size_of_val(&*sample.containers)
            + owned;
        self.octets += sample.octets;
        self.samples.push_back(sample);
        while self.samples.len() > SAMPLES || self.octets > OCTETS {
            let Some(oldest) = self.samples.pop_front() else {
                break;
            };
            self.octets -= oldest.octets;
        }
    }

    /// Replaces containers of which nothing has changed by those of the sample before; octets of the others.
    fn share(&self, containers: &mut [ContainerSample]) -> usize {
        let last = self.samples.back().into_iter();
        let last = last.flat_map(|sample| &sample.containers);
        let known: HashMap<&str, &Arc<ContainerView>> = last
            .map(|sample| (&*sample.container.id, &sample.container))
            .collect();
        let mut owned = 0;
        for sample in containers {
            match known.get(&*sample.container.id) {
                Some(same) if ***same == *sample.container => {
                    sample.container = Arc::clone(same);
                }
                _ => owned += octets(&sample.container),
            }
        }
        owned
    }

    /// Which moments there are samples of.
    #[must_use]
    pub fn view(&self) -> HistoryView {
        HistoryView {
            interval_s: INTERVAL.as_secs(),
            samples: self.samples.iter().map(|sample| sample.at_unix_s).collect(),
        }
    }

    /// The sample of this moment, seconds since 1970.
    #[must_use]
    pub fn at(&self, at_unix_s: u64) -> Option<PastView> {
        let sample = self.samples.iter().rev();
        let sample = sample
            .into_iter()
            .find(|sample| sample.at_unix_s == at_unix_s)?;
        let containers = sample.containers.iter().cloned();
        Some(PastView {
            at_unix_s,
            busy_milli: sample.busy.iter().copied().collect(),
            wait_us_per_s: sample.wait.iter().copied().collect(),
            containers: containers
                .map(|sample| PastContainerView {
                    container: sample.container,
                    used_mcpu: sample.used_mcpu,
                    wait_us_per_s: sample.wait_us_per_s,
                })
                .collect(),
            left_out: sample.left_out,
        })
    }
}

/// A CPU's number; `None` for those that no machine of Linux has.
fn number(cpu: CpuId) -> Option<u16> {
    u16::try_from(cpu.0).ok()
}

fn busy(
    before: &TelemetrySnapshot,
    now: &TelemetrySnapshot,
    interval: &Interval,
) -> Box<[(u16, u16)]> {
    let of_cpu = |(cpu, ns): (&CpuId, &u64)| {
        let ns = ns.saturating_sub(*before.busy_ns.get(cpu)?);
        Some((number(*cpu)?, interval.rate(ns, 1000, 1000).min(1000)))
    };
    now.busy_ns.iter().filter_map(of_cpu).collect()
}

/// Every container that is placed or measured, and the wait by CPU, nanoseconds.
fn containers(
    before: &TelemetrySnapshot,
    now: &LabelledSample,
    interval: &Interval,
    state: StateView,
) -> (Vec<ContainerSample>, BTreeMap<CpuId, u64>) {
    let earlier: HashMap<&ContainerId, &ContainerTelemetry> = before
        .containers
        .iter()
        .map(|container| (&container.id, container))
        .collect();
    let placed = state.containers.into_iter();
    let mut placed: HashMap<String, ContainerView> = placed
        .map(|container| (container.id.clone(), container))
        .collect();
    let mut waits = BTreeMap::<CpuId, u64>::new();
    let mut samples = Vec::new();
    for measured in &now.snapshot.containers {
        let container = placed.remove(&*measured.id.0);
        let container = container.unwrap_or_else(|| named(measured, now));
        let (mut ran, mut waited) = (0, 0);
        // The sums of a container that is new count from its first measurement.
        if let Some(earlier) = earlier.get(&measured.id) {
            let contention =
                |of: &ContainerTelemetry| of.total.wait_wake_ns + of.total.wait_preempt_ns;
            waited = contention(measured).saturating_sub(contention(earlier));
            let mut by_cpu = Vec::new();
            for (cpu, ns) in &measured.run_ns {
                let ns = ns.saturating_sub(earlier.run_ns.get(cpu).copied().unwrap_or_default());
                if ns > 0 {
                    by_cpu.push((*cpu, ns));
                    ran += ns;
                }
            }
            for (cpu, ns) in by_cpu {
                let part = u128::from(waited) * u128::from(ns) / u128::from(ran);
                *waits.entry(cpu).or_default() += u64::try_from(part).unwrap_or(u64::MAX);
            }
        }
        samples.push(ContainerSample {
            container: Arc::new(container),
            used_mcpu: interval.rate(ran, 1000, u32::MAX),
            wait_us_per_s: interval.rate(waited, 1_000_000, u32::MAX),
        });
    }
    samples.extend(placed.into_values().map(|container| ContainerSample {
        container: Arc::new(container),
        used_mcpu: 0,
        wait_us_per_s: 0,
    }));
    waits.retain(|_cpu, ns| *ns > 0);
    (samples, waits)
}

/// A container that is measured and not placed (policy null).
fn named(measured: &ContainerTelemetry, sample: &LabelledSample) -> ContainerView {
    let name = sample.names.get(&measured.id).cloned().unwrap_or_default();
    ContainerView {
        id: measured.id.0.to_string(),
        namespace: name.namespace,
        pod: name.pod,
        container: name.container,
        ..ContainerView::default()
    }
}

/// What a container's view holds, octets.
fn octets(view: &ContainerView) -> usize {
    let ContainerView {
        id,
        namespace,
        pod,
        container,
        qos,
        request_mcpu: _,
        request_source,
        exclusive,
        pool,
        cpus,
        mems,
        unplaced,
        unenforced,
    } = view;
    let texts = [
        id,
        namespace,
        pod,
        container,
        qos,
        request_source,
        exclusive,
        pool,
        cpus,
        mems,
    ];
    let reasons = unplaced.iter().chain(unenforced);
    let texts = texts.into_iter().chain(reasons).map(String::capacity);
    size_of::<ContainerView>() + texts.sum::<usize>()
}

#[cfg(test)]
mod tests;
