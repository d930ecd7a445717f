//! Exponentially weighted averages of the totals, as decisions use them.

use super::{
    snapshot::{ContainerTelemetry, InterferenceSource, TelemetrySnapshot, Totals},
    status::Quality,
};
use resmgr_common::{BUCKETS, bucket_ceiling_ns};
use resmgr_policy::{Confidence, ContainerId, HALF_LIFE, Measured, MeasurementQuality, Observed};
use resmgr_topology::{CpuId, Nanos, NodeId};
use std::collections::BTreeMap;

/// Half-lives after which the confidence is full.
const FULL_AFTER: f64 = 4.0;
/// Samples nearer to each other than this are skipped: the counters' grain would dominate the rates.
const LEAST_S: f64 = 0.05;

#[derive(Clone, Debug, Default)]
struct ContainerAverages {
    before: Totals,
    foreign_before_ns: u64,
    /// Preemptions by other containers: the last count, and the rate in thousandths per second.
    preempted_by: BTreeMap<ContainerId, (u64, f64)>,
    resident: BTreeMap<NodeId, u64>,
    seen_s: f64,
    rates: [f64; RATES],
    buckets: [f64; BUCKETS],
}

/// utilisation, wait, throttled, migrations over LLC, node, package, foreign.
const RATES: usize = 7;

/// Smoothed rates.
#[derive(Debug)]
pub(super) struct Smoother {
    /// An average has come half the way to a constant rate after this time.
    half_life_s: f64,
    at_ns: Option<u64>,
    containers: BTreeMap<ContainerId, ContainerAverages>,
    busy: BTreeMap<CpuId, (u64, f64)>,
    quality: MeasurementQuality,
    switches: u64,
}

impl Default for Smoother {
    fn default() -> Self {
        Self::new(HALF_LIFE)
    }
}

impl Smoother {
    /// Without any measurement yet.
    pub(super) fn new(half_life: Nanos) -> Self {
        Self {
            half_life_s: seconds(half_life.0),
            at_ns: None,
            containers: BTreeMap::new(),
            busy: BTreeMap::new(),
            quality: MeasurementQuality::default(),
            switches: 0,
        }
    }

    /// Adds a snapshot to the averages.
    pub(super) fn feed(&mut self, snapshot: &TelemetrySnapshot) {
        let elapsed_s = self
            .at_ns
            .map(|before| seconds(snapshot.at_ns.saturating_sub(before)))
            .filter(|elapsed| *elapsed >= LEAST_S);
        if self.at_ns.is_some() && elapsed_s.is_none() {
            return;
        }
        // Taking a sample causes a switch itself: if none was counted, the program no longer runs, and its
        // counters say nothing about now. The averages then keep the age of the last valid sample.
        let silent = snapshot.quality.counts_switches() && snapshot.switches == self.switches;
        if self.at_ns.is_some() && silent {
            return;
        }
        self.switches = snapshot.switches;
        self.at_ns = Some(snapshot.at_ns);
        self.quality = match snapshot.quality {
            // A container that is not measured has no numbers; those of the others are as good as ever.
            Quality::Exact | Quality::Partial => MeasurementQuality::Exact,
            Quality::Polled | Quality::Off => MeasurementQuality::Polled,
        };
        for container in &snapshot.containers {
            match (self.containers.get_mut(&container.id), elapsed_s) {
                (Some(average), Some(elapsed)) => {
                    average.feed(container, elapsed, self.half_life_s);
                }
                _ => {
                    let average = ContainerAverages {
                        before: container.total.clone(),
                        foreign_before_ns: foreign_ns(container),
                        preempted_by: preemptions(container)
                            .map(|(id, count)| (id.clone(), (count, 0.0)))
                            .collect(),
                        resident: container.resident.clone(),
                        ..ContainerAverages::default()
                    };
                    self.containers.insert(container.id.clone(), average);
                }
            }
        }
        for (cpu, busy_ns) in &snapshot.busy_ns {
            let (before, rate) = self.busy.entry(*cpu).or_insert((*busy_ns, 0.0));
            if let Some(elapsed) = elapsed_s {
                let now = seconds(busy_ns.saturating_sub(*before)) / elapsed;
                *rate += (now - *rate) * weight(elapsed, self.half_life_s);
            }
            *before = *busy_ns;
        }
    }

    /// Forgets a container.
    pub(super) fn forget(&mut self, id: &ContainerId) {
        self.containers.remove(id);
    }

