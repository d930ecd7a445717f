//! What the scheduler did to each container, and what measuring it costs.

use super::labels::{ContainerLabels, newest_attempts};
use crate::telemetry::{
    ContainerTelemetry, Interference, InterferenceSource, Quality, sample::LabelledSample,
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};
use resmgr_common::bucket_ceiling_ns;
use resmgr_policy::ContainerId;
use std::{cmp::Reverse, collections::BTreeMap, fmt, sync::Arc};

/// Renders the last sample of the telemetry at each scrape.
pub struct SchedulerMetrics {
    sample: Box<dyn Fn() -> Arc<LabelledSample> + Send + Sync>,
}

impl fmt::Debug for SchedulerMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SchedulerMetrics").finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    #[prometheus(flatten)]
    container: ContainerLabels,
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CulpritLabels {
    #[prometheus(flatten)]
    container: ContainerLabels,
    by: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NodeLabels {
    #[prometheus(flatten)]
    container: ContainerLabels,
    node: u32,
}

/// The program's buckets of waits that are the last in a bucket of the metric, whose upper bounds are theirs: 8.192 µs,
/// from there on by powers of four to 537 ms, and 1.07 s.
const WAIT_BUCKETS: [usize; 10] = [3, 5, 7, 9, 11, 13, 15, 17, 19, 20];

/// How many sources of interference are listed for each container: those that cost it most.
const SOURCES: usize = 5;

/// How far a migration went, in the order of `Totals::migrations`.
const DISTANCES: [&str; 5] = ["sibling", "llc", "other_llc", "node", "package"];

#[expect(
    clippy::cast_precision_loss,
    reason = "2^53 ns are 104 days on measured CPU, and then 1 in 2^53"
)]
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts beyond 2^53 are not reached"
)]
fn number(count: u64) -> f64 {
    count as f64
}

impl SchedulerMetrics {
    /// Asks `sample` for the last sample at each scrape.
    #[must_use]
    pub fn new(sample: impl Fn() -> Arc<LabelledSample> + Send + Sync + 'static) -> Self {
        Self {
            sample: Box::new(sample),
        }
    }
}

/// Measured containers by their labels; a page cannot tell of a container without a name.
fn containers(sample: &LabelledSample) -> BTreeMap<ContainerLabels, &ContainerTelemetry> {
    newest_attempts(sample.snapshot.containers.iter().filter_map(|measured| {
        let name = sample.names.get(&measured.id)?;
        Some((ContainerLabels::from(name), name.attempt, measured))
    }))
}

