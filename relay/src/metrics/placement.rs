//! Placement: which container is on which CPUs, how many CPUs are given out, what the policy decided.

use super::labels::{ContainerLabels, PoolLabels, newest_attempts};
use crate::manager::Snapshot;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};
use resmgr_policy::PoolUse;
use resmgr_topology::CpuSet;
use std::{fmt, sync::Arc};
use tokio::sync::watch;

/// Renders the manager's last snapshot at each scrape.
#[derive(Debug)]
pub struct PlacementMetrics {
    snapshots: watch::Receiver<Arc<Snapshot>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PinnedLabels {
    #[prometheus(flatten)]
    container: ContainerLabels,
    pool: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UseLabels {
    kind: &'static str,
}

impl PlacementMetrics {
    /// Follows these snapshots.
    #[must_use]
    pub fn new(snapshots: watch::Receiver<Arc<Snapshot>>) -> Self {
        Self { snapshots }
    }
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
) -> fmt::Result {
    let kind = prometheus_client::metrics::MetricType::Gauge;
    values(&mut encoder.encode_descriptor(name, help, None, kind)?)
}

#[expect(clippy::cast_possible_wrap, reason = "CPU counts are far below 2^63")]
fn count(number: usize) -> ConstGauge<i64> {
    ConstGauge::new(number as i64)
}

impl Collector for PlacementMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let snapshot = self.snapshots.borrow().clone();
        let placements = newest_attempts(snapshot.containers.iter().filter_map(|container| {
            let labels = ContainerLabels::from(&**container.request);
            let attempt = (container.record.attempt, container.arrival);
            Some((labels, attempt, container.placement?))
        }));
        gauge(
            &mut encoder,
            "placement_container_cpus",
            "CPUs a container is pinned to, by its pool",
            |metric| {
                for (container, placement) in &placements {
                    let labels = PinnedLabels {
                        container: container.clone(),
                        pool: placement.pool.as_deref().unwrap_or_default().to_owned(),
                    };
                    count(placement.cpus.len()).encode(metric.encode_family(&labels)?)?;
                }
                Ok(())
            },
        )?;
        gauge(
            &mut encoder,
            "placement_container_exclusive_cpus",
            "CPUs no other container may use",
            |metric| {
                for (labels, placement) in &placements {
                    count(placement.exclusive.len()).encode(metric.encode_family(labels)?)?;
                }
                Ok(())
            },
        )?;
        let pools = snapshot.pools();
        type Size = fn(&PoolUse) -> usize;
        let sizes: [(&str, &str, Size); 2] = [
            (
                "placement_pool_cpus",
                "CPUs of a pool; of one that exclusive CPUs are sliced off, those that are left",
                |pool| pool.cpus.len(),
            ),
            (
                "placement_pool_free_cpus",
                "CPUs of a pool that a container which asks for exclusive ones may still be given",
                |pool| pool.free.iter().map(CpuSet::len).sum(),
            ),
        ];
        for (name, help, size) in sizes {
            gauge(&mut encoder, name, help, |metric| {
                for pool in &pools {
                    let labels = PoolLabels {
                        pool: pool.name.clone(),
                    };
                    count(size(pool)).encode(metric.encode_family(&labels)?)?;
                }
                Ok(())
            })?;
        }
        let exclusive = snapshot.containers.state().exclusive();
        let online = snapshot.topology.online;
        gauge(
            &mut encoder,
            "placement_cpus",
            "Online CPUs by use; no container is given a `withheld` one, for the cgroup of all pods lacks it",
            |metric| {
                for (kind, cpus) in [
                    ("exclusive", exclusive),
                    ("shared", online.difference(&exclusive)),
                    ("withheld", snapshot.topology.withheld),
                ] {
                    count(cpus.len()).encode(metric.encode_family(&UseLabels { kind })?)?;
                }
                Ok(())
            },
        )?;
        let unplaced = count(
            snapshot
                .containers
                .iter()
                .filter(|container| container.placement.is_none())
                .count(),
        );
        unplaced.encode(encoder.encode_descriptor(
            "placement_unplaced_containers",
            "Containers that run as the kubelet asked, without a decision of the policy",
            None,
            unplaced.metric_type(),
        )?)?;
        let unenforced = count(snapshot.unenforced.len());
        unenforced.encode(encoder.encode_descriptor(
            "enforce_unenforced_containers",
            "Containers that run and have no cgroup on this host: their placement is not enforced",
            None,
            unenforced.metric_type(),
        )?)?;
        let conflict = count(usize::from(snapshot.other_cpu_manager));
        conflict.encode(encoder.encode_descriptor(
            "manager_other_cpu_manager",
            "Whether another CPU manager is at work: 1 when the last request for a container the policy \
             places named CPUs",
            None,
            conflict.metric_type(),
        )?)?;
        let counts = &snapshot.counts;
        for (name, help, value) in [
            (
                "policy_placed_containers",
                "Containers placed",
                counts.placed,
            ),
            (
                "policy_refused_containers",
                "Creations refused",
                counts.refused,
            ),
            (
                "policy_passed_containers",
                "Containers created unplaced because the policy refused, failed or was late",
                counts.passed_unplaced,
            ),
            (
                "policy_late_decisions",
                "Decisions later than --policy-timeout",
                counts.policy_late,
            ),
            (
                "policy_failures",
                "Breakdowns of the policy",
                counts.policy_broken,
            ),
            (
                "policy_illegal_decisions",
                "Decisions that would have broken the policy's own promises; none was carried out",
                counts.policy_illegal,
            ),
            (
                "manager_overridden_cpusets",
                "Requests that named CPUs for a container the policy places; the policy's were kept",
                counts.overridden_cpusets,
            ),
            (
                "enforce_drifts",
                "Settings of a cgroup that another process changed, and that were repaired",
                counts.drifts,
            ),
            (
                "enforce_repeated_repairs",
                "Repairs of a container that had been repaired shortly before, each after a longer pause",
                counts.repeated_repairs,
            ),
            (
                "enforce_write_failures",
                "Cgroup writes the kernel refused",
                counts.write_failures,
            ),
            (
                "manager_unknown_ends",
                "Creations whose end was not heard of and had to be asked for",
                counts.unknown_ends,
            ),
        ] {
            let counter = ConstCounter::new(value);
            let metric = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
            counter.encode(metric)?;
        }
        super::moves::encode(&mut encoder, &snapshot)
    }
}