    /// The averages.
    pub(super) fn measured(&self) -> Measured {
        let containers = self
            .containers
            .iter()
            .map(|(id, average)| (id.clone(), average.observed(self.half_life_s)));
        Measured {
            containers: containers.collect(),
            cpu_busy_milli: self
                .busy
                .iter()
                .map(|(cpu, (_, rate))| (*cpu, small(rate * 1000.0)))
                .collect(),
            // Of the kernel, not of the program: the daemon fills it in.
            cpu_steal_milli: BTreeMap::new(),
            at: Nanos(self.at_ns.unwrap_or(0)),
            quality: self.quality,
            half_life: Nanos(large(self.half_life_s * 1e9)),
        }
    }
}

impl ContainerAverages {
    fn feed(&mut self, container: &ContainerTelemetry, elapsed_s: f64, half_life_s: f64) {
        let (now, before) = (&container.total, &self.before);
        let foreign = foreign_ns(container);
        let gained = |now: u64, before: u64| float(now.saturating_sub(before)) / elapsed_s;
        let contention = |totals: &Totals| totals.wait_wake_ns + totals.wait_preempt_ns;
        let rates = [
            gained(now.run_ns, before.run_ns) / 1e6,
            gained(contention(now), contention(before)),
            gained(now.throttled_ns, before.throttled_ns),
            gained(now.migrations[2], before.migrations[2]) * 1000.0,
            gained(now.migrations[3], before.migrations[3]) * 1000.0,
            gained(now.migrations[4], before.migrations[4]) * 1000.0,
            gained(foreign, self.foreign_before_ns),
        ];
        // The first samples weigh more: the average covers only the time measured and does not start from zero.
        let lasting = weight(elapsed_s, half_life_s);
        let weight = lasting.max(elapsed_s / (self.seen_s + elapsed_s));
        for (average, rate) in self.rates.iter_mut().zip(rates) {
            *average += (rate - *average) * weight;
        }
        for (index, bucket) in self.buckets.iter_mut().enumerate() {
            let count = now.wait_histogram[index].saturating_sub(before.wait_histogram[index]);
            *bucket = *bucket * (1.0 - lasting) + float(count);
        }
        for (id, count) in preemptions(container) {
            // A new source begins at zero.
            let entry = self.preempted_by.entry(id.clone()).or_default();
            entry.1 += (gained(count, entry.0) * 1000.0 - entry.1) * weight;
            entry.0 = count;
        }
        self.preempted_by.retain(|id, _| {
            container
                .interference
                .contains_key(&InterferenceSource::Container(id.clone()))
        });
        self.resident.clone_from(&container.resident);
        self.seen_s += elapsed_s;
        self.foreign_before_ns = foreign;
        self.before = now.clone();
    }

    fn observed(&self, half_life_s: f64) -> Observed {
        let [run, wait, throttled, llc, node, package, foreign] = self.rates;
        let confidence = (self.seen_s / (half_life_s * FULL_AFTER)).min(1.0) * 1000.0;
        Observed {
            utilisation_mcpu: small(run),
            wait_ns_per_s: large(wait),
            wait_p50_ns: wait_quantile_ns(&self.buckets, 0.5),
            wait_p99_ns: wait_quantile_ns(&self.buckets, 0.99),
            throttled_ns_per_s: large(throttled),
            llc_migrations_milli_per_s: large(llc),
            node_migrations_milli_per_s: large(node),
            package_migrations_milli_per_s: large(package),
            intruder_ns_per_s: large(foreign),
            preempted_by: self
                .preempted_by
                .iter()
                .map(|(id, (_, rate))| (id.clone(), large(*rate)))
                .filter(|(_, rate)| *rate != 0)
                .collect(),
            resident_bytes: self.resident.values().sum(),
            resident_by_node: self.resident.clone(),
            confidence: Confidence(u16::try_from(small(confidence)).unwrap_or(1000)),
        }
    }
}

/// Share of the present rate in an average after this time.
fn weight(elapsed_s: f64, half_life_s: f64) -> f64 {
    1.0 - (-elapsed_s / half_life_s).exp2()
}

/// Upper bound of the bucket that holds the quantile of waits, nanoseconds; 0 without waits. `share` is 0 to 1.
pub(crate) fn wait_quantile_ns(buckets: &[f64; BUCKETS], share: f64) -> u64 {
    let total: f64 = buckets.iter().sum();
    if total < 0.5 {
        return 0;
    }
    let mut sum = 0.0;
    for (index, count) in buckets.iter().enumerate() {
        sum += count;
        if sum >= total * share {
            return bucket_ceiling_ns(index).unwrap_or(1 << (BUCKETS + 9));
        }
    }
    1 << (BUCKETS + 9)
}