/// A counter of seconds for every container and kind.
fn family<const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    sample: &LabelledSample,
    (name, help): (&str, &str),
    values: impl Fn(&ContainerTelemetry) -> [(&'static str, f64); N],
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (container, measured) in containers(sample) {
        for (kind, value) in values(measured) {
            let labels = KindLabels {
                container: container.clone(),
                kind,
            };
            ConstCounter::new(value).encode(metric.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

/// Counters by what keeps each container from running.
fn interference(
    encoder: &mut DescriptorEncoder<'_>,
    sample: &LabelledSample,
    (name, help): (&str, &str),
    value: impl Fn(&Interference) -> f64,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (container, measured) in containers(sample) {
        // All containers that have ended share a label.
        let mut sums = BTreeMap::<String, Interference>::new();
        for (source, interference) in &measured.interference {
            let known = |id: &ContainerId| sample.names.get(id).map(ToString::to_string);
            let by = source.label(|id| Some(known(id).unwrap_or_else(|| "ended".to_owned())));
            let sum = sums.entry(by).or_default();
            sum.preemptions += interference.preemptions;
            sum.wait_ns += interference.wait_ns;
        }
        let mut sums: Vec<_> = sums.into_iter().collect();
        sums.sort_by_key(|(_, sum)| Reverse((sum.wait_ns, sum.preemptions)));
        for (by, sum) in sums.into_iter().take(SOURCES) {
            let labels = CulpritLabels {
                container: container.clone(),
                by,
            };
            ConstCounter::new(value(&sum)).encode(metric.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

/// How many waits for a CPU ended within which time: contention, as far as every wait is counted.
fn waits(encoder: &mut DescriptorEncoder<'_>, sample: &LabelledSample) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(
        "scheduler_wait_duration_seconds",
        "Length of the waits for a CPU, throttling excluded",
        None,
        MetricType::Histogram,
    )?;
    if !sample.snapshot.quality.counts_switches() {
        return Ok(());
    }
    for (labels, measured) in containers(sample) {
        let total = &measured.total;
        let mut buckets = Vec::with_capacity(WAIT_BUCKETS.len() + 1);
        let mut counts = total.wait_histogram.iter();
        let mut taken = 0;
        for last in WAIT_BUCKETS {
            let count = counts.by_ref().take(last + 1 - taken).sum::<u64>();
            let ceiling_ns = bucket_ceiling_ns(last).expect("only the last bucket is open");
            buckets.push((seconds(ceiling_ns), count));
            taken = last + 1;
        }
        buckets.push((f64::INFINITY, counts.sum()));
        let count = total.wait_histogram.iter().sum();
        let sum = seconds(total.wait_wake_ns + total.wait_preempt_ns);
        metric
            .encode_family(&labels)?
            .encode_histogram::<ContainerLabels>(sum, count, &buckets, None)?;
    }
    Ok(())
}

/// CPU time of intruders on exclusive CPUs: a series for each that has run there, and always `other`, whose 0 says that
/// nothing has.
fn foreign(encoder: &mut DescriptorEncoder<'_>, sample: &LabelledSample) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(
        "scheduler_foreign_seconds",
        "Time others ran on the container's exclusive CPUs; kernel threads apart, it must stay 0",
        None,
        MetricType::Counter,
    )?;
    for (container, measured) in containers(sample) {
        if measured.exclusive.is_empty() && measured.foreign.is_empty() {
            continue;
        }
        let mut sums = BTreeMap::from([(InterferenceSource::Rest.label(|_| None), 0)]);
        for run in &measured.foreign {
            let name = |id: &ContainerId| sample.names.get(id).map(ToString::to_string);
            *sums.entry(run.source.label(name)).or_default() += run.run_ns;
        }
        for (by, run_ns) in sums {
            let labels = CulpritLabels {
                container: container.clone(),
                by,
            };
            ConstCounter::new(seconds(run_ns)).encode(metric.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

/// Whether exclusive CPUs are exclusive, for each container that has some, as far as that is measured.
fn exclusivity(encoder: &mut DescriptorEncoder<'_>, sample: &LabelledSample) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(
        "exclusivity_violated",
        "1: others ran on the container's exclusive CPUs for more than a hundredth of the last minute",
        None,
        MetricType::Gauge,
    )?;
    if !sample.snapshot.quality.counts_switches() {
        return Ok(());
    }
    for (labels, measured) in containers(sample) {
        if !measured.exclusive.is_empty() {
            let violated = i64::from(sample.violated.contains(&measured.id));
            ConstGauge::new(violated).encode(metric.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

/// Where each container's memory is.
fn resident(encoder: &mut DescriptorEncoder<'_>, sample: &LabelledSample) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(
        "memory_resident_bytes",
        "Memory charged to the container on each NUMA node",
        None,
        MetricType::Gauge,
    )?;
    for (container, measured) in containers(sample) {
        for (node, bytes) in &measured.resident {
            let labels = NodeLabels {
                container: container.clone(),
                node: node.0,
            };
            let bytes = i64::try_from(*bytes).unwrap_or(i64::MAX);
            ConstGauge::new(bytes).encode(metric.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

impl Collector for SchedulerMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let sample = (self.sample)();
        family(
            &mut encoder,
            &sample,
            (
                "scheduler_wait_seconds",
                "Run-queue wait: after a wake-up, after a preemption, or throttled by the quota",
            ),
            |measured| {
                [
                    ("wakeup", seconds(measured.total.wait_wake_ns)),
                    ("preemption", seconds(measured.total.wait_preempt_ns)),
                    ("throttled", seconds(measured.total.wait_throttled_ns)),
                ]
            },
        )?;
        waits(&mut encoder, &sample)?;
        family(
            &mut encoder,
            &sample,
            (
                "scheduler_run_seconds",
                "CPU time inside and outside the cpuset the container was given",
            ),
            |measured| {
                [
                    (
                        "inside",
                        seconds(measured.total.run_ns.saturating_sub(measured.outside_ns)),
                    ),
                    ("outside", seconds(measured.outside_ns)),
                ]
            },
        )?;
        family(
            &mut encoder,
            &sample,
            ("scheduler_switches", "Context switches"),
            |measured| {
                [
                    ("voluntary", number(measured.total.voluntary)),
                    ("involuntary", number(measured.total.involuntary)),
                ]
            },
        )?;
        family(
            &mut encoder,
            &sample,
            (
                "scheduler_migrations",
                "Migrations between CPUs by how far they went; package is cross-socket",
            ),
            |measured| {
                let mut migrations = DISTANCES.map(|kind| (kind, 0.0));
                for ((_, value), count) in migrations.iter_mut().zip(measured.total.migrations) {
                    *value = number(count);
                }
                migrations
            },
        )?;
        interference(
            &mut encoder,
            &sample,
            (
                "scheduler_preempted_by",
                "Preemptions by each of the five others that cost the container most",
            ),
            |harm| number(harm.preemptions),
        )?;
        interference(
            &mut encoder,
            &sample,
            (
                "scheduler_blamed_wait_seconds",
                "Contention wait by what ran on those CPUs meanwhile, its own threads included: an estimate",
            ),
            |harm| seconds(harm.wait_ns),
        )?;
        resident(&mut encoder, &sample)?;
        foreign(&mut encoder, &sample)?;
        exclusivity(&mut encoder, &sample)?;
        let mut metric = encoder.encode_descriptor(
            "scheduler_preemptions_by_others",
            "Involuntary context switches of the container to what is not in it",
            None,
            MetricType::Counter,
        )?;
        for (labels, measured) in containers(&sample) {
            let count = number(measured.total.preempted_by_others);
            ConstCounter::new(count).encode(metric.encode_family(&labels)?)?;
        }
        let quality = ConstGauge::new(match sample.snapshot.quality {
            Quality::Off => 0_i64,
            Quality::Polled | Quality::Partial => 1,
            Quality::Exact => 2,
        });
        quality.encode(encoder.encode_descriptor(
            "telemetry_quality",
            "2: every switch is counted by the BPF program; 1: polled from the kernel's books, or not every container is measured; 0: off",
            None,
            MetricType::Gauge,
        )?)?;
        ConstGauge::new(sample.snapshot.followed_ratio()).encode(encoder.encode_descriptor(
            "telemetry_followed_ratio",
            "Containers that are measured, of those that run",
            None,
            MetricType::Gauge,
        )?)?;
        ConstCounter::new(sample.snapshot.unseen_switches).encode(encoder.encode_descriptor(
            "telemetry_unseen_switches",
            "Context switches the kernel kept from the program; their times are booked at the next measured",
            None,
            MetricType::Counter,
        )?)?;
        ConstGauge::new(seconds(sample.snapshot.sweep_ns)).encode(encoder.encode_descriptor(
            "telemetry_sweep_seconds",
            "Time the last reading of the program's maps took",
            None,
            MetricType::Gauge,
        )?)?;
        if let Some(cost) = sample.cost {
            for (name, help, value) in [
                (
                    "telemetry_switch_cost_seconds",
                    "Cost of the program per context switch, the empty program's taken off",
                    cost.net_ns() / 1e9,
                ),
                (
                    "telemetry_switches_per_second",
                    "Context switches a second when the cost was measured",
                    cost.switches_per_s,
                ),
                (
                    "telemetry_cpu_ratio",
                    "Share of measured CPU the program costs",
                    cost.cpu_share(),
                ),
            ] {
                ConstGauge::new(value).encode(encoder.encode_descriptor(
                    name,
                    help,
                    None,
                    MetricType::Gauge,
                )?)?;
            }
        }
        Ok(())
    }
}
