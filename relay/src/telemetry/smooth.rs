//! Exponentially weighted averages of the totals: what decisions are made of.

use super::snapshot::{ContainerTelemetry, Snapshot, Totals};
use resmgr_common::{BUCKETS, bucket_ceiling_ns};
use resmgr_policy::{Confidence, ContainerId, Measured, Observed};
use resmgr_topology::{CpuId, Nanos};
use std::collections::BTreeMap;

/// After this long without change an average has come half the way to the present rate.
const HALF_LIFE_S: f64 = 10.0;
/// Half-lives after which the confidence is full.
const FULL_AFTER: f64 = 4.0;
/// Looks nearer to each other than this are skipped: the counters' grain would be all one sees.
const LEAST_S: f64 = 0.05;

#[derive(Clone, Debug, Default)]
struct Average {
    before: Totals,
    foreign_before_ns: u64,
    seen_s: f64,
    rates: [f64; RATES],
    buckets: [f64; BUCKETS],
}

/// utilisation, wait, throttled, migrations over LLC, node, package, foreign.
const RATES: usize = 7;

/// Smoothed rates.
#[derive(Debug, Default)]
pub(super) struct Smooth {
    at_ns: Option<u64>,
    containers: BTreeMap<ContainerId, Average>,
    busy: BTreeMap<CpuId, (u64, f64)>,
}

impl Smooth {
    /// Takes in a snapshot.
    pub(super) fn feed(&mut self, snapshot: &Snapshot) {
        let elapsed_s = self
            .at_ns
            .map(|before| seconds(snapshot.at_ns.saturating_sub(before)))
            .filter(|elapsed| *elapsed >= LEAST_S);
        if self.at_ns.is_some() && elapsed_s.is_none() {
            return;
        }
        self.at_ns = Some(snapshot.at_ns);
        for container in &snapshot.containers {
            match (self.containers.get_mut(&container.id), elapsed_s) {
                (Some(average), Some(elapsed)) => average.feed(container, elapsed),
                _ => {
                    let average = Average {
                        before: container.total.clone(),
                        foreign_before_ns: foreign_ns(container),
                        ..Average::default()
                    };
                    self.containers.insert(container.id.clone(), average);
                }
            }
        }
        for (cpu, busy_ns) in &snapshot.busy_ns {
            let (before, rate) = self.busy.entry(*cpu).or_insert((*busy_ns, 0.0));
            if let Some(elapsed) = elapsed_s {
                let now = seconds(busy_ns.saturating_sub(*before)) / elapsed;
                *rate += (now - *rate) * weight(elapsed);
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
            .map(|(id, average)| (id.clone(), average.observed()));
        Measured {
            containers: containers.collect(),
            cpu_busy_milli: self
                .busy
                .iter()
                .map(|(cpu, (_, rate))| (*cpu, small(rate * 1000.0)))
                .collect(),
            at: Nanos(self.at_ns.unwrap_or(0)),
        }
    }
}

impl Average {
    fn feed(&mut self, container: &ContainerTelemetry, elapsed_s: f64) {
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
        // The first looks weigh more: an average over what there is, not one that starts from zero.
        let weight = weight(elapsed_s).max(elapsed_s / (self.seen_s + elapsed_s));
        for (average, rate) in self.rates.iter_mut().zip(rates) {
            *average += (rate - *average) * weight;
        }
        for (index, bucket) in self.buckets.iter_mut().enumerate() {
            let count = now.wait_histogram[index].saturating_sub(before.wait_histogram[index]);
            *bucket = *bucket * (1.0 - self::weight(elapsed_s)) + float(count);
        }
        self.seen_s += elapsed_s;
        self.foreign_before_ns = foreign;
        self.before = now.clone();
    }

    fn observed(&self) -> Observed {
        let [run, wait, throttled, llc, node, package, foreign] = self.rates;
        let confidence = (self.seen_s / (HALF_LIFE_S * FULL_AFTER)).min(1.0) * 1000.0;
        Observed {
            utilisation_mcpu: small(run),
            wait_ns_per_s: large(wait),
            wait_p50_ns: quantile(&self.buckets, 0.5),
            wait_p99_ns: quantile(&self.buckets, 0.99),
            throttled_ns_per_s: large(throttled),
            llc_migrations_milli_per_s: large(llc),
            node_migrations_milli_per_s: large(node),
            package_migrations_milli_per_s: large(package),
            foreign_ns_per_s: large(foreign),
            confidence: Confidence(u16::try_from(small(confidence)).unwrap_or(1000)),
            ..Observed::default()
        }
    }
}

/// Share of the present in an average after this long.
fn weight(elapsed_s: f64) -> f64 {
    1.0 - (-elapsed_s / HALF_LIFE_S).exp2()
}

/// Upper bound of the bucket that holds the quantile; 0 when nobody waited.
fn quantile(buckets: &[f64; BUCKETS], share: f64) -> u64 {
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
    use crate::telemetry::status::Quality;
    use resmgr_topology::CpuSet;

    fn at(second: u64, run_ns: u64, waits: u64) -> Snapshot {
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
        };
        Snapshot {
            quality: Quality::Exact,
            at_ns: second * 1_000_000_000,
            containers: vec![container],
            ..Snapshot::default()
        }
    }

    #[test]
    fn a_steady_rate_is_reported_as_it_is_and_gains_confidence() {
        let mut smooth = Smooth::default();
        for second in 0..=40 {
            smooth.feed(&at(second, second * 500_000_000, second * 10));
        }
        let seen = &smooth.measured().containers[&ContainerId("db".into())];
        assert_eq!((seen.utilisation_mcpu, seen.wait_ns_per_s), (500, 30_000));
        assert_eq!((seen.wait_p50_ns, seen.wait_p99_ns), (4096, 4096));
        assert_eq!(seen.confidence, Confidence(1000));
    }

    #[test]
    fn after_one_half_life_an_average_has_come_half_the_way() {
        let mut smooth = Smooth::default();
        for second in 0..=100 {
            smooth.feed(&at(second, 0, 0));
        }
        for second in 101..=110 {
            smooth.feed(&at(second, (second - 100) * 1_000_000_000, 0));
        }
        let seen = &smooth.measured().containers[&ContainerId("db".into())];
        assert_eq!(seen.utilisation_mcpu, 500);
    }

    #[test]
    fn nothing_is_believed_of_a_container_seen_once() {
        let mut smooth = Smooth::default();
        smooth.feed(&at(0, 5, 5));
        let seen = &smooth.measured().containers[&ContainerId("db".into())];
        assert_eq!((seen.confidence, seen.utilisation_mcpu), (Confidence(0), 0));
    }
}