/// How often each other container took a CPU from this one.
fn preemptions(container: &ContainerTelemetry) -> impl Iterator<Item = (&ContainerId, u64)> {
    container
        .interference
        .iter()
        .filter_map(|(source, sum)| match source {
            InterferenceSource::Container(id) if *id != container.id => Some((id, sum.preemptions)),
            _ => None,
        })
}

fn foreign_ns(container: &ContainerTelemetry) -> u64 {
    container.foreign.iter().map(|foreign| foreign.run_ns).sum()
}

fn seconds(nanoseconds: u64) -> f64 {
    float(nanoseconds) / 1e9
}

fn float(value: u64) -> f64 {
    value as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rates are not negative; the cast saturates"
)]
fn large(value: f64) -> u64 {
    value.round() as u64
}

fn small(value: f64) -> u32 {
    u32::try_from(large(value)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use resmgr_topology::CpuSet;

    fn at(second: u64, run_ns: u64, waits: u64) -> TelemetrySnapshot {
        let mut total = Totals {
            run_ns,
            wait_wake_ns: waits * 3000,
            ..Totals::default()
        };
        total.wait_histogram[2] = waits;
        let container = ContainerTelemetry {
            id: ContainerId("db".into()),
            cpus: CpuSet::EMPTY,
            exclusive: CpuSet::EMPTY,
            total,
            run_ns: BTreeMap::new(),
            outside_ns: 0,
            foreign: Vec::new(),
            interference: BTreeMap::new(),
            resident: BTreeMap::new(),
        };
        TelemetrySnapshot {
            quality: Quality::Exact,
            at_ns: second * 1_000_000_000,
            containers: vec![container],
            switches: second + 1,
            ..TelemetrySnapshot::default()
        }
    }

    #[test]
    fn a_detached_program_makes_no_number_newer() {
        let mut smooth = Smoother::default();
        for second in 0..=40 {
            smooth.feed(&at(second, second * 500_000_000, second * 10));
        }
        let before = smooth.measured();
        for second in 41..=60 {
            // Detached: the last thread seems to run for ever, and nothing is counted.
            let mut frozen = at(second, second * 1_000_000_000, 400);
            frozen.switches = 41;
            smooth.feed(&frozen);
        }
        assert_eq!(smooth.measured(), before);
        smooth.feed(&at(61, 30_500_000_000, 610));
        assert_eq!(smooth.measured().at, Nanos(61_000_000_000));
    }

    #[test]
    fn a_steady_rate_is_reported_as_it_is_and_gains_confidence() {
        let mut smooth = Smoother::default();
        for second in 0..=40 {
            smooth.feed(&at(second, second * 500_000_000, second * 10));
        }
        let observed = &smooth.measured().containers[&ContainerId("db".into())];
        assert_eq!(
            (observed.utilisation_mcpu, observed.wait_ns_per_s),
            (500, 30_000)
        );
        assert_eq!((observed.wait_p50_ns, observed.wait_p99_ns), (4096, 4096));
        assert_eq!(observed.confidence, Confidence(1000));
    }

    #[test]
    fn after_one_half_life_an_average_has_come_half_the_way() {
        let mut smooth = Smoother::default();
        for second in 0..=100 {
            smooth.feed(&at(second, 0, 0));
        }
        for second in 101..=110 {
            smooth.feed(&at(second, (second - 100) * 1_000_000_000, 0));
        }
        let observed = &smooth.measured().containers[&ContainerId("db".into())];
        assert_eq!(observed.utilisation_mcpu, 500);
    }

    #[test]
    fn the_half_life_is_the_operators() {
        let mut smooth = Smoother::new(Nanos(2_000_000_000));
        for second in 0..=20 {
            smooth.feed(&at(second, 0, 0));
        }
        for second in 21..=22 {
            smooth.feed(&at(second, (second - 20) * 1_000_000_000, 0));
        }
        let measured = smooth.measured();
        let observed = &measured.containers[&ContainerId("db".into())];
        assert_eq!(observed.utilisation_mcpu, 500);
        assert_eq!(measured.half_life, Nanos(2_000_000_000));
    }

    #[test]
    fn a_container_sampled_once_has_no_confidence() {
        let mut smooth = Smoother::default();
        smooth.feed(&at(0, 5, 5));
        let observed = &smooth.measured().containers[&ContainerId("db".into())];
        assert_eq!(
            (observed.confidence, observed.utilisation_mcpu),
            (Confidence(0), 0)
        );
    }
}
